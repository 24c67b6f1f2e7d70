// A listener between two nodes that passes their gRPC calls on and keeps what passes, message by message.

import http2 from "node:http2";

/** Metadata that is kept. Tokens are not. */
const KEPT = ["content-type", "te", "user-agent", "grpc-encoding", "grpc-accept-encoding", "grpc-status"];

const kept = (headers) => Object.fromEntries(KEPT.filter((name) => name in headers).map((name) => [name, headers[name]]));

const plain = (headers) => Object.fromEntries(Object.entries(headers).filter(([name]) => !name.startsWith(":")));

/** The bytes that passed in one direction, in gRPC's framing. */
class Messages {
  #bytes = Buffer.alloc(0);

  add(part) {
    this.#bytes = Buffer.concat([this.#bytes, part]);
  }

  /** The whole messages so far, with their five bytes of framing, as hex. */
  get all() {
    const found = [];
    for (let rest = this.#bytes; rest.length >= 5; ) {
      const end = 5 + rest.readUInt32BE(1);
      if (rest.length < end) break;
      found.push(rest.subarray(0, end).toString("hex"));
      rest = rest.subarray(end);
    }
    return found;
  }
}

export class Tap {
  /** Calls in the order in which they began. */
  #calls = [];
  #server;
  #sessions = new Set();

  /** Listens at `port` and calls `target` on behalf of each caller. */
  static async open(port, target) {
    const tap = new Tap();
    tap.#server = http2.createServer();
    tap.#server.on("session", (session) => tap.#join(session, target));
    await new Promise((done, failed) => tap.#server.once("error", failed).listen(port, "127.0.0.1", done));
    return tap;
  }

  #join(session, target) {
    const onward = http2.connect(`http://127.0.0.1:${target}`);
    for (const each of [session, onward]) {
      this.#sessions.add(each);
      each.on("error", () => {}).on("close", () => {
        this.#sessions.delete(each);
        session.destroy();
        onward.destroy();
      });
    }
    session.on("stream", (stream, headers) => this.#pass(stream, headers, onward));
  }

  #pass(stream, headers, onward) {
    const { ":method": method, ":path": path } = headers;
    const call = { path, asked: kept(headers), request: new Messages(), response: new Messages() };
    this.#calls.push(call);
    const further = onward.request({ ":method": method, ":path": path, ...plain(headers) });
    let [trailers, over] = [{}, false];
    stream.on("data", (part) => call.request.add(part) || further.write(part));
    stream.on("end", () => further.end());
    further.on("response", (head, flags) => {
      call.answered = kept(head);
      const endStream = (flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0;
      if (!stream.destroyed) stream.respond(plainWithStatus(head), endStream ? { endStream } : { waitForTrailers: true });
    });
    further.on("data", (part) => call.response.add(part) || (stream.destroyed || stream.write(part)));
    further.on("trailers", (last) => {
      trailers = plain(last);
      Object.assign(call.answered, kept(last));
    });
    further.on("end", () => (over = true) && (stream.destroyed || stream.end()));
    stream.on("wantTrailers", () => stream.sendTrailers(trailers));
    for (const [one, other] of [[stream, further], [further, stream]]) {
      // A call that has come to its end ends by itself.
      one.on("error", () => {}).on("close", () => over || other.destroyed || other.close(http2.constants.NGHTTP2_CANCEL));
    }
  }

  /** The calls that passed: `[{ path, asked, request, answered, response }]`, messages as hex. */
  get calls() {
    return this.#calls.map(({ path, asked, request, answered = {}, response }) => {
      return { path, asked, request: request.all, answered, response: response.all };
    });
  }

  close() {
    for (const session of this.#sessions) session.destroy();
    this.#server.close();
  }
}

const plainWithStatus = (headers) => ({ ":status": headers[":status"], ...plain(headers) });
