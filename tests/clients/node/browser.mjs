// A headless Chromium with a profile of its own, which goes with it. Of the certificates it could
// not know it accepts those of one key, the one made for this run.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { CHROMIUM, TRUSTED_KEY } from "./checks.mjs";

const ARGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

export async function withBrowser(use, { trusted = TRUSTED_KEY } = {}) {
  const profile = await mkdtemp(join(tmpdir(), "millstream-chromium-"));
  try {
    const trust = trusted ? [`--ignore-certificate-errors-spki-list=${trusted}`] : [];
    const browser = await chromium.launchPersistentContext(profile, {
      executablePath: CHROMIUM, args: [...ARGS, ...trust], viewport: { width: 900, height: 900 },
      timeout: 60_000,
    });
    browser.setDefaultTimeout(20_000);
    try {
      return await use(browser);
    } finally {
      await browser.close();
    }
  } finally {
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
