// The demo page as a person uses it.

export class DemoPage {
  // Opens it and notes whatever the browser complains about.
  static async open(browser, url) {
    const page = await browser.newPage();
    const complaints = [];
    page.on("pageerror", error => complaints.push(error.message));
    page.on("console", message => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    await page.goto(url);
    return Object.assign(new DemoPage(), { page, complaints });
  }

  text(id) {
    return this.page.locator(`#${id}`).evaluate(element => element.textContent);
  }

  // Types a question and asks it of one provider.
  async ask({ dialect = "openai", fault = "", send = () => this.page.click("#go") } = {}) {
    await this.page.selectOption("#dialect", dialect);
    await this.page.selectOption("#fault", fault);
    await this.page.fill("#prompt", "How does a stream arrive?");
    await this.watchAnswer();
    await send();
  }

  // Notes every length the answer has had.
  async watchAnswer() {
    await this.page.evaluate(() => {
      const answer = document.getElementById("answer");
      globalThis.watcher?.disconnect();
      globalThis.lengths = new Set();
      globalThis.watcher = new MutationObserver(() => lengths.add(answer.textContent.length));
      globalThis.watcher.observe(answer, { childList: true, characterData: true, subtree: true });
    });
  }

  lengths() {
    return this.page.evaluate(() => [...globalThis.lengths].filter(length => length > 0));
  }

  // Waits until an answer is being written.
  async someText() {
    await this.page.waitForFunction(() => document.getElementById("answer").textContent !== "");
  }

  // Waits until nothing runs; gives what the page then shows.
  async over() {
    await this.page.waitForFunction(() => document.getElementById("stop").disabled
      && !document.getElementById("go").disabled);
    const shown = { bad: await this.page.locator("#status.bad").count() === 1 };
    for (const id of ["answer", "status", "first", "count", "rate", "time"]) {
      shown[id] = await this.text(id);
    }
    return shown;
  }
}
