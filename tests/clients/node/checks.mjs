// What the Node clients share: checks, and a look at the relay's and the mock's counts.

export const {
  RELAY, MOCK, ADMIN, DRIVER, MILLSTREAM, CHROMIUM, TRUSTED_KEY, CONFIG, PYTHON,
} = process.env;
// Header fields that have the mock fall silent for longer than the relay's heartbeat waits.
export const SILENCE = { "X-Mock-Stall": "5:1500" };
// A stream too long and slow to be over before its client leaves.
export const LONG = { "X-Mock-Tokens": "2000", "X-Mock-Rate": "20" };

export function check(name, condition, detail = "") {
  if (condition) return console.log(`ok ${name}`);
  process.exitCode = 1;
  const why = detail instanceof Error ? detail.message : JSON.stringify(detail);
  console.log(`FAILED ${name}: ${why?.slice(0, 300).replaceAll("\n", "\\n")}`);
}

// Relays between client and mock: by https there are two, for the mock speaks none. Each tells the
// failure it sees, the one at the mock first; the other sees a stream that was cut behind that.
export const RELAYS = RELAY.startsWith("https:") ? 2 : 1;

// The events of a stream that failed, before and after its failure was told.
export function parted(events, isError) {
  const whole = events.findIndex(isError);
  return { before: events.slice(0, whole), errors: whole < 0 ? [] : events.slice(whole) };
}

const text = async url => (await fetch(url)).text();

// The mock's counts; `mock` may also be a relay in front of it.
export const stats = async (mock = MOCK) => JSON.parse(await text(`${mock}/stats`));

// One of the relay's metrics, summed over its workers.
export async function metric(name, label = "", admin = ADMIN) {
  const start = new RegExp(`^millstream_${name}(_total)?\\{`);
  const lines = (await text(`${admin}/metrics`)).split("\n").filter(line => start.test(line));
  if (lines.length === 0) throw new Error(`no metric ${name}`);
  return lines.filter(line => line.includes(label))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

// Whether it comes true within ten seconds.
export async function within(condition) {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline;) {
    if (await condition()) return true;
    await new Promise(wake => setTimeout(wake, 20));
  }
  return false;
}

// Waits until earlier streams are over on both sides, so that counts stand still.
export async function settle({ mock = MOCK, admin = ADMIN } = {}) {
  const still = async () =>
    (await stats(mock)).active === 0 && await metric("streams_active", "", admin) === 0;
  if (!await within(still)) throw new Error("an earlier stream is still there");
}

// Streams the mock saw left, and streams the relay says its client left.
async function counts({ mock = MOCK, admin = ADMIN }) {
  const left = outcome => metric("streams", `outcome="${outcome}"`, admin);
  // Of a kept stream a client takes leave by DELETE.
  return [(await stats(mock)).aborted, await left("client_gone") + await left("cancelled")];
}

// Checks that `leave`, which opens a stream and leaves it, is noticed on both sides.
export async function seesLeaving(name, leave, where = {}) {
  await settle(where);
  const [aborted, gone] = await counts(where);
  await leave();
  let now = [];
  const noticed = await within(async () => {
    now = await counts(where);
    return now[0] === aborted + 1 && now[1] === gone + 1;
  });
  check(name, noticed, { before: [aborted, gone], now });
}

// Checks that `ask`, through a silence with a heartbeat in it, still gives the right text.
export async function seesHeartbeat(name, ask) {
  const before = await metric("heartbeats");
  const right = await ask();
  const beats = await metric("heartbeats") - before;
  check(name, right && beats >= 1, { right, beats });
}

// Checks that `ask` throws a `kind` that says `words`.
export async function throws(name, kind, words, ask) {
  try {
    await ask();
  } catch (error) {
    return check(name, error instanceof kind && error.message.includes(words), error);
  }
  check(name, false, "it looked whole");
}

export async function collect(stream) {
  const all = [];
  for await (const item of stream) all.push(item);
  return all;
}
