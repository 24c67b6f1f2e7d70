// Payer reports in a mixed network: written by a node of each kind, attested by all, submitted and settled. Each node
// of the reference implementation writes, submits and settles at minutes of its own in every hour.

import { eventually, sleep } from "../../clients/lib/wait.mjs";
import { rpc } from "./chain.mjs";
import { output } from "./processes.mjs";

/** A node with gas: 100 ether. */
const GAS = "0x56bc75e2d63100000";
/** The states of xmtpd's table `payer_reports` by their numbers. */
const SUBMISSION = ["pending", "submitted", "settled", "rejected"];
const ATTESTATION = ["pending", "approved", "rejected"];
/** Longest wait for attestations, which nodes look for every 10 s, and for what they learn of the chain. */
const SOON = 120;

/** The minute of every hour at which a node takes a step: 1 writes, 2 submits, 3 settles. */
const minuteOf = (id, step) => (((Math.imul(id, 2654435761) >>> 16) + 5 * (step - 1)) % 60);

/** Minutes from now until a node takes a step. */
export const minutesUntil = (id, step) => (minuteOf(id, step) - new Date().getUTCMinutes() + 60) % 60 || 60;

/** The reports that a Hawser node sees. */
export async function reportsAt(node) {
  return JSON.parse(await (await fetch(`http://127.0.0.1:${node.port + 1}/payer-reports`)).text());
}

/** One step of a Hawser node: the outcomes. */
async function step(node, name) {
  const args = ["report", name, "--json"];
  const said = await output(node.hawser, args, { env: { ...process.env, ...node.folders } }).catch((error) => error.message);
  const line = said.split("\n").find((each) => each.startsWith("{"));
  if (!line) throw new Error(said);
  return JSON.parse(line).outcomes;
}

/** A report as an xmtpd node has it: `{ attestation, submission, signatures }`. */
async function rowAt(node, id) {
  const hex = id.replace(/^0x/, "");
  const row = await node.postgres.query(node.database,
    `SELECT attestation_status, submission_status, (SELECT count(*) FROM payer_report_attestations a
     WHERE a.payer_report_id = r.id) FROM payer_reports r WHERE id = decode('${hex}', 'hex')`);
  if (!row) return undefined;
  const [attestation, submission, signatures] = row.split("|").map(Number);
  return { attestation: ATTESTATION[attestation], submission: SUBMISSION[submission], signatures };
}

/** The rows about these reports, once each of them is in a state. */
function reached(node, ids, is, what, seconds = SOON) {
  return eventually(`${what} at ${node.label}`, async () => {
    const rows = (await reportsAt(node)).filter(({ id }) => ids.includes(id));
    return rows.length === ids.length && rows.every(is) ? rows : undefined;
  }, seconds);
}

const isSettled = ({ state }) => state === "settled";

/** The open reports as nodes of both kinds show them: one row for each, with xmtpd's part of it. */
async function tell(reports, { hawser, xmtpd, all, note, author }) {
  for (const { id, originator_id: about, start_sequence_id: start, end_sequence_id: end } of reports) {
    const rows = await Promise.all(hawser.map((node) => reached(node, [id], isSettled, `${id} is settled`)));
    const [row] = rows[0];
    const attested = all.every(({ id: node }) => row.attested_by.includes(node));
    note(`written by ${author.label} about ${about} (${start}, ${end}]: attested by`, row.attested_by.join(", "), attested);
    const same = rows.every(([each]) => each.settled_microdollars === row.settled_microdollars);
    note(`the same report: settled, as each Hawser node says`, `${row.leaves_settled} leaves, ${row.settled_microdollars} µ$`, same);
    for (const node of xmtpd) {
      const has = await eventually(`${node.label} has ${id} as settled`, async () => {
        const found = await rowAt(node, id);
        return found?.submission === "settled" ? found : undefined;
      }, SOON).catch(() => rowAt(node, id));
      const good = has?.attestation === "approved" && has.submission === "settled" && has.signatures === all.length;
      note(`the same report at ${node.label}`, has ? Object.values(has).join(", ") : "unknown", good);
    }
  }
}

