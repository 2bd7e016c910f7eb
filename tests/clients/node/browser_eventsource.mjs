// Chromium's own EventSource and fetch.

import { MOCK, RELAY, RELAYS, check, parted, seesLeaving, settle, stats, within } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";

// Runs in the page: every event up to the first error of the connection, which is how any stream
// ends for an EventSource.
const events = ({ url, keep }) => new Promise(done => {
  const source = new EventSource(url), seen = [];
  const take = ({ type, data, lastEventId }) => seen.push({ type, data, lastEventId });
  source.onmessage = take;
  source.addEventListener("result", take);
  source.addEventListener("error", event => {
    if (event.data !== undefined) return take(event);
    const closed = source.readyState === EventSource.CLOSED;
    if (!keep) source.close();
    done({ seen, closed });
  });
});

// The same from the mock, which a page of the relay may not ask: its stream as it stands.
async function direct(path) {
  const answer = await fetch(MOCK + path, { headers: { Accept: "text/event-stream" } });
  let type = "message", lastEventId = "";
  return (await answer.text()).split("\n\n").slice(0, -1).map(frame => {
    const data = [];
    type = "message";
    for (const line of frame.split("\n")) {
      const [, field, value] = line.match(/^([^:]*): ?(.*)$/);
      if (field === "data") data.push(value);
      if (field === "event") type = value;
      if (field === "id") lastEventId = value;
    }
    return { type, data: data.join("\n"), lastEventId };
  });
}

const same = (some, others) => JSON.stringify(some) === JSON.stringify(others);

await withBrowser(async browser => {
  const page = await browser.newPage();
  await page.goto(`${RELAY}/healthz`);
  const GENERATION = "/api/v1/services/aigc/text-generation/generation";
  for (const [name, path] of [
    ["generic", "/events"], ["chat", "/v1/chat/completions"], ["dashscope", GENERATION],
  ]) {
    const { seen } = await page.evaluate(events, { url: path });
    check(`${name}: the mock's events`, seen.length >= 60 && same(seen, await direct(path)),
      seen.at(-1));
  }
  const whole = await direct("/events");
  for (const eol of ["crlf", "cr"]) {
    const { seen } = await page.evaluate(events, { url: `/events?mock_eol=${eol}&mock_split=7` });
    check(`generic, ${eol}, in pieces of 7 bytes: the same events`, same(seen, whole), seen.at(-1));
  }
  for (const [fault, outcome] of [["truncate", "upstream_truncated"], ["reset_at", "upstream_reset"]]) {
    const { seen, closed } = await page.evaluate(events, { url: `/events?mock_${fault}=700` });
    const { before, errors } = parted(seen, event => event.type === "error");
    check(`${fault}: whole events, then ${outcome}, no end`,
      errors.length === RELAYS && JSON.parse(errors[0].data).code === outcome && before.length > 0
        && before.length < whole.length - 1 && same(before, whole.slice(0, before.length))
        && !closed,
      { errors, before: before.length, closed });
  }
  // The error comes right before the connection breaks, and a browser may drop what it has not
  // yet handed to the page then: once is luck.
  const lost = await page.evaluate(async () => {
    let lost = 0;
    for (let n = 0; n < 10; n++) {
      let all = "";
      try {
        const { body } = await fetch("/v1/chat/completions?mock_truncate=900",
          { method: "POST", body: '{"stream":true}' });
        const reader = body.pipeThrough(new TextDecoderStream()).getReader();
        for (let read; !(read = await reader.read()).done;) all += read.value;
        return "a cut stream looked whole";
      } catch {
        if (!all.includes("upstream_truncated")) lost++;
      }
    }
    return lost;
  });
  check("fetch: of ten cut streams each tells its error, and breaks", lost === 0, lost);

  const { seen: refused, closed } = await page.evaluate(events, { url: "/events?mock_status=503" });
  check("503 closes it", refused.length === 0 && closed, { refused, closed });

  await settle();
  const before = (await stats()).requests;
  await page.evaluate(events, { url: "/events?mock_truncate=700", keep: true });
  check("a cut stream is asked for again",
    await within(async () => (await stats()).requests > before + 1), before);
  await page.reload();

  await seesLeaving("a left page is noticed", async () => {
    await page.evaluate(() => new Promise(some => {
      new EventSource("/events?mock_tokens=2000&mock_rate=20").onmessage = some;
    }).then(() => {}));
    await page.goto("about:blank");
  });
});
