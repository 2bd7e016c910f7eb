// Reads an answer of a route with resume = true through lost connections, in pages and in Node:
//
//   const stop = new AbortController();   // stop.abort() cancels the answer, at the provider too
//   for await (const { event, data } of resumable("/chat", { headers, body }, { signal: stop.signal }))
//     if (!event) show(JSON.parse(data));
//
// It throws, in words, where the rest cannot be had. An event's `id`, kept over a reload and given
// back as `id`, goes on behind it; what stands before its last dot, from the start again.

const LOST = { 404: "the answer is no longer kept", 410: "a part of the answer is no longer kept" };
const isEnd = ({ event }) => ["done", "error", "timeout"].includes(event);

export async function* resumable(url, { headers, body },
  { signal = new AbortController().signal, id = "", isLast = isEnd, waits = () => {} } = {}) {
  // The id is all it takes to come back: the request itself is not sent again.
  const ask = (method, signal) => fetch(url, id ? { method, signal, headers: { ...headers, "Last-Event-ID": id } }
    : { method, signal, headers, body });
  let wake;
  signal.addEventListener("abort", () => {
    wake?.();
    if (id) ask("DELETE").catch(() => {});
  });
  globalThis.addEventListener?.("online", () => wake?.());
  for (let tries = 0, retry = 1000; !signal.aborted;) {
    // The relay says something every 15 s: a network that is silent for longer is gone.
    const silent = new AbortController();
    let timer;
    const heard = () => { clearTimeout(timer); timer = setTimeout(() => silent.abort(), 45_000); };
    try {
      if (id) heard();
      const response = await ask("POST", AbortSignal.any([signal, silent.signal]));
      if (response.status === 204) return; // It is over, and nothing of it is missing.
      const refused = response.ok ? "" : id && LOST[response.status] || await response.text();
      if (refused) throw Object.assign(Error(refused), { final: response.status < 500 });
      id ||= response.headers.get("X-Stream-Id") ?? "";
      for await (const event of events(response.body, heard)) {
        [tries, retry] = [0, Number(event.retry) || retry];
        id &&= event.id ?? id; // Without a stream's name it is the provider's own.
        if ("data" in event) yield event;
        if (isLast(event) || signal.aborted) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      // Without an id there is nothing to come back to, and what is asked anew is paid anew.
      if (error.final || !id) throw error;
    } finally {
      clearTimeout(timer);
    }
    if (!id || ++tries > 10) throw Error("the connection was lost before the end");
    const ms = Math.min(retry * 2 ** (tries - 1), 10_000) * (1 + Math.random()) / 2;
    waits({ tries, ms });
    await new Promise(over => setTimeout(wake = over, ms));
  }
}

// The events of a body, each an object of its fields. One that is cut off is none: it comes again.
async function* events(body, heard) {
  const reader = body.getReader(), decoder = new TextDecoder();
  try {
    let rest = "", event = {};
    for (let read; !(read = await reader.read()).done; heard()) {
      // A CR at the end may be half of a CRLF.
      const lines = (rest + decoder.decode(read.value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (line === "") { yield event; event = {}; }
        else event[field] = field === "data" && field in event ? `${event.data}\n${value}` : value;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
