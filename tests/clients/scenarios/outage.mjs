// A node dies in the middle of a conversation, without a word. To be run last.

import assert from "node:assert/strict";

import { Caller } from "../lib/call.mjs";
import { invited, say, texts, words, wordsOf } from "../lib/cast.mjs";
import { eventually, sleep } from "../lib/wait.mjs";

const SAID = 40;
const DIES_AFTER = 10;

/** Originators below count chains. */
const FIRST_NODE = 100;
/** The kind of topic. */
const GROUP_MESSAGES = 0;

/**
 * Clients read what comes from the chain in whole seconds, and so before what was said within the
 * same second. Of the past they keep the keys of a few epochs only, and each member that speaks for the
 * first time begins a new one: a member that is away for all of them needs some to be in another second.
 */
const anotherSecond = () => sleep(1100);

/** The node that orders the conversation's messages. */
async function nodeOf(network, chat) {
  const caller = new Caller(network.node(network.nodeIds[0]).grpc);
  const topic = Buffer.concat([Buffer.from([GROUP_MESSAGES]), Buffer.from(chat.id, "hex")]);
  const nodes = await eventually("a message arrives at every node", async () => {
    const found = await caller.originatorsOf(topic);
    const nodes = new Set(found.filter((originator) => originator >= FIRST_NODE));
    return nodes.size > 0 && nodes;
  });
  caller.close();
  assert.equal(nodes.size, 1, `the gateway keeps a conversation on one node: ${[...nodes]}`);
  return [...nodes][0];
}

/** New people of each version begin conversations with an old one. */
async function newcomersReach(person, cast, sdks) {
  for (const sdk of sdks) {
    const newcomer = await cast.person({ sdk });
    const chat = await newcomer.dm(person.inboxId);
    await chat.send("hello");
    assert.deepEqual(words(await texts(await invited(person, chat), 1)), ["hello"]);
  }
}

/** `sdks` can be opened again from a file, which that of browsers cannot. */
export function scenarios(sdks, browsers) {
  return {
    async "a node is killed, and the conversation goes on through the others"(cast) {
      const people = [];
      for (const sdk of [...sdks, ...sdks]) people.push(await cast.person({ sdk }));
      const [host, ...guests] = people;
      const first = await host.createGroup(guests.map((guest) => guest.inboxId), "outage");
      await first.send("before");
      const doomed = await nodeOf(cast.network, first);
      const living = cast.network.nodeIds.filter((id) => id !== doomed);

      // One of each version on the node that dies, one of each on nodes that live.
      const middle = sdks.length;
      for (const [index, person] of people.entries()) {
        const node = index < middle ? living[index % living.length] : doomed;
        people[index] = await cast.reopen(person, { node });
      }
      const chats = [];
      for (const person of people) chats.push(await invited(person, first));
      for (const chat of chats) await texts(chat, 1);
      const listener = people[1];
      const heard = [];
      const end = await listener.stream((message) => heard.push(message));

      const said = [];
      for (let index = 0; index < SAID; index++) {
        if (index === DIES_AFTER) cast.network.kill(doomed);
        said.push(`line ${index}`);
        await chats[0].send(said.at(-1));
      }
      await anotherSecond();
      await say(chats[1], "and I");
      await eventually("the stream on a living node brings everything", () => {
        return wordsOf(heard, people[0]).length >= SAID;
      }, 40);
      assert.deepEqual(wordsOf(heard, people[0]), said, "once and in order");
      await end();
      await anotherSecond();

      const page = await cast.person({ sdk: browsers, node: living[0] });
      await chats[1].add([page.inboxId]);
      const onPage = await invited(page, first);
      await say(onPage, "a page is there");
      await texts(chats[0], SAID + 3);
      await anotherSecond();

      const everything = ["before", ...said, "and I", "a page is there"];
      for (const chat of chats.slice(0, middle)) {
        assert.deepEqual(words(await texts(chat, everything.length)), everything);
      }
      for (const person of people.slice(middle)) {
        const back = await cast.reopen(person);
        const chat = await invited(back, first);
        assert.deepEqual(words(await texts(chat, everything.length, 40)), everything);
        await say(chat, "back");
        await anotherSecond();
        everything.push("back");
      }
      assert.deepEqual(words(await texts(onPage, 3)), everything.slice(-3));
      assert.deepEqual(words(await texts(chats[0], everything.length)), everything);

      await newcomersReach(people[0], cast, sdks);
    },
  };
}
