// `millstream demo` as a person starts it: one process with mock, relay and page.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { DRIVER, MILLSTREAM, check, seesLeaving } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";
import { DemoPage } from "./demo_page.mjs";

const demo = spawn(MILLSTREAM, ["demo", "--listen", "127.0.0.1:0", "--io", DRIVER],
  { stdio: ["ignore", "ignore", "pipe"] });
const ended = new Promise(done => demo.on("exit", done));
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.once(signal, () => demo.kill());

try {
  const [page, , admin] = await new Promise((found, failed) => {
    ended.then(code => failed(new Error(`the demo ended with ${code}`)));
    createInterface({ input: demo.stderr }).on("line", line => {
      if (line.includes("serving")) found(line.match(/http:\/\/127\.0\.0\.1:\d+/g));
    });
  });
  // The demo's mock has no address of its own to be asked at: its counts come through the relay.
  const where = { mock: page, admin };
  const answer = await fetch(`${page}/v1/chat/completions`, { method: "POST", body: "{}" });
  const text = (await answer.json()).choices[0].message.content;
  await withBrowser(async browser => {
    const shownPage = await DemoPage.open(browser, page);
    await shownPage.ask({ dialect: "anthropic" });
    const shown = await shownPage.over();
    check("the whole answer", shown.answer === text && shown.status === "done" && !shown.bad, shown);
    const steps = (await shownPage.lengths()).length;
    check("it came bit by bit", steps >= 5, steps);
    await seesLeaving("stop is noticed", async () => {
      await shownPage.ask();
      await shownPage.someText();
      await shownPage.page.click("#stop");
      check("stopped", (await shownPage.over()).status === "stopped");
    }, where);
    check("the browser has nothing to complain about", shownPage.complaints.length === 0,
      shownPage.complaints);
  });
} finally {
  demo.kill();
  check("ends in order", await ended === 0, demo.exitCode);
}
