// People who find each other and talk.

import assert from "node:assert/strict";

import { invited, newWallet, say, texts, words } from "../lib/cast.mjs";
import { eventually } from "../lib/wait.mjs";

const GROUP_OF = 12;
const LARGE = 200 * 1024;

export const scenarios = {
  async "two people register and find each other"(cast) {
    const [alice, bob] = await cast.people(cast.nodeIds.slice(0, 2));
    assert.notEqual(alice.inboxId, bob.inboxId);
    const stranger = newWallet().address;
    for (const [person, other] of [[alice, bob], [bob, alice]]) {
      await eventually("the other can be written to", async () => {
        const known = await person.canMessage([other.wallet.address, stranger]);
        assert.deepEqual(known, [true, false]);
        return true;
      });
      assert.equal(await person.findInbox(other.wallet.address), other.inboxId);
      assert.equal(await person.findInbox(stranger), undefined);
      const { addresses, installations } = await person.inbox();
      assert.deepEqual(addresses, [person.wallet.address.toLowerCase()]);
      assert.deepEqual(installations, [person.installationId]);
    }
  },

  async "a direct message and its answer"(cast) {
    const [alice, bob] = await cast.people(cast.nodeIds.slice(0, 2));
    const hers = await alice.dm(bob.inboxId);
    await hers.send("hello");
    const his = await invited(bob, hers);
    assert.deepEqual(words(await texts(his, 1)), ["hello"]);
    await his.send("and to you");
    assert.deepEqual(words(await texts(hers, 2)), ["hello", "and to you"]);
    assert.deepEqual(new Set(await his.members()), new Set([alice.inboxId, bob.inboxId]));
  },

  async "a group of twelve in which each member speaks"(cast) {
    const nodes = Array.from({ length: GROUP_OF }, (_, index) => cast.nodeIds[index % 3]);
    const people = await cast.people(nodes);
    const inboxes = people.map((person) => person.inboxId);
    const chats = [await people[0].createGroup(inboxes.slice(1), "twelve")];
    for (const person of people.slice(1)) chats.push(await invited(person, chats[0]));
    const said = inboxes.map((_, index) => `this is ${index}`);
    // All listen meanwhile, as apps do: see docs/clients.md on many commits within a second.
    for (const [index, speaker] of chats.entries()) {
      await say(speaker, said[index]);
      for (const chat of chats) await texts(chat, index + 1);
    }
    for (const chat of chats) {
      assert.deepEqual(words(await chat.texts()), said);
      assert.deepEqual(new Set(await chat.members()), new Set(inboxes));
      assert.equal(chat.name, "twelve");
    }
    const epochs = await Promise.all(chats.map((chat) => chat.epoch()));
    assert.equal(new Set(epochs).size, 1, `one epoch for all: ${epochs}`);
  },

  async "a message of 200 KB"(cast) {
    const [alice, bob] = await cast.people(cast.nodeIds.slice(0, 2));
    const hers = await alice.dm(bob.inboxId);
    const line = (number) => `${number}`.padStart(15, ".") + "\n";
    const large = Array.from({ length: LARGE / 16 }, (_, number) => line(number)).join("");
    assert.equal(large.length, LARGE);
    await hers.send(large);
    const his = await invited(bob, hers);
    const [found] = words(await texts(his, 1));
    assert.ok(found === large, `${found.length} characters, not the ones that were sent`);
  },

  async "each on another node, and all hear all"(cast) {
    const people = await cast.people(cast.nodeIds);
    const [first, ...others] = people;
    const chats = [await first.createGroup(others.map((person) => person.inboxId), "spread")];
    for (const person of others) chats.push(await invited(person, chats[0]));
    const said = [];
    for (let round = 0; round < 3; round++) {
      for (const [speaker, chat] of chats.entries()) {
        said.push(`${round} from node ${cast.nodeIds[speaker]}`);
        await say(chat, said.at(-1));
        for (const listener of chats) assert.deepEqual(words(await texts(listener, said.length)), said);
      }
    }
  },
};
