// The demo page's chat in Chromium, served through the relay like everything it asks for.

import { MOCK, RELAY, check, seesLeaving, throws } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";
import { DemoPage } from "./demo_page.mjs";

const answer = await fetch(`${MOCK}/v1/chat/completions`, { method: "POST", body: "{}" });
const text = (await answer.json()).choices[0].message.content;

async function completeAnswers(demo) {
  for (const route of ["chat", "openai", "responses", "anthropic", "dashscope"]) {
    await demo.ask({ route });
    const shown = await demo.over();
    check(`${route}: the whole answer`,
      shown.answer === text && shown.state === "done" && !shown.bad, shown);
    const { lengths, frames } = await demo.noted();
    check(`${route}: it came bit by bit`, lengths.length >= 5, lengths.length);
    check(`${route}: drawn at most once a frame`, lengths.length <= frames + 1,
      { drawn: lengths.length, frames });
    check(`${route}: first token, tokens, rate and time`,
      /^\d+ ms$/.test(shown.first) && shown.count === "60" && Number(shown.rate) > 0
        && /^\d+\.\d s$/.test(shown.time) && shown.status.startsWith("Done: 60 tokens"), shown);
    const bars = await demo.page.locator("#chat svg path").getAttribute("d");
    const label = await demo.part("gaps").getAttribute("aria-label");
    check(`${route}: a bar for each gap`, bars.split("M").length === 60 && /60 tokens/.test(label),
      label);
  }
}

// Characters and line ends cut anywhere on their way.
async function pieces(demo) {
  for (const route of ["chat", "openai", "dashscope"]) {
    await demo.ask({ route, trouble: "pieces" });
    const shown = await demo.over();
    check(`${route}, in pieces of 5 bytes with CRLF: the whole answer`,
      shown.answer === text && shown.state === "done", shown);
  }
}

// Thousands of tokens at once are drawn a few times.
async function burst(demo) {
  const fast = route => route.continue({
    headers: { ...route.request().headers(), "x-mock-rate": "0", "x-mock-tokens": "3000" },
  });
  await demo.page.route("**/chat", fast);
  await demo.ask();
  const shown = await demo.over();
  const { lengths, frames } = await demo.noted();
  check("3000 tokens at once: drawn once a frame", shown.state === "done" && shown.count === "3000"
    && shown.answer.startsWith(text) && lengths.length <= Math.min(frames + 1, 300),
    { ...shown, answer: "", drawn: lengths.length, frames });
  await demo.page.unroute("**/chat", fast);
}

async function faults(demo) {
  for (const [route, trouble, state, words, some] of [
    ["chat", "truncate", "failed", "upstream closed before its body was whole", true],
    ["chat", "reset", "failed", "upstream connection failed", true],
    ["chat", "errorLater", "failed", "told to fail here", true],
    ["chat", "errorFirst", "failed", "failed before the first token", false],
    ["chat", "limited", "refused", "Try again in 60 s", false],
    ["openai", "truncate", "failed", "upstream closed before its body was whole", true],
    ["openai", "reset", "failed", "upstream connection failed", true],
    ["openai", "errorLater", "failed", "told to fail here", true],
    ["anthropic", "errorFirst", "failed", "failed before the first token", false],
    ["dashscope", "errorLater", "failed", "told to fail here", true],
    ["openai", "limited", "refused", "429", false],
  ]) {
    await demo.ask({ route, trouble });
    const shown = await demo.over();
    check(`${route}, ${trouble}: told as it is`, shown.state === state && shown.bad && shown.again
      && shown.status.includes(words) && (shown.answer !== "") === some
      && text.startsWith(shown.answer) && shown.answer !== text, shown);
  }
  const notes = await demo.page.locator("#chat .note").count();
  check("the conversation keeps how each ended", notes === 11, notes);
  await demo.page.selectOption("#trouble", "");
  await demo.part("again").click();
  const shown = await demo.over();
  const turns = await demo.page.locator("#chat .turn.model").count();
  const questions = await demo.page.locator("#chat .turn.you").count();
  check("asked again after trouble: the whole answer, in the place of the failed one",
    shown.answer === text && !shown.bad && turns === questions, { ...shown, turns, questions });
}

