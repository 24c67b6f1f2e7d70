// Strands as nodes show them, and what makes two of them equal.

import { createHash } from "node:crypto";

import { bytesField, field, fields, numberField } from "../../clients/lib/wire.mjs";
import { sleep } from "../../clients/lib/wait.mjs";

const QUERY = "/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes";
const CURSOR = "/xmtp.xmtpv4.metadata_api.MetadataApi/GetSyncCursor";
/** Originators below count chains. */
export const FIRST_NODE = 100;
const EMPTY = Buffer.alloc(0);

const entry = (originator, sequence) =>
  bytesField(1, Buffer.concat([numberField(1, originator), numberField(2, sequence)]));

/** A cursor with these places, `[[originator, sequence], …]`. */
export const cursorOf = (places) => Buffer.concat(places.map(([one, other]) => entry(one, other)));

/** The content of an originator envelope. */
export function parse(envelope) {
  const unsigned = field(envelope, 1, EMPTY);
  const payer = field(unsigned, 4, EMPTY);
  const proof = field(envelope, 3);
  return {
    originator: Number(field(unsigned, 1, 0n)),
    sequence: Number(field(unsigned, 2, 0n)),
    ns: field(unsigned, 3, 0n),
    unsigned,
    payer,
    client: field(payer, 1, EMPTY),
    transaction: proof && field(proof, 1, EMPTY),
  };
}

/** One page of an originator behind a place. */
export async function page(node, originator, after, limit = 1000) {
  const query = Buffer.concat([numberField(2, originator), bytesField(3, cursorOf([[originator, after]]))]);
  const request = Buffer.concat([bytesField(1, query), numberField(2, limit)]);
  const answer = await node.channel.unary(QUERY, request);
  return [...fields(answer)].filter(({ number }) => number === 1).map(({ value }) => parse(value));
}

/** True if the node shows this place. */
export async function shows(node, { originator, sequence }) {
  const found = await page(node, originator, sequence - 1, 1);
  return found.some((each) => each.sequence === sequence);
}

/** The head of each strand as the node shows it. */
export async function cursor(node) {
  const answer = await node.channel.unary(CURSOR, EMPTY);
  const places = [...fields(field(answer, 1, EMPTY))].map(({ value }) => [
    Number(field(value, 1, 0n)),
    Number(field(value, 2, 0n)),
  ]);
  return new Map(places.sort(([one], [other]) => one - other));
}

/**
 * The part of an envelope that has to be equal at all nodes. Of a node's strand that is all that was signed. Of a
 * chain's strand it is the payload and its transaction, because each kind of node states time and fees itself.
 */
export function content({ originator, unsigned, client, transaction }) {
  const parts = originator >= FIRST_NODE ? [unsigned] : [client, transaction ?? EMPTY];
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

/** A strand as a node shows it: place → content. */
export async function strand(node, originator) {
  const found = new Map();
  for (let after = 0; ; ) {
    const next = await page(node, originator, after);
    for (const each of next) found.set(each.sequence, content(each));
    if (next.length === 0) return found;
    after = next.at(-1).sequence;
  }
}

/** One digest for a whole strand. */
function digest(places) {
  const hash = createHash("sha256");
  for (const [sequence, each] of places) hash.update(`${sequence}:${each};`);
  return hash.digest("hex").slice(0, 12);
}

/**
 * Reads every strand at every node. Gives rows `{ originator, node, count, digest }` and differences in
 * words; `absent(node, originator)` says if a node may lack what others have of a strand. Places of
 * `marked`, "300:17", are passed over. That all strands end at the same place is `settled`'s to say.
 */
export async function compare(nodes, originators, { absent = () => false, marked = new Set() } = {}) {
  const rows = [];
  const differences = [];
  for (const originator of originators) {
    const all = new Map();
    for (const node of nodes) {
      const places = await strand(node, originator);
      for (const place of places.keys()) if (marked.has(`${originator}:${place}`)) places.delete(place);
      all.set(node, places);
    }
    // Nodes write reports and attestations by themselves: what came after the first was read counts for nothing.
    const first = nodes.find((node) => !absent(node, originator));
    const until = [...(all.get(first)?.keys() ?? [])].at(-1) ?? 0;
    for (const places of all.values()) for (const place of places.keys()) if (place > until) places.delete(place);
    const fullest = [...all.values()].sort((one, other) => other.size - one.size)[0];
    for (const [node, places] of all) {
      rows.push({ originator, node: node.label, count: places.size, digest: digest(places) });
      const lacks = [...fullest.keys()].filter((sequence) => !places.has(sequence));
      const other = [...places].filter(([place, each]) => fullest.get(place) !== each);
      const name = (list) => `${list.slice(0, 5).join(", ")}${list.length > 5 ? ", …" : ""}`;
      if (lacks.length > 0 && !absent(node, originator)) {
        differences.push(`${node.label} lacks ${lacks.length} of strand ${originator}: ${name(lacks)}`);
      }
      if (other.length > 0) {
        const list = name(other.map(([place]) => place));
        differences.push(`${node.label} has ${other.length} others in strand ${originator}: ${list}`);
      }
    }
  }
  return { rows, differences };
}

/** In words what `here` lacks of a strand, or has otherwise; empty if nothing. Later places count for nothing. */
export function differences(here, there) {
  const last = Math.max(...here.keys());
  const lacks = [...there.keys()].filter((place) => place <= last && !here.has(place));
  const other = [...here].filter(([place, each]) => there.get(place) !== each);
  const said = [];
  if (lacks.length > 0) said.push(`lacks ${lacks.length}, from ${lacks[0]} on`);
  if (other.length > 0) said.push(`has ${other.length} others, from ${other[0][0]} on`);
  return said.join("; ");
}

/** Waits until all nodes show as much as the fullest, or none shows anything new for so many seconds. */
export async function settled(nodes, originators, { seconds = 90, absent = () => false, marked = new Set() } = {}) {
  let end = Date.now() + seconds * 1000;
  const last = new Map();
  for (;;) {
    const behind = [];
    for (const originator of originators) {
      let most = 0;
      for (const node of nodes) {
        const key = `${node.id}:${originator}`;
        for (let after = last.get(key) ?? 0; ; ) {
          const next = await page(node, originator, after);
          if (next.length === 0) break;
          after = next.at(-1).sequence;
          const shown = next.filter(({ sequence }) => !marked.has(`${originator}:${sequence}`)).at(-1);
          if (!shown) continue;
          last.set(key, shown.sequence);
          end = Date.now() + seconds * 1000; // xmtpd takes minutes for what others took in seconds
        }
        most = Math.max(most, last.get(key) ?? 0);
      }
      for (const node of nodes) {
        const at = last.get(`${node.id}:${originator}`) ?? 0;
        if (at < most && !absent(node, originator)) behind.push(`${node.label} ${originator}:${at}<${most}`);
      }
    }
    if (behind.length === 0 || Date.now() > end) return behind;
    await sleep(500);
  }
}
