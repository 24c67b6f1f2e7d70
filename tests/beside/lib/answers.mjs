// Equal requests to one node, and one gateway, of each kind. A difference has a row in
// docs/beside-xmtpd.md, which says why, or it is a defect.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { eventually } from "../../clients/lib/wait.mjs";
import { bytesField, fields, frame } from "../../clients/lib/wire.mjs";
import { firstPublications, firstStreams, readings } from "./asked/first.mjs";
import { gatewayRequests } from "./asked/gateways.mjs";
import { publications } from "./asked/publish.mjs";
import { queries } from "./asked/queries.mjs";
import { rowOf } from "./asked/rows.mjs";
import { API, places, query, safely, topics } from "./asked/shapes.mjs";
import { streams } from "./asked/streams.mjs";
import { transport } from "./asked/transport.mjs";
import { Channel } from "./grpc.mjs";
import { clientEnvelope, COMMIT, groupMessage, groupTopic, publishAt, Publisher } from "./load.mjs";
import { exchange } from "./raw.mjs";
import { newKey } from "./services.mjs";
import { page, parse, shows } from "./strands.mjs";

const here = new URL(".", import.meta.url);
const PAGE = new URL("../../../docs/beside-xmtpd.md", here);
const VECTORS = new URL("../../vectors/client/envelopes.jsonl", here);
/** A stream has shown what it has when nothing came for so long, in seconds; the last is for a busy machine. */
const QUIET = [0.6, 3];

/** The answer to one request as a text, with the words of a refusal where they are specified. */
async function ask(node, row, quiet) {
  const { path, message, messages, text, isStream, gzip, half, options, raw, says, make } = row;
  if (raw) return raw(await exchange(node.address, options));
  const words = (error) => {
    if (!error.code) return String(error);
    const before = isStream && error.found?.length ? `${text(error.found)}, then ` : "";
    if (!says) return before + error.code;
    return `${before}${error.code}, ${error.text?.includes(says) ? `"${says}"` : `other words: "${error.text}"`}`;
  };
  try {
    if (!isStream) return text(await node.channel.unary(path, make ? make(node.id) : message, { gzip, ...options }));
    const body = messages && Buffer.concat(messages.map(frame));
    const found = await node.channel.call(path, message, { quiet, open: true, body, half, ...options });
    return `${found.ended ? "ended; " : "open; "}${text(found)}`;
  } catch (error) {
    return words(error);
  }
}

/** Rows of the page, by the requests that they name. */
function explained() {
  const lines = readFileSync(PAGE, "utf8").split("\n");
  const from = lines.indexOf("## Answers that differ");
  const rows = lines.slice(from, lines.findIndex((line, index) => index > from && line.startsWith("## ")));
  return new Set(rows.filter((line) => line.startsWith("| ")).map((line) => line.split(" | ")[0].slice(2)));
}

/** All that was asked, with both answers. */
class Comparison {
  rows = [];
  #known = explained();

