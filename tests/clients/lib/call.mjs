// One gRPC call over HTTP/2, for what is asked beside the clients.

import http2 from "node:http2";

import { bytesField, envelopeId, fields, frame, frames, numberField } from "./wire.mjs";

const QUERY = "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes";

export class Caller {
  #session;

  constructor(address) {
    this.#session = http2.connect(`http://${address}`);
    this.#session.on("error", () => {});
  }

  /** The message that a unary call answers with. */
  call(path, message) {
    return new Promise((resolve, reject) => {
      const stream = this.#session.request({
        ":method": "POST",
        ":path": path,
        "content-type": "application/grpc",
        te: "trailers",
      });
      const parts = [];
      let status;
      const note = (headers) => (status = headers["grpc-status"] ?? status);
      stream.on("response", note).on("trailers", note).on("error", reject);
      stream.on("data", (part) => parts.push(part));
      stream.on("end", () => {
        if (status !== "0") return reject(new Error(`${path}: grpc-status ${status}`));
        const [first] = frames(Buffer.concat(parts));
        resolve(first?.message ?? Buffer.alloc(0));
      });
      stream.end(frame(message));
    });
  }

  async #query(query, limit) {
    const request = Buffer.concat([bytesField(1, query), numberField(2, limit)]);
    const answer = await this.call(QUERY, request);
    return [...fields(answer)].filter(({ number }) => number === 1).map(({ value }) => envelopeId(value));
  }

  /** True if the envelope can be read here. */
  async has({ originator, sequence }) {
    const entry = Buffer.concat([numberField(1, originator), numberField(2, sequence - 1)]);
    const query = Buffer.concat([numberField(2, originator), bytesField(3, bytesField(1, entry))]);
    return (await this.#query(query, 1)).some((found) => found.sequence === sequence);
  }

  /** The originator of each envelope of the topic. */
  async originatorsOf(topic) {
    return (await this.#query(bytesField(1, topic), 0)).map((found) => found.originator);
  }

  close() {
    this.#session.close();
  }
}
