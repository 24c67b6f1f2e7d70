// Hawser in the place of a node of the reference implementation, as docs/runbooks/replace-xmtpd.md has it,
// and back.

import { eventually } from "../../clients/lib/wait.mjs";
import { alteredAreRefused } from "./altered.mjs";
import { groupMessage, Publisher } from "./load.mjs";
import { lateness, spread } from "./measure.mjs";
import { HawserNode } from "./nodes.mjs";
import { output } from "./processes.mjs";
import { reportsAt } from "./reports.mjs";
import { cursor, shows } from "./strands.mjs";

/** Messages that are published at the new node. */
const PUBLISHED = 20;

/** `become(successor)` is told that another program runs under the node's id. */
export async function takeOver({ node, others, gateway, become, note }) {
  const early = await importOf(successorOf(node)).catch((error) => error.message);
  note("import of a node that runs", early.split("\n").at(-2) ?? early, /hawser: /.test(early));
  await eventually("nothing is staged", async () => {
    return (await node.postgres.query(node.database, "SELECT count(*) FROM staged_originator_envelopes")) === "0";
  });
  const before = (await cursor(node)).get(node.id);
  await node.stop();
  const successor = successorOf(node);
  await alteredAreRefused({ node, folder: successor.dataDir, note,
    importFrom: (database) => importOf(successor, node.postgres.url(database)) });
  const start = performance.now();
  const env = { ...successor.inherited, ...successor.folders };
  console.log((await output(node.hawser, ["config", "check"], { env })).replaceAll(/^/gm, "       "));
  const said = await importOf(successor);
  note("import", `${Math.round((performance.now() - start) / 1000)} s`);
  console.log(said.replaceAll(/^/gm, "       "));
  await successor.start({ isNew: false });
  await eventually("the new node publishes", () => successor.ready("publish"), 120);
  note("the new node is ready to publish after", `${Math.round((performance.now() - start) / 1000)} s`);
  const last = await publish(gateway, successor, others);
  note("its strand", `${before} by xmtpd, then ${last - PUBLISHED + 1} to ${last}`, last > before);
  await become(successor);
  const other = others.find(({ kind }) => kind === "Hawser");
  const same = async () => {
    const [here, there] = [await states(successor), await states(other)];
    if (here.join() !== there.join()) throw new Error(`${here.join(", ")}, not ${there.join(", ")}`);
    return [here.length];
  };
  await eventually("the same reports", same, 60).then(
    ([count]) => note(`payer reports that ${successor.label} knows as ${other.label} does`, count, true),
    (error) => note(`payer reports that ${successor.label} knows as ${other.label} does`, error.message, false),
  );

  await successor.stop();
  const counter = `SELECT setval('staged_originator_envelopes_id_seq', ${last + 1_000_000})`;
  await node.postgres.query(node.database, counter);
  await node.start();
  const back = await publish(gateway, node, others);
  note("the way back: the strand goes on at", `${back - PUBLISHED + 1} to ${back}`, back > last);
  for (const other of others) {
    const times = await lateness(gateway, node, other, 5);
    note(`the way back: answered by ${node.label} → readable at ${other.label}`, spread(times));
  }
}

/** Reports with their states, except what a state says of the node itself: if it has attested. */
async function states(node) {
  const own = new Set(["waiting", "attested"]);
  return (await reportsAt(node)).map(({ id, state }) => `${id} ${own.has(state) ? "open" : state}`).sort();
}

/** From the database that the node's environment names, or from another one. */
function importOf(node, url) {
  const flags = url === undefined ? [] : ["--postgres", url];
  return output(node.hawser, ["import", "xmtpd", ...flags], { env: { ...node.inherited, ...node.folders } });
}

/** The same id, key, address, cable and environment, and folders of its own. */
function successorOf(node) {
  const { id, port, address, key, cable, channel, hawser, folder, chains, auth } = node;
  const log = node.log.replace(/\.log$/, "-hawser.log");
  const same = { id, port, address, key, cable, channel, hawser, folder, chains, auth, inherited: node.env };
  return Object.assign(new HawserNode(), same, { log, starts: 1 });
}

/** Publishes there and waits until all others show it; gives the last place. */
async function publish(gateway, node, others) {
  const publisher = new Publisher(gateway);
  const group = await eventually(`the gateway takes ${node.label}`, () => publisher.groupAt(node, 20), 120);
  let made;
  for (let count = 0; count < PUBLISHED; count += 1) [made] = await publisher.publish([groupMessage(group)]);
  publisher.close();
  for (const other of others) {
    await eventually(`${other.label} shows ${made.originator}:${made.sequence}`, () => shows(other, made), 90);
  }
  return made.sequence;
}
