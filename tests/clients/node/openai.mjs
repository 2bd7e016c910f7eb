// The OpenAI SDK for Node.

import OpenAI from "openai";
import { LONG, RELAY, SILENCE, check, collect, seesHeartbeat, seesLeaving, throws } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${RELAY}/v1`, apiKey: "k", maxRetries: 0 });
const ask = { model: "m", messages: [{ role: "user", content: "hi" }] };
const asResponse = { model: "m", input: "hi" };

const chat = async (headers = {}) => collect(
  await client.chat.completions.create(
    { ...ask, stream: true, stream_options: { include_usage: true } }, { headers }));
const responses = async (headers = {}) =>
  collect(await client.responses.create({ ...asResponse, stream: true }, { headers }));
const chatText = chunks => chunks.map(chunk => chunk.choices[0]?.delta.content ?? "").join("");
const responsesText = events => events
  .filter(event => event.type === "response.output_text.delta").map(event => event.delta).join("");

const text = (await client.chat.completions.create(ask)).choices[0].message.content;
const chunks = await chat();
check("chat", text && chatText(chunks) === text, chatText(chunks));
check("chat usage", chunks.at(-1).usage.completion_tokens === 60, chunks.at(-1));
const helper = client.chat.completions.stream(ask);
check("chat, the SDK's helper", await helper.finalContent() === text);
const events = await responses();
const last = events.at(-1);
check("responses", responsesText(events) === text && last.type === "response.completed", last);
check("responses usage", last.response.usage.output_tokens === 60, last);
check("responses, not streamed", (await client.responses.create(asResponse)).output_text === text);
await seesHeartbeat("chat through a silence", async () => chatText(await chat(SILENCE)) === text);
check("responses through a silence", responsesText(await responses(SILENCE)) === text);

const cut = { "X-Mock-truncate": "900" };
await throws("a cut chat throws", OpenAI.APIError, "whole", () => chat(cut));
// In this dialect the SDK hands out an error as an event; what throws is the abort behind it.
const seen = [];
await throws("a cut response throws", Error, "", async () => {
  const stream = await client.responses.create(
    { ...asResponse, stream: true }, { headers: { "X-Mock-truncate": "5000" } });
  for await (const event of stream) seen.push(event);
});
check("a cut response ends in the error event",
  seen.at(-1)?.type === "error" && seen.at(-1).code === "upstream_truncated"
    && seen.at(-1).sequence_number === seen.length - 1 && responsesText(seen) !== ""
    && text.startsWith(responsesText(seen)), seen.at(-1));
await throws("a reset chat throws", OpenAI.APIError, "", () => chat({ "X-Mock-reset_at": "900" }));
await throws("429", OpenAI.RateLimitError, "told to fail", () => chat({ "X-Mock-status": "429" }));
await throws("the relay's own 502", OpenAI.InternalServerError, "closed the connection",
  () => chat({ "X-Mock-fail_first": "99:close", "X-Mock-key": "openai-node" }));

await seesLeaving("an abort is noticed", async () => {
  const abort = new AbortController();
  const stream = await client.chat.completions.create(
    { ...ask, stream: true }, { headers: LONG, signal: abort.signal });
  let seen = 0;
  for await (const _ of stream) if (++seen === 3) abort.abort();
  check("an abort ends the stream", seen === 3, seen);
});
await seesLeaving("an abort before the first token is noticed", async () => {
  const abort = new AbortController();
  const asked = client.chat.completions.create({ ...ask, stream: true },
    { headers: { ...LONG, "X-Mock-first_delay": "20000" }, signal: abort.signal });
  await asked;
  abort.abort();
});
