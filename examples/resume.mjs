// Reads an answer of a route with resume = true through lost connections, in pages and in Node:
//
//   const stop = new AbortController();   // stop.abort() cancels the answer, at the provider too
//   for await (const { event, data } of resumable("/chat", { headers, body }, { signal: stop.signal }))
//     if (!event) show(JSON.parse(data));
//
// It throws what the relay says where the rest cannot be had. An event's `id`, kept over a reload and
// given back as `id`, goes on behind it; what stands before its last dot, from the start again.

const isEnd = ({ event }) => ["done", "error", "timeout"].includes(event);

export async function* resumable(url, { headers, body },
  { signal = new AbortController().signal, id = "", isLast = isEnd } = {}) {
  // The id is all it takes to come back: the request itself is not sent again.
  const ask = (method, signal) => fetch(url, { method, signal,
    ...id ? { headers: { ...headers, "Last-Event-ID": id } } : { headers, body } });
  signal.addEventListener("abort", () => id && ask("DELETE").catch(() => {}));
  for (let tries = 0, retry = 1000; ; tries++) {
    const network = new AbortController(), ended = AbortSignal.any([signal, network.signal]);
    let timer;
    // The relay says something every 15 s: a network that is silent for longer is gone.
    const heard = () => { clearTimeout(timer); timer = setTimeout(() => network.abort(), 45_000); };
    try {
      if (id) heard();
      const response = await ask("POST", ended);
      if (response.status === 204) return; // It is over, and nothing of it is missing.
      if (!response.ok) throw Object.assign(Error(await response.text()), { final: response.status < 500 });
      id ||= response.headers.get("X-Stream-Id") ?? "";
      for await (const event of events(response.body, heard)) {
        [tries, retry] = [0, Number(event.retry) || retry];
        id &&= event.id ?? id; // Without a stream's name it is the provider's own.
        if ("data" in event) yield event;
        if (isLast(event)) return;
      }
      throw Error("the connection was lost before the end");
    } catch (error) {
      if (signal.aborted) return;
      // Without an id there is nothing to come back to, and what is asked anew is paid anew.
      if (error.final || !id || tries === 10) throw error;
    } finally {
      clearTimeout(timer);
      network.abort();
    }
    const ms = Math.min(retry * 2 ** tries, 10_000) * (1 + Math.random()) / 2;
    await new Promise(over => { setTimeout(over, ms); AbortSignal.any([signal]).addEventListener("abort", over); });
  }
}

// The events of a body, each an object of its fields. One that is cut off is none: it comes again.
async function* events(body, heard) {
  const reader = body.getReader(), decoder = new TextDecoder();
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
}
