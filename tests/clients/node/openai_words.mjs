// The OpenAI SDK for Node at providers that speak otherwise, by routes that tell their answers in
// OpenAI's words. The mock refuses what those providers would.

import OpenAI from "openai";
import { LONG, RELAY, SILENCE, check, collect, seesHeartbeat, seesLeaving } from "./checks.mjs";

const open = (base, headers = {}) =>
  new OpenAI({ baseURL: base, apiKey: "k", maxRetries: 0, defaultHeaders: headers });
const ask = { model: "m", messages: [{ role: "user", content: "hi" }] };
const plain = open(`${RELAY}/v1`);
const text = (await plain.chat.completions.create(ask)).choices[0].message.content;
const textOf = chunks => chunks.map(chunk => chunk.choices[0]?.delta.content ?? "").join("");
const calls = JSON.stringify([0, 1].map(n => [`call_${n}`, "look_up", { query: `模型 "${n}"` }]));
const callsOf = told => JSON.stringify((told ?? []).map(call =>
  [call.id, call.function.name, JSON.parse(call.function.arguments)]));

for (const provider of ["anthropic", "dashscope"]) {
  const client = open(`${RELAY}/${provider}/v1`, { "X-Mock-Strict": "1" });
  const create = (more = {}, headers = {}) =>
    client.chat.completions.create({ ...ask, ...more }, { headers });
  const chat = async (headers = {}, more = {}) =>
    collect(await create({ stream: true, ...more }, headers));
  const says = (name, ...rest) => check(`${provider}: ${name}`, ...rest);
  const throws = async (name, kind, words, headers, more, then = () => true) => {
    const seen = [];
    try {
      const answer = await create(more, headers);
      if (more.stream) for await (const chunk of answer) seen.push(chunk);
    } catch (error) {
      return says(name, error instanceof kind && error.message.includes(words)
        && then(error, textOf(seen)), error);
    }
    says(name, false, "it looked whole");
  };

  const chunks = await chat();
  says("streamed", text && textOf(chunks) === text, textOf(chunks));
  says("role first, reason last, no usage unasked", chunks[0].choices[0].delta.role === "assistant"
    && chunks.at(-1).choices[0].finish_reason === "stop" && chunks.every(({ usage }) => !usage),
    chunks.at(-1));
  const used = (await chat({}, { stream_options: { include_usage: true } })).at(-1).usage;
  says("usage", used?.completion_tokens === 60 && used.prompt_tokens === 7, used);
  const helper = client.chat.completions.stream(ask, { headers: { "X-Mock-Tools": "2" } });
  const final = (await helper.finalChatCompletion()).choices[0];
  says("tool calls, the SDK's helper", final.finish_reason === "tool_calls"
    && final.message.content === text && callsOf(final.message.tool_calls) === calls, final);
  await seesHeartbeat(`${provider}: through a silence`, async () =>
    textOf(await chat(SILENCE)) === text);

  for (const more of [{}, { stream: false }]) {
    const answer = await create(more);
    says(`collected, ${JSON.stringify(more)}`, answer.choices[0].message.content === text
      && answer.choices[0].finish_reason === "stop" && answer.usage.completion_tokens === 60, answer);
  }
  const instructed = await create(
    { messages: [{ role: "developer", content: "Be brief." }, ...ask.messages] });
  says("with instructions", instructed.choices[0].message.content === text, instructed);
  const called = (await create({}, { "X-Mock-Tools": "2" })).choices[0];
  says("collected, tool calls", called.finish_reason === "tool_calls"
    && callsOf(called.message.tool_calls) === calls, called);

  const stream = { stream: true };
  const some = (_, seen) => seen !== "" && text.startsWith(seen);
  await throws("an error before the first token", OpenAI.APIError, "told to fail here",
    { "X-Mock-Error-At": "0" }, stream, (_, seen) => seen === "");
  await throws("an error later", OpenAI.APIError, "told to fail here", { "X-Mock-Error-At": "12" },
    stream, some);
  await throws("a cut", OpenAI.APIError, "whole", { "X-Mock-Truncate": "2500" }, stream, some);
  await throws("collected, an error in the stream", OpenAI.InternalServerError, "told to fail here",
    { "X-Mock-Error-At": "12" }, {}, error => error.status === 529);
  for (const more of [{}, stream]) {
    const how = more.stream ? "streamed" : "collected";
    await throws(`429, ${how}`, OpenAI.RateLimitError, "told to fail",
      { "X-Mock-Status": "429", "X-Mock-Retry-After": "7" }, more,
      error => error.headers.get("retry-after") === "7" && error.type === "rate_limit_exceeded");
    await throws(`401, ${how}`, OpenAI.AuthenticationError, "told to fail",
      { "X-Mock-Status": "401" }, more, error => error.type === "authentication_error");
  }
  await throws("the relay's own 502", OpenAI.InternalServerError, "closed the connection",
    { "X-Mock-Fail-First": "99:close", "X-Mock-Key": `words-node-${provider}` }, stream);

  await seesLeaving(`${provider}: an abort is noticed`, async () => {
    const abort = new AbortController();
    const long = await client.chat.completions.create(
      { ...ask, stream: true }, { headers: LONG, signal: abort.signal });
    let seen = 0;
    for await (const _ of long) if (++seen === 3) abort.abort();
    says("an abort ends the stream", seen === 3, seen);
  });
}
