// Asks a published client for its verdict on identity updates: see scripts/differential.
//
// The client runs in this process, unchanged. What it sends goes to a stand-in for a gateway and a node, which
// shows it the log of one case at a time.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import * as wasm from "@xmtp/wasm-bindings";

import { bytesField, field, fields, frames, numberField } from "./lib/wire.mjs";

const IDENTITY_UPDATES = 1;
const INBOX_TOPIC = 2;
const PACKAGE_TOPIC = 3;
const NODE = 100;

/** The log that the stand-in shows, as updates, and the inbox that it belongs to. */
let shown = { updates: [], inbox: Buffer.alloc(32) };
/** Calls that the stand-in does not know, by path. */
const unknown = new Map();

/** An envelope of an update, as a node makes it of an event on the chain. */
function envelope(update, sequence) {
  const topic = Buffer.concat([Buffer.from([INBOX_TOPIC]), shown.inbox]);
  const client = Buffer.concat([bytesField(1, bytesField(2, topic)), bytesField(PAYLOAD, update)]);
  const payer = bytesField(1, client);
  const unsigned = Buffer.concat([
    numberField(1, IDENTITY_UPDATES),
    numberField(2, sequence),
    numberField(3, 1_795_155_446_000_000_000n),
    bytesField(4, payer),
  ]);
  return Buffer.concat([bytesField(1, unsigned), bytesField(3, bytesField(1, Buffer.alloc(32, 7)))]);
}

/** Field of an identity update in a client envelope. */
const PAYLOAD = 5;

/** The key package that the stand-in shows under every topic. */
let shownPackage = Buffer.alloc(0);

/** An envelope of the key package, as a node makes it. */
function packageEnvelope() {
  const topic = Buffer.concat([Buffer.from([PACKAGE_TOPIC]), Buffer.alloc(32)]);
  const upload = bytesField(1, bytesField(1, shownPackage));
  const client = Buffer.concat([bytesField(1, bytesField(2, topic)), bytesField(4, upload)]);
  const unsigned = Buffer.concat([
    numberField(1, NODE),
    numberField(2, 1),
    numberField(3, 1_795_155_446_000_000_000n),
    bytesField(4, bytesField(1, client)),
  ]);
  return Buffer.concat([bytesField(1, unsigned), bytesField(3, bytesField(1, Buffer.alloc(32, 7)))]);
}

function answerOf(path, request) {
  if (path.endsWith("/GetNodes")) {
    const entry = [numberField(1, NODE), bytesField(2, Buffer.from("http://node.invalid"))];
    return bytesField(1, Buffer.concat(entry));
  }
  if (path.endsWith("/Check")) return numberField(1, 1);
  if (path.endsWith("/GetNewestEnvelope")) return bytesField(1, bytesField(1, packageEnvelope()));
  if (path.endsWith("/QueryEnvelopes")) {
    const envelopes = shown.updates.map((update, at) => bytesField(1, envelope(update, at + 1)));
    return Buffer.concat(envelopes);
  }
  unknown.set(path, (unknown.get(path) ?? 0) + 1);
  return Buffer.alloc(0);
}

/** The program that clients run to ask a contract wallet, without its arguments. */
const validator = readFileSync(
  new URL("../../validation/src/wallets/universal_validator.hex", import.meta.url),
  "utf8",
).trim().replace(/^0x/, "");

/** The answer of a wallet's chain: the wallet agrees if the first byte of the signature is even. */
function rpcAnswer({ id, method, params }) {
  if (method !== "eth_call") {
    unknown.set(method, (unknown.get(method) ?? 0) + 1);
    return { jsonrpc: "2.0", id, error: { code: -32601, message: "no such method" } };
  }
  const code = (params[0].input ?? params[0].data).replace(/^0x/, "");
  if (!code.startsWith(validator)) throw new Error("the client runs another program");
  // Wallet, digest, the place of the signature, its length, and the signature.
  const [length, first] = [code.slice(validator.length + 192, validator.length + 256), code.slice(validator.length + 256)];
  const agrees = BigInt(`0x${length}`) > 0n && Number(`0x${first.slice(0, 2)}`) % 2 === 0;
  return { jsonrpc: "2.0", id, result: agrees ? "0x01" : "0x00" };
}

globalThis.fetch = async (request) => {
  const body = Buffer.from(await request.arrayBuffer());
  if (request.headers.get("content-type")?.includes("json")) {
    const asked = JSON.parse(body.toString());
    const answer = Array.isArray(asked) ? asked.map(rpcAnswer) : rpcAnswer(asked);
    return respond(request, JSON.stringify(answer), "application/json");
  }
  const { message } = frames(body).next().value ?? { message: Buffer.alloc(0) };
  const answer = answerOf(new URL(request.url).pathname, message);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(answer.length, 1);
  const trailers = Buffer.from("grpc-status:0\r\n");
  const end = Buffer.from([0x80, 0, 0, 0, trailers.length]);
  return respond(request, Buffer.concat([head, answer, end, trailers]), "application/grpc-web+proto");
};

