// The requests of the first comparisons: `docs/beside-xmtpd.md` and `api/tests/api/reference.rs` name rows by them.

import { randomBytes } from "node:crypto";

import { bytesField, field, fields, numberField } from "../../../clients/lib/wire.mjs";
import { clientEnvelope, groupMessage, groupTopic } from "../load.mjs";
import { cursorOf, parse } from "../strands.mjs";
import { API, count, EMPTY, limit, many, METADATA, newest, originators, places, query, seen, shown, topics } from "./shapes.mjs";

/** Requests that only read. `at`: topics and places that both nodes have. */
export function readings({ topic, other, ids, ends, payer }) {
  const [first, last] = ids;
  const find = (name, message) => [name, `${API}QueryApi/QueryEnvelopes`, message, places];
  const list = (name, message) => [name, `${API}QueryApi/GetNewestEnvelope`, message, newest];
  const usage = (name, message) => [name, `${METADATA}GetPayerInfo`, message, count];
  const inboxes = (name, number) => [
    name, `${API}QueryApi/GetInboxIds`, many(number, () => bytesField(1, bytesField(1, Buffer.from("0xab")))), count,
  ];
  const address = (text) => bytesField(1, Buffer.from(text));
  return [
    find("a query without a query", EMPTY),
    find("an empty query", query()),
    find("a topic", query(topics(topic))),
    find("a topic behind a place", query(topics(topic), seen([first, ends.get(first)]))),
    find("a topic with limit 1", Buffer.concat([query(topics(topic)), limit(1)])),
    find("a topic with limit 1001", Buffer.concat([query(topics(topic)), limit(1001)])),
    find("two topics", query(topics(topic, other))),
    find("a topic named twice in a query", query(topics(topic, topic))),
    find("a topic and an originator", query(topics(topic), originators(first))),
    find("an originator", Buffer.concat([query(originators(first)), limit(3)])),
    find("an originator behind its end", query(originators(first), seen([first, 1 << 30]))),
    find("a page of several originators", Buffer.concat([query(originators(first, last)), limit(4)])),
    find("originators in another order", Buffer.concat([query(originators(last, first)), limit(4)])),
    find("an originator named twice", Buffer.concat([query(originators(first, first)), limit(4)])),
    find("an unknown originator", query(originators(9900))),
    find("10,001 originators", query(many(10_001, (id) => numberField(2, id)))),
    find("10,001 topics", query(many(10_001, () => bytesField(1, topic)))),
    find("a topic of 0 bytes", query(topics(EMPTY))),
    find("a topic of 129 bytes", query(topics(Buffer.alloc(129)))),
    find("a topic of 1 byte", query(topics(Buffer.from([0])))),
    find("an unknown kind", query(topics(Buffer.from([9, 9])))),
    find("100 cursor entries", query(topics(topic), seen(...Array.from({ length: 100 }, (_, id) => [id + 1000, 1])))),
    find("101 cursor entries", query(topics(topic), seen(...Array.from({ length: 101 }, (_, id) => [id + 1000, 1])))),
    find("a cursor of 2^63 or more", query(topics(topic), seen([first, 2n ** 63n], [last, 2n ** 63n]))),
    find("an originator above 2^31 seen", query(topics(topic), seen([2 ** 31 + 1, 5]))),
    list("the newest of nothing", EMPTY),
    list("the newest of two", topics(topic, other)),
    list("the newest of an empty topic", topics(Buffer.from([0, 1, 2]))),
    list("the newest of odd topics", topics(EMPTY, Buffer.from([9, 9]), Buffer.alloc(129))),
    list("a topic named twice in `GetNewestEnvelope`", topics(topic, topic)),
    [...list("`GetNewestEnvelope` of more than 10,000 topics", many(10_001, () => bytesField(1, other))).slice(0, 3), count],
    inboxes("no identifiers", 0),
    inboxes("1000 identifiers", 1000),
    inboxes("1001 identifiers", 1001),
    usage("usage of an unknown payer", EMPTY),
    usage("usage of a payer", address(payer)),
    usage("usage of a payer without 0x", address(payer.slice(2))),
    usage("usage of a payer in lower case", address(payer.toLowerCase())),
    usage("usage of a short address", address("0x12")),
    usage("usage of no hex", address("payer")),
    usage("usage of 101 addresses", many(101, () => address(payer))),
    usage("`GetPayerInfo` of more than 1000 addresses", many(1001, () => address(payer))),
    usage("`GetPayerInfo` with an unknown granularity", Buffer.concat([address(payer), numberField(2, 9)])),
    ["an unknown method", `${API}QueryApi/Nothing`, EMPTY, places],
    ["an unknown service", "/xmtp.Nothing/Nothing", EMPTY, places],
    ["a message that is none", `${API}QueryApi/QueryEnvelopes`, Buffer.from([0xff, 0xff]), places],
    ["misbehavior reports", `${API}MisbehaviorApi/QueryMisbehaviorReports`, EMPTY, count],
    ["a health check", "/grpc.health.v1.Health/Check", EMPTY, (message) => String(field(message, 1, 0n))],
    ["a health check of an unknown service", "/grpc.health.v1.Health/Check", bytesField(1, Buffer.from("x")), count],
    ["the version of a gateway's service", "/xmtp.xmtpv4.payer_api.PayerApi/GetNodes", EMPTY, count],
    ["publishing nothing", `${API}PublishApi/PublishPayerEnvelopes`, EMPTY, places],
    ["publishing an empty envelope", `${API}PublishApi/PublishPayerEnvelopes`, bytesField(1, EMPTY), places],
  ].map((row) => ({ request: row[0], path: row[1], message: row[2], text: row[3] }));
}