/** Usage and balance of each payer that xmtpd knows, beside those of a Hawser node. In picodollars. */
export async function compareBooks({ hawser: [hawser], xmtpd: [xmtpd], note }) {
  const rows = await xmtpd.postgres.query(xmtpd.database, `SELECT p.address,
      COALESCE((SELECT sum(spend_picodollars) FROM unsettled_usage u WHERE u.payer_id = p.id), 0),
      COALESCE((SELECT sum(amount_picodollars) FROM payer_ledger_events e WHERE e.payer_id = p.id), 0)
    FROM payers p ORDER BY p.id`);
  for (const [address, unsettled, balance] of rows.split("\n").filter(Boolean).map((row) => row.split("|"))) {
    const page = `http://127.0.0.1:${hawser.port + 1}/payer-reports?payer=${address}`;
    // Amounts are text, because they may be beyond what a number of JavaScript holds.
    const said = await (await fetch(page)).json();
    const books = [said.unsettled_picodollars, said.balance_picodollars];
    note(`payer ${address}: unsettled and balance at ${hawser.label}, and at ${xmtpd.label}`,
      `${books.join(", ")} p$; ${unsettled}, ${balance} p$`, books[0] === unsettled && books[1] === balance);
  }
}

/**
 * Under a load that goes on, a Hawser node writes reports about all strands, which are attested, submitted and settled; then
 * the next xmtpd node whose turn it is does so with what has come since. `quiet()` ends the load.
 */
export async function settleReports({ hawser, xmtpd, chains, note, quiet }) {
  const all = [...hawser, ...xmtpd];
  for (const { key } of all) await rpc(chains.settlement, "anvil_setBalance", [key.address, GAS]);
  const [author] = hawser;
  // Two minutes with usage have to be over.
  const written = await eventually(`${author.label} writes reports about all strands`, async () => {
    await step(author, "generate");
    const own = (await reportsAt(author)).filter(({ written_by: by }) => by.includes(author.id));
    return own.length >= all.length ? own : undefined;
  }, 600);
  const attested = ({ attested_by: by }) => all.every(({ id }) => by.includes(id));
  const ids = written.map(({ id }) => id);
  await reached(author, ids, attested, "attestations of all nodes").catch((error) => note("attestations", error.message, false));
  for (const name of ["submit", "settle"]) {
    const outcomes = await step(author, name);
    const failed = outcomes.filter(({ state }) => state === "failed");
    note(`${author.label}: report ${name}`, outcomes.map(({ originator_id: about, state }) => `${about} ${state}`).join(", "),
      failed.length === 0);
    await sleep(2000);
  }
  await tell(written, { hawser, xmtpd, all, note, author });

  const [next] = [...xmtpd].sort((one, other) => minutesUntil(one.id, 1) - minutesUntil(other.id, 1));
  const wait = minutesUntil(next.id, 1);
  console.log(`       ${next.label} writes in ${wait} minutes, submits and settles five and ten minutes later`);
  const known = new Set((await reportsAt(author)).map(({ id }) => id));
  const theirs = await eventually(`${next.label} writes reports`, async () => {
    const rows = (await reportsAt(author)).filter((row) => !known.has(row.id) && row.written_by.includes(next.id));
    return rows.length >= all.length ? rows : undefined;
  }, (wait + 2) * 60);
  await reached(author, theirs.map(({ id }) => id), isSettled, "settled", 13 * 60)
    .catch((error) => note("reports of an xmtpd node", error.message, false));
  await tell(theirs, { hawser, xmtpd, all, note, author: next });
  await quiet();
  await sleep(10_000);
  await compareBooks({ hawser, xmtpd, note });
}
