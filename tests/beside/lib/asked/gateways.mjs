// Equal requests to a gateway of each kind.

import { randomBytes } from "node:crypto";

import { bytesField, field, fields, frame, numberField } from "../../../clients/lib/wire.mjs";
import { clientEnvelope, COMMIT, groupMessage, groupTopic } from "../load.mjs";
import { parse } from "../strands.mjs";
import { EMPTY, many } from "./shapes.mjs";
import { grpcText } from "./transport.mjs";

const SERVICES = ["/xmtp.xmtpv4.payer_api.PayerApi/", "/xmtp.xmtpv4.gateway_api.GatewayApi/"];
const group = () => randomBytes(16);
const kindOf = (kind, bytes = 32) => Buffer.concat([Buffer.from([kind]), randomBytes(bytes)]);
const welcome = () => bytesField(3, bytesField(1, bytesField(2, randomBytes(60))));
const data = (bytes) => bytesField(2, bytesField(1, bytesField(1, bytes)));

/** The nodes of the registry with their addresses. */
const nodes = (message) => [...fields(message)]
  .map(({ value }) => `${field(value, 1, 0n)}=${field(value, 2, EMPTY)}`)
  .sort()
  .join(" ");

/** The number of published envelopes, those on a chain, and true if all equal the sent ones, in this order. */
const published = (sent) => (message) => {
  const all = [...fields(message)].map(({ value }) => parse(value));
  const same = all.every(({ client }, at) => sent[at] !== undefined && client.equals(sent[at]));
  const where = all.map(({ originator }) => (originator < 100 ? `chain ${originator}` : "node"));
  return `${all.length} (${where.join(", ")})${same ? "" : ", other bytes than were sent"}`;
};

/** Lists of client envelopes. */
function lists({ keyPackage }) {
  const one = group();
  const message = () => groupMessage(group());
  return [
    ["none", []],
    ["a message", [message()]],
    ["three messages of a group", [groupMessage(one), groupMessage(one), groupMessage(one)]],
    ["messages of ten groups", Array.from({ length: 10 }, message)],
    ["the same message twice", twice(message())],
    ["a welcome", [clientEnvelope(kindOf(1), welcome())]],
    ["a key package", [keyPackage]],
    ["a commit", [groupMessage(group(), { kind: COMMIT })]],
    ["a proposal and a commit", proposalAndCommit()],
    ["a commit and a message", [groupMessage(one, { kind: COMMIT }), groupMessage(group())]],
    ["an empty envelope", [EMPTY]],
    ["garbage", [Buffer.from([0xff, 0xff])]],
    ["no aad", [welcome()]],
    ["no payload", [clientEnvelope(groupTopic(one), EMPTY)]],
    ["a topic of 1 byte", [clientEnvelope(Buffer.from([1]), welcome())]],
    ["a topic of an unknown kind", [clientEnvelope(kindOf(6), welcome())]],
    ["a welcome to a group", [clientEnvelope(groupTopic(one), welcome())]],
    ["a report", [clientEnvelope(kindOf(4, 4), bytesField(6, EMPTY))]],
    ["an attestation", [clientEnvelope(kindOf(5, 4), bytesField(7, EMPTY))]],
    ["a group message of garbage", [clientEnvelope(groupTopic(one), data(randomBytes(30)))]],
    ["a group message without data", [clientEnvelope(groupTopic(one), data(EMPTY))]],
    ["a key package of garbage", [clientEnvelope(kindOf(3), bytesField(4, bytesField(1, bytesField(1, randomBytes(80)))))]],
    ["an identity update for a short inbox id", [clientEnvelope(kindOf(2, 16), bytesField(5, EMPTY))]],
    ["a commit of a group id of 5 bytes", [shortCommit()]],
    ["a good message and garbage", [message(), Buffer.from([0xff, 0xff])]],
    ["a dependency on a node", [Buffer.concat([bytesField(1, Buffer.concat([bytesField(2, groupTopic(one)),
      bytesField(3, bytesField(1, Buffer.concat([numberField(1, 100), numberField(2, 1)])))])), data(framed(one))])]],
  ];
}

const twice = (one) => [one, one];
const framed = (id) => field(field(field(groupMessage(id), 2), 1), 1);

function proposalAndCommit() {
  const id = group();
  return [groupMessage(id, { kind: 2 }), groupMessage(id, { kind: COMMIT })];
}

/** A commit whose group and topic have another length than those of groups. */
function shortCommit() {
  const id = randomBytes(5);
  return groupMessage(id, { kind: COMMIT });
}

export function gatewayRequests(at) {
  const rows = [];
  for (const path of SERVICES) {
    const short = path.split(".").at(-1).slice(0, -1);
    rows.push({ request: `${short}: the nodes`, path: `${path}GetNodes`, message: EMPTY, text: nodes });
    rows.push({ request: `${short}: the nodes, with unknown fields`, path: `${path}GetNodes`, message: numberField(9, 9), text: nodes });
    rows.push({ request: `${short}: the nodes, by garbage`, path: `${path}GetNodes`, message: Buffer.from([0xff]), text: nodes });
    const all = lists(at);
    for (const [request, sent] of short === "PayerApi" ? all : all.filter((_, index) => index % 3 === 1)) {
      rows.push({ request: `${short}: publishing ${request}`, path: `${path}PublishClientEnvelopes`,
        message: many(sent.length, (index) => bytesField(1, sent[index])), text: published(sent) });
    }
  }
  const grpc = { "content-type": "application/grpc", te: "trailers" };
  const web = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };
  rows.push(
    { request: "gateway: a health check", path: "/grpc.health.v1.Health/Check", message: EMPTY, text: (message) => message.toString("hex") },
    ...[
      ["the nodes over gRPC-Web", { path: `${SERVICES[0]}GetNodes`, headers: web, body: frame(EMPTY) }],
      ["the nodes over gRPC-Web and HTTP/1.1", { version: 1, path: `${SERVICES[0]}GetNodes`, headers: web, body: frame(EMPTY) }],
      ["an unknown method", { path: `${SERVICES[0]}Nothing`, headers: grpc, body: frame(EMPTY) }],
      ["a node's method", { path: "/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes", headers: grpc, body: frame(EMPTY) }],
      ["text/plain", { path: `${SERVICES[0]}GetNodes`, headers: { "content-type": "text/plain" }, body: frame(EMPTY) }],
    ].map(([request, options]) => ({ request: `gateway: ${request}`, options, raw: grpcText })),
  );
  return rows;
}
