// Parts of requests, and answers as texts that are equal if the answers are.

import { createHash } from "node:crypto";

import { bytesField, field, fields, numberField } from "../../../clients/lib/wire.mjs";
import { content, cursorOf, parse } from "../strands.mjs";

export const API = "/xmtp.xmtpv4.message_api.";
export const METADATA = "/xmtp.xmtpv4.metadata_api.MetadataApi/";
export const EMPTY = Buffer.alloc(0);

export const many = (count, one) => Buffer.concat(Array.from({ length: count }, (_, index) => one(index)));
export const topics = (...list) => Buffer.concat(list.map((topic) => bytesField(1, topic)));
export const originators = (...list) => Buffer.concat(list.map((id) => numberField(2, id)));
export const seen = (...places) => bytesField(3, cursorOf(places));
export const query = (...parts) => bytesField(1, Buffer.concat(parts));
export const limit = (count) => numberField(2, count);
/** A cursor with so many entries of originators that no node follows. */
export const strangers = (count) => Array.from({ length: count }, (_, id) => [id + 5000, 1]);
/** A negative number as protobuf writes it: in ten bytes. */
export const negative = (value) => 2n ** 64n - BigInt(value);

const envelopes = (message, number) =>
  [...fields(message)].filter((each) => each.number === number).map(({ value }) => parse(value));
const place = ({ originator, sequence }) => `${originator}:${sequence}`;

/** The places of envelopes in their order. */
export const places = (message, number = 1) => envelopes(message, number).map(place).join(" ");

/** Envelopes with what of their content has to be equal, in one order: that of a page has rows of its own. */
export function sorted(message, number = 1) {
  const all = envelopes(message, number);
  all.sort((one, other) => one.originator - other.originator || one.sequence - other.sequence);
  const hash = createHash("sha256");
  for (const each of all) hash.update(content(each));
  const ends = all.length > 8 ? [...all.slice(0, 2).map(place), "…", place(all.at(-1))] : all.map(place);
  return `${all.length}: ${ends.join(" ")} #${hash.digest("hex").slice(0, 6)}`;
}

/** The place of each result of `GetNewestEnvelope`. */
export const newest = (message) => [...fields(message)].map(({ value }) => places(value) || "-").join(" ");

export const count = (message) => String([...fields(message)].length);

/** Any message as it is. */
export const bytes = (message) => (message.length === 0 ? "nothing" : message.toString("hex").slice(0, 400));

/** Gives `what()`, or undefined if that cannot be read. */
export function safely(what) {
  try {
    return what();
  } catch {
    return undefined;
  }
}

const STATES = ["unspecified", "started", "caught up", "waiting"];

/** One frame of any stream of envelopes: its kind, and the places in it. */
function frameText(frame) {
  if (frame.length === 0) return { kind: "empty", found: [] };
  const found = [];
  const kinds = [];
  for (const { number, value } of fields(frame)) {
    if (number === 2 && typeof value !== "bigint") kinds.push(STATES[Number(field(value, 1, 0n))] ?? "a state");
    else if (typeof value !== "bigint") {
      const direct = safely(() => parse(value));
      if (direct?.sequence > 0 && direct.unsigned.length > 0) found.push(place(direct));
      else found.push(...(safely(() => places(value)) ?? "").split(" ").filter((one) => /:[1-9]/.test(one)));
    }
  }
  return { kind: kinds.join(" ") || "envelopes", found };
}

/** A stream's frames as texts: states in their order, and all places once, in one order. */
export function shown(frames) {
  const found = new Set();
  const kinds = [];
  let repeated = 0;
  for (const each of frames) {
    const { kind, found: all } = frameText(each);
    if (kind !== kinds.at(-1)) kinds.push(kind);
    for (const one of all) {
      if (found.has(one)) repeated += 1;
      found.add(one);
    }
  }
  const number = (one) => one.split(":").map(Number);
  const ends = [...found].sort((one, other) => number(one)[0] - number(other)[0] || number(one)[1] - number(other)[1]);
  const text = ends.length === 0 ? "" : `; ${ends.length} places ${ends[0]}…${ends.at(-1)}`;
  return `${kinds.join(", ") || "no frame"}${text}${repeated ? `; ${repeated} repeated` : ""}`;
}
