// `millstream demo` as a person starts it: one process with mock, relay and page.

import { DRIVER, check, seesLeaving } from "./checks.mjs";
import { withBrowser } from "./browser.mjs";
import { DemoPage } from "./demo_page.mjs";
import { started } from "./started.mjs";

const demo = await started("demo", "--listen", "127.0.0.1:0", "--io", DRIVER);
try {
  const page = demo.addresses[0], admin = demo.addresses.at(-1);
  // The demo's mock has no address of its own to be asked at: its counts come through the relay.
  const where = { mock: page, admin };
  const answer = await fetch(`${page}/v1/chat/completions`, { method: "POST", body: "{}" });
  const text = (await answer.json()).choices[0].message.content;
  await withBrowser(async browser => {
    const shownPage = await DemoPage.open(browser, page);
    for (const [panel, route] of [["chat", "chat"], ["chat", "anthropic"], ["optimize"]]) {
      await shownPage.show(panel);
      await shownPage.ask({ route });
      const shown = await shownPage.over();
      const name = route ? `${panel} by ${route}` : panel;
      check(`${name}: the whole answer`,
        shown.answer === text && shown.state === "done" && !shown.bad, shown);
      const steps = (await shownPage.noted()).lengths.length;
      check(`${name}: it came bit by bit`, steps >= 5, steps);
    }
    await shownPage.show("chat");
    await seesLeaving("stop is noticed", async () => {
      await shownPage.ask();
      await shownPage.someText();
      await shownPage.part("stop").click();
      check("stopped", (await shownPage.over()).state === "stopped");
    }, where);
    check("the browser has nothing to complain about", shownPage.complaints.length === 0,
      shownPage.complaints);
  });
} finally {
  demo.kill();
  check("ends in order", await demo.ended === 0);
}
