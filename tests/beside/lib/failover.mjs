// A follower loses the node of a strand, while another node still has both: how long the strand stands still.

import { field, fields, bytesField, numberField } from "../../clients/lib/wire.mjs";
import { eventually, sleep } from "../../clients/lib/wait.mjs";
import { groupMessage, Publisher } from "./load.mjs";
import { spread } from "./measure.mjs";
import { cursor, cursorOf, parse } from "./strands.mjs";

const SUBSCRIBE = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeOriginators";
const EMPTY = Buffer.alloc(0);

/** A request for everything of an originator behind a place. */
export const subscription = (originator, after) =>
  bytesField(1, Buffer.concat([numberField(1, originator), bytesField(2, cursorOf([[originator, after]]))]));

/** The envelopes in a message of that stream. */
export const envelopesIn = (message) =>
  [...fields(field(message, 1, EMPTY))].filter(({ number }) => number === 1).map(({ value }) => value);

/**
 * Publishes at `source` all the time and streams its strand from `follower`; in the middle the follower's connections
 * to `source` break for some seconds and stay broken.
 */
export async function failOver({ follower, source, gateway, seconds, note }) {
  const publisher = new Publisher(gateway);
  const group = await publisher.groupAt(source);
  const after = await eventually(`${source.label} has one`, async () => (await cursor(source)).get(source.id));
  await eventually(`${follower.label} has all`, async () => (await cursor(follower)).get(source.id) >= after);
  const arrived = [];
  let over = false;
  const stream = follower.channel.call(SUBSCRIBE, subscription(source.id, after), {
    seconds: seconds * 4 + 60,
    until: (message) => {
      for (const each of envelopesIn(message)) arrived.push([parse(each).sequence, performance.now()]);
      return over;
    },
  }).catch((error) => error);
  const answered = new Map();
  const publish = async (until) => {
    while (performance.now() < until) {
      const [made] = await publisher.publish([groupMessage(group)]);
      // A gateway that misses a node for a moment takes others for its topics.
      if (made.originator === source.id) answered.set(made.sequence, performance.now());
      await sleep(10 + Math.random() * 20);
    }
  };
  await publish(performance.now() + seconds * 500);
  const cut = performance.now();
  source.cable.cutFor(follower.program.pid);
  await publish(cut + seconds * 1000);
  const mended = performance.now();
  source.cable.mend();
  await publish(mended + seconds * 500);
  const last = Math.max(...answered.keys());
  await eventually("all have come", () => arrived.some(([place]) => place >= last), 90);
  over = true;
  await publisher.publish([groupMessage(group)]);
  await stream;
  publisher.close();

  const places = arrived.map(([place]) => place).filter((place) => place <= last);
  const wrong = places.filter((place, index) => place !== after + 1 + index);
  note(`${follower.label} loses ${source.label}: its stream has every place once, in order`,
    wrong.length === 0 ? `${places.length} places` : `not from ${wrong[0]} on`, wrong.length === 0);
  const at = new Map(arrived);
  const late = (from, to) => [...answered].filter(([, time]) => time >= from && time < to)
    .map(([place, time]) => at.get(place) - time);
  const longest = (from, to) => `${Math.max(...late(from, to)).toFixed(0)} ms`;
  note("answered by the node → streamed by the follower, linked", spread(late(0, cut - 200)));
  note("the same, from the break until the link is back", `${spread(late(cut - 200, mended))}, longest ${longest(cut - 200, mended)}`);
  note("the same, from then on", `${spread(late(mended, Infinity))}, longest ${longest(mended, Infinity)}`);
}
