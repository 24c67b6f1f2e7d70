// Requests that are odd below the message: methods, types, frames, timeouts, compressions, browsers.

import { gzipSync } from "node:zlib";

import { bytesField, frame, frames } from "../../../clients/lib/wire.mjs";
import { API, bytes, count, EMPTY, METADATA, originators, query, seen, shown, sorted, topics } from "./shapes.mjs";

const FIND = `${API}QueryApi/QueryEnvelopes`;
const CODES = ["OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
  "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"];

/** The code that a client of gRPC makes of a status of HTTP. */
const AS_GRPC = { 400: "INTERNAL", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "UNIMPLEMENTED" };

/** An answer as a client of gRPC or gRPC-Web takes it. */
export function grpcText({ error, status, headers = {}, trailers = {}, body = EMPTY }) {
  const web = [...frames(body)].find(({ flags }) => flags & 0x80);
  const inBody = web && /grpc-status: ?(\d+)/i.exec(web.message.toString())?.[1];
  const code = trailers["grpc-status"] ?? headers["grpc-status"] ?? inBody;
  const messages = [...frames(body)].filter(({ flags }) => !(flags & 0x80)).length;
  if (code !== undefined) return `${CODES[Number(code)]}${messages ? `, ${messages} messages` : ""}`;
  if (error) return error;
  return AS_GRPC[status] ?? (status === 200 ? "no status" : `HTTP ${status}`);
}

/** Status of HTTP and chosen heads. */
const httpText = (...names) => ({ error, status, headers = {} }) =>
  error ?? [`HTTP ${status}`, ...names.map((name) => `${name}: ${String(headers[name] ?? "-").replaceAll(" ", "")}`)].join("; ");

function calls({ topic, ids: [first] }) {
  const message = query(topics(topic));
  const head = (headers) => ({ headers });
  const body = (bytes) => ({ body: bytes });
  const marked = (flags, length, rest) => {
    const start = Buffer.from([flags, 0, 0, 0, 0]);
    start.writeUInt32BE(length, 1);
    return Buffer.concat([start, rest]);
  };
  const zipped = gzipSync(message);
  return [
    ["no frame", body(EMPTY)],
    ["half a frame's head", body(Buffer.from([0, 0]))],
    ["a frame that is cut off", body(marked(0, message.length + 5, message))],
    ["a frame that claims 4 GiB", body(marked(0, 2 ** 32 - 1, message))],
    ["two frames", body(Buffer.concat([frame(message), frame(message)]))],
    ["a frame and half of one", body(Buffer.concat([frame(message), Buffer.from([0, 0, 0])]))],
    ["a frame with unknown flags", body(marked(4, message.length, message))],
    ["a frame of trailers", body(marked(0x80, message.length, message))],
    ["a compressed frame without a name", body(marked(1, zipped.length, zipped))],
    ["a compressed frame of gzip", { headers: { "grpc-encoding": "gzip" }, body: marked(1, zipped.length, zipped) }],
    ["a plain frame of gzip", { headers: { "grpc-encoding": "gzip" }, body: frame(message) }],
    ["a compressed frame of an unknown name", { headers: { "grpc-encoding": "snappy" }, body: marked(1, zipped.length, zipped) }],
    ["a plain frame of identity", head({ "grpc-encoding": "identity" })],
    ["a compressed frame of garbage", { headers: { "grpc-encoding": "gzip" }, body: marked(1, 4, Buffer.from("abcd")) }],
    ["gzip accepted", head({ "grpc-accept-encoding": "gzip" })],
    ["an unknown compression accepted", head({ "grpc-accept-encoding": "snappy" })],
    ["a timeout of 10 s", head({ "grpc-timeout": "10S" })],
    ["a timeout of an hour", head({ "grpc-timeout": "1H" })],
    ["a timeout of 1 ns", head({ "grpc-timeout": "1n" })],
    ["a timeout of 0", head({ "grpc-timeout": "0S" })],
    ["a timeout of eight digits", head({ "grpc-timeout": "99999999H" })],
    ["a timeout of nine digits", head({ "grpc-timeout": "999999999S" })],
    ["a timeout without a unit", head({ "grpc-timeout": "10" })],
    ["a timeout of an unknown unit", head({ "grpc-timeout": "10x" })],
    ["a negative timeout", head({ "grpc-timeout": "-1S" })],
    ["an empty timeout", head({ "grpc-timeout": "" })],
    ["no te", head({ te: undefined })],
    ["heads of a client", head({ "x-libxmtp-version": "1.11.0", "x-app-version": "0.0.0", "user-agent": "tonic/0.14" })],
    ["a head in base64", head({ "extra-bin": "AAECAw" })],
    ["a head in no base64", head({ "extra-bin": "%%%" })],
    ["40 heads", head(Object.fromEntries(Array.from({ length: 40 }, (_, at) => [`x-${at}`, "y"])))],
    ["a content type with +proto", head({ "content-type": "application/grpc+proto" })],
    ["a content type with parameters", head({ "content-type": "application/grpc; charset=utf-8" })],
    ["an empty node token", head({ "node-authorization": "" })],
    ["a node token of garbage", head({ "node-authorization": "garbage" })],
    ["a node token of three parts", head({ "node-authorization": "a.b.c" })],
    ["an authorization of another kind", head({ authorization: "Bearer x" })],
    ["a node token under another name", head({ "x-node-authorization": "garbage" })],
  ].map(([request, options]) => ({ request: `call: ${request}`, path: FIND, message, options, text: sorted }))
    .concat([
      ["a node token of garbage at another service", `${METADATA}GetVersion`, EMPTY, count],
      ["a node token of garbage at a health check", "/grpc.health.v1.Health/Check", EMPTY, bytes],
    ].map(([request, path, empty, text]) =>
      ({ request: `call: ${request}`, path, message: empty, options: head({ "node-authorization": "garbage" }), text })))
    .concat([
      ["a stream with a timeout of 300 ms", `${API}ReplicationApi/SubscribeEnvelopes`, query(originators(first), seen())],
      ["a live stream with a timeout of 300 ms", `${API}NotificationApi/SubscribeAllEnvelopes`, EMPTY],
    ].map(([request, path, asked]) => ({ request: `call: ${request}`, path, message: asked, isStream: true,
      options: head({ "grpc-timeout": "300m" }), text: shown })));
}

