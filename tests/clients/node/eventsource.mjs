// The npm package eventsource: GET, as browsers ask.

import { EventSource } from "eventsource";
import { MOCK, RELAY, RELAYS, check, parted, seesLeaving, settle, stats, within } from "./checks.mjs";

const CHAT = "/v1/chat/completions";
const GENERATION = "/api/v1/services/aigc/text-generation/generation";
const query = settings =>
  "?" + Object.entries(settings).map(([name, value]) => `mock_${name}=${value}`).join("&");

// Every event up to the first error of the connection, which is how any stream ends for an
// EventSource: it would reconnect. With it whether it would, and the source where it is kept.
function events(url, { keep = false } = {}) {
  return new Promise(done => {
    const source = new EventSource(url), seen = [];
    const take = ({ type, data, lastEventId }) => seen.push({ type, data, lastEventId });
    source.onmessage = take;
    source.addEventListener("result", take);
    source.addEventListener("error", event => {
      if (event.data !== undefined) return take(event);
      const closed = source.readyState === EventSource.CLOSED;
      if (!keep) source.close();
      done({ seen, closed, source });
    });
  });
}

const same = (some, others) => JSON.stringify(some) === JSON.stringify(others);
const startsWith = (whole, part) => same(whole.slice(0, part.length), part);

for (const [name, path] of [["generic", "/events"], ["chat", CHAT], ["dashscope", GENERATION]]) {
  const { seen: direct } = await events(MOCK + path);
  const { seen } = await events(RELAY + path);
  check(`${name}: the mock's events`, direct.length >= 60 && same(seen, direct), seen.at(-1));
}
for (const eol of ["crlf", "cr"]) {
  // Its parser keeps back an event behind a CR at the very end, so the mock is asked for the same.
  const path = "/events" + query({ eol, split: 7 });
  const { seen: direct } = await events(MOCK + path);
  const { seen } = await events(RELAY + path);
  check(`generic, ${eol}, in pieces of 7 bytes: the mock's events`,
    direct.length >= 60 && same(seen, direct), seen.at(-1));
}

const ids = (await events(RELAY + GENERATION)).seen.map(event => event.lastEventId);
check("dashscope: ids", same(ids, ids.map((_, n) => String(n + 1))), ids);

for (const [name, path, told] of [
  ["generic", "/events", event => event.type === "error" && JSON.parse(event.data).code],
  ["chat", CHAT, event => event.data !== "[DONE]" && JSON.parse(event.data).error?.code],
]) {
  const { seen: whole } = await events(MOCK + path);
  for (const [fault, outcome] of [["truncate", "upstream_truncated"], ["reset_at", "upstream_reset"]]) {
    const { seen, closed } = await events(RELAY + path + query({ [fault]: 700 }));
    const { before, errors } = parted(seen, told);
    check(`${name}, ${fault}: whole events, then ${outcome}, no end`,
      errors.length === RELAYS && told(errors[0]) === outcome && startsWith(whole, before)
        && before.length < whole.length - 1 && before.length > 0 && !closed,
      { errors, before: before.length, closed });
  }
}

await settle();
const before = (await stats()).requests;
const { source } = await events(RELAY + "/events" + query({ truncate: 700 }), { keep: true });
check("a cut stream is asked for again",
  await within(async () => (await stats()).requests > before + 2));
source.close();

const { seen: refused, closed } = await events(RELAY + "/events" + query({ status: 503 }));
check("503 closes it", refused.length === 0 && closed, { refused, closed });

await seesLeaving("closing is noticed", () => new Promise(left => {
  const source = new EventSource(RELAY + "/events" + query({ tokens: 2000, rate: 20 }));
  let seen = 0;
  source.onmessage = () => {
    if (++seen < 3) return;
    source.close();
    left();
  };
}));
