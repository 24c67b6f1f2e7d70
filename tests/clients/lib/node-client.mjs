// The packages for servers, 5.5.0 and 6.1: one way to use both. What differs between them is here.

import { getBytes } from "ethers";
import * as five from "node-sdk-5";
import * as six from "node-sdk-6";

import { sent } from "./patience.mjs";

const ETHEREUM = 0;

const identifier = (address) => ({ identifier: address.toLowerCase(), identifierKind: ETHEREUM });

function signer(wallet) {
  return {
    type: "EOA",
    getIdentifier: () => identifier(wallet.address),
    signMessage: async (text) => getBytes(await wallet.signMessage(text)),
  };
}

/** Versions of the package. `keepsFiles`: a client can be opened again with what it knew. */
export const sdk5 = {
  name: "node-sdk 5.5.0",
  keepsFiles: true,
  open: (settings) => Person.open(five, (options) => options.optimistic, settings),
};
export const sdk6 = {
  name: "node-sdk 6.1",
  keepsFiles: true,
  open: (settings) => Person.open(six, (options) => options, settings),
};

class Person {
  #client;
  #sdk;
  #sendOptions;

  /**
   * `settings`: wallet, gateway and file; if wanted `deviceSync`, `logLevel`, and `visibleAt`: at so
   * many nodes a registration is to be seen before this returns (from 6.1 on).
   */
  static async open(sdk, sendOptions, settings) {
    const person = new Person();
    person.#sdk = sdk;
    person.#sendOptions = sendOptions;
    person.wallet = settings.wallet;
    person.settings = settings;
    person.#client = await sdk.Client.create(signer(settings.wallet), {
      env: "local",
      gatewayHost: settings.gateway.url,
      dbPath: settings.file,
      disableDeviceSync: !settings.deviceSync,
      waitForRegistrationVisible: settings.visibleAt && { quorumAbsolute: settings.visibleAt },
      loggingLevel: settings.logLevel ?? "Off",
    });
    return person;
  }

  get inboxId() {
    return this.#client.inboxId;
  }

  get installationId() {
    return this.#client.installationId;
  }

  /** Reads welcomes, and a page of each conversation that has moved. */
  async sync() {
    await this.#client.conversations.syncAll();
  }

  async chat(id) {
    const found = await this.#client.conversations.getConversationById(id);
    return found && new Chat(found, this.#sendOptions);
  }

  async dm(inboxId) {
    return new Chat(await this.#client.conversations.createDm(inboxId), this.#sendOptions);
  }

  async dmWithAddress(address) {
    const created = await this.#client.conversations.createDmWithIdentifier(identifier(address));
    return new Chat(created, this.#sendOptions);
  }

  async createGroup(inboxIds, groupName) {
    const created = await this.#client.conversations.createGroup(inboxIds, { groupName });
    return new Chat(created, this.#sendOptions);
  }

  /** For each address, in order, true if messages can be sent to it. */
  async canMessage(addresses) {
    const known = await this.#client.canMessage(addresses.map(identifier));
    return addresses.map((address) => known.get(address.toLowerCase()) ?? false);
  }

  async findInbox(address) {
    return (await this.#client.fetchInboxIdByIdentifier(identifier(address))) ?? undefined;
  }

  /** Addresses and installations of this inbox, as the network has them. */
  async inbox() {
    const state = await this.#client.preferences.fetchInboxState();
    return {
      addresses: (state.identifiers ?? state.accountIdentifiers).map((each) => each.identifier),
      installations: state.installations.map((each) => each.id),
    };
  }

  async linkWallet(wallet) {
    await this.#client.unsafe_addAccount(signer(wallet), true);
  }

  async unlinkWallet(address) {
    await this.#client.removeAccount(identifier(address));
  }

  async revokeInstallation(installationId) {
    await this.#client.revokeInstallations([getBytes(`0x${installationId}`)]);
  }

  /** Calls `onText({ text, sender, chat })` for every text message from now on. */
  async stream(onText, onTrouble) {
    const stream = await this.#client.conversations.streamAllMessages({
      onValue: (message) => {
        const text = textOf(message);
        if (text) onText({ ...text, chat: message.conversationId });
      },
      onError: (error) => onTrouble?.(error),
      onFail: () => onTrouble?.(new Error("the stream has ended")),
    });
    return () => stream.end();
  }

  async close() {
    await this.#client.close?.();
  }
}

function textOf(message) {
  if (message.contentType?.typeId !== "text") return undefined;
  return { id: message.id, text: message.content, sender: message.senderInboxId };
}

class Chat {
  #conversation;
  #sendOptions;

  constructor(conversation, sendOptions) {
    this.#conversation = conversation;
    this.#sendOptions = sendOptions;
  }

  get id() {
    return this.#conversation.id;
  }

  get name() {
    return this.#conversation.name;
  }

  get description() {
    return this.#conversation.description;
  }

  get isActive() {
    return this.#conversation.isActive;
  }

  send(text) {
    const options = this.#sendOptions({ optimistic: false });
    return sent(this.#conversation, this.#conversation.sendText(text, options));
  }

  /** Reads at most one page. */
  sync() {
    return this.#conversation.sync();
  }

  /** The messages that this client knows, in its order: `{ id, text, sender }`. */
  async texts() {
    return (await this.#conversation.messages()).map(textOf).filter(Boolean);
  }

  async members() {
    return (await this.#conversation.members()).map((member) => member.inboxId);
  }

  add(inboxIds) {
    return this.#conversation.addMembers(inboxIds);
  }

  remove(inboxIds) {
    return this.#conversation.removeMembers(inboxIds);
  }

  rename(name) {
    return this.#conversation.updateName(name);
  }

  describe(text) {
    return this.#conversation.updateDescription(text);
  }

  makeAdmin(inboxId) {
    return this.#conversation.addAdmin(inboxId);
  }

  /** Says goodbye; a client of an admin then takes this member out. */
  leave() {
    return this.#conversation.requestRemoval();
  }

  async epoch() {
    return Number((await this.#conversation.debugInfo()).epoch);
  }
}
