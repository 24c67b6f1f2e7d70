// The package for browsers: gRPC-Web over fetch, here under Node, with its database in memory.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import * as wasm from "@xmtp/wasm-bindings";
import { getBytes } from "ethers";

import { sent } from "./patience.mjs";

const identifier = (address) => ({
  identifier: address.toLowerCase(),
  identifierKind: wasm.IdentifierKind.Ethereum,
});

let loaded;

function load() {
  loaded ??= wasm.default({
    module_or_path: readFileSync(
      fileURLToPath(new URL("bindings_wasm_bg.wasm", import.meta.resolve("@xmtp/wasm-bindings"))),
    ),
  });
  return loaded;
}

export const sdkWeb = {
  name: "wasm-bindings 1.11.0",
  keepsFiles: false,
  open: (settings) => Person.open(settings),
};

class Person {
  #client;

  static async open(settings) {
    await load();
    const person = new Person();
    person.wallet = settings.wallet;
    person.settings = settings;
    const own = identifier(settings.wallet.address);
    const backend = new wasm.BackendBuilder(wasm.XmtpEnv.Local)
      .setGatewayHost(settings.gateway.webUrl)
      .build();
    const inboxId =
      (await wasm.getInboxIdForIdentifier(backend, own)) ?? wasm.generateInboxId(own, 1n);
    person.#client = await wasm.createClientWithBackend(
      backend,
      inboxId,
      own,
      null,
      null,
      settings.deviceSync ? wasm.DeviceSyncMode.Enabled : wasm.DeviceSyncMode.Disabled,
      undefined,
      { level: wasm.LogLevel[settings.logLevel ?? "Off"] },
    );
    if (!person.#client.isRegistered) {
      const request = person.#client.createInboxSignatureRequest();
      await sign(request, settings.wallet);
      const visible = settings.visibleAt && { quorumAbsolute: settings.visibleAt };
      await person.#client.registerIdentity(request, visible);
    }
    return person;
  }

  get inboxId() {
    return this.#client.inboxId;
  }

  get installationId() {
    return this.#client.installationId;
  }

  async sync() {
    await this.#client.conversations().syncAllConversations();
  }

  async chat(id) {
    try {
      return new Chat(this.#client.conversations().findGroupById(id));
    } catch {
      return undefined;
    }
  }

  async dm(inboxId) {
    return new Chat(await this.#client.conversations().createDmByInboxId(inboxId));
  }

  async dmWithAddress(address) {
    return new Chat(await this.#client.conversations().createDm(identifier(address)));
  }

  async createGroup(inboxIds, groupName) {
    return new Chat(await this.#client.conversations().createGroupByInboxIds(inboxIds, { groupName }));
  }

  async canMessage(addresses) {
    const known = await this.#client.canMessage(addresses.map(identifier));
    return addresses.map((address) => known.get(address.toLowerCase()) ?? false);
  }

  async findInbox(address) {
    return (await this.#client.findInboxIdByIdentity(identifier(address))) ?? undefined;
  }

  async inbox() {
    const state = await this.#client.inboxState(true);
    return {
      addresses: state.accountIdentifiers.map((each) => each.identifier),
      installations: state.installations.map((each) => each.id),
    };
  }

  async linkWallet(wallet) {
    const request = await this.#client.addWalletSignatureRequest(identifier(wallet.address));
    await sign(request, wallet);
    await this.#client.applySignatureRequest(request);
  }

  async unlinkWallet(address) {
    const request = await this.#client.revokeWalletSignatureRequest(identifier(address));
    await sign(request, this.wallet);
    await this.#client.applySignatureRequest(request);
  }

  async revokeInstallation(installationId) {
    const bytes = getBytes(`0x${installationId}`);
    const request = await this.#client.revokeInstallationsSignatureRequest([bytes]);
    await sign(request, this.wallet);
    await this.#client.applySignatureRequest(request);
  }

  async stream(onText, onTrouble) {
    await this.sync();
    const closer = this.#client.conversations().streamAllMessages({
      on_message: (message) => {
        const text = textOf(message);
        if (text) onText({ ...text, chat: message.convoId });
      },
      on_error: (error) => onTrouble?.(error),
      on_close: () => onTrouble?.(new Error("the stream has ended")),
    });
    await closer.waitForReady();
    return () => closer.end();
  }

  async close() {}
}

async function sign(request, wallet) {
  const text = await request.signatureText();
  await request.addEcdsaSignature(getBytes(await wallet.signMessage(text)));
}

function textOf(message) {
  if (message.content?.type?.typeId !== "text") return undefined;
  const text = new TextDecoder().decode(message.content.content);
  return { id: message.id, text, sender: message.senderInboxId };
}

class Chat {
  #conversation;

  constructor(conversation) {
    this.#conversation = conversation;
  }

  get id() {
    return this.#conversation.id();
  }

  get name() {
    return this.#conversation.groupName();
  }

  get description() {
    return this.#conversation.groupDescription();
  }

  get isActive() {
    return this.#conversation.isActive();
  }

  send(text) {
    return sent(this.#conversation, this.#conversation.sendText(text, { optimistic: false }));
  }

  sync() {
    return this.#conversation.sync();
  }

  async texts() {
    return (await this.#conversation.findMessages()).map(textOf).filter(Boolean);
  }

  async members() {
    return (await this.#conversation.listMembers()).map((member) => member.inboxId);
  }

  add(inboxIds) {
    return this.#conversation.addMembers(inboxIds);
  }

  remove(inboxIds) {
    return this.#conversation.removeMembers(inboxIds);
  }

  rename(name) {
    return this.#conversation.updateGroupName(name);
  }

  describe(text) {
    return this.#conversation.updateGroupDescription(text);
  }

  makeAdmin(inboxId) {
    return this.#conversation.addAdmin(inboxId);
  }

  leave() {
    return this.#conversation.leaveGroup();
  }

  /** From now on a change of members is proposed and committed in one publish. */
  enableProposals() {
    return this.#conversation.unstable.enableProposals({ force: true });
  }

  async epoch() {
    return Number((await this.#conversation.getDebugInfo()).epoch);
  }
}
