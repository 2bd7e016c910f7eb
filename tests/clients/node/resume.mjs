// One answer through a hundred lost connections, read by the npm package eventsource and by the
// clients of examples/; second readers, cancelling, and what is told to those who come back.

import { spawn } from "node:child_process";
import { EventSource } from "eventsource";
import { resumable } from "../../../examples/resume.mjs";
import { PYTHON, RELAY, check, settle, stats, throws, within } from "./checks.mjs";
import { ASK, CHAT, chunks, inOrder, readsThrough, same, soon, text } from "./dropped.mjs";

const JSON_TYPE = { "Content-Type": "application/json" };
const QUESTION = { headers: JSON_TYPE, body: '{"messages":[{"role":"user","content":"hi"}]}' };
// Tokens are shorter than OpenAI's chunks.
const SMALL = { most: 1300 };
const EXAMPLE = new URL("../../../examples/resume.py", import.meta.url).pathname;

// All events until it closes for good, which it does by itself.
const byEventSource = path => base => new Promise(over => {
  const source = new EventSource(base + path), all = [], ids = [];
  source.onmessage = ({ data, lastEventId }) => {
    all.push(data);
    ids.push(lastEventId);
  };
  source.onerror = ({ code }) => {
    if (source.readyState === EventSource.CLOSED) over({ all, ids, code });
  };
});

// The text by the example, and the ids; `take` is called at each event.
async function byExample(url, init = QUESTION, options = {}, take = () => {}) {
  const ids = [];
  let all = "";
  for await (const { id, event, data } of resumable(url, init, options)) {
    ids.push(id);
    if (!event) all += JSON.parse(data);
    take(id);
  }
  return { all, ids };
}

// What the example in Python prints; `started` is given its process.
function byPython(url, started = () => {}) {
  const child = spawn(PYTHON, ["-u", EXAMPLE, url, "hi"], { stdio: ["ignore", "pipe", "pipe"] });
  let all = "", said = "";
  child.stdout.setEncoding("utf8").on("data", some => { all += some; });
  child.stderr.setEncoding("utf8").on("data", some => { said += some; });
  started(child);
  process.once("exit", () => child.kill());
  return new Promise(over => child.on("close", code => over({ all: all.replace(/\n$/, ""), said, code })));
}

const { code } = await readsThrough("EventSource", chunks, byEventSource(ASK));
check("EventSource: told to stop by 204", code === 204, code);
await readsThrough("example", text, base => byExample(base + CHAT), SMALL);
const printed = await readsThrough("example in Python", text, base => byPython(base + CHAT), SMALL);
check("example in Python: ends in order", printed.code === 0 && printed.said === "", printed);

// A second reader from the start, beside the first through its drops, and both once more when all
// of it is there.
let beside;
const both = await readsThrough("two readers", text, base => byExample(base + CHAT, QUESTION, {}, id => {
  beside ??= byExample(RELAY + CHAT, { headers: JSON_TYPE }, { id: id.replace(/\.\d+$/, "") });
}), SMALL);
const second = await beside;
check("two readers: the second has all of it too", second.all === text && same(second.ids, both.ids));
const over = { name: both.ids[0].replace(/\.1$/, ""), last: both.ids.at(-1) };
const again = id => byExample(RELAY + CHAT, { headers: JSON_TYPE }, { id });
check("over: all of it once more", (await again(over.name)).all === text);
check("over: behind its last frame there is nothing", (await again(over.last)).ids.length === 0);

// One request with an id, and what came of it.
async function told(id, { method = "POST", path = CHAT, headers = {}, query = "" } = {}) {
  const fields = id && !query ? { "Last-Event-ID": id, ...headers } : headers;
  const stop = new AbortController();
  const response = await fetch(RELAY + path + (query && `&${query}=${id}`),
    { method, headers: fields, signal: stop.signal });
  const found = { status: response.status, name: response.headers.get("X-Stream-Id") };
  if (found.status >= 400) found.code = (await response.json()).error.code;
  stop.abort();
  return found;
}

// What nobody else may have, and how it is cancelled. Nothing of this asks the provider again.
async function strangers() {
  const path = "/chat?mock_tokens=2000&mock_rate=20", key = { Authorization: "Bearer a" };
  await settle();
  const before = await stats();
  const first = await fetch(RELAY + path,
    { method: "POST", body: QUESTION.body, headers: { ...JSON_TYPE, ...key } });
  const name = first.headers.get("X-Stream-Id");
  check("the head names the stream", /^[\w.-]{1,60}$/.test(name), name);
  for (const method of ["GET", "POST", "DELETE"]) {
    for (const [who, id, more] of [
      ["another credential", name, { headers: { Authorization: "Bearer b" } }],
      ["no credential", name, {}],
      ["the credential in another field", name, { headers: { "X-Api-Key": "Bearer a" } }],
      ["two credentials", name, { headers: { ...key, "X-Api-Key": "b" } }],
      ["another route", name, { headers: key, path: ASK }],
      ["another name", name.replace(/^./, first => first === "a" ? "b" : "a"), { headers: key }],
      ["no name", "x", { headers: key }], ["no number", `${name}.x`, { headers: key }],
      ["a number too many", `${name}.1.1`, { headers: key }],
      ["a number too large", `${name}.99999999999999999999`, { headers: key }],
      ["an id too long", "a".repeat(2000), { headers: key }],
    ]) {
      const found = await told(id, { method, path, ...more });
      check(`${method} with ${who}: unknown`, found.status === 404 && found.code === "stream_unknown", found);
    }
    if (method === "DELETE") continue;
    for (const query of ["", "last_event_id", "lastEventId"]) {
      const found = await told(name, { method, path, headers: key, query });
      check(`${method} with the credential, ${query || "field"}: it goes on`,
        found.status === 200 && found.name === name, found);
    }
  }
  const gone = await told(name, { method: "DELETE", path, headers: key });
  check("DELETE: cancelled", gone.status === 204, gone);
  let rest = "";
  const reading = async () => {
    const decoder = new TextDecoder();
    for await (const bytes of first.body) rest += decoder.decode(bytes, { stream: true });
  };
  // The route's event for errors is its end: a page sees no broken connection behind it.
  await soon(reading());
  check("DELETE: its reader is told", rest.slice(rest.lastIndexOf("\n\n", rest.length - 3))
    .includes("event: error"), rest.slice(-200));
  const after = await told(name, { path, headers: key });
  check("DELETE: forgotten", after.status === 404 && after.code === "stream_unknown", after);
  const upstream = async () => {
    const now = await stats();
    return now.aborted === before.aborted + 1 && now.started === before.started + 1;
  };
  check("DELETE: cancelled upstream, and nothing was asked twice", await within(upstream), await stats());
}

