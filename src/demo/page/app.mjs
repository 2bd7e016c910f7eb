// The page: three applications, each a form, an answer and what can be said of how it came.

import { ROUTES, ask } from "./stream.mjs";
import { begin, say, translate } from "./words.mjs";

const part = (root, name) => root.querySelector(`[data-part="${name}"]`);
const copy = id => document.getElementById(id).content.cloneNode(true);
const seconds = ms => (ms / 1000).toFixed(1);

// What the mock is asked to do wrong, as its header fields; sizes are those of each route's bytes.
const TROUBLES = {
  slow: () => ({ First_Delay: 4000 }),
  never: () => ({ First_Delay: 70_000 }),
  silence: () => ({ Stall: "5:20000" }),
  pieces: () => ({ Split: 5, Eol: "crlf" }),
  errorFirst: () => ({ Error_At: 0 }),
  errorLater: () => ({ Error_At: 6 }),
  truncate: route => ({ Truncate: route === ROUTES.optimize ? 300 : 2000 }),
  reset: route => ({ Reset_At: route === ROUTES.optimize ? 300 : 2000 }),
  limited: () => ({ Status: 429, Retry_After: 60 }),
  twice: () => ({ Fail_First: "2:503", Key: crypto.getRandomValues(new Uint32Array(2)).join("") }),
  long: () => ({ Tokens: 2000 }),
};

function mockFields(route) {
  const asked = TROUBLES[document.getElementById("trouble").value]?.(route) ?? {};
  return Object.fromEntries(Object.entries(asked)
    .map(([name, value]) => [`X-Mock-${name.replace("_", "-")}`, String(value)]));
}

// Reads an answer out to screen readers: politely, whole words, at most once in three seconds.
const speaker = {
  region: document.getElementById("spoken"), pending: "", timer: 0,
  take(text) {
    this.pending += text;
    this.timer ||= setTimeout(() => { this.timer = 0; this.flush(/^.*\s/s); }, 3000);
  },
  flush(part = /^.*/s) {
    const [now] = this.pending.match(part) ?? [this.pending];
    this.pending = this.pending.slice(now.length);
    if (now) this.region.textContent = now;
    if (this.pending) this.take("");
  },
  end() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.flush();
  },
  forget() {
    clearTimeout(this.timer);
    Object.assign(this, { pending: "", timer: 0 });
    this.region.textContent = "";
  },
};

// When the tokens of one answer came.
class Pace {
  begun = performance.now(); first = 0; last = 0; tokens = 0; gaps = []; over = 0;
  token() {
    const now = performance.now();
    if (this.tokens++ === 0) this.first = now; else this.gaps.push(now - this.last);
    this.last = now;
  }
  end() { this.over = performance.now(); }
  time() { return (this.over || performance.now()) - this.begun; }
  longest() { return this.gaps.reduce((longest, gap) => Math.max(longest, gap), 0).toFixed(0); }
}

// Shows a pace: four numbers, and the last gaps as bars.
class Meters {
  constructor(root) {
    root.append(copy("meters"));
    this.root = root;
    this.path = root.querySelector("path");
  }
  draw(pace) {
    const set = (name, text) => { part(this.root, name).textContent = text; };
    const spent = pace.last - pace.first, some = pace.tokens > 0;
    set("first", some ? `${(pace.first - pace.begun).toFixed(0)} ms` : "–");
    set("count", some ? pace.tokens : "–");
    set("rate", spent > 0 ? ((pace.tokens - 1) * 1000 / spent).toFixed(1) : "–");
    this.tick(pace);
    set("longest", pace.gaps.length ? say("longest", { ms: pace.longest() }) : "");
    const shown = pace.gaps.slice(-180), top = Math.max(40, ...shown);
    this.path.setAttribute("d", shown.map((gap, at) => {
      const height = Math.max(1, gap / top * 38).toFixed(1);
      return `M${at * 4} 40v-${height}h3v${height}z`;
    }).join(""));
    part(this.root, "gaps").setAttribute("aria-label",
      say("gapsLabel", { tokens: pace.tokens, ms: pace.longest() }));
  }
  // Time goes on while nothing comes.
  tick(pace) {
    const time = part(this.root, "time"), now = `${seconds(pace.time())} s`;
    if (time.textContent !== now) time.textContent = now;
  }
  run(pace) {
    this.tick(pace);
    if (!pace.over) requestAnimationFrame(() => this.run(pace));
  }
}

// Text that is put into `element` once per animation frame, however much has come.
class Drawing {
  pending = ""; frame = 0;
  constructor(element, also) {
    this.element = element;
    this.text = element.appendChild(document.createTextNode(""));
    this.also = also;
  }
  add(text) {
    this.pending += text;
    this.frame ||= requestAnimationFrame(() => this.draw());
  }
  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const box = this.element.closest(".turns");
    const atEnd = box && box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    if (this.pending) this.text.appendData(this.pending);
    this.pending = "";
    if (atEnd) box.scrollTop = box.scrollHeight;
    this.also?.();
  }
}