function respond(request, body, contentType) {
  const response = new Response(body, { status: 200, headers: { "content-type": contentType } });
  // The client reads where the answer came from.
  Object.defineProperty(response, "url", { value: request.url });
  return response;
}

/** The lines that `mls/tests/differential/mod.rs` makes of a state, digested. */
function digest(state) {
  const hex = (bytes) => Buffer.from(bytes).toString("hex");
  const isPasskey = (it) => it.identifierKind === wasm.IdentifierKind.Passkey;
  const identifier = (it) => `${isPasskey(it) ? "passkey" : "account"} ${it.identifier}`;
  const lines = state.accountIdentifiers.map(identifier);
  lines.push(`recovery ${identifier(state.recoveryIdentifier)}`);
  for (const { bytes, clientTimestampNs } of state.installations) {
    lines.push(`installation ${hex(bytes)} ${clientTimestampNs ?? 0}`);
  }
  if (options.show) console.log(lines.sort().join("\n"));
  // Rust sorts strings by their bytes.
  lines.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  return createHash("sha256").update(lines.join("\n")).digest().subarray(0, 8).toString("hex");
}

const gateway = () =>
  new wasm.BackendBuilder(wasm.XmtpEnv.Local).setGatewayHost("http://gateway.invalid").build();

async function verdict(backend, inboxId) {
  try {
    const [state] = await wasm.inboxStateFromInboxIds(backend, [inboxId]);
    return `valid ${digest(state)}`;
  } catch (error) {
    const text = String(error.message ?? error).split("\n")[0];
    // The text goes to the end of the log and is no part of the comparison.
    return `refused: ${text.slice(0, 100)}`;
  }
}

/** The inbox that an update names, if that is an id; else one of zeros. */
function inboxOf(updates) {
  for (const update of updates) {
    try {
      const named = field(update, 3, Buffer.alloc(0)).toString();
      if (/^[0-9a-f]{64}$/.test(named)) return named;
    } catch {
      // It does not read as a message.
    }
  }
  return "00".repeat(32);
}

/** A client without an inbox of its own, which can ask for key packages. */
async function stranger() {
  shown = { updates: [], inbox: Buffer.alloc(32) };
  const own = { identifier: `0x${"0".repeat(38)}aa`, identifierKind: wasm.IdentifierKind.Ethereum };
  const log = { level: wasm.LogLevel.Off };
  const id = wasm.generateInboxId(own, 1n);
  const sync = wasm.DeviceSyncMode.Disabled;
  return wasm.createClientWithBackend(gateway(), id, own, null, null, sync, undefined, log);
}

let asking;

async function packageVerdict(bytes, id, now) {
  asking ??= await stranger();
  shownPackage = bytes;
  Date.now = () => now * 1000;
  const status = (await asking.getKeyPackageStatusesForInstallationIds([id])).get(id);
  if (!status) return "refused: no status";
  return status.validationError ? `refused: ${status.validationError.slice(0, 100)}` : "valid";
}

const [input, output, packages] = process.argv.slice(2);
const options = { show: process.argv.includes("--show") };
const wasmFile = new URL("bindings_wasm_bg.wasm", import.meta.resolve("@xmtp/wasm-bindings"));
await wasm.default({ module_or_path: readFileSync(fileURLToPath(wasmFile)) });
const lines = readFileSync(input, "utf8").trim().split("\n").map((line) => JSON.parse(line));
const logs = new Map();
const out = [];
const packagesOut = [];
let asked = 0;
for (const line of lines) {
  if (line.updates) {
    logs.set(line.log, line.updates.map((update) => Buffer.from(update, "hex")));
    out.push(line);
    continue;
  }
  if (line.package) {
    const client = await packageVerdict(Buffer.from(line.package, "hex"), line.key, line.now);
    packagesOut.push({ ...line, client });
    continue;
  }
  const updates = [...logs.get(line.log).slice(0, line.after), Buffer.from(line.update, "hex")];
  const inboxId = inboxOf(updates);
  shown = { updates, inbox: Buffer.from(inboxId, "hex") };
  // A client of its own for each case: nothing of an earlier one is remembered.
  out.push({ ...line, client: await verdict(gateway(), inboxId) });
  asked += 1;
  if (asked % 500 === 0) console.log(`${asked} of ${lines.length}`);
}
writeFileSync(output, `${out.map((line) => JSON.stringify(line)).join("\n")}\n`);
writeFileSync(packages, `${packagesOut.map((line) => JSON.stringify(line)).join("\n")}\n`);
for (const [path, count] of unknown) console.log(`${count} calls that the stand-in does not know: ${path}`);
console.log(`${asked} updates and ${packagesOut.length} key packages`);
process.exit(0);
