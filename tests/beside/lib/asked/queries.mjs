// Requests that only read: queries, the newest envelopes, inboxes, metadata.

import { bytesField, field, fields, numberField } from "../../../clients/lib/wire.mjs";
import {
  API, bytes, count, EMPTY, limit, many, METADATA, negative, newest, originators, query, seen, sorted, strangers, topics,
} from "./shapes.mjs";

const HUGE = 2n ** 63n;

/** Queries by topic and by originator. */
function pages({ topic, other, commits, wide, ids: [first, last], ends }) {
  const at = (id) => [id, ends.get(id)];
  return [
    ["both chains", query(originators(0, 1))],
    ["all strands", query(originators(0, 1, first, last))],
    ["a strand behind its first place", query(originators(first), seen([first, 1]))],
    ["a strand behind another strand's place", query(originators(first), seen([last, 5]))],
    ["a strand before its last place", query(originators(first), seen([first, ends.get(first) - 1]))],
    ["a strand behind its last place", query(originators(first), seen(at(first)))],
    ["a strand with limit 1", query(originators(last)), 1],
    ["a strand with limit 999", query(originators(last)), 999],
    ["a strand with limit 1000", query(originators(last)), 1000],
    ["a strand with the highest limit", query(originators(last)), 2 ** 32 - 1],
    ["a strand with a limit of more than 32 bits", query(originators(last)), 2n ** 32n + 1n],
    ["a topic with limit 2", query(topics(other)), 2],
    ["a topic with limit 1000", query(topics(other)), 1000],
    ["a topic with the highest limit", query(topics(other)), 2 ** 32 - 1],
    ["a topic with commits and messages", query(topics(commits))],
    ["a topic with commits behind the commit", query(topics(commits), seen([0, 1 << 30]))],
    ["a topic with an empty cursor", query(topics(topic), seen())],
    ["a topic with a cursor of zeros", query(topics(topic), seen([0, 0], [first, 0]))],
    ["a topic with an entry of an unknown node", query(topics(topic), seen([9900, 7]))],
    ["a topic with an entry of originator 2^32-1", query(topics(topic), seen([2 ** 32 - 1, 7]))],
    ["a topic with an entry named twice", query(topics(topic), seen([first, 1 << 30], [first, 0]))],
    ["a topic behind place 2^63-1", query(topics(topic), seen([first, HUGE - 1n], [last, HUGE - 1n]))],
    ["a strand behind place 2^63-1", query(originators(first), seen([first, HUGE - 1n]))],
    ["a cursor of 2^63 or more by originator", query(originators(first), seen([first, HUGE]))],
    ["a topic of 2 bytes", query(topics(Buffer.from([0, 1])))],
    ["a topic of 128 bytes", query(topics(wide))],
    ["a topic of kind 255", query(topics(Buffer.from([255, 1, 2])))],
    ["a report topic", query(topics(Buffer.from([4, 100, 0, 0, 0])))],
    ["a topic and one of 0 bytes", query(topics(topic, EMPTY))],
    ["a topic and one of 129 bytes", query(topics(topic, Buffer.alloc(129)))],
    ["the beginning of a topic", query(topics(topic.subarray(0, 10)))],
    ["a topic and another byte", query(topics(Buffer.concat([topic, Buffer.from([0])])))],
    ["10,000 topics, one of them with messages", query(topics(topic), many(9999, (id) => topics(numbered(id))))],
    ["9,999 topics and 2 originators", query(many(9999, (id) => topics(numbered(id))), originators(first, last))],
    ["10,000 originators", query(many(10_000, (id) => numberField(2, id + 7000)))],
    ["originator 2^31-1", query(originators(2 ** 31 - 1))],
    ["originator 2^31", query(originators(2 ** 31))],
    ["originator 2^32-1", query(originators(2 ** 32 - 1))],
    ["an originator of more than 32 bits", query(numberField(2, 2n ** 32n + BigInt(first)))],
    ["originators in packed form", query(bytesField(2, Buffer.from([...packed(first), ...packed(last)])))],
    ["originators below 100 that are no chains", query(originators(2, 10, 11, 13, 99))],
    ["a strand with 100 entries seen", query(originators(first), seen(...strangers(100)))],
    ["a strand with 101 entries seen", query(originators(first), seen(...strangers(101)))],
    ["nothing with 101 entries seen", query(seen(...strangers(101)))],
    ["nothing with a limit", query(), 5],
    ["a query of unknown fields", Buffer.concat([query(topics(topic), bytesField(77, Buffer.from("x"))), numberField(78, 1)])],
    ["a query named twice, which is one", Buffer.concat([query(topics(topic)), query(seen([first, 1 << 30]))])],
    ["a topic as a number", query(numberField(1, 7))],
    ["a limit as bytes", Buffer.concat([query(topics(topic)), bytesField(2, Buffer.from("x"))])],
    ["a query that is cut off", query(topics(topic)).subarray(0, 9)],
    ["a field of number 0", Buffer.from([0x00, 0x01])],
    ["a group that never ends", Buffer.from([0x0b])],
    ["a varint of eleven bytes", Buffer.from([0x10, ...new Array(10).fill(0xff), 1])],
  ].map(([request, message, most]) => [request, most === undefined ? message : Buffer.concat([message, limit(most)])]);
}

