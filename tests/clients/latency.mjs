// Measures the time until every node shows a client's commits and identity updates. Prints the times and
// judges nothing. See docs/clients.md.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { Caller } from "./lib/call.mjs";
import { newWallet } from "./lib/cast.mjs";
import { Network } from "./lib/network.mjs";
import { sdk6 } from "./lib/node-client.mjs";
import { steer } from "./lib/steer.mjs";
import { sleep } from "./lib/wait.mjs";
import { envelopeId, fields, frames } from "./lib/wire.mjs";

const { values: options } = parseArgs({
  options: {
    hawser: { type: "string", default: "hawser" },
    network: { type: "string" },
    anvil: { type: "boolean", default: false },
    commits: { type: "string", default: "200" },
    people: { type: "string", default: "60" },
  },
});

const SHOWN_SECONDS = 30;
const KINDS = new Map([[0, "commits"], [1, "identity updates"]]);
const NODE = "messages, welcomes, key packages";

/** Times of what went through the gateway, in milliseconds. */
class Watch {
  #callers;
  #measured = new Map();
  #pending = new Set();

  constructor(nodes) {
    this.#callers = nodes.map((node) => new Caller(node.grpc));
  }

  /** Takes the gateway's answer to a publish that was asked for at `asked`. */
  answered(answer, asked) {
    const now = performance.now();
    for (const { message } of frames(answer)) {
      for (const { number, value } of fields(message)) {
        if (number === 1) this.#follow(envelopeId(value), asked, now);
      }
    }
  }

  #follow(id, asked, answered) {
    const kind = KINDS.get(id.originator) ?? NODE;
    const shown = Promise.all(this.#callers.map((caller) => this.#shownAt(caller, id)));
    const done = shown.then((times) => {
      if (!this.#measured.has(kind)) this.#measured.set(kind, []);
      const last = Math.max(...times);
      this.#measured.get(kind).push({ answer: answered - asked, all: last - asked, after: last - answered });
    });
    this.#pending.add(done);
    done.finally(() => this.#pending.delete(done));
  }

  async #shownAt(caller, id) {
    const end = performance.now() + SHOWN_SECONDS * 1000;
    while (!(await caller.has(id))) {
      if (performance.now() > end) throw new Error(`a node does not show ${JSON.stringify(id)}`);
      await sleep(1);
    }
    return performance.now();
  }

  async finish() {
    await Promise.all(this.#pending);
    for (const caller of this.#callers) caller.close();
    return this.#measured;
  }
}

function percentile(values, part) {
  const sorted = [...values].sort((left, right) => left - right);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))].toFixed(1);
}

function report(measured) {
  const heads = ["gateway answers", "every node shows", "after the answer"];
  console.log(["milliseconds".padEnd(33), " count ", ...heads.map((head) => head.padEnd(18))].join(" "));
  for (const [kind, rows] of measured) {
    const cells = ["answer", "all", "after"].map((name) => {
      const values = rows.map((row) => row[name]);
      return `p50 ${percentile(values, 0.5)} p99 ${percentile(values, 0.99)}`.padEnd(18);
    });
    console.log([kind.padEnd(33), String(rows.length).padStart(6), " ", ...cells].join(" "));
  }
}

async function use(gateway, folder) {
  let files = 0;
  const open = () => {
    const file = join(folder, `client-${(files += 1)}.db3`);
    return sdk6.open({ wallet: newWallet(), gateway, file });
  };
  const alice = await open();
  const bob = await open();
  const group = await alice.createGroup([bob.inboxId], "measured");
  for (let commit = 0; commit < Number(options.commits); commit++) await group.rename(`name ${commit}`);
  for (let person = 0; person < Number(options.people); person++) await (await open()).close();
}

async function main() {
  const folder = mkdtempSync(join(tmpdir(), "hawser-latency-"));
  let network;
  try {
    network = options.network
      ? Network.join(options.network)
      : await Network.start({ hawser: options.hawser, folder, anvil: options.anvil });
    const watch = new Watch(network.nodes);
    const gateway = await steer(network.gateway, {
      onAnswer: (path, answer, asked) => {
        if (path.endsWith("/PublishClientEnvelopes")) watch.answered(answer, asked);
      },
    });
    await use(gateway, folder);
    report(await watch.finish());
  } finally {
    await network?.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
