// Answers as they come: events of text/event-stream out of bytes cut anywhere, the words each
// route tells them in, and one question asked until it has an end: through lost connections where the
// route keeps the answer, again where that is safe.

// Parses text/event-stream (HTML Standard, "Server-sent events"); gives a function to be fed text.
// A CR ends its line at once: an LF that opens the next piece belongs to it. `mark` is told the id of
// each frame that is whole, behind its event; `pace` how many milliseconds to wait before coming back.
export function parser(take, { mark = () => {}, pace = () => {} } = {}) {
  let line = "", data = null, name = "", id = null, afterCr = false;
  const endLine = () => {
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (line === "") {
      if (data !== null) take({ name: name || "message", data });
      if (id !== null) mark(id);
      data = id = null;
      name = "";
    } else if (field === "data") {
      data = data === null ? value : `${data}\n${value}`;
    } else if (field === "event") {
      name = value;
    } else if (field === "id" && !value.includes("\0")) {
      id = value;
    } else if (field === "retry" && /^\d+$/.test(value)) {
      pace(Number(value));
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

// Feeds a body to `take`, event by event; `heard` is told whenever something came, an event or not.
// A character cut in two waits for its other half.
export async function eachEvent(body, take, { heard = () => {}, ...told } = {}) {
  const reader = body.getReader(), decoder = new TextDecoder(), feed = parser(take, told);
  for (;;) {
    const { done, value } = await reader.read();
    heard();
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
// An answer that is kept is come back to, so often in a row without a frame more of it: for longer
// than a relay goes on without a reader.
const BACK = 12;
const BACK_MAX_SECONDS = 8;
// A relay says something every 15 s. A network that is silent for longer is gone, though nobody said
// so; and to come back costs nothing.
const SILENCE_SECONDS = 45;

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

// One question, and what is known of its answer from all connections so far: `id`, how far it has
// come and where to go on; empty where nobody keeps it.
class Question {
  id = ""; retrySeconds = 1; fruitless = 0; end = {}; held = []; told = false;
  constructor(route, init, whole, on) { Object.assign(this, { route, init, whole, on }); }

  // By the id alone: what it was asked with is not sent again.
  fetch(method, signal) {
    const { url } = this.route, { headers, body } = this.init;
    if (!this.id) return fetch(url, { method, signal, headers, body });
    const keepalive = method === "DELETE";
    return fetch(url, { method, signal, keepalive, headers: { ...headers, "Last-Event-ID": this.id } });
  }

  take(event) {
    const { end } = this;
    if (end.error ?? end.timeout ?? end.end) return;
    const said = this.route.read(event);
    if (said.text && this.whole) this.held.push(said.text);
    if (said.text && !this.whole) {
      this.told = true;
      this.on.text(said.text);
    }
    for (const key of ["end", "error", "timeout"]) if (said[key]) end[key] = said[key];
  }

  // One connection, given up where the network is, as the browser tells it or as silence does.
  async attempt() {
    const { signal } = this.init, lost = new AbortController();
    const lose = () => { if (this.id) lost.abort(); };
    let head = false, over = false, timer = 0;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(lose, SILENCE_SECONDS * 1000);
    };
    addEventListener("offline", lose);
    heard();
    try {
      const response = await this.fetch("POST", AbortSignal.any([signal, lost.signal]));
      head = true;
      if (!response.ok) return await this.refusal(response);
      over = response.status === 204;
      if (this.id) this.on.here?.();
      // The name of the answer stands for the place before its first frame.
      this.id ||= response.headers.get("X-Stream-Id") ?? "";
      if (!over) {
        await eachEvent(response.body, event => this.take(event), {
          heard, pace: ms => { this.retrySeconds = ms / 1000; },
          // An id of the provider's own is no place to come back to.
          mark: id => { if (this.id) Object.assign(this, { id, fruitless: 0 }); },
        });
      }
    } catch (error) {
      if (signal.aborted) return { kind: "stopped" };
      // What was told before the connection broke is the better reason.
      if (!(this.end.error ?? this.end.timeout ?? this.end.end)) {
        return { kind: head || this.id ? "cut" : "unreachable", why: error.message };
      }
    } finally {
      clearTimeout(timer);
      removeEventListener("offline", lose);
    }
    if (this.end.timeout) return { kind: "timeout", why: this.end.timeout };
    if (this.end.error) return { kind: "failed", why: this.end.error };
    return { kind: this.end.end ? "done" : "unfinished", over };
  }

  async refusal(response) {
    const { status } = response, after = Number(response.headers.get("Retry-After")) || 0;
    const kind = this.id && { 404: "lost", 410: "gap" }[status] || "refused";
    return { kind, status, after, why: message(await response.text()) };
  }

  // Whether to go on behind `end`, after how many seconds, and as what that is told.
  next(end, tried) {
    const refused = end.kind === "refused";
    if (this.id) {
      const away = end.kind === "cut" || end.kind === "unfinished" && !end.over
        || refused && (end.status >= 500 || end.status === 429);
      if (!away || this.fruitless >= BACK) return null;
      const most = Math.min(this.retrySeconds * 2 ** this.fruitless++, BACK_MAX_SECONDS);
      // Not all that were cut off together come back together.
      return { told: "away", seconds: end.after || most * (1 + Math.random()) / 2 };
    }
    const away = ["unreachable", "cut"].includes(end.kind) || [502, 503].includes(end.status);
    if (this.told || !away || tried > AGAIN || end.after > PAUSE_MAX_SECONDS) return null;
    return { told: "again", seconds: end.after || Math.min(2 ** (tried - 1), PAUSE_MAX_SECONDS) };
  }
}

// Asks, and tells `on.text` each piece of the answer, `on.again` each new try, `on.away` each loss of
// the connection to an answer that is kept, and `on.here` each return to it. Gives how it ended: `kind`
// is done, stopped, failed, timeout, refused, cut, lost, gap, unreachable or unfinished; `tried` and
// `returned` say how often. With `whole` the answer is told when all of it is there, as pages did
// before they streamed.
export async function ask(route, request, { headers, signal, whole = false, on }) {
  const question = new Question(route, {
    signal, body: JSON.stringify(route.body(request)),
    headers: {
      "Content-Type": "application/json", Accept: "text/event-stream", ...route.headers, ...headers,
    },
  }, whole, on);
  for (let tried = 1, returned = 0; ;) {
    let end = await question.attempt();
    const next = end.kind !== "stopped" && question.next(end, tried);
    if (next) {
      const away = next.told === "away";
      if (!away) question.held = [];
      on[next.told]({ tried, of: AGAIN, seconds: next.seconds, why: end.why });
      try {
        await pause(next.seconds, signal);
        if (away) returned++; else tried++;
        continue;
      } catch { end = { kind: "stopped" }; }
    }
    // Without a word it would go on for a while, for those who come back.
    if (end.kind === "stopped" && question.id) question.fetch("DELETE").catch(() => {});
    if (["done", "unfinished"].includes(end.kind)) question.held.forEach(on.text);
    return { ...end, tried, returned };
  }
}