const numbered = (id) => Buffer.from([0, 0xee, id >> 8, id & 255]);
const packed = (id) => [...numberField(1, id)].slice(1);

const QUOTES = new Map(
  ["a strand with 101 entries seen", "nothing with 101 entries seen", "9,999 topics and 2 originators",
    "a topic and one of 129 bytes"].map((request) => [request, "invalid query:"]),
);

/** The limits of `GetNewestEnvelope`, which knows none at xmtpd. */
function newestOnes({ topic, other, commits, wide }) {
  return [
    ["the newest of a topic with commits", topics(commits)],
    ["the newest of a topic of 128 bytes", topics(wide)],
    ["the newest of topics in another order", topics(other, topic)],
    ["the newest of 1000 topics, one with messages", Buffer.concat([many(999, (id) => topics(numbered(id))), topics(topic)])],
    ["the newest of the beginning of a topic", topics(topic.subarray(0, 16))],
    ["the newest of a report topic", topics(Buffer.from([5, 100, 0, 0, 0]))],
    ["the newest of a topic as a number", numberField(1, 7)],
    ["the newest of what is cut off", topics(topic).subarray(0, 5)],
  ];
}

/** Identifiers of inboxes. `member`: an address that has one. */
function inboxes({ member }) {
  const asked = (identifier, kind) => {
    const parts = [bytesField(1, Buffer.from(identifier))];
    if (kind !== undefined) parts.push(numberField(2, kind));
    return bytesField(1, Buffer.concat(parts));
  };
  const unlike = member.replace(/[a-f]/, (letter) => letter.toUpperCase());
  return [
    ["the inbox of an address", asked(member)],
    ["the inbox of an address, of the kind of addresses", asked(member, 1)],
    ["the inbox of an address, of the kind of passkeys", asked(member, 2)],
    ["the inbox of an address, of an unknown kind", asked(member, 9)],
    ["the inbox of an address, of a negative kind", asked(member, negative(1))],
    ["the inbox of an address with a capital letter", asked(unlike)],
    ["the inbox of an address in capital letters", asked(`0x${member.slice(2).toUpperCase()}`)],
    ["the inbox of an address without 0x", asked(member.slice(2))],
    ["the inbox of an address with a space", asked(`${member} `)],
    ["the inbox of an empty identifier", asked("")],
    ["the inbox of a request without an identifier", bytesField(1, EMPTY)],
    ["the inbox of an unknown address", asked(`0x${"12".repeat(20)}`)],
    ["the inbox of an address named twice", Buffer.concat([asked(member), asked(member)])],
    ["the inboxes of a known and an unknown address", Buffer.concat([asked("unknown"), asked(member), asked("")])],
    ["the inbox of 10,000 letters", asked("x".repeat(10_000))],
    ["the inbox of an identifier with a zero byte", asked("a\0b")],
    ["the inbox of an identifier that is no UTF-8", bytesField(1, bytesField(1, Buffer.from([0xff, 0xfe])))],
    ["the inbox of an identifier as a number", bytesField(1, numberField(1, 5))],
    ["the inboxes of 1001 addresses", many(1001, () => asked(member)), "too many requests"],
  ];
}

