// The questions of a browser before it lets a page call another origin.

import assert from "node:assert/strict";
import http from "node:http";

const ORIGIN = "https://chat.example";
const HEADERS = ["content-type", "te", "x-app-version", "x-grpc-web", "x-libxmtp-version"];

function preflight(address, path) {
  const [host, port] = address.split(":");
  return new Promise((resolve, reject) => {
    const headers = {
      origin: ORIGIN,
      "access-control-request-method": "POST",
      "access-control-request-headers": HEADERS.join(","),
    };
    const call = http.request({ host, port, path, method: "OPTIONS", headers }, (answer) => {
      answer.resume();
      answer.on("end", () => resolve(answer));
    });
    call.on("error", reject).end();
  });
}

export const scenarios = {
  async "gateway and nodes let a page of any origin call them"(cast) {
    const { network } = cast;
    const nodeCall = "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes";
    const asked = network.nodeIds.map((id) => [network.node(id).grpc, nodeCall]);
    asked.push([network.gateway, "/xmtp.xmtpv4.payer_api.PayerApi/PublishClientEnvelopes"]);
    for (const [address, path] of asked) {
      const { statusCode, headers } = await preflight(address, path);
      assert.ok(statusCode === 200 || statusCode === 204, `${address}: status ${statusCode}`);
      assert.ok(["*", ORIGIN].includes(headers["access-control-allow-origin"]), address);
      const allowed = (headers["access-control-allow-headers"] ?? "").toLowerCase();
      for (const name of HEADERS.filter((name) => name !== "te")) {
        assert.ok(allowed.includes("*") || allowed.includes(name), `${address}: ${name} in "${allowed}"`);
      }
      const methods = headers["access-control-allow-methods"] ?? "";
      assert.ok(methods.includes("POST") || methods.includes("*"), `${address}: POST in "${methods}"`);
    }
  },
};