/** Other methods, paths and types, judged as a client of gRPC reads them. */
function wire({ topic }) {
  const message = query(topics(topic));
  const grpc = { "content-type": "application/grpc", te: "trailers" };
  const web = { "content-type": "application/grpc-web+proto", accept: "application/grpc-web+proto", "x-grpc-web": "1" };
  const body = frame(message);
  const rows = [
    ["an unknown method of a known service", { path: `${API}QueryApi/Nothing`, headers: grpc, body }],
    ["a method in lower case", { path: `${API}QueryApi/queryEnvelopes`, headers: grpc, body }],
    ["a path with a slash at its end", { path: `${FIND}/`, headers: grpc, body }],
    ["a path with two slashes", { path: `/${FIND}`, headers: grpc, body }],
    ["a path with a query", { path: `${FIND}?a=b`, headers: grpc, body }],
    ["a path without a method", { path: `${API}QueryApi/`, headers: grpc, body }],
    ["a path of one slash", { path: "/", headers: grpc, body }],
    ["a method of another service", { path: `${API}PublishApi/QueryEnvelopes`, headers: grpc, body }],
    ["a stream of another service", { path: `${API}QueryApi/SubscribeOriginators`, headers: grpc, body }],
    ["Subscribe at ReplicationApi", { path: `${API}ReplicationApi/Subscribe`, headers: grpc, body }],
    ["the gateway's service", { path: "/xmtp.xmtpv4.gateway_api.GatewayApi/GetNodes", headers: grpc, body: frame(EMPTY) }],
    ["GET of a method", { method: "GET", path: FIND, headers: grpc }],
    ["PUT of a method", { method: "PUT", path: FIND, headers: grpc, body }],
    ["no content type", { path: FIND, headers: { te: "trailers" }, body }],
    ["text/plain", { path: FIND, headers: { "content-type": "text/plain" }, body }],
    ["application/grpc-unknown", { path: FIND, headers: { "content-type": "application/grpc-unknown" }, body }],
    ["application/grpc+json", { path: FIND, headers: { "content-type": "application/grpc+json" }, body: frame(Buffer.from("{}")) }],
    ["application/grpc+thrift", { path: FIND, headers: { "content-type": "application/grpc+thrift" }, body }],
    ["gRPC-Web", { path: FIND, headers: web, body }],
    ["gRPC-Web without x-grpc-web", { path: FIND, headers: { "content-type": "application/grpc-web" }, body }],
    ["gRPC-Web over HTTP/1.1", { version: 1, path: FIND, headers: web, body }],
    ["gRPC over HTTP/1.1", { version: 1, path: FIND, headers: grpc, body }],
    ["gRPC-Web with a bad query", { path: FIND, headers: web, body: frame(query(topics(EMPTY))) }],
    ["gRPC-Web of an unknown method", { path: `${API}QueryApi/Nothing`, headers: web, body }],
    ["gRPC-Web of garbage", { path: FIND, headers: web, body: Buffer.from("garbage") }],
    ["gRPC-Web without a body", { path: FIND, headers: web, body: EMPTY }],
    ["gRPC-Web in JSON", { path: FIND, headers: { ...web, "content-type": "application/grpc-web+json" }, body: frame(Buffer.from("{}")) }],
    ["gRPC-Web as text", { path: FIND, headers: { ...web, "content-type": "application/grpc-web-text" },
      body: Buffer.from(body.toString("base64")) }],
    ["gRPC-Web of a health check", { path: "/grpc.health.v1.Health/Check", headers: web, body: frame(EMPTY) }],
    ["25 MiB", { path: FIND, headers: grpc, body: frame(query(bytesField(77, Buffer.alloc(25 * 1024 * 1024 - 40)))), seconds: 20 }],
    ["more than 25 MiB", { path: FIND, headers: grpc, body: frame(query(bytesField(77, Buffer.alloc(25 * 1024 * 1024 + 1)))), seconds: 20 }],
  ].map(([request, options]) => ({ request: `wire: ${request}`, options, raw: grpcText }));
  return rows;
}