/** Payers' usage: the key as it was given, and all periods. */
function usage({ payer }) {
  const address = (text) => bytesField(1, Buffer.from(text));
  const per = (value) => numberField(2, value);
  const checksummed = payer;
  const unknown = `0x${"34".repeat(20)}`;
  return [
    ["usage by the hour", Buffer.concat([address(checksummed), per(1)])],
    ["usage by the day", Buffer.concat([address(checksummed), per(2)])],
    ["usage with granularity 0", Buffer.concat([address(checksummed), per(0)])],
    ["usage with a negative granularity", Buffer.concat([address(checksummed), per(negative(1))])],
    ["usage of an unknown payer", address(unknown)],
    ["usage of a known and an unknown payer", Buffer.concat([address(checksummed), address(unknown)])],
    ["usage of a payer named twice", Buffer.concat([address(checksummed), address(checksummed)])],
    ["usage of a payer in two spellings", Buffer.concat([address(checksummed), address(checksummed.toLowerCase())])],
    ["usage of a payer in capital letters", address(`0x${checksummed.slice(2).toUpperCase()}`)],
    ["usage of a payer with 0X", address(`0X${checksummed.slice(2)}`)],
    ["usage of a payer with a space", address(` ${checksummed}`)],
    ["usage of a long address", address(`0x00${checksummed.slice(2)}`)],
    ["usage of an address of odd length", address(`${checksummed}0`)],
    ["usage of an empty address", address("")],
    ["usage of 0x", address("0x")],
    ["usage of no payers by the day", per(2), "payer_addresses cannot be empty"],
    ["usage of an address that is no UTF-8", bytesField(1, Buffer.from([0xff, 0xfe]))],
    ["usage of an address as a number", numberField(1, 5)],
  ];
}

/** A payer's periods with their amounts, so that two nodes have to have booked the same. */
function booked(message) {
  const entries = [...fields(message)].map(({ value }) => {
    // Only Hawser has other fields beside the periods: the payer's balance.
    const ofPeriods = [...fields(field(value, 2, EMPTY))].filter(({ number }) => number === 1);
    const periods = ofPeriods.map(({ value: each }) =>
      [1, 2, 3].map((number) => field(each, number, 0n)).join("/"));
    return `${field(value, 1, EMPTY).toString().slice(0, 6)}… ${periods.join(" ")}`;
  });
  return entries.sort().join("; ") || "nothing";
}

export function queries(at) {
  const rows = [];
  for (const service of ["QueryApi", "ReplicationApi"]) {
    const all = service === "QueryApi";
    const find = pages(at).filter((_, index) => all || index % 4 === 0);
    for (const [request, message] of find) {
      rows.push({ request, path: `${API}${service}/QueryEnvelopes`, message, text: sorted, says: QUOTES.get(request) });
    }
    for (const [request, message] of newestOnes(at).filter((_, index) => all || index % 3 === 0)) {
      rows.push({ request, path: `${API}${service}/GetNewestEnvelope`, message, text: newest });
    }
    for (const [request, message, says] of inboxes(at).filter((_, index) => all || index % 4 === 0)) {
      rows.push({ request, path: `${API}${service}/GetInboxIds`, message, text: bytes, says });
    }
  }
  for (const [request, message, says] of usage(at)) {
    rows.push({ request, path: `${METADATA}GetPayerInfo`, message, text: booked, says });
  }
  rows.push(
    { request: "the cursor", path: `${METADATA}GetSyncCursor`, message: EMPTY, text: cursorText },
    { request: "the cursor, with unknown fields", path: `${METADATA}GetSyncCursor`, message: numberField(9, 1), text: cursorText },
    { request: "the cursor, of garbage", path: `${METADATA}GetSyncCursor`, message: Buffer.from([0xff]), text: cursorText },
    { request: "the version is three numbers", path: `${METADATA}GetVersion`, message: EMPTY,
      text: (message) => String(/^\d+\.\d+\.\d+/.test(field(message, 1, EMPTY).toString())) },
    { request: "misbehavior reports may be submitted", path: `${API}MisbehaviorApi/SubmitMisbehaviorReport`, message: EMPTY, text: count },
  );
  return rows;
}

/** The places of a cursor, in one order. */
const cursorText = (message) => [...fields(field(message, 1, EMPTY))]
  .map(({ value }) => `${field(value, 1, 0n)}:${field(value, 2, 0n)}`)
  .sort()
  .join(" ");
