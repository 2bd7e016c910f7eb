// What the demo page owes its readers, in Chromium: both languages, keyboard, screen readers, dark
// and narrow screens.

import { MOCK, RELAY, check } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";
import { DemoPage } from "./demo_page.mjs";

const answer = await fetch(`${MOCK}/v1/chat/completions`, { method: "POST", body: "{}" });
const text = (await answer.json()).choices[0].message.content;

async function languages(browser, demo) {
  const { page } = demo;
  const shown = () => page.evaluate(() => ({
    lang: document.documentElement.lang, title: document.title,
    send: document.querySelector("#chat [data-part=go]").textContent,
    status: document.querySelector("#chat [data-part=status]").textContent,
    example: document.querySelector("#optimize [name=prompt]").value,
  }));
  await demo.show("chat");
  await demo.ask({ trouble: "errorLater" });
  await demo.over();
  const english = await shown();
  check("English: words and lang", english.lang === "en" && english.send === "Send"
    && english.status.startsWith("The answer broke off after"), english);
  await page.click("[data-language=zh]");
  const chinese = await shown();
  check("Chinese: words and lang, the status too", chinese.lang === "zh-CN" && chinese.send === "发送"
    && chinese.title === "Millstream 演示" && /后中断：the mock/.test(chinese.status), chinese);
  for (const panel of ["chat", "optimize", "compare"]) {
    await demo.show(panel);
    await demo.ask();
    const { status } = await demo.over();
    check(`Chinese, ${panel}: told in Chinese`, /^(完成|流式)/.test(status), status);
    await demo.picture(`zh-${panel}`);
  }
  await page.reload();
  await page.waitForFunction(() => document.querySelector("[data-state]"));
  const again = await shown();
  check("the language is remembered", again.lang === "zh-CN" && again.send === "发送", again);
  const other = await browser.newPage();
  await other.goto(RELAY);
  await other.waitForFunction(() => document.querySelector("[data-state]"));
  check("in other tabs too", await other.getAttribute("html", "lang") === "zh-CN");
  await other.close();
  await page.click("[data-language=en]");
}

async function keyboard(demo) {
  const { page } = demo;
  await page.goto(`${RELAY}/`);
  await page.waitForFunction(() => document.querySelector("[data-state]"));
  const order = [], bare = [];
  for (let n = 0; n < 9; n++) {
    await page.keyboard.press("Tab");
    const [name, outline] = await page.evaluate(() => {
      const { activeElement: at } = document;
      return [at.dataset.language ?? at.dataset.part ?? (at.id || at.name), getComputedStyle(at).outlineStyle];
    });
    order.push(name);
    if (outline === "none") bare.push(name);
  }
  const wanted = "zh en tab-chat trouble turns message route go clear";
  check("the Tab key goes down the page", order.join(" ") === wanted, order);
  check("focus can be seen everywhere", bare.length === 0, bare);
  demo.panel = "optimize";
  await page.focus("#tab-chat");
  await page.keyboard.press("ArrowRight");
  check("arrow keys change tabs", await page.isVisible("#optimize") && !await page.isVisible("#chat")
    && await page.getAttribute("#tab-optimize", "aria-selected") === "true");
  await page.locator("#optimize [name=prompt]").focus();
  await page.keyboard.press("Control+A");
  await page.keyboard.type("A mill.");
  await page.keyboard.press("Control+Enter");
  check("optimiser by keyboard alone", (await demo.over()).answer === text);
  await page.keyboard.press("Tab");
  check("focus stays where it was", await page.evaluate(() => document.activeElement.name) === "type");
}

async function screenReader(demo) {
  const { page } = demo;
  await demo.show("optimize");
  for (const [role, name] of [
    ["textbox", "Prompt"], ["combobox", "Kind"], ["combobox", "Model"], ["textbox", "Opening"],
    ["button", "Optimise"], ["button", "Stop"], ["tab", "Prompt optimiser"],
    ["tabpanel", "Prompt optimiser"], ["combobox", "What goes wrong"], ["region", "Result"],
    ["group", "Language"], ["img", "Gaps"],
  ]) {
    check(`${role} ${name} has its name`, await page.getByRole(role, { name }).count() === 1);
  }
  await demo.ask({ trouble: "long" });
  const shown = await demo.over();
  const { spoken } = await demo.noted();
  check("read out politely: all of it, in few parts", spoken.join("") === shown.answer
    && spoken.length >= 1 && spoken.length <= 1 + Math.ceil(parseFloat(shown.time) / 3),
    { parts: spoken.length, time: shown.time });
  const live = await page.evaluate(() => [...document.querySelectorAll("[aria-live], [role=status]")]
    .filter(element => element.textContent.length > 400).map(element => element.id));
  check("no live region holds the growing answer", live.every(id => id === "spoken"), live);
}

// The least contrast of text to what is behind it, in the tab that is shown.
const contrasts = () => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = color => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = color => {
    const [r, g, b] = color.map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let least = { ratio: 21 };
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility() || element.closest(".unseen, template")) continue;
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    let back = element;
    while (back && rgba(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
    const behind = rgba(getComputedStyle(back ?? document.documentElement).backgroundColor);
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind)].sort((a, b) => b - a);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least.ratio) least = { ratio, text: element.textContent.slice(0, 40) };
  }
  return { ...least, paper: light(rgba(getComputedStyle(document.documentElement).backgroundColor)) };
};

async function screens(demo) {
  const { page } = demo;
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    for (const panel of ["chat", "optimize", "compare"]) {
      await demo.show(panel);
      await demo.ask({ trouble: panel === "optimize" ? "errorLater" : "" });
      await demo.over();
      const { paper, ...least } = await page.evaluate(contrasts);
      check(`${colorScheme}, ${panel}: the scheme is followed`, colorScheme === "dark" ? paper < 0.1 : paper > 0.9);
      check(`${colorScheme}, ${panel}: text can be read`, least.ratio >= 4.5, least);
      await demo.picture(`${colorScheme}-${panel}`);
    }
  }
  for (const language of ["en", "zh"]) {
    await page.click(`[data-language=${language}]`);
    for (const width of [320, 390]) {
      await page.setViewportSize({ width, height: 800 });
      for (const panel of ["chat", "optimize", "compare"]) {
        await demo.show(panel);
        if (panel === "chat") await demo.ask({ trouble: "limited" });
        else await demo.ask();
        await demo.over();
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        check(`${width} px, ${language}, ${panel}: nothing to scroll sideways`, wide <= 0, wide);
        await demo.picture(`${width}-${language}-${panel}`);
      }
    }
  }
}

await withBrowser(async browser => {
  const demo = await DemoPage.open(browser, `${RELAY}/`);
  await languages(browser, demo);
  await keyboard(demo);
  await screenReader(demo);
  await screens(demo);
});
