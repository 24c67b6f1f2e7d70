// The app that the tests call: one of the published package, as small as it gets.

import { Code, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { Client, createEOASigner } from "@xmtp/browser-sdk";

import { MetadataApi } from "./metadata-api.js";

let client;
const heard = [];

async function chatOf(id) {
  const found = (await client.conversations.getConversationById(id)) ?? undefined;
  if (found) return found;
  await client.conversations.syncAll();
  return client.conversations.getConversationById(id);
}

const isText = (message) => typeof message.content === "string";

window.page = {
  /** Opens the client of a wallet, from what this browser has kept, or registers it. */
  async enter(gatewayHost, key) {
    client = await Client.create(createEOASigner(key), { env: "local", gatewayHost, disableDeviceSync: true });
    return { inboxId: client.inboxId, installationId: client.installationId };
  },

  /** Hears every message that comes from now on. */
  async listen() {
    await client.conversations.syncAll();
    await client.conversations.streamAllMessages({
      onValue: (message) => isText(message) && heard.push(message.content),
      onError: (error) => console.error("the stream has failed", String(error)),
    });
  },

  heard: async () => heard,

  /** Begins a conversation with a text, and returns its id. */
  async write(inboxId, text) {
    const dm = await client.conversations.createDm(inboxId);
    await dm.sendText(text);
    return dm.id;
  },

  /** Makes a group with others, says a text in it, and returns its id. */
  async gather(inboxIds, text) {
    const group = await client.conversations.createGroup(inboxIds);
    await group.sendText(text);
    return group.id;
  },

  async answer(id, text) {
    await (await chatOf(id)).sendText(text);
  },

  /** The texts of a conversation; with `ask` also those that a node has. */
  async texts(id, ask) {
    const chat = ask ? await chatOf(id) : await client.conversations.getConversationById(id);
    if (ask) await chat.sync();
    return (await chat.messages()).filter(isText).map((message) => message.content);
  },

  /** A call of the Connect protocol that this page makes itself. */
  async json(url, method, headers) {
    const answer = await fetch(`${url}/${method}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: "{}",
    });
    return { status: answer.status, body: await answer.json() };
  },

  /** Calls a node with the published client of Connect: a call, a refused one, and a stream that is left. */
  async connect(baseUrl, useBinaryFormat) {
    const node = createClient(MetadataApi, createConnectTransport({ baseUrl, useBinaryFormat }));
    const { version } = await node.getVersion({}, { timeoutMs: 30_000 });
    const refused = await node.getPayerInfo({ payerAddresses: [] }).then(
      () => undefined,
      ({ code, rawMessage, details }) => ({ code: Code[code], text: rawMessage, details: details.map(({ type }) => type) }),
    );
    let cursor;
    for await (const { latestSync } of node.subscribeSyncCursor({})) {
      cursor = Object.keys(latestSync.nodeIdToSequenceId);
      break;
    }
    return { version, refused, cursor };
  },

  /** A call of gRPC-Web with an empty message. */
  async web(url, method) {
    const answer = await fetch(`${url}/${method}`, {
      method: "POST",
      headers: { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" },
      body: new Uint8Array(5),
    });
    const bytes = await answer.arrayBuffer();
    return { status: answer.status, trailers: new TextDecoder().decode(bytes) };
  },
};
