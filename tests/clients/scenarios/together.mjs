// Different versions of the client in one conversation.

import assert from "node:assert/strict";

import { invited, say, texts, words } from "../lib/cast.mjs";
import { eventually } from "../lib/wait.mjs";

export function scenarios(sdks) {
  return {
    async "5.5.0, 6.1 and a browser's client in one group"(cast) {
      const people = [];
      for (const [index, sdk] of sdks.entries()) {
        people.push(await cast.person({ sdk, node: cast.nodeIds[index] }));
      }
      const inboxes = people.map((person) => person.inboxId);
      for (const [host, person] of people.entries()) {
        const others = inboxes.filter((inbox) => inbox !== person.inboxId);
        const chats = new Map([[person, await person.createGroup(others, `host ${host}`)]]);
        for (const guest of people) {
          if (guest !== person) chats.set(guest, await invited(guest, chats.get(person)));
        }
        const said = [];
        for (const [speaker, chat] of chats) {
          said.push(`${speaker.sdk.name} speaks`);
          await say(chat, said.at(-1));
          for (const listener of chats.values()) {
            assert.deepEqual(words(await texts(listener, said.length)), said);
          }
        }
        await chats.get(people[(host + 1) % people.length]).rename("renamed");
        for (const chat of chats.values()) {
          await eventually("the new name arrives", async () => {
            await chat.sync();
            return chat.name === "renamed";
          });
        }
      }
    },

    async "direct messages between every two versions"(cast) {
      for (const from of sdks) {
        for (const to of sdks) {
          const sender = await cast.person({ sdk: from, node: cast.nodeIds[0] });
          const receiver = await cast.person({ sdk: to, node: cast.nodeIds[1] });
          const sent = await sender.dm(receiver.inboxId);
          await sent.send("hello");
          const received = await invited(receiver, sent);
          assert.deepEqual(words(await texts(received, 1)), ["hello"]);
          await say(received, "hello yourself");
          assert.deepEqual(words(await texts(sent, 2)), ["hello", "hello yourself"]);
        }
      }
    },
  };
}