// How an answer ended, as a key of the words and its values.
function inWords(end, pace) {
  const values = { ...end, tokens: pace.tokens, seconds: seconds(pace.time()), more: end.tried - 1 };
  let key = end.kind;
  if (key === "done" && end.tried > 1) key = "doneAgain";
  if (key === "done" && end.returned > 0) key = "doneReturned";
  if (["stopped", "failed", "timeout", "cut"].includes(key) && pace.tokens === 0) key += "First";
  if (key === "refused") {
    if (end.status === 429) key = end.after ? "limitedAfter" : "limited";
    else if (end.status === 504) key = "refusedLate";
    else if ([502, 503].includes(end.status)) key = "refusedAway";
    else if (end.status < 500) key = "refusedInvalid";
  }
  return [key, values];
}

// One application: a form that starts something which can be stopped, and a line that tells of it.
class Panel {
  constructor(id) {
    this.root = document.getElementById(id);
    this.form = part(this.root, "form");
    this.form[id === "chat" ? "before" : "after"](copy("outcome"));
    for (const name of ["go", "stop", "status", "again"]) this[name] = part(this.root, name);
    this.form.addEventListener("submit", event => {
      event.preventDefault();
      if (!this.abort) this.submit(new FormData(this.form));
    });
    this.form.addEventListener("keydown", event => {
      if (event.key !== "Enter" || event.isComposing) return;
      if (event.ctrlKey || event.metaKey) this.form.requestSubmit();
    });
    this.stop.addEventListener("click", () => this.abort?.abort());
    this.again.addEventListener("click", () => this.abort || this.repeat?.());
    this.tell("ready");
  }

  tell(key, values, state = key) {
    this.told = [key, values];
    this.status.textContent = say(key, values);
    this.status.dataset.state = state;
    this.status.classList.toggle("bad", !["ready", "waiting", "streaming", "trying", "away",
      "comparing", "done", "stopped"].includes(state));
  }

  // In the other language.
  retell() {
    this.status.textContent = say(...this.told);
    if (this.pace) this.meters?.draw(this.pace);
  }

  // Runs `work` with a signal to stop it; focus stays on a button that can be pressed.
  run(work) {
    return this.running = this.guard(work);
  }

  async guard(work) {
    this.abort = new AbortController();
    const held = document.activeElement;
    this.again.hidden = true;
    this.stop.disabled = false;
    if (held === this.go || held === this.again) this.stop.focus();
    this.go.disabled = true;
    speaker.forget();
    try {
      await work(this.abort.signal);
    } finally {
      this.abort = null;
      this.go.disabled = false;
      if (document.activeElement === this.stop) this.go.focus();
      this.stop.disabled = true;
    }
  }

  // Asks `route` and draws the answer into `element`; gives what came, and how it ended.
  async answer(route, request, element) {
    let all = "";
    await this.run(async signal => {
      const pace = this.pace = new Pace();
      const drawing = new Drawing(element, () => this.meters.draw(pace));
      element.setAttribute("aria-busy", "true");
      this.meters.draw(pace);
      this.meters.run(pace);
      this.tell("waiting");
      const end = await ask(route, request, {
        signal, headers: mockFields(route),
        on: {
          text: text => {
            if (pace.tokens === 0) this.tell("streaming");
            pace.token();
            all += text;
            drawing.add(text);
            speaker.take(text);
          },
          again: values => this.tell("trying", values),
          away: values => this.tell("away", { ...values, seconds: values.seconds.toFixed(1) }),
          here: () => this.tell(pace.tokens ? "streaming" : "waiting"),
        },
      });
      pace.end();
      drawing.draw();
      speaker.end();
      element.removeAttribute("aria-busy");
      this.tell(...inWords(end, pace), end.kind);
      this.again.hidden = end.kind === "done";
    });
    return all;
  }
}

class Chat extends Panel {
  messages = [];
  constructor() {
    super("chat");
    this.turns = part(this.root, "turns");
    part(this.root, "clear").addEventListener("click", async () => {
      this.abort?.abort();
      await this.running;
      this.messages = [];
      this.turns.replaceChildren();
      this.again.hidden = true;
      this.tell("ready");
      this.form.elements.message.focus();
    });
    const box = document.createElement("div");
    this.root.append(box);
    this.meters = new Meters(box);
    this.retell();
  }

  retell() {
    super.retell();
    if (!this.turns) return;
    this.turns.dataset.empty = say("noTurns");
    for (const note of this.turns.querySelectorAll(".note")) note.textContent = say(...note.told);
  }

  turn(who, text) {
    const turn = document.createElement("article"), name = document.createElement("h2");
    const body = document.createElement("div");
    turn.className = `turn ${who}`;
    name.dataset.t = who === "you" ? "you" : "assistant";
    body.dataset.part = who === "you" ? "question" : "answer";
    body.textContent = text;
    turn.append(name, body);
    translate(turn);
    this.turns.append(turn);
    this.turns.scrollTop = this.turns.scrollHeight;
    return body;
  }