  add(request, hawser, xmtpd) {
    const row = rowOf(request);
    const equal = hawser === xmtpd;
    this.rows.push({ request, hawser, xmtpd, equal, ...(equal ? {} : { row, isExplained: this.#known.has(row) }) });
    return equal;
  }

  /** Asks both, and again with more patience if they differ. */
  async ask(row, hawser, xmtpd) {
    let answers;
    for (const quiet of QUIET) {
      answers = await Promise.all([ask(hawser, row, quiet), ask(xmtpd, row, quiet)]);
      if (answers[0] === answers[1] || !row.isStream) break;
    }
    return this.add(row.request, ...answers);
  }
}

/** Publishes the last payer envelope of a group at its node again. */
async function again(node, group) {
  const request = query(topics(groupTopic(group)));
  const found = await node.channel.unary(`${API}QueryApi/QueryEnvelopes`, request);
  const last = [...fields(found)].map(({ value }) => parse(value)).filter(({ originator }) => originator === node.id).at(-1);
  const path = `${API}PublishApi/PublishPayerEnvelopes`;
  const text = (message) => (places(message) === `${last.originator}:${last.sequence}` ? "the first answer" : "a new place");
  return ask(node, { path, message: bytesField(1, last.payer), text });
}

/** The captured session of a client: a key package, and an identity whose first update is valid by itself. */
function vectors() {
  const all = readFileSync(VECTORS, "utf8").trim().split("\n").map((line) => JSON.parse(line));
  const [keyPackage, identity] = ["key_package", "identity_update"].map((kind) => all.find((each) => each.kind === kind));
  const created = identity.decoded.identity_update.actions.find(({ create_inbox }) => create_inbox).create_inbox;
  return {
    keyPackage: Buffer.from(keyPackage.hex, "hex"),
    identity: Buffer.from(identity.hex, "hex"),
    member: created.initial_identifier,
  };
}

/** The last place of a strand that a node shows. */
async function end(node, originator) {
  for (let last = 0; ; ) {
    const next = await page(node, originator, last);
    if (next.length === 0) return last;
    last = next.at(-1).sequence;
  }
}

/** Topics and places that both nodes have. */
async function prepare(hawser, xmtpd, gateway) {
  const publisher = new Publisher(gateway);
  const { keyPackage, identity, member } = vectors();
  const [group, other] = [await publisher.groupAt(hawser), await publisher.groupAt(xmtpd)];
  const made = [];
  const publish = async (...envelopes) => made.push(...(await publisher.publish(envelopes, { seconds: 60 })));
  for (const each of [group, other]) for (let count = 0; count < 3; count += 1) await publish(groupMessage(each));
  const wide = Buffer.concat([Buffer.from([1]), Buffer.alloc(127, 5)]);
  await publish(clientEnvelope(wide, bytesField(3, bytesField(1, bytesField(2, Buffer.alloc(50))))));
  await publish(groupMessage(other, { kind: COMMIT }));
  await publish(groupMessage(other));
  // It may stand on the chain already, and a second one is not valid.
  await publish(identity).catch(() => {});
  publisher.close();
  for (const place of made) for (const node of [hawser, xmtpd]) await eventually("both have it", () => shows(node, place));
  const ends = new Map();
  for (const id of [0, 1, hawser.id, xmtpd.id]) ends.set(id, await end(hawser, id));
  return { group, otherGroup: other, keyPackage, member, ends, wide, ids: [hawser.id, xmtpd.id], payer: gateway.payer.address,
    topic: groupTopic(group), other: groupTopic(other), commits: groupTopic(other) };
}

/** Publishes at each node, and compares the answers. Returns the places of envelopes that only xmtpd takes. */
async function comparePublications(comparison, hawser, xmtpd, at, payer) {
  const marked = [];
  for (const row of publications(at)) {
    const place = {};
    const text = (node) => (message) => {
      place[node.id] = safely(() => places(message).split(" "));
      return row.text(message);
    };
    const ofNode = (node) => ask(node, { ...row, text: text(node) });
    const equal = comparison.add(row.request, await ofNode(hawser), await ofNode(xmtpd));
    if (!equal && !place[hawser.id]) marked.push(...(place[xmtpd.id] ?? []));
  }
  for (const [request, client] of firstPublications()) {
    const [one, two] = [await publishAt(hawser, client, payer), await publishAt(xmtpd, client, payer)];
    comparison.add(`publish: ${request}`, one.text, two.text);
    if (one.text !== two.text && two.place) marked.push(two.place);
  }
  return marked;
}

/**
 * Asks a node and a gateway of each kind the same. `marked`: places that xmtpd has given to what Hawser
 * nodes mark and do not show.
 */
export async function compareAnswers(hawser, xmtpd, gateways) {
  const at = await prepare(hawser, xmtpd, gateways[0]);
  const payer = await newKey(hawser.hawser, hawser.folder, "payer-of-answers");
  at.key = payer.secret;
  const comparison = new Comparison();
  const reading = [...readings(at), ...firstStreams(at), ...queries(at), ...streams(at), ...transport(at)];
  const compressed = { request: "a compressed message", path: `${API}QueryApi/QueryEnvelopes`, message: query(topics(at.topic)),
    text: places, gzip: true };
  for (const row of [...reading, compressed]) await comparison.ask(row, hawser, xmtpd);
  comparison.add("the same payer envelope published again", await again(hawser, at.group), await again(xmtpd, at.otherGroup));
  const marked = await comparePublications(comparison, hawser, xmtpd, at, payer);
  if (gateways.length > 1) {
    const [one, two] = gateways.map(({ address }) => ({ address, channel: new Channel(address) }));
    for (const row of gatewayRequests(at)) await comparison.ask(row, one, two);
    for (const { channel } of [one, two]) channel.close();
  }
  writeFileSync(join(hawser.folder, "answers.jsonl"), comparison.rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  return { rows: comparison.rows, marked };
}

