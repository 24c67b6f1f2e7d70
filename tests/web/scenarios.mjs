// Scenarios of pages: register, talk, hear, come back, and call servers of other origins.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

import { eventually } from "../clients/lib/wait.mjs";

/** Time for what goes over a chain, or comes by a stream. */
const PATIENCE_SECONDS = 60;

const newKey = () => `0x${randomBytes(32).toString("hex")}`;

/** Waits until a page has loaded its modules. */
async function loaded(page) {
  await eventually("the page has loaded", () => page.run("Boolean(window.page) && !window.isOld"), PATIENCE_SECONDS);
}

async function reload(page) {
  await page.run("window.isOld = true");
  await page.reload();
  await loaded(page);
}

const hears = (page, text) =>
  eventually(`"${text}" is heard`, async () => (await page.call("heard")).includes(text), PATIENCE_SECONDS);

const reads = (page, chat, text) =>
  eventually(`"${text}" is read`, async () => (await page.call("texts", chat, true)).includes(text), PATIENCE_SECONDS);

export const scenarios = {
  async "two pages of different origins register, talk by streams, and go on after a reload"({ way, open }) {
    const [alice, bob] = [await open(0), await open(1)];
    await loaded(alice);
    await loaded(bob);
    assert.notEqual(await alice.run("location.origin"), await bob.run("location.origin"));
    assert.equal(await alice.run("crossOriginIsolated"), true, "the first page asks to be alone");
    assert.equal(await bob.run("crossOriginIsolated"), false);
    const keys = [newKey(), newKey()];
    const hers = await alice.call("enter", way.gateway, keys[0]);
    const his = await bob.call("enter", way.gateway, keys[1]);
    assert.notEqual(hers.inboxId, his.inboxId);

    await bob.call("listen");
    const chat = await alice.call("write", his.inboxId, "hello from a page");
    await hears(bob, "hello from a page");
    await bob.call("answer", chat, "and from another");
    await reads(alice, chat, "and from another");

    await reload(alice);
    const again = await alice.call("enter", way.gateway, keys[0]);
    assert.deepEqual(again, hers, "the same installation, from what the browser has kept");
    const kept = await alice.call("texts", chat, false);
    assert.deepEqual(kept, ["hello from a page", "and from another"], "before anything is asked of a node");
    await alice.call("listen");
    await bob.call("answer", chat, "still here");
    await hears(alice, "still here");
    await alice.call("answer", chat, "here again");
    await hears(bob, "here again");

    const group = await alice.call("gather", [his.inboxId], "a group of pages");
    await hears(bob, "a group of pages");
    await bob.call("answer", group, "in the group");
    await hears(alice, "in the group");
  },

  async "the published client of Connect calls nodes and follows a stream, in JSON and in protobuf"({ way, open }) {
    for (const place of [0, 1]) {
      const page = await open(place);
      await loaded(page);
      for (const url of way.nodes) {
        for (const isBinary of [false, true]) {
          const { version, refused, cursor } = await page.call("connect", url, isBinary);
          assert.match(version, /^\d+\.\d+\.\d+/, url);
          const { code, text, details } = refused;
          assert.deepEqual([code, text], ["InvalidArgument", "payer_addresses cannot be empty"], url);
          assert.ok(details.includes("google.rpc.ErrorInfo"), `${url}: ${details}`);
          assert.ok(Array.isArray(cursor), `${url}: the first message of the stream`);
        }
      }
    }
  },

  async "a page may call every server of other origins, and only with the headers that are allowed"({ way, open }) {
    for (const place of [0, 1]) {
      const page = await open(place);
      await loaded(page);
      for (const url of way.nodes) {
        const { status, body } = await page.call("json", url, "xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion", {
          "x-app-version": "1",
        });
        assert.equal(status, 200, url);
        assert.match(body.version, /^\d+\.\d+\.\d+/, url);
        // The browser asks before it sends a header of its own, and is told no.
        const refused = page.call("json", url, "xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion", { "x-unknown": "1" });
        await assert.rejects(refused, /Failed to fetch/, url);
      }
      for (const service of ["xmtp.xmtpv4.payer_api.PayerApi", "xmtp.xmtpv4.gateway_api.GatewayApi"]) {
        const { status, trailers } = await page.call("web", way.gateway, `${service}/GetNodes`);
        assert.equal(status, 200, service);
        assert.match(trailers, /grpc-status:\s*0/, service);
      }
      // A server that says nothing of CORS is not read: without this, what is above would show nothing.
      const other = way.pages[1 - place];
      await assert.rejects(page.call("json", other.slice(0, -1), "index.html", {}), /Failed to fetch/);
    }
    if (!way.nginx) return;
    const passed = way.nginx.passed();
    for (const page of way.pages) {
      const origin = page.slice(0, -1);
      const asked = passed.filter((each) => each.method === "OPTIONS" && each.origin === origin);
      assert.ok(asked.some(({ status }) => status === 204), `preflights of ${origin} reach the servers`);
    }
    const broken = passed.filter(({ status }) => status >= 500);
    assert.deepEqual(broken, [], "no server failed behind the proxy");
  },
};