  submit(form) {
    const content = form.get("message");
    this.messages.push({ role: "user", content });
    this.turn("you", content);
    this.form.elements.message.value = "";
    return this.reply(form.get("route"));
  }

  async reply(route) {
    const asked = [...this.messages], body = this.turn("model", "");
    this.repeat = () => {
      body.closest("article").remove();
      this.messages = asked;
      return this.reply(this.form.elements.route.value);
    };
    const content = await this.answer(ROUTES[route], asked, body);
    this.messages = content ? [...asked, { role: "assistant", content }] : asked;
    if (this.status.dataset.state === "done") return;
    // The line below tells of the newest answer alone; an older one keeps how it ended.
    const note = document.createElement("p");
    note.className = "note";
    note.told = this.told;
    note.textContent = say(...note.told);
    body.after(note);
    this.turns.scrollTop = this.turns.scrollHeight;
  }
}

class Optimizer extends Panel {
  constructor() {
    super("optimize");
    this.shown = part(this.root, "answer");
    const box = document.createElement("div");
    this.root.append(box);
    this.meters = new Meters(box);
  }

  submit(form) {
    const request = Object.fromEntries(form);
    this.repeat = () => {
      this.shown.textContent = "";
      return this.answer(ROUTES.optimize, request, this.shown);
    };
    return this.repeat();
  }
}

// The same answer read twice: whole, and as it comes.
class Comparison extends Panel {
  constructor() {
    super("compare");
    this.sides = ["waiting", "streaming"].map(name => {
      const root = part(this.root, name);
      root.append(copy("side"));
      return root;
    });
  }

  submit() {
    this.repeat = () => this.run(signal => this.both(signal));
    return this.repeat();
  }

  async both(signal) {
    this.tell("comparing");
    const headers = mockFields(ROUTES.chat);
    let ahead = 0;
    const paces = [], request = [{ role: "user", content: say("messageExample") }];
    const side = async (root, whole) => {
      const pace = new Pace(), shown = part(root, "answer");
      paces.push(pace);
      shown.textContent = "";
      const drawing = new Drawing(shown);
      const clock = () => {
        const time = `${seconds(pace.time())} s`;
        part(root, "time").textContent = time;
        part(root, "first").textContent =
          pace.tokens ? `${seconds(pace.first - pace.begun)} s` : pace.over ? "–" : time;
        const blank = pace.tokens ? (pace.first - pace.begun) / pace.time() : 1;
        part(root, "share").style.width = `${(blank * 100).toFixed(1)}%`;
        if (!pace.over) requestAnimationFrame(clock);
      };
      clock();
      const end = await ask(ROUTES.chat, request, {
        signal, headers, whole,
        on: {
          text: text => {
            if (whole && pace.tokens === 0) ahead = paces[1].tokens;
            pace.token();
            drawing.add(text);
          },
          again: values => this.tell("trying", values),
          away: values => this.tell("away", { ...values, seconds: values.seconds.toFixed(1) }),
          here: () => this.tell("comparing"),
        },
      });
      pace.end();
      drawing.draw();
      clock();
      return end;
    };
    const [waited, streamed] =
      await Promise.all([side(this.sides[0], true), side(this.sides[1], false)]);
    const [whole, first] = paces.map(pace => seconds(pace.first - pace.begun));
    if (waited.kind === "done" && streamed.kind === "done") {
      this.tell("compared", { first, whole, tokens: ahead }, "done");
    } else {
      const other = streamed.kind === "done";
      const end = other ? waited : streamed;
      this.tell(...inWords(end, paces[other ? 0 : 1]), end.kind);
    }
    this.again.hidden = waited.kind === "done" && streamed.kind === "done";
  }
}

// Tabs by the pattern of WAI-ARIA: one stop of the Tab key, arrows between them.
function tabs() {
  const all = [...document.querySelectorAll("[role=tab]")];
  const choose = chosen => {
    for (const tab of all) {
      const here = tab === chosen;
      tab.setAttribute("aria-selected", here);
      tab.tabIndex = here ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !here;
    }
  };
  // The address keeps the choice. Not at the start: a page that loads begins to read at its #.
  const keep = tab => history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  for (const [at, tab] of all.entries()) {
    tab.addEventListener("click", () => { choose(tab); keep(tab); });
    tab.addEventListener("keydown", event => {
      const step = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const next = all.at(step % all.length);
      next.focus();
      next.click();
    });
  }
  choose(all.find(tab => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? all[0]);
}

let panels = [];
begin(() => panels.forEach(panel => panel.retell()));
panels = [new Chat(), new Optimizer(), new Comparison()];
translate();
tabs();
addEventListener("keydown", event => {
  if (event.key === "Escape" && !event.isComposing) panels.forEach(panel => panel.abort?.abort());
});
