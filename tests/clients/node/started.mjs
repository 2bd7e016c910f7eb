// A millstream of the test's own.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { MILLSTREAM } from "./checks.mjs";

// Starts it; gives the addresses of its start-up line, `kill` and `ended`, its exit code. It goes
// with the test.
export async function started(...args) {
  const child = spawn(MILLSTREAM, args, { stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise(done => child.on("exit", done));
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.once(signal, () => child.kill());
  const addresses = await new Promise((found, failed) => {
    ended.then(code => failed(new Error(`millstream ${args[0]} ended with ${code}`)));
    createInterface({ input: child.stderr }).on("line", line => {
      if (line.includes("serving")) found(line.match(/http:\/\/127\.0\.0\.1:\d+/g));
    });
  });
  return { addresses, ended, kill: signal => child.kill(signal) };
}
