// Answers as they come: events of text/event-stream out of bytes cut anywhere, the words each
// route tells them in, and one question asked, again where that is safe, until it has an end.

// Parses text/event-stream (HTML Standard, "Server-sent events"); gives a function to be fed text.
// A CR ends its line at once: an LF that opens the next piece belongs to it.
export function parser(take) {
  let line = "", data = null, name = "", afterCr = false;
  const endLine = () => {
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (line === "") {
      if (data !== null) take({ name: name || "message", data });
      data = null;
      name = "";
    } else if (field === "data") {
      data = data === null ? value : `${data}\n${value}`;
    } else if (field === "event") {
      name = value;
    }
    line = "";
  };
  return text => {
    if (text === "") return;
    let from = afterCr && text[0] === "\n" ? 1 : 0;
    const ends = /\r\n?|\n/g;
    ends.lastIndex = from;
    for (let end; (end = ends.exec(text)); from = ends.lastIndex) {
      line += text.slice(from, end.index);
      endLine();
    }
    line += text.slice(from);
    afterCr = text.endsWith("\r");
  };
}

// Feeds a body to `take`, event by event. A character cut in two waits for its other half.
export async function eachEvent(body, take) {
  const reader = body.getReader(), decoder = new TextDecoder(), feed = parser(take);
  for (;;) {
    const { done, value } = await reader.read();
    feed(decoder.decode(value, { stream: !done }));
    if (done) return;
  }
}

function json(text) {
  try { return JSON.parse(text); } catch { return null; }
}

// What an error says: words, or a provider's JSON.
export function message(text) {
  const told = json(text);
  return told?.error?.message ?? told?.message ?? (typeof told === "string" ? told : text);
}

// Events that the relay's own words tell: `{ text }`, `{ end }`, `{ error }` or `{ timeout }`.
const told = text => ({ name, data }) => {
  if (name === "error" || name === "timeout") return { [name]: message(data) || name };
  if (name === "done") return { end: true };
  return name === "message" ? text(data) : {};
};
const provided = (text, isEnd) => event => {
  const data = json(event.data);
  if (event.name === "error" || data?.error) return { error: message(event.data) };
  return { text: data ? text(data, event) : "", end: isEnd(event, data) };
};
const chat = messages => ({ model: "mock", stream: true, messages });
const last = messages => messages.at(-1).content;

// How each route is asked, and how its events are read.
export const ROUTES = {
  chat: { url: "/chat", body: chat, read: told(data => ({ text: json(data) ?? "" })) },
  optimize: {
    url: "/optimize-stream", body: form => form,
    read: told(data => data === "[DONE]" ? { end: true } : { text: data }),
  },
  openai: {
    url: "/v1/chat/completions", body: chat,
    read: provided(data => data.choices?.[0]?.delta?.content, event => event.data === "[DONE]"),
  },
  responses: {
    url: "/v1/responses", body: messages => ({ model: "mock", stream: true, input: messages }),
    read: provided(data => data.type === "response.output_text.delta" ? data.delta : "",
      event => event.name === "response.completed"),
  },
  anthropic: {
    url: "/v1/messages", body: messages => ({ ...chat(messages), max_tokens: 500 }),
    read: provided(data => data.delta?.text, event => event.name === "message_stop"),
  },
  dashscope: {
    url: "/api/v1/services/aigc/text-generation/generation",
    headers: { "X-DashScope-SSE": "enable" },
    body: messages => ({
      model: "mock", input: { prompt: last(messages) }, parameters: { incremental_output: true },
    }),
    read: provided(data => data.output?.text, (_, data) => data?.output?.finish_reason === "stop"),
  },
};

// A question that got no answer at all is asked again this often, after 1 s, 2 s, 4 s. Once text
// has come it is not: the answer would begin anew.
const AGAIN = 3;
const PAUSE_MAX_SECONDS = 30;

function pause(seconds, signal) {
  return new Promise((over, stopped) => {
    const finish = () => {
      clearTimeout(timer);
      removeEventListener("online", finish);
      signal.removeEventListener("abort", finish);
      if (signal.aborted) stopped(signal.reason); else over();
    };
    const timer = setTimeout(finish, seconds * 1000);
    // A browser that is back on its network need not wait.
    addEventListener("online", finish);
    signal.addEventListener("abort", finish);
  });
}

async function attempt(route, init, { text, whole }) {
  const end = {};
  const take = event => {
    if (end.error ?? end.timeout ?? end.end) return;
    const said = route.read(event);
    if (said.text) text(said.text);
    for (const key of ["end", "error", "timeout"]) if (said[key]) end[key] = said[key];
  };
  let head = false;
  try {
    const response = await fetch(route.url, init);
    head = true;
    if (!response.ok) {
      const after = Number(response.headers.get("Retry-After")) || 0;
      return { kind: "refused", status: response.status, after, why: message(await response.text()) };
    }
    if (whole) parser(take)(await response.text()); else await eachEvent(response.body, take);
  } catch (error) {
    if (init.signal.aborted) return { kind: "stopped" };
    // What was told before the connection broke is the better reason.
    if (!end.error && !end.timeout) return { kind: head ? "cut" : "unreachable", why: error.message };
  }
  if (end.timeout) return { kind: "timeout", why: end.timeout };
  if (end.error) return { kind: "failed", why: end.error };
  return { kind: end.end ? "done" : "unfinished" };
}

// Asks, and tells `on.text` each piece of the answer and `on.again` of each new try. Gives how it
// ended: `kind` is done, stopped, failed, timeout, refused, cut, unreachable or unfinished. With
// `whole` the answer is read when all of it is there, as pages did before they streamed.
export async function ask(route, request, { headers, signal, whole = false, on }) {
  const init = {
    method: "POST", signal, body: JSON.stringify(route.body(request)),
    headers: {
      "Content-Type": "application/json", Accept: "text/event-stream", ...route.headers, ...headers,
    },
  };
  let some = false;
  const text = piece => { some = true; on.text(piece); };
  for (let tried = 1; ; tried++) {
    const end = await attempt(route, init, { text, whole });
    const away = ["unreachable", "cut"].includes(end.kind) || [502, 503].includes(end.status);
    if (some || !away || tried > AGAIN || end.after > PAUSE_MAX_SECONDS) return { ...end, tried };
    const seconds = end.after || Math.min(2 ** (tried - 1), PAUSE_MAX_SECONDS);
    on.again({ tried, of: AGAIN, seconds, why: end.why });
    try { await pause(seconds, signal); } catch { return { kind: "stopped", tried }; }
  }
}
