// The beginnings of streams: what comes within a moment, or the status that ends them.

import { bytesField, field, numberField } from "../../../clients/lib/wire.mjs";
import { cursorOf } from "../strands.mjs";
import { API, EMPTY, many, METADATA, originators, query, seen, shown, strangers, topics } from "./shapes.mjs";

const HUGE = 2n ** 63n;
const filter = (...parts) => bytesField(1, Buffer.concat(parts));
const of = (...list) => Buffer.concat(list.map((id) => numberField(1, id)));
const behind = (...list) => bytesField(2, cursorOf(list));
const wanted = (topic, ...cursor) => bytesField(1, Buffer.concat([bytesField(1, topic), ...cursor]));
const INVALID = "invalid subscription request:";

function ofOriginators({ ids: [first, last], ends }) {
  return [
    ["nothing at all", EMPTY, "filter must not be nil"],
    ["an empty filter", filter(), "filter must contain at least one originator node id"],
    ["originators without a cursor", filter(of(first)), "last_seen cursor is required"],
    ["a cursor without originators", filter(behind([first, 1])), "filter must contain at least one originator node id"],
    ["all strands from the start", filter(of(0, 1, first, last), behind())],
    ["the strands of the chains", filter(of(0, 1), behind())],
    ["a strand behind its last place", filter(of(first), behind([first, ends.get(first)]))],
    ["a strand before its last place", filter(of(first), behind([first, ends.get(first) - 1]))],
    ["a strand far behind its last place", filter(of(first), behind([first, 1 << 30]))],
    ["a strand behind place 2^63-1", filter(of(first), behind([first, HUGE - 1n]))],
    ["a strand behind place 2^63", filter(of(first), behind([first, HUGE]))],
    ["a strand with 100 entries seen", filter(of(first), behind(...strangers(100)))],
    ["a strand with 101 entries seen", filter(of(first), behind(...strangers(101))), INVALID],
    ["10,000 originators", filter(many(10_000, (id) => of(id + 7000)), behind())],
    ["10,001 originators", filter(many(10_001, (id) => of(id + 7000)), behind()), INVALID],
    ["originator 2^31", filter(of(2 ** 31), behind())],
    ["originator 2^32-1", filter(of(2 ** 32 - 1), behind())],
    ["garbage", Buffer.from([0xff, 0xff])],
  ].map(([request, message, says]) => ({ request: `SubscribeOriginators: ${request}`,
    path: `${API}ReplicationApi/SubscribeOriginators`, message, says }));
}

function ofEnvelopes({ topic, other, commits, wide, ids: [first, last], ends }) {
  return [
    ["an empty query", query(), "query must contain either topics or originators"],
    ["a cursor alone", query(seen([first, 1])), "query must contain either topics or originators"],
    ["topics and originators", query(topics(topic), originators(first)), INVALID],
    ["a topic of 0 bytes", query(topics(EMPTY), seen())],
    ["a topic of 129 bytes", query(topics(Buffer.alloc(129)), seen()), INVALID],
    ["a topic of 128 bytes", query(topics(wide), seen())],
    ["a topic of 1 byte", query(topics(Buffer.from([0])), seen())],
    ["two topics from the start", query(topics(topic, other), seen())],
    ["a topic with commits from the start", query(topics(commits), seen())],
    ["a topic named twice", query(topics(topic, topic), seen())],
    ["a topic behind its last places", query(topics(topic), seen([first, ends.get(first)], [last, ends.get(last)]))],
    ["a topic far behind its last place", query(topics(topic), seen([first, 1 << 30]))],
    ["a topic with an entry of an unknown node", query(topics(topic), seen([9900, 4]))],
    ["a topic and one of an unknown kind", query(topics(topic, Buffer.from([9, 9])), seen())],
    ["a topic with 101 entries seen", query(topics(topic), seen(...strangers(101))), INVALID],
    ["10,001 topics", query(many(10_001, () => topics(topic))), INVALID],
    ["originators, live only", query(originators(first, last))],
    ["an originator from the start", query(originators(last), seen())],
    ["chains from the start", query(originators(0, 1), seen())],
    ["an unknown originator", query(originators(9900), seen())],
    ["originator 2^31", query(originators(2 ** 31), seen())],
  ].map(([request, message, says]) => ({ request: `SubscribeEnvelopes: ${request}`,
    path: `${API}ReplicationApi/SubscribeEnvelopes`, message, says }));
}

function ofTopics({ topic, other, commits, wide, ids: [first], ends }) {
  const behindOf = (...list) => bytesField(2, cursorOf(list));
  const rows = [
    ["no filter", EMPTY],
    ["an empty filter", bytesField(1, EMPTY)],
    ["a topic with an empty cursor", wanted(topic, behindOf())],
    ["two topics", Buffer.concat([wanted(topic), wanted(other)])],
    ["a topic with commits", wanted(commits)],
    ["a topic of 128 bytes", wanted(wide)],
    ["a topic of 129 bytes", wanted(Buffer.alloc(129))],
    ["a topic of 1 byte", wanted(Buffer.from([0]))],
    ["a topic of an unknown kind", wanted(Buffer.from([9, 9]))],
    ["a topic and one of 0 bytes", Buffer.concat([wanted(topic), wanted(EMPTY)])],
    ["a topic behind its last place", wanted(topic, behindOf([first, ends.get(first)]))],
    ["a topic far behind its last place", wanted(topic, behindOf([first, 1 << 30]))],
    ["a topic with two cursors", Buffer.concat([wanted(topic, behindOf([first, 1 << 30])), wanted(topic)])],
    ["a topic with 100 entries seen", wanted(topic, behindOf(...strangers(100)))],
    ["a topic with 101 entries seen", wanted(topic, behindOf(...strangers(101)))],
    ["600 topics", Buffer.concat([many(599, (id) => wanted(Buffer.from([0, 0xdd, id >> 8, id & 255]))), wanted(topic)])],
    ["10,001 topics", many(10_001, () => wanted(topic))],
    ["garbage", Buffer.from([0xff, 0xff])],
  ];
  return ["QueryApi", "ReplicationApi"].flatMap((service) =>
    rows.filter((_, index) => service === "QueryApi" || index % 4 === 0)
      .map(([request, message]) => ({ request: `SubscribeTopics: ${request}`, path: `${API}${service}/SubscribeTopics`, message })));
}

