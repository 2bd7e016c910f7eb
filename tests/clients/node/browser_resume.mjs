// One answer through a hundred lost connections in Chromium: its own EventSource, and the example for
// pages, asking from another origin.

import { readFile } from "node:fs/promises";
import { RELAY, check, stats, throws, within } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";
import { CuttingProxy } from "./cutting.mjs";
import { ASK, chunks, inOrder, readsThrough, same } from "./dropped.mjs";

const example = await readFile(new URL("../../../examples/resume.mjs", import.meta.url), "utf8");

// Runs in the page: all events until it closes for good, which it does by itself.
const byEventSource = url => new Promise(over => {
  const source = new EventSource(url), all = [], ids = [];
  source.onmessage = ({ data, lastEventId }) => {
    all.push(data);
    ids.push(lastEventId);
  };
  let errors = 0;
  source.onerror = () => {
    errors++;
    if (source.readyState === EventSource.CLOSED) over({ all, ids, errors });
  };
});

// Runs in the page: all events by the example, from `id` on.
const byExample = async ({ url, id = "" }) => {
  const { resumable } = await import("/example/resume.mjs");
  const init = { headers: { "Content-Type": "application/json" }, body: "{}" };
  const all = [], ids = [];
  const options = { id, isLast: ({ data }) => data === "[DONE]" };
  for await (const { data, id } of resumable(url, init, options)) {
    all.push(data);
    ids.push(id);
  }
  return { all, ids };
};

// Runs in the page: some events by the example, then it is cancelled; gives their ids.
const cancelled = async url => {
  const { resumable } = await import("/example/resume.mjs");
  const stop = new AbortController(), seen = [];
  const init = { headers: { "Content-Type": "application/json" }, body: "{}" };
  for await (const { id } of resumable(url, init, { signal: stop.signal })) {
    if (seen.push(id) === 3) stop.abort();
  }
  return seen;
};

await withBrowser(async browser => {
  const page = await browser.newPage();
  await browser.route("**/example/resume.mjs",
    route => route.fulfill({ contentType: "text/javascript", body: example }));

  // Chromium takes a part of a head for a whole one, and then gives up: none is cut.
  await readsThrough("EventSource", chunks, async base => {
    await page.goto(`${base}/healthz`);
    return page.evaluate(byEventSource, base + ASK);
  }, { least: 1000 });

  // Lost before the first token: the stream's name came ahead of it.
  const { started } = await stats();
  const proxy = await CuttingProxy.start(RELAY);
  await page.goto(`${proxy.url}/healthz`);
  const reading = page.evaluate(byEventSource, `${proxy.url}/ask?prompt=hi&mock_first_delay=2000&mock_rate=0`);
  const named = await within(() => proxy.latest.includes("retry:"));
  proxy.cut();
  const { all, ids: few } = await reading;
  check("EventSource, lost before the first token: all of it, asked once", named && proxy.cuts > 0
    && all.length > 60 && inOrder(few) && (await stats()).started === started + 1,
    { named, cuts: proxy.cuts, few });
  proxy.close();

  await page.goto(`${RELAY}/healthz`);
  // What a fetch has not yet handed to its page when the connection breaks is lost with it, and comes
  // again: a moment before, so that not all of it does.
  const { ids } = await readsThrough("example, from another origin", chunks,
    base => page.evaluate(byExample, { url: base + ASK }), { least: 1000, silence: 30 });
  const other = await browser.newPage();
  await other.goto(`${RELAY}/healthz`);
  const second = await other.evaluate(byExample, { url: RELAY + ASK, id: ids[0].replace(/\.1$/, "") });
  check("a second tab has all of it from its name", same(second.all, chunks) && same(second.ids, ids));

  const { aborted } = await stats();
  const url = `${RELAY}/ask?prompt=hi&mock_tokens=2000&mock_rate=20`;
  const seen = await page.evaluate(cancelled, url);
  check("example: cancelled, here and upstream", seen.length === 3
    && await within(async () => (await stats()).aborted === aborted + 1), seen);
  await throws("example: says that it is no longer kept", Error, "stream_unknown",
    () => page.evaluate(byExample, { url, id: seen.at(-1) }));
});
