// The demo page as a person uses it.

export class DemoPage {
  // Opens it and notes whatever the browser complains about.
  static async open(browser, url, panel = "chat") {
    const page = await browser.newPage();
    const complaints = [];
    page.on("pageerror", error => complaints.push(error.message));
    page.on("console", message => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    const demo = Object.assign(new DemoPage(), { page, complaints });
    await page.goto(url);
    await page.waitForFunction(() => document.querySelector("[data-state]"));
    await demo.show(panel);
    return demo;
  }

  // Turns to one of the three applications.
  async show(panel) {
    this.panel = panel;
    await this.page.click(`#tab-${panel}`);
  }

  part(name) {
    return this.page.locator(`#${this.panel} [data-part=${name}]`).last();
  }

  text(name) {
    return this.part(name).evaluate(element => element.textContent);
  }

  state() {
    return this.part("status").getAttribute("data-state");
  }

  // Fills the form in and sends it.
  async ask({ route = "chat", trouble = "", send = () => this.part("go").click() } = {}) {
    const { page, panel } = this;
    await page.selectOption("#trouble", trouble);
    if (panel === "chat") {
      await page.selectOption("#chat [name=route]", route);
      await page.fill("#chat [name=message]", "How does a stream arrive?");
    }
    if (panel === "optimize") await page.fill("#optimize [name=prompt]", "Write a poem.");
    await this.watch();
    await send();
  }

  // Notes every length the answer has had, what is read out, and the frames that were drawn.
  async watch() {
    await this.page.evaluate(() => {
      globalThis.noted?.stop();
      const noted = globalThis.noted = { lengths: [], spoken: [], frames: 0, on: true };
      const draws = new MutationObserver(records => {
        for (const { target } of records) {
          if (target.nodeType === Node.TEXT_NODE && target.parentElement?.dataset.part === "answer") {
            noted.lengths.push(target.length);
          }
        }
      });
      const speech = new MutationObserver(() => {
        const now = document.getElementById("spoken").textContent;
        if (now) noted.spoken.push(now);
      });
      draws.observe(document.querySelector("main"), { characterData: true, subtree: true });
      speech.observe(document.getElementById("spoken"), { childList: true, characterData: true, subtree: true });
      const frame = () => { noted.frames++; if (noted.on) requestAnimationFrame(frame); };
      frame();
      noted.stop = () => { noted.on = false; draws.disconnect(); speech.disconnect(); };
    });
  }

  noted() {
    return this.page.evaluate(() => {
      const { lengths, spoken, frames } = globalThis.noted;
      return { lengths, spoken, frames };
    });
  }

  // Waits until an answer is being written.
  async someText() {
    await this.until("streaming");
    await this.page.waitForFunction(panel =>
      [...document.querySelectorAll(`#${panel} [data-part=answer]`)].at(-1)?.textContent, this.panel);
  }

  async until(state) {
    await this.page.locator(`#${this.panel} [data-state=${state}]`).waitFor();
  }

  // Keeps a picture, where a folder for them is named.
  async picture(name) {
    const folder = process.env.SCREENSHOTS;
    if (folder) await this.page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
  }

  // Waits until nothing runs; gives what the page then shows.
  async over(limit = 20_000) {
    await this.page.locator(`#${this.panel} [data-part=stop]:disabled`).waitFor({ timeout: limit });
    const shown = { state: await this.state() };
    shown.bad = await this.part("status").evaluate(line => line.classList.contains("bad"));
    shown.again = await this.part("again").isVisible();
    for (const name of ["answer", "status"]) shown[name] = await this.text(name);
    if (this.panel === "compare") return shown;
    for (const name of ["first", "count", "rate", "time"]) shown[name] = await this.text(name);
    return shown;
  }
}