/** XIP-83: a client's frames, and whether it half-closes. */
function conversations({ topic, other, commits, ids: [first], ends }) {
  const v1 = (...parts) => bytesField(1, Buffer.concat(parts));
  const adds = (each, ...cursor) => bytesField(1, Buffer.concat([bytesField(1, each), ...cursor]));
  const removes = (each) => bytesField(2, each);
  const once = numberField(3, 1);
  const id = (number) => numberField(4, number);
  const mutate = (...parts) => v1(bytesField(1, Buffer.concat(parts)));
  const places = (...list) => bytesField(2, cursorOf(list));
  const rows = [
    ["nothing", []],
    ["an unknown version", [bytesField(9, EMPTY)], "unrecognized SubscribeRequest version"],
    ["a frame without a version", [EMPTY], "unrecognized SubscribeRequest version"],
    ["a version without a part", [v1()]],
    ["a ping", [v1(bytesField(2, numberField(1, 7)))]],
    ["a pong that no ping asked for", [v1(bytesField(3, numberField(1, 7)))]],
    ["an empty change", [mutate()]],
    ["an empty change with an id", [mutate(id(5))]],
    ["topics without an id", [mutate(adds(topic))]],
    ["a topic", [mutate(adds(topic), id(1))]],
    ["a topic with commits", [mutate(adds(commits), id(1))]],
    ["two topics", [mutate(adds(topic), adds(other), id(1))]],
    ["two changes", [mutate(adds(topic), id(1)), mutate(adds(other), id(2))]],
    ["a topic named twice", [mutate(adds(topic), adds(topic), id(1))]],
    ["a topic behind its last place", [mutate(adds(topic, places([first, ends.get(first)])), id(1))]],
    ["a topic behind place 2^63", [mutate(adds(topic, places([first, HUGE])), id(1))]],
    ["a topic behind a place of originator 2^31", [mutate(adds(topic, places([2 ** 31, 1])), id(1))]],
    ["a topic's history only", [mutate(adds(topic), once, id(1))]],
    ["a topic added and removed", [mutate(adds(topic), removes(topic), id(1))]],
    ["a topic removed that was not there", [mutate(removes(topic))]],
    ["a topic of 0 bytes added", [mutate(adds(EMPTY), id(1))], "add:"],
    ["a topic of 1 byte added", [mutate(adds(Buffer.from([0])), id(1))], "add:"],
    ["a topic of an unknown kind added", [mutate(adds(Buffer.from([9, 9])), id(1))], "add:"],
    ["a topic of 129 bytes added", [mutate(adds(Buffer.alloc(129)), id(1))]],
    ["a topic of 0 bytes removed", [mutate(removes(EMPTY))], "remove:"],
    ["a topic of an unknown kind removed", [mutate(removes(Buffer.from([9, 9])))], "remove:"],
    ["a message that is none", [Buffer.from([0xff])]],
    ["100,001 topics", [mutate(many(100_001, () => adds(topic)), id(1))]],
  ];
  return rows.flatMap(([request, messages, says]) =>
    [true, false].filter((half) => half || messages.length > 0).map((half) => ({
      request: `Subscribe: ${request}${half ? ", and the end" : ""}`,
      path: `${API}QueryApi/Subscribe`, messages, half, says, text: conversation,
    })));
}

/** The server's frames with their lanes, envelopes counted and not shown. */
function conversation(frames) {
  const kinds = frames.map((frame) => {
    const inner = field(frame, 1, EMPTY);
    if (inner.length === 0) return "empty";
    return ["?", "envelopes", "started", "ping", "pong", "topics live", "caught up"][inner[0] >> 3] ?? "?";
  });
  return kinds.filter((kind, index) => kind !== kinds[index - 1]).join(", ") || "no frame";
}

export function streams(at) {
  const rest = [
    { request: "SubscribeAllEnvelopes", path: `${API}NotificationApi/SubscribeAllEnvelopes`, message: EMPTY },
    { request: "SubscribeAllEnvelopes: unknown fields", path: `${API}NotificationApi/SubscribeAllEnvelopes`, message: numberField(5, 5) },
    { request: "SubscribeAllEnvelopes: garbage", path: `${API}NotificationApi/SubscribeAllEnvelopes`, message: Buffer.from([0xff]) },
    { request: "SubscribeSyncCursor", path: `${METADATA}SubscribeSyncCursor`, message: EMPTY, text: (frames) => `${frames.length} frames` },
    { request: "SubscribeSyncCursor: garbage", path: `${METADATA}SubscribeSyncCursor`, message: Buffer.from([0xff]),
      text: (frames) => `${frames.length} frames` },
  ];
  return [...ofOriginators(at), ...ofEnvelopes(at), ...ofTopics(at), ...conversations(at), ...rest]
    .map((row) => ({ text: shown, ...row, isStream: true }));
}