// The same by the examples.
async function cancelled() {
  const path = "/chat?mock_tokens=2000&mock_rate=20";
  const aborted = async () => (await stats()).aborted;
  await settle();
  let before = await aborted();
  const stop = new AbortController();
  const { ids } = await soon(byExample(RELAY + path, QUESTION, { signal: stop.signal }, () => stop.abort()));
  check("example: cancelled upstream", await within(async () => await aborted() === before + 1));
  await throws("example: says that it is no longer kept", Error, "stream_unknown",
    () => byExample(RELAY + path, { headers: JSON_TYPE }, { id: ids[0] }));
  before = await aborted();
  const printed = await soon(byPython(RELAY + path, child =>
    child.stdout.once("data", () => child.kill("SIGINT"))));
  check("example in Python: Control-C cancels upstream", printed.said.includes("cancelled")
    && await within(async () => await aborted() === before + 1), printed);
}

// Frames that are no longer kept.
async function gap() {
  const path = "/small?mock_tokens=500", init = { ...QUESTION, body: '{"stream":true}' };
  const options = { isLast: ({ data }) => data === "[DONE]" };
  const ids = [];
  for await (const { id } of resumable(RELAY + path, init, options)) ids.push(id);
  check("gap: all was there for a reader in time", ids.length > 500 && inOrder(ids), ids.at(-1));
  const found = await told(ids[0], { path });
  check("gap: told as one", found.status === 410 && found.code === "stream_gap", found);
  const some = await told(ids.at(-3), { path });
  check("gap: what is kept is there", some.status === 200, some);
  await throws("gap: the example says so", Error, "frames behind this id are no longer kept",
    async () => {
      for await (const _ of resumable(RELAY + path, init, { ...options, id: ids[0] }));
    });
  const { code, all } = await soon(byEventSource(`${path}&last_event_id=${ids[0]}`)(RELAY));
  check("gap: EventSource is closed", code === 410 && all.length === 0, code);
}

// A stream that failed: its error has a number, and behind it there is nothing.
async function failed() {
  await settle();
  const { started } = await stats();
  const { all, ids, code } = await soon(byEventSource("/ask?prompt=hi&mock_truncate=3000")(RELAY));
  const error = JSON.parse(all.at(-1)).error;
  check("failed: EventSource has the error, once, and is told to stop", code === 204 && inOrder(ids)
    && error.code === "upstream_truncated" && all.length > 5, { error, code });
  const path = "/ask?prompt=hi", last = await told(ids.at(-1), { path }), before = await told(ids.at(-2), { path });
  check("failed: 204 behind the error, 200 before it", last.status === 204 && before.status === 200,
    { last, before });
  check("failed: asked upstream once", (await stats()).started === started + 1);
}

// A reader who does not come back.
async function left() {
  const init = { method: "POST", body: '{"stream":true}', headers: JSON_TYPE };
  await settle();
  const before = await stats();
  const aborted = times => within(async () => (await stats()).aborted === before.aborted + times);
  // Nobody knows its name yet, so nobody could come back: it is not kept at all.
  let stop = new AbortController();
  fetch(`${RELAY}/chat?mock_head_delay=60000`, { ...init, signal: stop.signal }).catch(() => {});
  await within(async () => (await stats()).started === before.started + 1);
  stop.abort();
  check("left before the head: cancelled upstream", await aborted(1), before);
  stop = new AbortController();
  const path = "/brief?mock_tokens=2000&mock_rate=20";
  const response = await fetch(RELAY + path, { ...init, signal: stop.signal });
  await response.body.getReader().read();
  stop.abort();
  check("left in the middle: cancelled upstream in the end", await aborted(2), before);
  // Who is too late is told so, in the stream; and then it is forgotten.
  const late = await fetch(RELAY + path, {
    method: "POST", headers: { "Last-Event-ID": response.headers.get("X-Stream-Id") },
  });
  let said = "";
  const reading = async () => {
    const decoder = new TextDecoder();
    for await (const bytes of late.body) said += decoder.decode(bytes, { stream: true });
  };
  await throws("left in the middle: who is late has no whole answer", Error, "", () => soon(reading()));
  check("left in the middle: and is told why", said.includes('"error"'), said.slice(-300));
  const last = said.match(/^id: (.+)$/gm).at(-1).slice(4);
  check("left in the middle: forgotten in the end",
    await within(async () => (await told(last, { path })).status === 404), last);
}

await strangers();
await cancelled();
await gap();
await failed();
await left();
