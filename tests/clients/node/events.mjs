// The demo page's reader of event streams, beside npm's eventsource-parser, at every cut.

import { createParser } from "eventsource-parser";
import { check } from "./checks.mjs";
import { ROUTES, eachEvent, message, parser } from "../../../src/demo/page/stream.mjs";

const told = text => {
  const events = [];
  parser(event => events.push(event))(text);
  return events;
};

// The other parser's events.
const others = text => {
  const events = [];
  const other = createParser({
    onEvent: ({ event, data }) => events.push({ name: event ?? "message", data }),
  });
  other.feed(text);
  return events;
};

const TEXTS = [
  "data: a\n\n", "data:a\n\ndata: b\ndata: c\n\n", ": note\nevent: done\ndata: \n\n",
  "event:error\n:HTTP_STATUS/400\ndata:{\"a\":1}\n\n", "data\n\n", "id: 1\nretry: 5\ndata: x\n\n",
  "event: lost\n\ndata: kept\n\n", "data:  two\n\nother: x\ndata:y:z\n\n", "data: cut off",
  "data: 模型🙂 naïve\n\ndata: \u0000\n\n",
];
const same = (some, other) => JSON.stringify(some) === JSON.stringify(other);
// Data that is there and empty is an event by the standard.
const some = events => events.filter(({ data }) => data !== "");

for (const text of TEXTS) {
  const events = told(text);
  check(`${JSON.stringify(text)}: as npm's parser`, same(some(events), some(others(text))), events);
}
check("empty data is an event", same(told("event: done\ndata: \n\n"), [{ name: "done", data: "" }]));

// One stream of all texts, in each kind of line ends, cut once at every byte, and byte by byte.
const body = pieces => new ReadableStream({
  start(controller) {
    pieces.forEach(piece => controller.enqueue(piece));
    controller.close();
  },
});
const whole = TEXTS.join("");
const wanted = told(whole);
for (const [name, eol] of [["LF", "\n"], ["CRLF", "\r\n"], ["CR", "\r"]]) {
  const bytes = new TextEncoder().encode(`\uFEFF${whole.replaceAll("\n", eol)}`);
  const cuts = Array.from(bytes, (_, at) => [bytes.subarray(0, at), bytes.subarray(at)]);
  cuts.push(Array.from(bytes, (_, at) => bytes.subarray(at, at + 1)));
  let wrong = 0;
  for (const pieces of cuts) {
    const events = [];
    await eachEvent(body(pieces), event => events.push(event));
    if (!same(events, wanted)) wrong++;
  }
  check(`${name}: the same events at each of ${cuts.length} cuts`, wrong === 0, wrong);
}
const events = [];
const feed = parser(({ data }) => events.push(data));
feed("data: 1\r\r");
check("an event is told at its CR, before it is known whether an LF follows", same(events, ["1"]));
feed("\ndata: 2\r\n\r");
check("the LF that follows belongs to it", same(events, ["1", "2"]), events);

for (const [text, words] of [
  ["请求超时", "请求超时"], ['{"error":{"message":"no"}}', "no"], ['{"code":1,"message":"no"}', "no"],
  ['"no"', "no"], ["null", "null"],
]) {
  check(`error ${text}: its words`, message(text) === words, message(text));
}
for (const name of ["error", "timeout"]) {
  const said = ROUTES.chat.read({ name, data: "" });
  check(`${name} without words is still one`, Boolean(said[name]), said);
}
