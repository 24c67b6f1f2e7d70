// Runs the published packages for browsers in Chromium, against a network of `hawser dev`. See docs/clients.md.

import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { Network } from "../clients/lib/network.mjs";
import { steer } from "../clients/lib/steer.mjs";
import { within } from "../clients/lib/wait.mjs";
import { Chromium } from "./lib/chromium.mjs";
import { Nginx } from "./lib/nginx.mjs";
import { serveOrigin } from "./lib/origin.mjs";
import { checkReport } from "./lib/report.mjs";
import { scenarios } from "./scenarios.mjs";

/** So long may a scenario take before it counts as hanging. */
const SCENARIO_SECONDS = 240;
/** Names of the browser, Debian's first. */
const PROGRAMS = ["chromium", "chromium-browser"];

const { values: options } = parseArgs({
  options: {
    hawser: { type: "string", default: "hawser" },
    only: { type: "string", multiple: true },
    keep: { type: "boolean", default: false },
  },
});

function browserProgram() {
  const found = PROGRAMS.find((name) => spawnSync(name, ["--version"], { stdio: "ignore" }).status === 0);
  if (!found) throw new Error(`no browser: install ${PROGRAMS[0]}`);
  return found;
}

const indented = (text) => text.split("\n").map((line) => `       ${line}`).join("\n");

/** The ways to the network: without anything between, and with nginx and TLS before every server. */
async function waysTo(network, origins, folder, closers) {
  const [first, second] = origins;
  const directly = {
    name: "directly",
    pages: [`http://localhost:${first.port}/`, `http://127.0.0.1:${second.port}/`],
    gateway: `http://${network.gateway}`,
    nodes: network.nodes.map((node) => `http://${node.grpc}`),
  };
  const urls = new Map();
  const steered = await steer(network.gateway, { urlOf: (id) => urls.get(id) });
  closers.push(() => steered.close());
  const servers = [
    new URL(steered.webUrl).host,
    ...origins.map(({ port }) => `127.0.0.1:${port}`),
    ...network.nodes.map((node) => node.grpc),
  ];
  const nginx = await Nginx.start(join(folder, "nginx"), servers);
  closers.push(() => nginx.stop());
  const [gateway, one, other, ...nodes] = nginx.urls;
  network.nodes.forEach((node, place) => urls.set(node.node_id, nodes[place]));
  const throughNginx = { name: "through nginx with TLS", pages: [`${one}/`, `${other}/`], gateway, nodes, nginx };
  return [directly, throughNginx];
}

async function runAll({ network, ways, browser }) {
  const counts = { passed: 0, failed: [] };
  for (const way of ways) {
    console.log(`\n${way.name}`);
    for (const [name, scenario] of Object.entries(scenarios)) {
      if (options.only && !options.only.some((part) => `${way.name}: ${name}`.includes(part))) continue;
      const pages = [];
      const open = async (place) => {
        const page = await browser.open(way.pages[place]);
        pages.push(page);
        return page;
      };
      const logEnds = network.logEnds();
      const start = performance.now();
      const took = () => `${((performance.now() - start) / 1000).toFixed(1).padStart(6)} s`;
      try {
        await within("the scenario", SCENARIO_SECONDS, scenario({ way, open }));
        console.log(`  ok   ${took()}  ${name}`);
        counts.passed += 1;
      } catch (error) {
        console.log(`  FAIL ${took()}  ${name}`);
        console.log(indented(error.stack ?? String(error)));
        for (const [place, page] of pages.entries()) {
          if (page.lines.length > 0) console.log(indented([`page ${place + 1} says:`, ...page.lines].join("\n")));
        }
        const complaints = network.complaintsSince(logEnds);
        if (complaints.length > 0) console.log(indented(["the network says:", ...complaints].join("\n")));
        counts.failed.push(`${way.name}: ${name}`);
      }
      for (const page of pages) await page.close().catch(() => {});
    }
  }
  return counts;
}

/** Looks at the report of an audit of this network. `--keep` keeps the pictures. */
async function lookAtReport(place, counts) {
  const name = "the report of an audit: on a desk and on a phone";
  if (options.only && !options.only.some((part) => name.includes(part))) return;
  console.log("\nfrom a file");
  try {
    await within("the scenario", SCENARIO_SECONDS, checkReport(place));
    console.log(`  ok   ${name}`);
    counts.passed += 1;
  } catch (error) {
    console.log(`  FAIL ${name}`);
    console.log(indented(error.stack ?? String(error)));
    counts.failed.push(name);
  }
}

async function main() {
  const program = browserProgram();
  const folder = mkdtempSync(join(tmpdir(), "hawser-web-"));
  const start = performance.now();
  const closers = [];
  const closeAll = async () => {
    for (const close of closers.reverse().splice(0)) await close();
    if (options.keep) console.log(`Everything is kept in ${folder}`);
    else rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  };
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => closeAll().then(() => process.exit(130)));
  }
  try {
    const network = await Network.start({ hawser: options.hawser, folder, nodes: 2 });
    closers.push(() => network.stop());
    const origins = [await serveOrigin({ isolated: true }), await serveOrigin()];
    closers.push(() => origins.forEach((origin) => origin.close()));
    const ways = await waysTo(network, origins, folder, closers);
    const browser = await Chromium.start({
      program,
      folder: join(folder, "profile"),
      trusted: [ways[1].nginx.keyHash],
    });
    closers.push(() => browser.stop());
    const counts = await runAll({ network, ways, browser });
    await lookAtReport({ hawser: options.hawser, network, browser, folder }, counts);
    const { passed, failed } = counts;
    const seconds = Math.round((performance.now() - start) / 1000);
    console.log(`\n${passed} passed, ${failed.length} failed in ${seconds} s`);
    for (const name of failed) console.log(`  FAIL ${name}`);
    return failed.length === 0 && passed > 0 ? 0 : 1;
  } finally {
    await closeAll();
  }
}

// Node.js ends without an error when nothing is left to wait for, also in the middle of the tests.
process.exitCode = 1;
main().then(
  (code) => process.exit(code),
  (error) => {
    console.error(error.stack ?? error);
    process.exit(1);
  },
);
