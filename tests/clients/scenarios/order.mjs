// Nothing lost, nothing twice, nothing out of order.

import assert from "node:assert/strict";

import { invited, say, texts, words, wordsOf } from "../lib/cast.mjs";
import { eventually } from "../lib/wait.mjs";

const RACES = 5;
const HISTORY = 250;
const PAGE = 100;
const EACH_WAY = 100;

export const scenarios = {
  async "two members commit at the same time"(cast) {
    const [alice, bob, ...joiners] = await cast.people([...cast.nodeIds, ...cast.nodeIds].slice(0, 6));
    const hers = await alice.createGroup([bob.inboxId], "race");
    const his = await invited(bob, hers);
    for (let race = 1; race <= RACES; race++) {
      await Promise.all([hers.rename(`name ${race}`), his.describe(`description ${race}`)]);
    }
    const [carol, dave, ...late] = joiners;
    await Promise.all([hers.add([carol.inboxId]), his.add([dave.inboxId])]);
    await Promise.all(late.map((person, index) => [hers, his][index].add([person.inboxId])));
    const allInboxes = new Set([alice, bob, ...joiners].map((person) => person.inboxId));
    const chats = [hers, his];
    for (const person of joiners) chats.push(await invited(person, hers));
    for (const chat of chats) {
      await eventually("both commits of every race count", async () => {
        await chat.sync();
        assert.equal(chat.name, `name ${RACES}`);
        assert.equal(chat.description, `description ${RACES}`);
        assert.deepEqual(new Set(await chat.members()), allInboxes);
        return true;
      });
    }
    const turns = chats.map((_, turn) => `turn ${turn}`);
    for (const [turn, speaker] of chats.entries()) {
      await say(speaker, turns[turn]);
      for (const chat of chats) assert.deepEqual(words(await texts(chat, turn + 1)), turns.slice(0, turn + 1));
    }
  },

  async "250 messages are read page by page by a member who was away"(cast) {
    const [alice, carol, reader] = await cast.people(cast.nodeIds);
    const hers = await alice.createGroup([carol.inboxId, reader.inboxId], "history");
    const theirs = await invited(carol, hers);
    const his = await invited(reader, hers);
    const said = [];
    for (let index = 0; index < HISTORY; index++) {
      const speaker = index % 2 === 0 ? hers : theirs;
      said.push(`line ${index}`);
      await (index < 2 ? say(speaker, said.at(-1)) : speaker.send(said.at(-1)));
      // The next messages depend on a commit, which came another way.
      if (index % 50 === 25) await speaker.rename(`history up to ${index}`);
    }
    let [read, pages] = [[], 0];
    await eventually("all pages are read", async () => {
      await his.sync();
      const now = await his.texts();
      if (now.length > read.length) pages += 1;
      assert.ok(now.length - read.length <= PAGE, "one sync reads one page");
      assert.deepEqual(words(now), said.slice(0, now.length), "a page is what comes next");
      read = now;
      return read.length >= HISTORY;
    }, 60);
    assert.deepEqual(words(read), said);
    assert.ok(pages >= HISTORY / PAGE, `${pages} pages`);
    assert.equal(his.name, "history up to 225");
  },

  async "100 messages each way, by the stream and again by a sync through another node"(cast) {
    const [alice, bob, carol] = await cast.people(cast.nodeIds);
    const hers = await alice.createGroup([bob.inboxId, carol.inboxId], "each way");
    const his = await invited(bob, hers);
    const third = await invited(carol, hers);
    await say(hers, "hello");
    await say(his, "hello");
    // A stream begins after what its client has read, so each reads both greetings first.
    for (const chat of [hers, his]) await texts(chat, 2);
    const troubles = [];
    const heard = new Map();
    const ends = [];
    for (const person of [alice, bob]) {
      heard.set(person, []);
      const onText = (message) => {
        if (message.chat === hers.id) heard.get(person).push(message);
      };
      ends.push(await person.stream(onText, (error) => troubles.push(error.message)));
    }
    const lines = (name) => Array.from({ length: EACH_WAY }, (_, index) => `${name} ${index}`);
    const speak = async (chat, name) => {
      for (const line of lines(name)) await chat.send(line);
    };
    await Promise.all([speak(hers, "alice"), speak(his, "bob")]);
    const [fromAlice, fromBob] = [lines("alice"), lines("bob")];
    const hears = async (listener, speaker, expected) => {
      await eventually("the stream brings every message", () => {
        const found = wordsOf(heard.get(listener), speaker);
        if (found.length >= EACH_WAY) return true;
        throw new Error(`${found.length} have come`);
      }, 30);
      assert.deepEqual(wordsOf(heard.get(listener), speaker), expected, "once and in order");
    };
    await hears(bob, alice, fromAlice);
    await hears(alice, bob, fromBob);
    for (const chat of [third, hers, his]) {
      const found = await texts(chat, 2 * (1 + EACH_WAY));
      assert.equal(found.length, 2 * (1 + EACH_WAY));
      assert.deepEqual(wordsOf(found, alice), ["hello", ...fromAlice]);
      assert.deepEqual(wordsOf(found, bob), ["hello", ...fromBob]);
    }
    assert.deepEqual(troubles, []);
    for (const end of ends) await end();
    // Nothing came late and twice.
    assert.equal(wordsOf(heard.get(bob), alice).length, EACH_WAY);
    assert.equal(wordsOf(heard.get(alice), bob).length, EACH_WAY);
  },

  async "a stream goes on into conversations that begin later"(cast) {
    const [alice, bob, carol] = await cast.people(cast.nodeIds);
    const [heard, troubles, said] = [[], [], []];
    const end = await bob.stream(({ text }) => heard.push(text), (error) => troubles.push(error.message));
    for (let begun = 0; begun < 5; begun++) {
      const hers = await alice.createGroup([bob.inboxId, carol.inboxId], `later ${begun}`);
      const carols = await invited(carol, hers);
      for (let line = 0; line < 3; line++) {
        for (const [name, chat] of [["alice", hers], ["carol", carols]]) {
          said.push(`${begun}.${line} ${name}`);
          await say(chat, said.at(-1));
        }
      }
    }
    await eventually("the stream brings every message", () => {
      if (heard.length >= said.length) return true;
      throw new Error(`${heard.length} of ${said.length} have come`);
    });
    for (const name of ["alice", "carol"]) {
      for (let begun = 0; begun < 5; begun++) {
        const of = (texts) => texts.filter((text) => text.startsWith(`${begun}.`) && text.endsWith(name));
        assert.deepEqual(of(heard), of(said), "once and in order");
      }
    }
    assert.deepEqual(troubles, []);
    await end();
  },
};
