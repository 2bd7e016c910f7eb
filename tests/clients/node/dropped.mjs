// One long answer, what it is, and whether a reader got it through a hundred lost connections.

import { MOCK, RELAY, check, settle, stats } from "./checks.mjs";
import { CuttingProxy, allowances } from "./cutting.mjs";

// Long enough for a hundred drops, and it is still coming at most of them.
const TOKENS = 3000, RATE = 500;
const LONG = `mock_tokens=${TOKENS}&mock_rate=${RATE}`;
// By GET and POST, OpenAI's chunks; by POST, tokens.
export const ASK = `/ask?prompt=hi&${LONG}`;
export const CHAT = `/chat?${LONG}`;

const response = await fetch(`${MOCK}/v1/chat/completions?mock_tokens=${TOKENS}&mock_rate=0`,
  { method: "POST", body: '{"model":"mock","stream":true}' });
// The answer as each of them tells it: the data of its events, and its text.
export const chunks = (await response.text()).split("\n\n").slice(0, -1)
  .map(frame => frame.replace(/^data: /, ""));
export const text = chunks.slice(0, -1)
  .map(chunk => JSON.parse(chunk).choices[0]?.delta.content ?? "").join("");

export const same = (some, others) => JSON.stringify(some) === JSON.stringify(others);

// Ids of one stream, each once and in order.
export function inOrder(ids) {
  const name = ids[0]?.replace(/\.\d+$/, "");
  return ids.every((id, at) => id === `${name}.${at + 1}` && /^[\w.-]{1,64}$/.test(id));
}

// Rejects what takes longer than a minute.
export function soon(promise) {
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(Error("too late")), 60_000); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// Checks that `read`, given a base URL that loses its connections, reads the long answer: what it
// gives is `wanted`, and where it has ids each came once.
export async function readsThrough(name, wanted, read, { silence, ...sizes } = {}) {
  await settle();
  const { started } = await stats();
  const proxy = await CuttingProxy.start(RELAY, { allowance: allowances(RELAY, sizes), silence });
  let got = {};
  try {
    got = await soon(read(proxy.url));
  } catch (error) {
    got.error = error.message;
  } finally {
    proxy.close();
  }
  const { cuts } = proxy, asked = (await stats()).started - started;
  const detail = { cuts, asked, error: got.error, ids: got.ids?.length };
  check(`${name}: a hundred connections are lost`, cuts >= 100, detail);
  check(`${name}: every byte once`, same(got.all, wanted),
    { ...detail, length: got.all?.length, wanted: wanted.length });
  if (got.ids) check(`${name}: every id once and in order`, inOrder(got.ids), got.ids);
  check(`${name}: asked upstream once`, asked === 1, detail);
  return got;
}
