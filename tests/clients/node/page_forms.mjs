// The demo page's other applications in Chromium: optimiser and comparison, and a relay that goes
// away.

import { CONFIG, DRIVER, MOCK, RELAY, check, seesLeaving, stats, within } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";
import { DemoPage } from "./demo_page.mjs";
import { started } from "./started.mjs";

const answer = await fetch(`${MOCK}/v1/chat/completions`, { method: "POST", body: "{}" });
const text = (await answer.json()).choices[0].message.content;

async function optimizer(demo) {
  await demo.show("optimize");
  await demo.page.selectOption("#optimize [name=type]", "扩写");
  await demo.page.fill("#optimize [name=opening]", "你是一位诗人。");
  const asked = demo.page.waitForRequest("**/optimize-stream");
  await demo.ask();
  const sent = (await asked).postDataJSON();
  check("optimiser: the reference's request", JSON.stringify(sent) === JSON.stringify(
    { prompt: "Write a poem.", type: "扩写", model: "qwen-max", opening: "你是一位诗人。" }), sent);
  const shown = await demo.over();
  check("optimiser: the whole answer", shown.answer === text && shown.state === "done"
    && shown.count === "60", shown);
  check("optimiser: it came bit by bit", (await demo.noted()).lengths.length >= 5);
  check("the browser has nothing to complain about", demo.complaints.length === 0, demo.complaints);
  for (const [trouble, state, words, some] of [
    ["errorFirst", "failed", "failed before the first token: the mock was told to fail here", false],
    ["errorLater", "failed", "told to fail here", true],
    ["truncate", "failed", "upstream closed before its body was whole", true],
    ["reset", "failed", "upstream connection failed", true],
    ["limited", "failed", "failed before the first token: the mock was told to fail", false],
    ["long", "timeout", "请求超时", true],
    ["never", "timeout", "no answer has begun: 请求超时", false],
  ]) {
    await demo.ask({ trouble });
    const shown = await demo.over();
    check(`optimiser, ${trouble}: told as it is`, shown.state === state && shown.bad && shown.again
      && shown.status.includes(words) && (shown.answer !== "") === some, shown);
    await demo.picture(`optimize-${trouble}`);
  }
  // Its route tells all failures in events, so the page sees no status that says "try again".
  await demo.ask({ trouble: "twice" });
  const away = await demo.over();
  check("optimiser, away: told in words, and may be asked again", away.state === "failed"
    && away.again && away.status.includes("failed before the first token"), away);
  await seesLeaving("optimiser: stop is noticed", async () => {
    await demo.ask({ trouble: "silence" });
    await demo.someText();
    await demo.part("stop").click();
    const shown = await demo.over();
    check("optimiser: stop: said, and what came stays", shown.state === "stopped" && !shown.bad
      && shown.answer !== "" && text.startsWith(shown.answer), shown);
  });
  const refused = await demo.page.evaluate(async () => {
    const answer = await fetch("/optimize-stream", { method: "POST", body: "{}" });
    return [answer.status, await answer.text()];
  });
  check("without a prompt: 400 that names it",
    refused[0] === 400 && refused[1].includes("prompt"), refused);
}

async function comparison(demo) {
  await demo.show("compare");
  await demo.ask();
  await demo.page.waitForFunction(() =>
    document.querySelector("[data-part=streaming] [data-part=answer]").textContent.length > 40);
  const waiting = await demo.page.locator("[data-part=waiting] [data-part=answer]").textContent();
  check("comparison: while one streams the other has nothing", waiting === "", waiting);
  await demo.picture("compare-running");
  const { status, state } = await demo.over();
  const side = async name => ({
    answer: await demo.page.textContent(`[data-part=${name}] [data-part=answer]`),
    first: parseFloat(await demo.page.textContent(`[data-part=${name}] [data-part=first]`)),
    time: parseFloat(await demo.page.textContent(`[data-part=${name}] [data-part=time]`)),
  });
  const whole = await side("waiting"), stream = await side("streaming");
  check("comparison: both have the whole answer in the end",
    state === "done" && whole.answer === text && stream.answer === text, { status, whole, stream });
  check("comparison: streaming is read sooner, and it is said", stream.first < whole.first
    && status.includes(`after ${stream.first.toFixed(1)} s`)
    && status.includes(`after ${whole.first.toFixed(1)} s`), { status, whole, stream });
  await demo.picture("compare");
  await demo.ask({ trouble: "errorLater" });
  const failed = await demo.over();
  check("comparison: a failure is told", failed.state === "failed" && failed.bad && failed.again
    && failed.status.includes("told to fail here"), failed);
  await stopsBoth(demo);
}

// Stop stops both sides.
async function stopsBoth(demo) {
  await demo.ask({ trouble: "silence" });
  await demo.page.waitForFunction(() =>
    document.querySelector("[data-part=streaming] [data-part=answer]").textContent !== "");
  await demo.page.keyboard.press("Escape");
  check("comparison: stop stops both", (await demo.over()).state === "stopped"
    && await within(async () => (await stats()).active === 0));
}

// A relay that is killed in the middle of an answer, and one that comes back.
async function away(browser) {
  const serve = listen => started("serve", "--config", CONFIG, "--listen", listen,
    "--admin", "off", "--access-log", "off", "--io", DRIVER);
  let relay = await serve("127.0.0.1:0");
  try {
    const [url] = relay.addresses;
    const demo = await DemoPage.open(browser, url);
    await demo.ask({ trouble: "silence" });
    await demo.someText();
    relay.kill("SIGKILL");
    const cut = await demo.over();
    check("the relay is killed: said, and what came stays", cut.state === "cut" && cut.bad
      && cut.again && cut.answer !== "" && text.startsWith(cut.answer), cut);
    await demo.page.selectOption("#trouble", "");
    await demo.part("again").click();
    await demo.until("trying");
    await demo.picture("reconnect");
    check("while it is away the page connects again, and says so",
      (await demo.text("status")).includes("connecting again"));
    relay = await serve(new URL(url).host);
    const shown = await demo.over();
    check("when it is back: the whole answer", shown.answer === text && shown.state === "done"
      && /after \d more tries/.test(shown.status), shown);
    relay.kill("SIGKILL");
    await relay.ended;
    await demo.ask();
    const gone = await demo.over();
    check("it stays away: said at last", gone.state === "unreachable" && gone.bad && gone.again, gone);
    await demo.page.close();
  } finally {
    relay.kill("SIGKILL");
  }
}

await withBrowser(async browser => {
  const demo = await DemoPage.open(browser, `${RELAY}/`);
  const head = (await fetch(RELAY)).headers;
  check("a strict policy of content", /default-src 'none'/.test(head.get("content-security-policy"))
    && !/unsafe/.test(head.get("content-security-policy")));
  await optimizer(demo);
  await comparison(demo);
  await away(browser);
});
