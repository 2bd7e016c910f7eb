// The Anthropic SDK for Node.

import Anthropic from "@anthropic-ai/sdk";
import { LONG, RELAY, SILENCE, check, collect, seesHeartbeat, seesLeaving, throws } from "./checks.mjs";

const client = new Anthropic({ baseURL: RELAY, apiKey: "k", maxRetries: 0 });
const ask = { model: "m", max_tokens: 100, messages: [{ role: "user", content: "hi" }] };

const text = (await client.messages.create(ask)).content[0].text;
const stream = client.messages.stream(ask);
let said = "";
stream.on("text", delta => { said += delta; });
const final = await stream.finalMessage();
check("messages", text && said === text && final.content[0].text === text, said);
check("messages usage", final.usage.output_tokens === 60, final.usage);
check("messages stop reason", final.stop_reason === "end_turn", final.stop_reason);

const streamed = async headers =>
  collect(await client.messages.create({ ...ask, stream: true }, { headers }));
await seesHeartbeat("messages through a silence", async () => {
  const events = await streamed(SILENCE);
  const deltas = events.filter(event => event.type === "content_block_delta");
  return deltas.map(event => event.delta.text).join("") === text
    && events.at(-1).type === "message_stop";
});

const cut = { "X-Mock-truncate": "1500" };
await throws("a cut stream throws", Anthropic.APIError, "whole", () => streamed(cut));
await throws("a cut stream throws in the SDK's helper", Anthropic.APIError, "whole",
  () => client.messages.stream(ask, { headers: cut }).finalMessage());
await throws("the provider's own error throws", Anthropic.APIError, "told to fail",
  () => streamed({ "X-Mock-error_at": "6" }));
await throws("429", Anthropic.RateLimitError, "told to fail",
  () => streamed({ "X-Mock-status": "429" }));
await throws("the relay's own 502", Anthropic.InternalServerError, "closed the connection",
  () => streamed({ "X-Mock-fail_first": "99:close", "X-Mock-key": "anthropic-node" }));

await seesLeaving("an abort is noticed", async () => {
  const abort = new AbortController();
  const long = client.messages.stream(ask, { headers: LONG, signal: abort.signal });
  let seen = 0;
  long.on("text", () => { if (++seen === 3) abort.abort(); });
  await throws("an abort throws", Anthropic.APIUserAbortError, "", () => long.finalMessage());
});
