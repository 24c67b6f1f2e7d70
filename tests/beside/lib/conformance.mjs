// `hawser conformance` against a node of any kind.

import { readFileSync } from "node:fs";
import { join } from "node:path";

import { output } from "./processes.mjs";

/** The report of a run that publishes, as the program gives it: `{ passed, failed, findings, skipped, cases }`. */
export async function conformance({ hawser, folder, target, second, gateway, payer }) {
  const out = join(folder, `conformance-${target.id}.json`);
  const args = ["conformance", "--format", "json", "--out", out, "--patience", "20"];
  args.push("--target", target.address, "--second", second.address, "--gateway", gateway.address);
  args.push("--payer-key-file", payer.file, "--node-id", String(target.id));
  // A case that fails makes the program fail; a report is there all the same.
  await output(hawser, args).catch((error) => console.log(`       ${error.message.trim().split("\n").pop()}`));
  return JSON.parse(readFileSync(out, "utf8"));
}
