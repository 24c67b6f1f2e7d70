// Requests to publish at nodes: client envelopes that they judge, payer envelopes, whole requests.

import { randomBytes } from "node:crypto";

import { bytesField, field, fields, numberField } from "../../../clients/lib/wire.mjs";
import { APPLICATION, clientEnvelope, COMMIT, groupMessage, groupTopic } from "../load.mjs";
import { payerDigest, payerEnvelope, signature } from "../sign.mjs";
import { cursorOf, parse } from "../strands.mjs";
import { API, EMPTY, many, places } from "./shapes.mjs";

const PROPOSAL = 2;
const kindOf = (kind, bytes = 32) => Buffer.concat([Buffer.from([kind]), randomBytes(bytes)]);
const group = () => randomBytes(16);
const asGroup = (data) => bytesField(2, bytesField(1, bytesField(1, data)));
const asWelcome = (...parts) => bytesField(3, Buffer.concat(parts));
const welcome = (length = 40) => asWelcome(bytesField(1, bytesField(2, randomBytes(length))));
const asKeyPackage = (...parts) => bytesField(4, Buffer.concat(parts));
/** The MLS message of a group message. */
const framed = (message) => Buffer.from(field(field(field(message, 2), 1), 1));

/** A good group message whose aad has more, or whose payload is another one. */
function aimed(more = EMPTY) {
  const id = group();
  const topic = bytesField(2, groupTopic(id));
  return Buffer.concat([bytesField(1, Buffer.concat([topic, more])), asGroup(framed(groupMessage(id)))]);
}

/** An MLS message of a wire format other than that of private messages. */
function ofFormat(version, format, body = EMPTY) {
  const id = group();
  const head = Buffer.from([0, version, 0, format, 16, ...id, 0, 0, 0, 0, 0, 0, 0, 1]);
  return clientEnvelope(groupTopic(id), asGroup(Buffer.concat([head, body])));
}

const depends = (...list) => bytesField(3, cursorOf(list));

