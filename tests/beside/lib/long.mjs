// A long strand of a node, followed from its first place by a new node of the other kind.

import { drain, drained } from "./drain.mjs";
import { groupMessage, Publisher } from "./load.mjs";
import { rateTo } from "./measure.mjs";
import { cursor, differences, strand } from "./strands.mjs";

/** Requests that are under way at once, and messages in each. */
const [LANES, BATCH] = [4, 500];

/** Publishes `count` messages at a node, or as many as it takes in so many seconds; gives the last place. */
async function fill(node, gateway, count, seconds) {
  const end = Date.now() + seconds * 1000;
  let [left, made] = [count, 0];
  const lane = async () => {
    const publisher = new Publisher(gateway);
    const group = await publisher.groupAt(node);
    while (left > 0 && Date.now() < end) {
      left -= BATCH;
      const messages = Array.from({ length: BATCH }, () => groupMessage(group, { length: 100 }));
      const answers = await publisher.publish(messages, { seconds: 120 });
      made += answers.length;
    }
    publisher.close();
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  return { made, head: (await cursor(node)).get(node.id) };
}

/** `join()` makes and registers the new node, which meanwhile cannot reach the nodes `away`. */
export async function followLong({ from, join, away, gateway, count, seconds, note }) {
  const start = performance.now();
  const { made, head } = await fill(from, gateway, count, seconds);
  note(`${made} messages published at ${from.label}`, `${Math.round((made * 1000) / (performance.now() - start))}/s`);
  // Twice: the second time from what the system remembers of the files.
  for (const time of ["once", "once more"]) {
    const read = await drain(from, from.id, head).then(drained, (error) => error.message);
    note(`strand ${from.id} by SubscribeOriginators from ${from.label}, ${time}`, read);
  }
  const node = await join();
  for (const { cable } of away) cable.cut();
  const starting = node.start();
  const { rate, count: reached, processor } = await rateTo(node, from.id, head, seconds, { partly: true });
  for (const { cable } of away) cable.mend();
  await starting;
  note(`${node.label}, new, follows strand ${from.id} from its first place, from nodes of ${from.kind} alone`,
    `${Math.round(rate)}/s over ${reached} of ${head} envelopes; ${processor.toFixed(1)} s of processor time, `
    + `${Math.round((processor / reached) * 5000 * 100)} % of a core at 5000/s`);
  if (reached >= head) {
    const [here, there] = [await strand(node, from.id), await strand(from, from.id)];
    const found = differences(here, there);
    note(`${node.label} has the content of ${from.label}`, found || `${here.size} envelopes`, found === "");
  }
  await node.kill();
}
