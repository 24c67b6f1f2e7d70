// Members of a conversation, and the wallets and installations of a person.

import assert from "node:assert/strict";

import { invited, newWallet, say, texts, words } from "../lib/cast.mjs";
import { eventually, sleep } from "../lib/wait.mjs";

/** Clients look for new and revoked installations of members when they send, but not more often. */
const LOOK_AGAIN_MS = 5200;

/** Waits until a message of the speaker has arrived, so that both are equally far. */
async function agree(speaker, listener, text) {
  await say(speaker, text);
  await eventually(`"${text}" arrives`, async () => {
    await listener.sync();
    return words(await listener.texts()).includes(text);
  });
}

export const scenarios = {
  async "members are added and removed"(cast) {
    const [alice, bob, carol] = await cast.people(cast.nodeIds);
    const hers = await alice.createGroup([bob.inboxId], "guests");
    const his = await invited(bob, hers);
    await agree(hers, his, "before carol");
    await hers.add([carol.inboxId]);
    const carols = await invited(carol, hers);
    await agree(carols, his, "carol is here");
    assert.equal((await his.members()).length, 3);
    assert.ok(!words(await carols.texts()).includes("before carol"), "a new member reads nothing old");
    await hers.remove([carol.inboxId]);
    await agree(hers, his, "carol is gone");
    await eventually("who was removed is told", async () => {
      await carols.sync();
      return !carols.isActive;
    });
    assert.ok(!words(await carols.texts()).includes("carol is gone"));
    assert.deepEqual(new Set(await his.members()), new Set([alice.inboxId, bob.inboxId]));
    await assert.rejects(carols.send("still here?"));
    await hers.add([carol.inboxId]);
    await eventually("who is added again is back", async () => {
      await carol.sync();
      return (await carol.chat(hers.id)).isActive;
    });
    await agree(await carol.chat(hers.id), his, "back again");
  },

  async "a second installation joins, reads, writes and is revoked"(cast) {
    const [here, there, elsewhere] = cast.nodeIds;
    const alice = await cast.person({ node: here });
    const phone = await cast.person({ node: there, deviceSync: true });
    const hers = await alice.dm(phone.inboxId);
    await hers.send("to one device");
    const onPhone = await invited(phone, hers);
    await texts(onPhone, 1);
    const laptop = await cast.another(phone, { node: elsewhere, deviceSync: true });
    assert.equal(laptop.inboxId, phone.inboxId);
    assert.notEqual(laptop.installationId, phone.installationId);
    assert.equal((await phone.inbox()).installations.length, 2);
    await sleep(LOOK_AGAIN_MS);
    await say(hers, "to both devices");
    const onLaptop = await invited(laptop, hers);
    await eventually("the laptop reads", async () => {
      await onLaptop.sync();
      return words(await onLaptop.texts()).includes("to both devices");
    });
    await say(onLaptop, "from the laptop");
    await agree(hers, onPhone, "one more");
    assert.deepEqual(words(await texts(onPhone, 4)), [
      "to one device", "to both devices", "from the laptop", "one more",
    ]);
    await phone.revokeInstallation(laptop.installationId);
    assert.deepEqual((await phone.inbox()).installations, [phone.installationId]);
    await sleep(LOOK_AGAIN_MS);
    await agree(hers, onPhone, "to one device again");
    await eventually("the laptop is out", async () => {
      await onLaptop.sync();
      return !onLaptop.isActive;
    });
    assert.ok(!words(await onLaptop.texts()).includes("to one device again"));
    assert.equal((await alice.findInbox(phone.wallet.address)), phone.inboxId);
  },

  async "a second wallet is linked, found, and unlinked"(cast) {
    const [alice, bob] = await cast.people(cast.nodeIds.slice(0, 2));
    const second = newWallet();
    await alice.linkWallet(second);
    const addresses = [alice.wallet.address, second.address].map((address) => address.toLowerCase());
    assert.deepEqual(new Set((await alice.inbox()).addresses), new Set(addresses));
    await eventually("the second wallet is found", async () => {
      assert.deepEqual(await bob.canMessage([second.address]), [true]);
      return true;
    });
    assert.equal(await bob.findInbox(second.address), alice.inboxId);
    const his = await bob.dmWithAddress(second.address);
    await his.send("to your other wallet");
    const hers = await invited(alice, his);
    assert.deepEqual(words(await texts(hers, 1)), ["to your other wallet"]);
    await alice.unlinkWallet(second.address);
    assert.deepEqual((await alice.inbox()).addresses, [alice.wallet.address.toLowerCase()]);
    const carol = await cast.person({ node: cast.nodeIds[2] });
    await eventually("the second wallet has no inbox", async () => {
      assert.deepEqual(await carol.canMessage([second.address]), [false]);
      return true;
    });
  },

  async "a member leaves"(cast) {
    const [alice, bob, carol] = await cast.people(cast.nodeIds);
    const hers = await alice.createGroup([bob.inboxId, carol.inboxId], "open door");
    const his = await invited(bob, hers);
    const carols = await invited(carol, hers);
    await agree(his, carols, "goodbye");
    await his.leave();
    await eventually("who leaves is taken out", async () => {
      await alice.sync();
      await carols.sync();
      return (await carols.members()).length === 2;
    }, 40);
    await agree(hers, carols, "he is gone");
    await his.sync();
    assert.ok(!his.isActive);
    assert.ok(!words(await his.texts()).includes("he is gone"));
  },
};