/** Client envelopes, with words of a refusal that are specified. */
function clients({ ends, keyPackage }) {
  const id = group();
  const whole = framed(groupMessage(id));
  const MISMATCH = "topic does not match payload";
  const CHAIN = "published via the blockchain";
  const RESERVED = "reserved topics cannot be published to by gateways";
  return [
    ["a good group message", groupMessage(id)],
    ["a client envelope of 0 bytes", EMPTY],
    ["a client envelope of garbage", Buffer.from([0xff, 0xff])],
    ["a client envelope without aad", asGroup(whole), "aad is missing"],
    ["a client envelope without a payload", clientEnvelope(groupTopic(id), EMPTY), "payload is missing"],
    ["a topic of 0 bytes", clientEnvelope(EMPTY, asGroup(whole)), "topic must be at least 2 bytes long"],
    ["a topic of 1 byte", clientEnvelope(Buffer.from([0]), asGroup(whole)), "topic must be at least 2 bytes long"],
    ["an aad without a topic", Buffer.concat([bytesField(1, EMPTY), asGroup(whole)]), "topic must be at least 2 bytes long"],
    ["a topic of kind 6", clientEnvelope(kindOf(6), welcome()), "unknown topic kind"],
    ["a topic of kind 255", clientEnvelope(kindOf(255), welcome()), "unknown topic kind"],
    ["a welcome to a group", clientEnvelope(groupTopic(id), welcome()), MISMATCH],
    ["a group message to an installation", clientEnvelope(kindOf(1), asGroup(whole)), MISMATCH],
    ["a key package to a group", clientEnvelope(groupTopic(id), asKeyPackage(bytesField(1, EMPTY))), MISMATCH],
    ["a report", clientEnvelope(kindOf(4, 4), bytesField(6, EMPTY)), RESERVED],
    ["an attestation", clientEnvelope(kindOf(5, 4), bytesField(7, EMPTY)), RESERVED],
    ["an identity update", clientEnvelope(kindOf(2), bytesField(5, bytesField(3, Buffer.from("00".repeat(32))))),
      "identity updates must be published via the blockchain"],
    ["a commit of a good form", groupMessage(id, { kind: COMMIT }), CHAIN],
    ["a proposal of a good form", groupMessage(id, { kind: PROPOSAL }), CHAIN],
    ["a group message without data", clientEnvelope(groupTopic(id), asGroup(EMPTY))],
    ["a group message without a version", clientEnvelope(groupTopic(id), bytesField(2, EMPTY))],
    ["a group message of 3 bytes", clientEnvelope(groupTopic(id), asGroup(whole.subarray(0, 3)))],
    ["a group message cut off in its group id", clientEnvelope(groupTopic(id), asGroup(whole.subarray(0, 12)))],
    ["a group message cut off in its epoch", clientEnvelope(groupTopic(id), asGroup(whole.subarray(0, 25)))],
    ["a group message of MLS version 2", clientEnvelope(groupTopic(id), asGroup(Buffer.from([0, 2, ...whole.subarray(2)])))],
    ["a welcome of MLS as a group message", ofFormat(1, 3)],
    ["a GroupInfo as a group message", ofFormat(1, 4)],
    ["a KeyPackage as a group message", ofFormat(1, 5)],
    ["an MLS message of format 0", ofFormat(1, 0)],
    ["a public commit", ofFormat(1, 1, Buffer.from([1, 0, 0, 0, 0, 0, COMMIT]))],
    ["a public message of an unknown content type", ofFormat(1, 1, Buffer.from([1, 0, 0, 0, 0, 0, 9]))],
    ["a public message of an unknown sender", ofFormat(1, 1, Buffer.from([9, 0, 0, 0, 0, 0, APPLICATION]))],
    ["a message of another group than its topic's", clientEnvelope(groupTopic(group()), asGroup(whole))],
    ["a group topic with an id of 1 byte", clientEnvelope(Buffer.from([0, 7]), asGroup(whole))],
    ["a group topic of 128 bytes", clientEnvelope(kindOf(0, 127), asGroup(whole))],
    ["a welcome", clientEnvelope(kindOf(1), welcome())],
    ["a welcome of 1 MiB", clientEnvelope(kindOf(1), welcome(1 << 20))],
    ["a welcome without anything", clientEnvelope(kindOf(1), asWelcome())],
    ["a welcome to an id of 1 byte", clientEnvelope(Buffer.from([1, 7]), welcome())],
    ["a welcome to 128 bytes", clientEnvelope(kindOf(1, 127), welcome())],
    ["a welcome pointer", clientEnvelope(kindOf(1), asWelcome(bytesField(2, bytesField(1, bytesField(1, randomBytes(32))))))],
    ["a key package without bytes", clientEnvelope(kindOf(3), asKeyPackage(bytesField(1, EMPTY)))],
    ["a key package message without a key package", clientEnvelope(kindOf(3), asKeyPackage())],
    ["a good key package", keyPackage],
    ["a good key package for another installation", retopic(keyPackage, kindOf(3))],
    ["a dependency on a node", aimed(depends([100, 1])), "a message can not depend on a non-commit"],
    ["a dependency on the other kind of node", aimed(depends([300, 1])), "a message can not depend on a non-commit"],
    ["a dependency on a chain that is not there", aimed(depends([7, 1])), "has not been seen by this node"],
    ["a dependency behind the chain's end", aimed(depends([0, 1 << 30]))],
    ["a dependency on the chain's last place", aimed(depends([0, ends.get(0)]))],
    ["a dependency on place 0", aimed(depends([0, 0]))],
    ["a dependency on place 2^63", aimed(depends([0, 2n ** 63n]))],
    ["a dependency on both chains", aimed(depends([0, 1], [1, 1]))],
    ["an empty dependency", aimed(bytesField(3, EMPTY))],
    ["an unknown field in the aad", aimed(bytesField(99, Buffer.from("x")))],
    ["an unknown field in the client envelope", Buffer.concat([groupMessage(group()), bytesField(99, Buffer.from("x"))])],
    ["two payloads, the last of which counts", Buffer.concat([bytesField(1, bytesField(2, kindOf(1))), asGroup(whole), welcome()])],
  ];
}

/** The same payload under another topic. */
function retopic(client, topic) {
  const payload = field(client, 4);
  return clientEnvelope(topic, bytesField(4, payload));
}

const high = (target, client, key) => signature(payerDigest(target, client), key, { high: true });
const changed = (proof, at, value) => {
  proof[at] = value;
  return proof;
};

