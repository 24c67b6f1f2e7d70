// Stands before the gateway and says which nodes there are. A client takes the quickest node that
// GetNodes names and keeps it, so a client that gets one name is on that node. All else goes through as
// it is: HTTP/2 for servers' clients, HTTP/1.1 for browsers'.

import http from "node:http";
import http2 from "node:http2";

import { bytesField, field, fields, mapMessages, numberField } from "./wire.mjs";

const GET_NODES = /\/GetNodes$/;

/** The answer of GetNodes with the named nodes alone, each at the URL that `urlOf` gives. */
function otherNodes(answer, { nodeIds, urlOf }) {
  const kept = [];
  for (const { number, value } of fields(answer)) {
    if (number !== 1) continue;
    const id = Number(field(value, 1, 0n));
    if (nodeIds && !nodeIds.includes(id)) continue;
    const entry = urlOf ? [numberField(1, id), bytesField(2, Buffer.from(urlOf(id)))] : [value];
    kept.push(bytesField(1, Buffer.concat(entry)));
  }
  return Buffer.concat(kept);
}

/**
 * Starts it. `nodeIds`: the nodes to be named, or undefined for all; `urlOf(nodeId)`: their URLs, or undefined for their own.
 * `onAnswer(path, answer, asked)` sees each answer's body over HTTP/2 before the client gets it, and when its request was
 * whole.
 */
export async function steer(gateway, { nodeIds, urlOf, onAnswer } = {}) {
  const isSteered = nodeIds !== undefined || urlOf !== undefined;
  const change = (path, body) =>
    isSteered && GET_NODES.test(path) ? mapMessages(body, (answer) => otherNodes(answer, { nodeIds, urlOf })) : body;
  const native = http2.createServer();
  const upstream = new Upstream(gateway);
  native.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    passHttp2(stream, headers, upstream, change, onAnswer);
  });
  native.on("sessionError", () => {});
  const web = http.createServer((request, response) => passHttp1(request, response, gateway, change));
  // nginx keeps idle connections for a minute, and does not repeat a request that meets one as it is closed.
  web.keepAliveTimeout = 0;
  const servers = [native, web];
  for (const server of servers) {
    await new Promise((done, failed) => server.once("error", failed).listen(0, "127.0.0.1", done));
  }
  return {
    url: `http://127.0.0.1:${native.address().port}`,
    webUrl: `http://127.0.0.1:${web.address().port}`,
    close() {
      upstream.close();
      for (const server of servers) server.close();
    },
  };
}

/** One connection to the gateway, made anew when it ends. */
class Upstream {
  #authority;
  #session;

  constructor(authority) {
    this.#authority = authority;
  }

  request(headers) {
    if (!this.#session || this.#session.closed || this.#session.destroyed) {
      this.#session = http2.connect(`http://${this.#authority}`);
      this.#session.on("error", () => {});
    }
    return this.#session.request({ ...headers, ":authority": this.#authority });
  }

  close() {
    this.#session?.destroy();
  }
}

async function bodyOf(readable) {
  const parts = [];
  for await (const part of readable) parts.push(part);
  return Buffer.concat(parts);
}

async function passHttp2(stream, headers, upstream, change, onAnswer) {
  try {
    const path = headers[":path"];
    const request = await bodyOf(stream);
    const asked = performance.now();
    const call = upstream.request(headers);
    let [head, trailers] = [{}, {}];
    call.on("response", (seen) => (head = seen));
    call.on("trailers", (seen) => (trailers = seen));
    call.end(request);
    const answer = change(path, await bodyOf(call));
    onAnswer?.(path, answer, asked);
    if (stream.destroyed) return;
    if (answer.length === 0 && head["grpc-status"] !== undefined) {
      stream.respond(head, { endStream: true });
      return;
    }
    stream.respond(head, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers(trailers));
    stream.end(answer);
  } catch {
    if (!stream.destroyed) stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
  }
}

function passHttp1(request, response, gateway, change) {
  const [host, port] = gateway.split(":");
  const { method, url: path, headers } = request;
  const call = http.request({ host, port, method, path, headers: { ...headers, host: gateway } });
  call.on("response", async (answer) => {
    try {
      const body = change(path, await bodyOf(answer));
      const head = { ...answer.headers, "content-length": body.length };
      delete head["transfer-encoding"];
      response.writeHead(answer.statusCode, head).end(body);
    } catch {
      response.destroy();
    }
  });
  call.on("error", () => response.destroy());
  request.on("error", () => call.destroy());
  request.pipe(call);
}
