// gRPC calls over HTTP/2 to one address, which may be down for a while: each call that finds no
// connection makes one.

import http2 from "node:http2";
import { gunzipSync, gzipSync } from "node:zlib";

import { frame, frames } from "../../clients/lib/wire.mjs";

const CODES = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
  "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
];

/** A status other than OK: `code` is its name, `found` what had come before it. */
export class StatusError extends Error {
  constructor(path, code, text, found = []) {
    super(`${path.split("/").pop()}: ${code} ${text}`);
    this.code = code;
    this.text = text;
    this.found = found;
  }
}

export class Channel {
  #address;
  #session;

  constructor(address) {
    this.#address = address;
  }

  #open() {
    if (!this.#session || this.#session.closed || this.#session.destroyed) {
      this.#session = http2.connect(`http://${this.#address}`);
      this.#session.on("error", () => {});
    }
    return this.#session;
  }

  /**
   * The messages that a call answers with, until it ends, `until(message)` is true, or the seconds are
   * over, or nothing comes for `quiet` seconds. The last ones are errors unless `open` says that the stream may live on. `headers` come beside
   * those of a call; `body` is sent instead of a frame with the message; without `half` the request goes on.
   */
  call(path, message, options = {}) {
    const { seconds = 20, quiet, until, open = false, gzip = false, headers = {}, body, half = true } = options;
    return new Promise((resolve, reject) => {
      const stream = this.#open().request({
        ":method": "POST",
        ":path": path,
        "content-type": "application/grpc",
        te: "trailers",
        ...(gzip ? { "grpc-encoding": "gzip" } : {}),
        ...headers,
      });
      const found = [];
      let [status, text, http, rest] = [undefined, "", undefined, Buffer.alloc(0)];
      const done = (settle, value) => {
        clearTimeout(timer);
        clearTimeout(silence);
        settle(value);
        stream.close(http2.constants.NGHTTP2_CANCEL);
      };
      const late = () => {
        if (open) done(resolve, found);
        else done(reject, new StatusError(path, "DEADLINE_EXCEEDED", `no answer in ${seconds} s`));
      };
      const timer = setTimeout(late, seconds * 1000);
      const silence = quiet && setTimeout(late, quiet * 1000);
      const note = (headers) => {
        http = headers[":status"] ?? http;
        status = headers["grpc-status"] ?? status;
        text = decodeURIComponent(headers["grpc-message"] ?? text);
      };
      stream.on("response", note).on("trailers", note);
      stream.on("error", (error) => done(reject, new StatusError(path, "UNAVAILABLE", error.message)));
      stream.on("data", (part) => {
        if (silence) silence.refresh();
        rest = Buffer.concat([rest, part]);
        for (const { flags, message: each } of frames(rest)) {
          if (rest.length < 5 + rest.readUInt32BE(1)) break;
          rest = rest.subarray(5 + each.length);
          const plain = flags & 1 ? gunzipSync(each) : each;
          found.push(plain);
          if (until?.(plain, found)) return done(resolve, found);
        }
      });
      stream.on("close", () => {
        if (status === "0") return done(resolve, Object.assign(found, { ended: true }));
        // Without a status of gRPC that of HTTP counts, as clients of gRPC read it.
        const code = status === undefined ? (http === 404 ? "UNIMPLEMENTED" : "UNAVAILABLE") : CODES[Number(status)];
        done(reject, new StatusError(path, code, text, found));
      });
      if (body !== undefined || !half) {
        stream.write(body ?? frame(message));
        return half ? stream.end() : undefined;
      }
      if (!gzip) return stream.end(frame(message));
      const compressed = frame(gzipSync(message));
      compressed[0] = 1;
      stream.end(compressed);
    });
  }

  /** The message of a unary call. */
  async unary(path, message, options) {
    return (await this.call(path, message, options))[0] ?? Buffer.alloc(0);
  }

  close() {
    this.#session?.destroy();
  }
}