async function reconnect(demo) {
  for (const route of ["chat", "openai"]) {
    await demo.ask({ route, trouble: "twice" });
    await demo.until("trying");
    check(`${route}, away twice: the new try is told`,
      /connecting again in \d s \(try \d of 3 more\)/.test(await demo.text("status")));
    const shown = await demo.over();
    check(`${route}, away twice: the whole answer in the end`, shown.answer === text
      && shown.state === "done" && shown.status.includes("after 2 more tries"), shown);
  }
  await demo.ask({ trouble: "twice" });
  await demo.until("trying");
  await demo.page.keyboard.press("Escape");
  check("stopped while it waits to try again", (await demo.over()).state === "stopped");
}

// What is said goes along with the next question, and a new chat forgets it.
async function conversation(demo) {
  const asked = [];
  demo.page.on("request", request => {
    if (request.url().endsWith("/chat")) asked.push(request.postDataJSON().messages);
  });
  await demo.part("clear").click();
  check("a new chat is empty", await demo.page.locator("#chat .turn").count() === 0);
  for (let n = 0; n < 2; n++) {
    await demo.ask();
    await demo.over();
  }
  const roles = asked.map(messages => messages.map(({ role }) => role).join(" "));
  check("the second question goes with the first and its answer",
    JSON.stringify(roles) === '["user","user assistant user"]' && asked[1][1].content === text, roles);
}

// The upstream is silent for 20 seconds behind the first tokens: what is shown then cannot have
// waited for the end, and the stream cannot be over when it is left.
async function leaving(demo) {
  const { page } = demo;
  const silent = { route: "openai", trouble: "silence" };
  for (const route of ["chat", "openai"]) {
    await seesLeaving(`${route}: stop is noticed`, async () => {
      await demo.ask({ ...silent, route });
      await demo.someText();
      check(`${route}: tokens show while the upstream is silent`,
        await demo.part("stop").isEnabled() && await demo.part("go").isDisabled()
          && text.startsWith(await demo.text("answer")));
      const focus = await page.evaluate(() => document.activeElement.dataset.part);
      check(`${route}: focus goes on to Stop`, focus === "stop", focus);
      await demo.part("stop").click();
      const shown = await demo.over();
      check(`${route}: stop: said, and what came stays`, shown.state === "stopped" && !shown.bad
        && shown.answer !== "" && shown.answer !== text, shown);
    });
  }
  await seesLeaving("Escape is noticed", async () => {
    await demo.ask({ ...silent, send: () => page.press("#chat textarea", "Control+Enter") });
    await demo.someText();
    await page.keyboard.press("Escape");
    check("Ctrl+Enter sends, Escape stops", (await demo.over()).state === "stopped");
  });
  await seesLeaving("a closed tab is noticed", async () => {
    await demo.ask(silent);
    await demo.someText();
    await page.close();
  });
}

// What the certificate makes of the page; and without trust in it there is none.
async function securely({ page }) {
  const { protocol, subjectName } = await (await page.goto(RELAY + "/")).securityDetails() ?? {};
  const kept = await page.evaluate(() => isSecureContext && location.protocol === "https:");
  check("https: TLS 1.3, with the relay's certificate",
    kept && protocol === "TLS 1.3" && subjectName === "127.0.0.1", { kept, protocol, subjectName });
  await withBrowser(async stranger => {
    const page = await stranger.newPage();
    await throws("https: refused where its key is not trusted", Error,
      "ERR_CERT_AUTHORITY_INVALID", () => page.goto(RELAY + "/"));
  }, { trusted: "" });
}

await withBrowser(async browser => {
  const demo = await DemoPage.open(browser, `${RELAY}/`);
  if (RELAY.startsWith("https:")) await securely(demo);
  await completeAnswers(demo);
  await pieces(demo);
  await burst(demo);
  check("the browser has nothing to complain about", demo.complaints.length === 0, demo.complaints);
  await faults(demo);
  await reconnect(demo);
  await conversation(demo);
  await leaving(demo);
});
