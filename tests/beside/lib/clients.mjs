// The published clients (docs/clients.md) on a mixed network.

import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const RUN = fileURLToPath(new URL("../../clients/run.mjs", import.meta.url));

/** Runs them against the network of this file, without those that end nodes. */
export function runClients(file) {
  const args = [RUN, "--network", file];
  for (const suite of ["5.5.0", "6.1", "1.11.0", "together"]) args.push("--only", suite);
  return new Promise((resolve, reject) => {
    const run = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    let said = "";
    run.stdout.on("data", (part) => {
      said += part;
      process.stdout.write(part);
    });
    run.on("error", reject);
    run.on("exit", () => {
      const end = said.match(/(\d+) passed, \d+ failed/);
      if (!end) return reject(new Error("the clients have not come to an end"));
      const failed = [...said.slice(end.index).matchAll(/FAIL (.*)/g)].map((match) => match[1]);
      resolve({ passed: Number(end[1]), failed });
    });
  });
}
