// Further scenarios for clients from 6.1 on.

import assert from "node:assert/strict";

import { invited, say, texts, words } from "../lib/cast.mjs";

export const scenarios = {
  async "a registration is waited for until every node shows it"(cast) {
    const { network } = cast;
    for (let person = 0; person < 5; person++) {
      const { inboxId } = await cast.person({ visibleAt: network.nodeIds.length });
      for (const node of network.nodeIds) {
        const other = await cast.person({ node });
        const chat = await other.dm(inboxId);
        await chat.send("welcome");
      }
    }
  },
};

/** For packages that offer it. */
export const proposals = {
  async "members change by proposals and their commit in one publish"(cast) {
    const [alice, bob, carol, dave] = await cast.people([...cast.nodeIds, cast.nodeIds[0]]);
    const hers = await alice.createGroup([bob.inboxId], "proposals");
    const his = await invited(bob, hers);
    await hers.enableProposals();
    await hers.send("first");
    await texts(his, 1);
    await hers.add([carol.inboxId, dave.inboxId]);
    const carols = await invited(carol, hers);
    const daves = await invited(dave, hers);
    await hers.remove([dave.inboxId]);
    await say(carols, "second");
    assert.deepEqual(words(await texts(his, 2)), ["first", "second"]);
    await daves.sync();
    assert.ok(!daves.isActive);
    const expected = new Set([alice, bob, carol].map((person) => person.inboxId));
    for (const chat of [hers, his, carols]) {
      await chat.sync();
      assert.deepEqual(new Set(await chat.members()), expected);
    }
  },
};
