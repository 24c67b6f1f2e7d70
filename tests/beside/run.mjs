// Hawser nodes beside nodes of the reference implementation: the whole story of a mixed network, from
// the first exchange to the comparison of all strands. See README.md.

import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { killAll } from "./lib/processes.mjs";
import { CHAPTERS, Story } from "./lib/story.mjs";

const { values: options } = parseArgs({
  options: {
    hawser: { type: "string", default: "hawser" },
    xmtpd: { type: "string" },
    gateway: { type: "string" },
    anvil: { type: "string", default: process.env.HAWSER_ANVIL },
    contracts: { type: "string" },
    "app-chain": { type: "string" },
    "settlement-chain": { type: "string" },
    "admin-key": { type: "string" },
    load: { type: "string", default: "20" },
    backlog: { type: "string", default: "20000" },
    long: { type: "string", default: "0" },
    patience: { type: "string", default: "300" },
    reports: { type: "boolean", default: false },
    clients: { type: "boolean", default: false },
    skip: { type: "string", multiple: true, default: [] },
    only: { type: "string", multiple: true, default: [] },
    folder: { type: "string" },
    keep: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

const HELP = `tests/beside/run --hawser PATH --xmtpd PATH --gateway PATH [options]

  --hawser PATH    the program hawser
  --xmtpd PATH     a node of the reference implementation
  --gateway PATH   its gateway; without one only Hawser's gateway publishes
  --anvil PATH     anvil; otherwise where \`hawser dev --anvil\` looks for it
  --contracts FILE addresses of contracts that are deployed already, on anvil; otherwise those of the program are deployed
  --app-chain HOST:PORT         the chain with those of the app chain
  --settlement-chain HOST:PORT  the chain with the others; otherwise the same
  --admin-key FILE key of the account that may register nodes there; otherwise that of anvil's first account
  --load SECONDS   time under load before and after each fault, 20
  --backlog COUNT  messages that late joiners have to catch up with, 20000
  --long COUNT     also make strands of so many messages, read each by one call, and have a new node of the other kind follow it
  --patience SECONDS  the longest time for making such a strand, and for following it, 300
  --reports        also have payer reports of both kinds of nodes attested, submitted and settled: up to an hour and a quarter
  --clients        also run the published clients, through each gateway (docs/clients.md)
  --skip CHAPTER   leave a chapter out: ${CHAPTERS.join(", ")}
  --only CHAPTER   leave all others out
  --folder DIR     keep everything there
  --keep           keep the folder`;

async function main() {
  if (options.help || !options.xmtpd) {
    console.log(HELP);
    return options.help ? 0 : 2;
  }
  for (const path of [options.xmtpd, options.gateway, options.anvil, options.contracts, options["admin-key"]]) {
    if (path && !existsSync(path)) throw new Error(`there is no ${path}`);
  }
  if (options.contracts && !options["app-chain"]) throw new Error("--contracts needs --app-chain HOST:PORT");
  // A run without its chapters would pass.
  for (const name of [...options.skip, ...options.only]) {
    if (!CHAPTERS.includes(name)) throw new Error(`there is no chapter ${name}; there are ${CHAPTERS.join(", ")}`);
  }
  const asked = { clients: options.clients, reports: options.reports, long: Number(options.long) > 0 };
  for (const name of options.only) {
    if (asked[name] === false) throw new Error(`--only ${name} needs --${name}`);
  }
  if (options.folder) mkdirSync(options.folder, { recursive: true });
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), "hawser-beside-"));
  const story = new Story({ ...options, folder });
  const stop = async () => {
    await story.stop();
    killAll();
    if (options.keep || options.folder) console.log(`Everything is kept in ${folder}`);
    else rmSync(folder, { recursive: true, force: true });
  };
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stop().then(() => process.exit(130)));
  try {
    await story.tell();
  } finally {
    await stop();
  }
  return story.report() ? 0 : 1;
}

main().then(
  (code) => process.exit(code),
  (error) => {
    console.error(error.stack ?? error);
    killAll();
    process.exit(1);
  },
);