/** The beginnings of streams: what comes within a second. */
export function firstStreams({ topic, ids: [first] }) {
  const path = `${API}ReplicationApi/`;
  const filter = (...parts) => bytesField(1, Buffer.concat(parts));
  const of = (...list) => Buffer.concat(list.map((id) => numberField(1, id)));
  const behind = (...list) => bytesField(2, cursorOf(list));
  const rows = [
    ["no filter", "SubscribeOriginators", EMPTY],
    ["no originators", "SubscribeOriginators", filter(behind())],
    ["no cursor", "SubscribeOriginators", filter(of(first))],
    ["an originator from the start", "SubscribeOriginators", filter(of(first), behind())],
    ["an originator named twice", "SubscribeOriginators", filter(of(first, first), behind())],
    ["an originator that no node knows", "SubscribeOriginators", filter(of(9900), behind())],
    ["101 entries", "SubscribeOriginators", filter(of(first), behind(...Array.from({ length: 101 }, (_, id) => [id, 1])))],
    ["no query", "SubscribeEnvelopes", EMPTY],
    ["neither", "SubscribeEnvelopes", query()],
    ["both", "SubscribeEnvelopes", query(topics(topic), originators(first))],
    ["a topic, live only", "SubscribeEnvelopes", query(topics(topic))],
    ["a topic from the start", "SubscribeEnvelopes", query(topics(topic), seen())],
    ["an unknown kind", "SubscribeEnvelopes", query(topics(Buffer.from([9, 9])))],
    ["a long topic", "SubscribeEnvelopes", query(topics(Buffer.alloc(129)))],
    ["no filters", "SubscribeTopics", EMPTY],
    ["a topic", "SubscribeTopics", bytesField(1, bytesField(1, topic))],
    ["a topic of 0 bytes", "SubscribeTopics", bytesField(1, bytesField(1, EMPTY))],
  ];
  const all = rows.map(([request, method, message]) => [`${method}: ${request}`, path + method, message]);
  all.push(["`Health.Watch`", "/grpc.health.v1.Health/Watch", EMPTY]);
  return all.map(([request, path, message]) => ({ request, path, message, text: shown, isStream: true }));
}

/** Client envelopes that nodes judge. */
export function firstPublications() {
  const group = randomBytes(16);
  const [head, end] = [4, 4 + 1 + 16 + 8];
  const framed = (change) => {
    const whole = groupMessage(group, { length: 60 });
    const data = field(field(field(whole, 2), 1), 1);
    return clientEnvelope(groupTopic(group), bytesField(2, bytesField(1, bytesField(1, change(Buffer.from(data))))));
  };
  const set = (at, value) => (data) => {
    data[at] = value;
    return data;
  };
  const insert = (at, ...bytes) => (data) => Buffer.concat([data.subarray(0, at), Buffer.from(bytes), data.subarray(at + 1)]);
  return [
    ["a group message", framed((data) => data)],
    ["a group message with bytes after the MLS message", framed((data) => Buffer.concat([data, Buffer.from([0])]))],
    ["a group message of an unknown content type", framed(set(end, 9))],
    ["a group message with lengths in more bytes than they need", framed(insert(head, 0x40, 16))],
    ["a commit", framed(set(end, 3))],
    ["a group message that is cut off", framed((data) => data.subarray(0, data.length - 1))],
    ["a group message for another topic", clientEnvelope(groupTopic(randomBytes(16)), bytesField(2, EMPTY))],
    ["an envelope without a payload", clientEnvelope(groupTopic(group), EMPTY)],
    ["a publish to a topic of more than 128 bytes",
      clientEnvelope(Buffer.concat([Buffer.from([1]), randomBytes(140)]), bytesField(3, bytesField(1, bytesField(2, randomBytes(40)))))],
    ["a key package of garbage",
      clientEnvelope(Buffer.concat([Buffer.from([3]), randomBytes(32)]), bytesField(4, bytesField(1, bytesField(1, randomBytes(90)))))],
  ];
}
