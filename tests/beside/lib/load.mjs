// Messages published through gateways, each remembered with the place that it got.

import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { bytesField, fields } from "../../clients/lib/wire.mjs";
import { sleep } from "../../clients/lib/wait.mjs";
import { Channel } from "./grpc.mjs";
import { output } from "./processes.mjs";
import { parse } from "./strands.mjs";

const PUBLISH = "/xmtp.xmtpv4.payer_api.PayerApi/PublishClientEnvelopes";
const EMPTY = Buffer.alloc(0);

/** A vector of RFC 9420 §2.1.2. */
function vector(bytes) {
  if (bytes.length < 0x40) return Buffer.concat([Buffer.from([bytes.length]), bytes]);
  const head = Buffer.alloc(2);
  head.writeUInt16BE(bytes.length | 0x4000);
  return Buffer.concat([head, bytes]);
}

/** The topic of a group. */
export const groupTopic = (group) => Buffer.concat([Buffer.from([0]), group]);

/** A client envelope with any payload. */
export const clientEnvelope = (topic, payload) => Buffer.concat([bytesField(1, bytesField(2, topic)), payload]);

/** Content types of MLS messages. */
export const [APPLICATION, COMMIT] = [1, 3];

/** A message of a group, as far as nodes look into it (RFC 9420 §6.3). */
export function groupMessage(group, { length = 200, kind = APPLICATION } = {}) {
  const head = Buffer.from([0, 1, 0, 2]);
  const epoch = Buffer.from([0, 0, 0, 0, 0, 0, 0, 1, kind]);
  const parts = [vector(EMPTY), vector(Buffer.alloc(28, 7)), vector(randomBytes(length))];
  const data = Buffer.concat([head, vector(group), epoch, ...parts]);
  return clientEnvelope(groupTopic(group), bytesField(2, bytesField(1, bytesField(1, data))));
}

export class Publisher {
  #channel;

  constructor(gateway) {
    this.gateway = gateway;
    this.#channel = new Channel(gateway.address);
  }

  /** Publishes client envelopes in one request and gives what was made of them. */
  async publish(envelopes, options) {
    const request = Buffer.concat(envelopes.map((each) => bytesField(1, each)));
    const answer = await this.#channel.unary(PUBLISH, request, options);
    return [...fields(answer)].filter(({ number }) => number === 1).map(({ value }) => parse(value));
  }

  /** A group whose messages the gateway gives to this node. */
  async groupAt(node, tries = 200) {
    for (let index = 0; index < tries; index += 1) {
      const group = randomBytes(16);
      const [made] = await this.publish([groupMessage(group)]);
      if (made.originator === node.id) return group;
    }
    throw new Error(`the gateway of ${this.gateway.kind} never takes ${node.label}`);
  }

  close() {
    this.#channel.close();
  }
}

/** Publishes at one node, without a gateway, with a payer's key: `{ text, place }`. */
export async function publishAt(node, client, key) {
  const file = join(node.folder, `publish-${randomBytes(4).toString("hex")}.jsonl`);
  writeFileSync(file, `${JSON.stringify({ hex: client.toString("hex"), expect_route: "node" })}\n`);
  const args = ["publish", "--json", "--node", node.address, "--target", String(node.id)];
  try {
    const said = await output(node.hawser, [...args, "--payer-key-file", key.file, "--file", file]);
    return { text: "taken", place: said.match(/\b\d{3,}:\d+\b/)?.[0] };
  } catch (error) {
    const refused = /INVALID_ARGUMENT|invalid argument|InvalidArgument/i.test(error.message);
    return { text: refused ? "INVALID_ARGUMENT" : error.message };
  }
}

/** Publishes without pause until `stop()`; counts what was acknowledged and what failed. */
export class Load {
  #stopped = false;
  #workers;
  acknowledged = [];
  failed = new Map();

  /** `rate`: requests a second at each gateway, `batch`: messages in a request. */
  constructor(gateways, { rate = 20, batch = 5, groups = 40 } = {}) {
    const all = Array.from({ length: groups }, () => randomBytes(16));
    this.#workers = gateways.map((gateway) => this.#work(gateway, all, rate, batch));
  }

  async #work(gateway, groups, rate, batch) {
    const publisher = new Publisher(gateway);
    const open = new Set();
    for (let count = 0; !this.#stopped; count += 1) {
      if (open.size < 100) {
        const messages = Array.from({ length: batch }, (_, index) => {
          return groupMessage(groups[(count * batch + index) % groups.length]);
        });
        const one = publisher.publish(messages, { seconds: 40 }).then(
          (made) => this.acknowledged.push(...made.map(({ originator, sequence }) => ({ originator, sequence }))),
          (error) => this.#failed(gateway, error),
        );
        open.add(one);
        one.finally(() => open.delete(one));
      }
      await sleep(1000 / rate);
    }
    await Promise.all(open);
    publisher.close();
  }

  #failed(gateway, error) {
    const key = `${gateway.kind}: ${error.message.slice(0, 160)}`;
    this.failed.set(key, (this.failed.get(key) ?? 0) + 1);
  }

  async stop() {
    this.#stopped = true;
    await Promise.all(this.#workers);
  }
}
