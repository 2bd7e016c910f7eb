// The demo page in Chromium, served through the relay like everything it asks for.

import { MOCK, RELAY, check, seesLeaving, throws } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";
import { DemoPage } from "./demo_page.mjs";

const answer = await fetch(`${MOCK}/v1/chat/completions`, { method: "POST", body: "{}" });
const text = (await answer.json()).choices[0].message.content;

async function completeAnswers(demo) {
  for (const dialect of ["openai", "responses", "anthropic", "dashscope"]) {
    await demo.ask({ dialect });
    const shown = await demo.over();
    check(`${dialect}: the whole answer`,
      shown.answer === text && shown.status === "done" && !shown.bad, shown);
    const steps = (await demo.lengths()).length;
    check(`${dialect}: it came bit by bit`, steps >= 5, steps);
    check(`${dialect}: first token, tokens, rate and time`,
      /^\d+ ms$/.test(shown.first) && shown.count === "60" && Number(shown.rate) > 0
        && /^\d+\.\d s$/.test(shown.time), shown);
  }
}

async function faults(demo) {
  for (const [fault, words, some] of [
    ["truncate=2000", "upstream closed before its body was whole", true],
    ["reset_at=2000", "upstream connection failed", true],
    ["error_at=6", "told to fail here", true],
    ["status=429", "429", false],
  ]) {
    await demo.ask({ fault });
    const shown = await demo.over();
    check(`trouble ${fault}: told as it is`, shown.bad && shown.status.includes(words)
      && (shown.answer !== "") === some && text.startsWith(shown.answer)
      && shown.answer !== text, shown);
  }
  await demo.ask();
  const shown = await demo.over();
  check("after trouble: the whole answer", shown.answer === text && !shown.bad, shown);
}

// The upstream is silent for 20 seconds behind the first tokens: what is shown then cannot have
// waited for the end, and the stream cannot be over when it is left.
async function leaving(demo) {
  const { page } = demo;
  const silent = { fault: "stall=5:20000" };
  await seesLeaving("stop is noticed", async () => {
    await demo.ask(silent);
    await demo.someText();
    check("tokens show while the upstream is silent", await page.isEnabled("#stop")
      && await page.isDisabled("#go") && text.startsWith(await demo.text("answer")));
    await page.click("#stop");
    const shown = await demo.over();
    check("stop: said, and what came stays",
      shown.status === "stopped" && !shown.bad && shown.answer !== "" && shown.answer !== text, shown);
  });
  await seesLeaving("Escape is noticed", async () => {
    await demo.ask({ ...silent, send: () => page.press("#prompt", "Control+Enter") });
    await demo.someText();
    await page.keyboard.press("Escape");
    check("Ctrl+Enter sends, Escape stops", (await demo.over()).status === "stopped");
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
  const demo = await DemoPage.open(browser, RELAY + "/");
  if (RELAY.startsWith("https:")) await securely(demo);
  await completeAnswers(demo);
  check("the browser has nothing to complain about", demo.complaints.length === 0, demo.complaints);
  await faults(demo);
  if (process.env.SCREENSHOT) {
    await demo.ask();
    await demo.over();
    await demo.page.screenshot({ path: process.env.SCREENSHOT });
  }
  await leaving(demo);
});
