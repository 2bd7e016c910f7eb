// The demo page over a network that is lost, as a person starts the demo: one process with mock, relay
// and page, and between page and relay what cuts.

import { DRIVER, check, stats, within } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";
import { CuttingProxy } from "./cutting.mjs";
import { DemoPage } from "./demo_page.mjs";
import { started } from "./started.mjs";

const serve = listen => started("demo", "--listen", listen, "--io", DRIVER);
let demo = await serve("127.0.0.1:0");
const [relay] = demo.addresses;
const proxy = await CuttingProxy.start(relay);
const answer = await fetch(`${relay}/v1/chat/completions`, { method: "POST", body: "{}" });
const text = (await answer.json()).choices[0].message.content;

// Nobody connects until `back`.
function lose() {
  proxy.away = true;
  proxy.cut();
}
function back() { proxy.away = false; }

// The answer is whole, nothing of it was ever taken back, and it was asked for once.
async function whole(name, page, before) {
  const shown = await page.over();
  check(`${name}: the whole answer`, shown.answer === text && shown.state === "done" && !shown.bad,
    shown);
  check(`${name}: that connections were lost is told`, /over \d+ lost connections/.test(shown.status),
    shown.status);
  const { lengths } = await page.noted();
  check(`${name}: it only grew`, lengths.length > 5 && lengths.every((length, at) => !(length < lengths[at - 1])),
    lengths);
  check(`${name}: asked upstream once`, (await stats(relay)).started === before.started + 1);
}

async function lostOnce(page, panel, route) {
  const name = route ? `${panel} by ${route}` : panel;
  await page.show(panel);
  const before = await stats(relay);
  await page.ask({ route });
  await page.someText();
  lose();
  await page.until("away");
  const shown = await page.text("answer"), status = await page.text("status");
  check(`${name}: the loss is told, and what came stays`, /^Connection lost: coming back in \d+\.\d s/.test(status)
    && shown !== "" && text.startsWith(shown), { status, shown });
  await page.picture(`away-${panel}`);
  back();
  await whole(name, page, before);
}

async function lostOften(page) {
  await page.show("chat");
  const before = await stats(relay);
  await page.ask();
  for (let times = 1; times <= 4; times++) {
    const length = (await page.text("answer")).length;
    await page.page.waitForFunction(length =>
      [...document.querySelectorAll("#chat [data-part=answer]")].at(-1).textContent.length > length, length);
    proxy.cut();
    await page.until("away");
  }
  await whole("lost four times", page, before);
}

async function lostBeforeTheFirst(page) {
  const before = await stats(relay);
  const head = page.page.waitForResponse("**/chat");
  await page.ask({ trouble: "slow" });
  await head;
  proxy.cut();
  await page.until("away");
  await whole("lost before the first token", page, before);
}

// The browser says that it has no network, though no connection has broken.
async function offline(browser, page) {
  const before = await stats(relay);
  await page.ask();
  await page.someText();
  await browser.setOffline(true);
  await page.until("away");
  await browser.setOffline(false);
  await whole("offline", page, before);
}

async function stopped(page) {
  const before = await stats(relay);
  const aborted = async () => (await stats(relay)).aborted === before.aborted + 1;
  await page.ask({ trouble: "silence" });
  await page.someText();
  await page.part("stop").click();
  const shown = await page.over();
  check("stop: said, and what came stays", shown.state === "stopped" && text.startsWith(shown.answer), shown);
  check("stop: cancelled upstream at once", await within(aborted), before);
  await page.ask({ trouble: "silence" });
  await page.someText();
  lose();
  await page.until("away");
  await page.part("stop").click();
  check("stopped while it is away", (await page.over()).state === "stopped");
  back();
}

async function failed(page) {
  await page.ask({ trouble: "truncate" });
  const shown = await page.over();
  check("the provider's failure is told, not waited out", shown.state === "failed" && shown.bad
    && shown.status.includes("upstream closed before its body was whole"), shown);
}

async function compared(page) {
  await page.show("compare");
  await page.ask();
  await page.page.waitForFunction(() =>
    document.querySelector("[data-part=streaming] [data-part=answer]").textContent.length > 40);
  lose();
  await page.until("away");
  back();
  const { state } = await page.over();
  const sides = await Promise.all(["waiting", "streaming"].map(name =>
    page.page.textContent(`[data-part=${name}] [data-part=answer]`)));
  check("comparison: both have the whole answer", state === "done" && sides.every(side => side === text),
    { state, sides });
}

// What cannot be had any more.
async function gone(page) {
  await page.show("chat");
  const small = route => route.request().headers()["last-event-id"] ? route.fulfill({
    status: 410, contentType: "application/json", body: '{"error":{"message":"x","code":"stream_gap"}}',
  }) : route.continue();
  await page.page.route("**/chat", small);
  await page.ask();
  await page.someText();
  proxy.cut();
  const gap = await page.over();
  check("a gap: said, and what came stays", gap.state === "gap" && gap.bad && gap.again
    && gap.answer !== "" && text.startsWith(gap.answer) && gap.status.includes("a part of the answer"), gap);
  await page.page.unroute("**/chat", small);
  await page.ask();
  await page.someText();
  demo.kill("SIGKILL");
  await demo.ended;
  demo = await serve(new URL(relay).host);
  const lost = await page.over();
  check("another relay: said, and what came stays", lost.state === "lost" && lost.bad && lost.again
    && lost.answer !== "" && text.startsWith(lost.answer), lost);
  await page.page.click("[data-language=zh]");
  check("in Chinese too", (await page.text("status")).includes("不再保留"), await page.text("status"));
  await page.page.selectOption("#trouble", "");
  await page.part("again").click();
  check("asked again: the whole answer", (await page.over()).answer === text);
}

try {
  await withBrowser(async browser => {
    const page = await DemoPage.open(browser, proxy.url);
    await lostOnce(page, "chat", "chat");
    await lostOnce(page, "chat", "anthropic");
    await lostOnce(page, "optimize");
    await lostOften(page);
    await lostBeforeTheFirst(page);
    await offline(browser, page);
    await stopped(page);
    await failed(page);
    await compared(page);
    await gone(page);
  });
} finally {
  proxy.close();
  demo.kill();
  check("ends in order", await demo.ended === 0);
}
