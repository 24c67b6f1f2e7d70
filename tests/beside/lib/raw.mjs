// Requests below gRPC: any method, heads and bytes, over HTTP/2 or HTTP/1.1, and all that comes back.

import http from "node:http";
import http2 from "node:http2";

/** `{ status, headers, trailers, body }`, or `{ error }` if the connection or stream is broken off. */
export function exchange(address, { version = 2, method = "POST", path, headers = {}, body, seconds = 5 }) {
  return version === 2
    ? over2(address, { method, path, headers, body, seconds })
    : over1(address, { method, path, headers, body, seconds });
}

function over2(address, { method, path, headers, body, seconds }) {
  return new Promise((resolve) => {
    // Node.js refuses answers while more than 10 MB wait to be sent.
    const session = http2.connect(`http://${address}`, { maxSessionMemory: 100 });
    const found = { trailers: {}, body: Buffer.alloc(0) };
    const done = (answer) => {
      clearTimeout(timer);
      session.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => done({ error: "no end" }), seconds * 1000);
    session.on("error", () => done({ error: "the connection is broken off" }));
    const stream = session.request({ ":method": method, ":path": path, ...headers }, { endStream: body === undefined });
    stream.on("response", (heads) => Object.assign(found, { status: heads[":status"], headers: heads }));
    stream.on("trailers", (heads) => (found.trailers = heads));
    stream.on("data", (part) => (found.body = Buffer.concat([found.body, part])));
    stream.on("error", () => done({ error: "the stream is broken off", ...found }));
    stream.on("close", () => done(found));
    if (body !== undefined) stream.end(body);
  });
}

function over1(address, { method, path, headers, body, seconds }) {
  return new Promise((resolve) => {
    const [host, port] = address.split(":");
    const request = http.request({ host, port, method, path, headers, agent: false });
    const timer = setTimeout(() => request.destroy(new Error("no end")), seconds * 1000);
    const done = (answer) => {
      clearTimeout(timer);
      resolve(answer);
    };
    request.on("error", () => done({ error: "the connection is broken off" }));
    request.on("response", (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("error", () => done({ error: "the connection is broken off" }));
      answer.on("end", () => done({ status: answer.statusCode, headers: answer.headers, trailers: answer.trailers,
        body: Buffer.concat(parts) }));
    });
    request.end(body);
  });
}
