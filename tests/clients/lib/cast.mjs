// The people of one scenario: each with a wallet of its own, on the node that the scenario wants.

import { randomBytes } from "node:crypto";
import { join } from "node:path";

import { hexlify, Wallet } from "ethers";

import { steer } from "./steer.mjs";
import { eventually, within } from "./wait.mjs";

const OPEN_SECONDS = 40;

export const newWallet = () => new Wallet(hexlify(randomBytes(32)));

/** Ways to the gateway, one for each node that a client is to be on. */
export class Gateways {
  #network;
  #steered = new Map();

  constructor(network) {
    this.#network = network;
  }

  /** To `nodeId`, or to whichever node answers first. */
  async to(nodeId) {
    const address = this.#network.gateway;
    if (nodeId === undefined) return { url: `http://${address}`, webUrl: `http://${address}` };
    if (!this.#steered.has(nodeId)) {
      this.#steered.set(nodeId, await steer(address, { nodeIds: [nodeId] }));
    }
    return this.#steered.get(nodeId);
  }

  close() {
    for (const way of this.#steered.values()) way.close();
  }
}

export class Cast {
  #folder;
  #gateways;
  #logLevel;
  #open = [];
  #files = 0;

  /** `sdk`: what people use when a scenario says nothing else. */
  constructor({ network, gateways, folder, logLevel, sdk }) {
    this.network = network;
    this.sdk = sdk;
    this.#folder = folder;
    this.#gateways = gateways;
    this.#logLevel = logLevel;
  }

  /** Nodes that live, at least three names: with fewer nodes some come twice. */
  get nodeIds() {
    const ids = this.network.nodeIds;
    return [...ids, ...ids, ...ids].slice(0, Math.max(3, ids.length));
  }

  /** A new person, registered. `node`: the node that this client reads from; `more`: its settings. */
  person({ node, sdk = this.sdk, wallet = newWallet(), ...more } = {}) {
    const file = join(this.#folder, `client-${(this.#files += 1)}.db3`);
    return this.#start(sdk, { ...more, wallet, file }, node);
  }

  /** People, one on each of the named nodes. */
  async people(nodes, options = {}) {
    const all = [];
    for (const node of nodes) all.push(await this.person({ ...options, node }));
    return all;
  }

  /** The same installation in a new client, on another node. */
  async reopen(person, { node } = {}) {
    await person.close();
    return this.#start(person.sdk, person.settings, node);
  }

  /** A further installation of the same person. */
  another(person, options = {}) {
    return this.person({ sdk: person.sdk, wallet: person.wallet, ...options });
  }

  async #start(sdk, settings, node) {
    const gateway = await this.#gateways.to(node);
    const opening = sdk.open({ ...settings, gateway, logLevel: this.#logLevel });
    const person = await within(`a client of ${sdk.name} on node ${node ?? "any"}`, OPEN_SECONDS, opening);
    person.sdk = sdk;
    this.#open.push(person);
    return person;
  }

  async close() {
    for (const person of this.#open) await person.close().catch(() => {});
  }
}

/** The conversation, once a sync has brought it. */
export function invited(person, chat, seconds) {
  return eventually("an invitation arrives", async () => {
    await person.sync();
    return person.chat(chat.id);
  }, seconds);
}

/**
 * Says something, knowing what has happened. A member who speaks for the first time renews a key with
 * a commit; a client that does this without having read the commits before it has used up all its
 * attempts, and reports an error if its node shows the message only a moment after the gateway's
 * answer. Apps avoid it as this does.
 */
export async function say(chat, text) {
  await chat.sync();
  await chat.send(text);
}

/** All texts of the conversation once there are so many. */
export function texts(chat, count, seconds) {
  return eventually(`${count} messages arrive`, async () => {
    await chat.sync();
    const found = await chat.texts();
    if (found.length >= count) return found;
    throw new Error(`${found.length} have: ${words(found).join(", ")}`);
  }, seconds);
}

/** The words alone. */
export const words = (found) => found.map((each) => each.text);

/** The messages of one person. */
export const wordsOf = (found, person) => words(found.filter((each) => each.sender === person.inboxId));
