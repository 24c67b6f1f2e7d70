// Records what a Hawser node and a node of the reference implementation send each other while they follow each
// other, as a file of observed bytes: README.md, "A recorded exchange".

import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { freePort } from "../clients/lib/ports.mjs";
import { eventually } from "../clients/lib/wait.mjs";
import { Cable } from "./lib/cable.mjs";
import { COMMIT, groupMessage, Publisher } from "./lib/load.mjs";
import { HawserNode, XmtpdNode } from "./lib/nodes.mjs";
import { killAll, output } from "./lib/processes.mjs";
import { Chains, Gateway, newKey, Postgres } from "./lib/services.mjs";
import { shows } from "./lib/strands.mjs";
import { Tap } from "./lib/tap.mjs";

const { values: options } = parseArgs({
  options: {
    hawser: { type: "string", default: "hawser" },
    xmtpd: { type: "string" },
    "xmtpd-version": { type: "string" },
    anvil: { type: "string", default: process.env.HAWSER_ANVIL },
    out: { type: "string" },
  },
});

/** Messages at each node, and one more by which the gateway finds it. */
const MESSAGES = 10;
/** The call by which nodes follow each other. */
const FOLLOWING = /\/SubscribeOriginators$/;

async function main() {
  if (!options.xmtpd || !options.out) throw new Error("tests/beside/record --hawser PATH --xmtpd PATH --xmtpd-version VERSION --out FILE");
  const { hawser, xmtpd, anvil } = options;
  const folder = mkdtempSync(join(tmpdir(), "hawser-record-"));
  const stops = [() => rmSync(folder, { recursive: true, force: true })];
  try {
    const postgres = await Postgres.start(folder);
    stops.push(() => postgres.stop());
    const surroundings = { hawser, xmtpd, folder, postgres, auth: false };
    const payer = await newKey(hawser, folder, "payer");
    // The test that plays the record has a node 100 of its own.
    const other = await HawserNode.prepare(100, surroundings);
    const nodes = [await HawserNode.prepare(200, surroundings), await XmtpdNode.prepare(300, surroundings)];
    for (const node of nodes) {
      const port = await freePort();
      node.tap = await Tap.open(port, node.port);
      // In the place of the cable that goes to the node itself.
      node.cable.close();
      node.cable = await Cable.open(await freePort(), port);
      stops.push(() => node.tap.close());
    }
    const records = [{ ...other.record, isCanonical: false }, ...nodes.map((node) => node.record)];
    const chains = await Chains.start({ hawser, anvil, folder, records, payer });
    stops.push(() => chains.stop());
    for (const node of nodes) Object.assign(node, { chains, validator: nodes[0].address });
    for (const node of nodes) {
      await node.start();
      stops.push(() => node.stop());
    }
    const gateway = await Gateway.hawser({ hawser, chains, folder, payer });
    stops.push(() => gateway.stop());
    await publish(gateway, nodes);
    const calls = nodes.flatMap((node, index) => node.tap.calls
      .filter(({ path, response }) => FOLLOWING.test(path) && response.length > 0)
      .map((call) => ({ to: node.kind, by: nodes[1 - index].kind, ...call })));
    const made = { date: new Date().toISOString().slice(0, 10), xmtpd: options["xmtpd-version"] ?? "unknown",
      hawser: (await output(hawser, ["--version"])).trim() };
    const described = nodes.map(({ id, kind, key }) => ({ id, kind, publicKey: key.publicKey }));
    writeFileSync(options.out, `${JSON.stringify({ made, nodes: described, calls }, null, 1)}\n`);
    console.log(`${calls.length} calls in ${options.out}`);
  } finally {
    for (const stop of stops.reverse()) await stop();
    killAll();
  }
}

/** Messages of one group and a commit at each node, in turn, until each node shows those of the other. */
async function publish(gateway, nodes) {
  const publisher = new Publisher(gateway);
  await publisher.publish([groupMessage(randomBytes(16), { kind: COMMIT })]);
  for (const node of nodes) {
    const group = await eventually(`the gateway takes ${node.label}`, () => publisher.groupAt(node, 50), 60);
    for (let count = 0; count < MESSAGES; count += 1) {
      const [{ originator, sequence }] = await publisher.publish([groupMessage(group)]);
      for (const other of nodes) await eventually(`${other.label} shows it`, () => shows(other, { originator, sequence }), 60);
    }
  }
  publisher.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error.stack ?? error);
    killAll();
    process.exit(1);
  },
);