/** Payer envelopes at a node: by its id, with a payer's key. */
function payers(key) {
  const one = (make, says) => [(id) => make(groupMessage(group()), id), says];
  const signed = (client, id) => signature(payerDigest(id, client), key);
  const RETENTION = "invalid expiry retention days";
  const OTHER = "invalid target originator";
  const days = (number) => one((client, target) => payerEnvelope(client, { key, target, days: number }),
    number < 2 || (number > 365 && number !== 2 ** 32 - 1) ? RETENTION : undefined);
  const proof = (make, says) => one((client, target) => payerEnvelope(client, { target, proof: make(client, target) }), says);
  return [
    ["a target of 0", ...one((client) => payerEnvelope(client, { key, target: 0 }), OTHER)],
    ["another target", ...one((client, id) => payerEnvelope(client, { key, target: id === 100 ? 300 : 100 }), OTHER)],
    ["an unknown target", ...one((client) => payerEnvelope(client, { key, target: 2 ** 32 - 1 }), OTHER)],
    ...[0, 1, 2, 3, 60, 365, 366, 2 ** 31, 2 ** 32 - 2].map((number) => [`a retention of ${number} days`, ...days(number)]),
    ["no signature", ...proof(() => null, "payer signature is missing")],
    ["an empty signature", ...proof(() => EMPTY)],
    ["a signature of 64 bytes", ...proof((client, id) => signed(client, id).subarray(0, 64))],
    ["a signature of 66 bytes", ...proof((client, id) => Buffer.concat([signed(client, id), Buffer.from([0])]))],
    ["a signature with v 27", ...proof((client, id) => changed(signed(client, id), 64, 27))],
    ["a signature with v 4", ...proof((client, id) => changed(signed(client, id), 64, 4))],
    ["a signature of zeros", ...proof(() => Buffer.alloc(65))],
    ["a signature with r 2^256-1", ...proof((client, id) => Buffer.concat([Buffer.alloc(32, 255), signed(client, id).subarray(32)]))],
    ["a signature with s 0", ...proof((client, id) => Buffer.concat([signed(client, id).subarray(0, 32), Buffer.alloc(33)]))],
    ["a signature with a high s", ...proof((client, id) => high(id, client, key))],
    ["a signature of another payer's", ...proof((client, id) => signature(payerDigest(id, client), 12345n))],
    ["a signature of other bytes", ...proof((client, id) => signature(payerDigest(id, Buffer.from("x")), key))],
    ["a payer envelope of garbage", () => Buffer.from([0xff, 0xff])],
    ["an unknown field in the payer envelope",
      ...one((client, target) => payerEnvelope(client, { key, target, more: bytesField(99, Buffer.from("x")) }))],
    ["fields of the payer envelope in another order", ...one((client, target) =>
      Buffer.concat([numberField(4, 60), numberField(3, target), payerEnvelope(client, { key, target })]))],
  ];
}

/** Requests with several envelopes. */
function requests(key) {
  const good = (target, from = key) => bytesField(1, payerEnvelope(groupMessage(group()), { key: from, target }));
  const bad = (target) => bytesField(1, payerEnvelope(clientEnvelope(kindOf(6), welcome()), { key, target }));
  const twin = (target) => {
    const one = good(target);
    return Buffer.concat([one, one]);
  };
  return [
    ["no envelopes", () => EMPTY, "missing payer envelope"],
    ["an unknown field alone", () => bytesField(9, EMPTY), "missing payer envelope"],
    ["two envelopes", (id) => Buffer.concat([good(id), good(id)])],
    ["envelopes of two payers", (id) => Buffer.concat([good(id), good(id, 4321n)]), "must be from the same payer"],
    ["a good and a bad envelope", (id) => Buffer.concat([good(id), bad(id)]), "unknown topic kind"],
    ["a bad and a good envelope", (id) => Buffer.concat([bad(id), good(id)]), "index 0"],
    ["two bad envelopes", (id) => Buffer.concat([bad(id), bad(id)]), "index 1"],
    ["twenty envelopes", (id) => many(20, () => good(id))],
    ["an envelope twice in a request", twin],
    ["an empty envelope", () => bytesField(1, EMPTY)],
    ["an envelope as a number", () => numberField(1, 5)],
  ];
}

/** A node's answer to a publisher: the number of its places, and true if they follow each other. */
function taken(message) {
  const all = places(message).split(" ").filter(Boolean).map((each) => Number(each.split(":")[1]));
  const steps = new Set(all.slice(1).map((place, index) => place - all[index]));
  return `taken: ${all.length}${all.length > 1 ? ` in steps of ${[...steps].join(" ")}` : ""}`;
}

/** Retention and target as the node's envelope has them. */
function kept(message) {
  const [first] = places(message) ? [parse(field(message, 1))] : [];
  if (!first) return taken(message);
  const unsigned = first.unsigned;
  const life = Number(field(unsigned, 7, 0n)) - Math.floor(Number(first.ns) / 1e9);
  // Sizes differ by the length of the node's id.
  const perByte = Number(field(unsigned, 5, 0n)) / first.payer.length / (life / 86_400);
  const unknown = [...fields(first.payer)].some(({ number }) => number > 4);
  return `${taken(message)}; kept for ${Math.round(life / 3600)} h; ${Math.floor(perByte)} for each byte and day`
    + `${unknown ? "; with an unknown field" : ""}`;
}

export function publications(at) {
  const path = `${API}ReplicationApi/PublishPayerEnvelopes`;
  const key = at.key;
  const rows = [];
  for (const [request, client, says] of clients(at)) {
    const make = (id) => bytesField(1, payerEnvelope(client, { key, target: id }));
    rows.push({ request: `publish: ${request}`, path, make, says, text: taken });
  }
  for (const [request, make, says] of payers(key)) {
    rows.push({ request: `publish: ${request}`, path, make: (id) => bytesField(1, make(id)), says, text: kept });
  }
  for (const [request, make, says] of requests(key)) {
    rows.push({ request: `publish: ${request}`, path: `${API}PublishApi/PublishPayerEnvelopes`, make, says, text: taken });
  }
  return rows;
}