/** The answers for browsers and Connect. */
function browsers() {
  const CORS = "access-control-";
  const origin = { origin: "https://example.org" };
  const preflight = (more = {}) => ({ method: "OPTIONS", path: FIND,
    headers: { ...origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type,x-grpc-web", ...more } });
  const connect = { "content-type": "application/proto", "connect-protocol-version": "1" };
  return [
    ["a preflight", preflight(), httpText(`${CORS}allow-origin`, `${CORS}max-age`)],
    ["a preflight over HTTP/1.1", { ...preflight(), version: 1 }, httpText(`${CORS}allow-origin`, `${CORS}max-age`)],
    ["a preflight of an unknown path", { ...preflight(), path: "/nothing" }, httpText(`${CORS}allow-origin`)],
    ["OPTIONS without a method", { method: "OPTIONS", path: FIND, headers: origin }, httpText()],
    ["an answer to a browser", { path: FIND, headers: { ...origin, "content-type": "application/grpc-web+proto" }, body: frame(query()) },
      httpText(`${CORS}allow-origin`, `${CORS}expose-headers`)],
    ["a Connect call", { path: FIND, headers: connect, body: query() }, httpText()],
    ["a Connect call in JSON", { path: FIND, headers: { ...connect, "content-type": "application/json" }, body: Buffer.from("{}") },
      httpText()],
    ["a Connect call by GET", { method: "GET", path: `${METADATA}GetVersion?connect=v1&encoding=json&message=%7B%7D` }, httpText()],
    ["a Connect stream", { path: `${API}ReplicationApi/SubscribeOriginators`,
      headers: { "content-type": "application/connect+proto" }, body: frame(EMPTY) }, httpText()],
    ["GET of the root", { method: "GET", path: "/" }, httpText()],
    ["GET over HTTP/1.1", { version: 1, method: "GET", path: "/" }, httpText()],
    ["a health check by GET", { method: "GET", path: "/healthz" }, httpText()],
  ].map(([request, options, raw]) => ({ request: `browser: ${request}`, options, raw }));
}

/** Health and reflection. */
function health() {
  const path = "/grpc.health.v1.Health/Check";
  const names = ["QueryApi", "ReplicationApi", "PublishApi", "NotificationApi", "MisbehaviorApi"]
    .map((name) => `xmtp.xmtpv4.message_api.${name}`)
    .concat(["xmtp.xmtpv4.metadata_api.MetadataApi", "xmtp.xmtpv4.payer_api.PayerApi", "grpc.health.v1.Health", " ", "x".repeat(300)]);
  return names.map((name) => ({ request: `health of ${name.length > 60 ? "300 letters" : `"${name}"`}`, path,
    message: bytesField(1, Buffer.from(name)), text: bytes }))
    .concat([
      { request: "health of garbage", path, message: Buffer.from([0xff]), text: bytes },
      { request: "a list of all healths", path: "/grpc.health.v1.Health/List", message: EMPTY, text: count },
      { request: "reflection", path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", message: bytesField(7, EMPTY), text: count },
    ]);
}

export const transport = (at) => [...calls(at), ...wire(at), ...browsers(), ...health()];
