// Times that a reader sees. They are printed and never judged.

import { readFileSync } from "node:fs";

import { sleep } from "../../clients/lib/wait.mjs";
import { groupMessage, Publisher } from "./load.mjs";
import { cursor, shows } from "./strands.mjs";

const percentile = (values, part) => {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
};

/** "p50 … p99 …" in milliseconds. */
export const spread = (values) =>
  `p50 ${percentile(values, 0.5).toFixed(0)} ms, p99 ${percentile(values, 0.99).toFixed(0)} ms`;

/** Single messages to `from`: the time from the answer until `to` answers a query with each. */
export async function lateness(gateway, from, to, count) {
  const publisher = new Publisher(gateway);
  const group = await publisher.groupAt(from);
  const times = [];
  for (let index = 0; index < count; index += 1) {
    const [made] = await publisher.publish([groupMessage(group)]);
    const start = performance.now();
    while (!(await shows(to, made))) await sleep(2);
    times.push(performance.now() - start);
    // Not in step with work that a node or a client does every 100 ms.
    await sleep(20 + Math.random() * 130);
  }
  publisher.close();
  return times;
}

/** Ticks of a second in `/proc/PID/stat`, the same on every Linux (`getconf CLK_TCK`). */
const TICKS = 100;

/** Seconds of processor time that a program has taken, its own and the system's for it. */
export function processorSeconds(pid) {
  const [, ...rest] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ");
  const columns = rest.join(") ").split(" ");
  return (Number(columns[11]) + Number(columns[12])) / TICKS;
}

/**
 * Envelopes a second at which a new node's cursor goes from nothing to `end` in a strand. A lower bound:
 * the time begins when the node was last seen without an envelope, or with its start if it was not. With `partly` it
 * may be over before the end is reached. `processor`: seconds of processor time that the node took meanwhile.
 */
export async function rateTo(node, originator, end, seconds, { partly = false } = {}) {
  const until = Date.now() + seconds * 1000;
  const taken = () => (node.program ? processorSeconds(node.program.pid) : 0); // not started yet
  for (let [start, before] = [performance.now(), taken()]; ; ) {
    const [asked, now] = [performance.now(), taken()];
    const at = await cursor(node).then((places) => places.get(originator) ?? 0, () => undefined);
    if (at === 0) [start, before] = [asked, now];
    if (at >= end || (partly && Date.now() > until)) {
      return { rate: (at * 1000) / (performance.now() - start), count: at, processor: taken() - before };
    }
    if (Date.now() > until) throw new Error(`${node.label} is at ${at} of ${end} in strand ${originator}`);
    await sleep(20);
  }
}
