// Writes to the app chain beside the gateways, as every account of the chain may.

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";

import { bytesField, field, fields } from "../../clients/lib/wire.mjs";
import { Channel } from "./grpc.mjs";
import { clientEnvelope } from "./load.mjs";

/** `addIdentityUpdate(bytes32,bytes)`: the first four bytes of its keccak. */
const ADD_IDENTITY_UPDATE = "ba74fc7c";
const GET_NODES = "/xmtp.xmtpv4.payer_api.PayerApi/GetNodes";

const word = (value) => value.toString(16).padStart(64, "0");

/** A call to a chain. */
export async function rpc(address, method, params) {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const headers = { "content-type": "application/json" };
  const answer = await (await fetch(`http://${address}`, { method: "POST", headers, body })).json();
  if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
  return answer.result;
}

/** Writes identity updates that no node can show: garbage, and updates without a valid signature. */
export async function addInvalidUpdates(chains, count) {
  const { identityUpdateBroadcaster } = JSON.parse(readFileSync(chains.file, "utf8"));
  const [from] = (await rpc(chains.app, "eth_accounts", [])).slice(-1);
  for (let index = 0; index < count; index += 1) {
    const inbox = randomBytes(32);
    const topic = Buffer.concat([Buffer.from([2]), inbox]);
    const unsigned = bytesField(5, bytesField(3, Buffer.from(inbox.toString("hex"))));
    const payload = index % 2 === 0 ? randomBytes(60) : clientEnvelope(topic, unsigned);
    const padded = Buffer.concat([payload, Buffer.alloc((32 - (payload.length % 32)) % 32)]);
    const data = `0x${ADD_IDENTITY_UPDATE}${inbox.toString("hex")}${word(64)}${word(payload.length)}${padded.toString("hex")}`;
    await rpc(chains.app, "eth_sendTransaction", [{ from, to: identityUpdateBroadcaster, data, gas: "0x100000" }]);
  }
}

/** The ids of the nodes that a gateway names. */
export async function nodesOf(gateway) {
  const channel = new Channel(gateway.address);
  const answer = await channel.unary(GET_NODES, Buffer.alloc(0));
  channel.close();
  const ids = [...fields(answer)].map(({ value }) => Number(field(value, 1, 0n)));
  return ids.sort((one, other) => one - other);
}
