// Runs published clients against a network of `hawser dev`. See docs/clients.md.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { Cast, Gateways } from "./lib/cast.mjs";
import { Network } from "./lib/network.mjs";
import { sdk5, sdk6 } from "./lib/node-client.mjs";
import { givenUp } from "./lib/patience.mjs";
import { within } from "./lib/wait.mjs";
import { sdkWeb } from "./lib/wasm-client.mjs";
import * as browser from "./scenarios/browser.mjs";
import * as newer from "./scenarios/newer.mjs";
import * as order from "./scenarios/order.mjs";
import * as outage from "./scenarios/outage.mjs";
import * as people from "./scenarios/people.mjs";
import * as talk from "./scenarios/talk.mjs";
import * as together from "./scenarios/together.mjs";

/** So long may a scenario take before it counts as hanging. */
const SCENARIO_SECONDS = 150;
/** So many sends of all may not be seen again by their clients in time: one in 400. */
const GIVEN_UP_MAX = 6;

const shared = { ...talk.scenarios, ...people.scenarios, ...order.scenarios };
const suites = [
  { name: sdk5.name, sdk: sdk5, scenarios: shared },
  { name: sdk6.name, sdk: sdk6, scenarios: { ...shared, ...newer.scenarios } },
  {
    name: sdkWeb.name,
    sdk: sdkWeb,
    scenarios: { ...browser.scenarios, ...shared, ...newer.scenarios, ...newer.proposals },
  },
  { name: "together", scenarios: together.scenarios([sdk5, sdk6, sdkWeb]) },
  { name: "outage", scenarios: outage.scenarios([sdk5, sdk6], sdkWeb) },
];

const { values: options } = parseArgs({
  options: {
    hawser: { type: "string", default: "hawser" },
    network: { type: "string" },
    anvil: { type: "boolean", default: false },
    only: { type: "string", multiple: true },
    "client-log": { type: "string", default: "Off" },
    keep: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
  },
});

const wanted = (suite, name) =>
  !options.only || options.only.some((part) => `${suite.name}: ${name}`.includes(part));

async function runAll(network, folder) {
  const gateways = new Gateways(network);
  const counts = { passed: 0, failed: [] };
  for (const suite of suites) {
    const chosen = Object.entries(suite.scenarios).filter(([name]) => wanted(suite, name));
    if (chosen.length > 0) console.log(`\n${suite.name}`);
    for (const [name, scenario] of chosen) {
      const cast = new Cast({
        network,
        gateways,
        folder: mkdtempSync(join(folder, "clients-")),
        logLevel: options["client-log"],
        sdk: suite.sdk,
      });
      const logEnds = network.logEnds();
      const start = performance.now();
      const took = () => `${((performance.now() - start) / 1000).toFixed(1).padStart(6)} s`;
      try {
        await within("the scenario", SCENARIO_SECONDS, scenario(cast));
        console.log(`  ok   ${took()}  ${name}`);
        counts.passed += 1;
      } catch (error) {
        console.log(`  FAIL ${took()}  ${name}`);
        console.log(indented(error.stack ?? String(error)));
        const complaints = network.complaintsSince(logEnds);
        if (complaints.length > 0) console.log(indented(["the network says:", ...complaints].join("\n")));
        counts.failed.push(`${suite.name}: ${name}`);
      }
      await cast.close();
    }
  }
  gateways.close();
  return counts;
}

const indented = (text) => text.split("\n").map((line) => `       ${line}`).join("\n");

async function openNetwork(folder) {
  if (options.network) return Network.join(options.network);
  return Network.start({ hawser: options.hawser, folder, anvil: options.anvil });
}

async function main() {
  if (options.list) {
    for (const suite of suites) {
      for (const name of Object.keys(suite.scenarios)) console.log(`${suite.name}: ${name}`);
    }
    return 0;
  }
  const folder = mkdtempSync(join(tmpdir(), "hawser-clients-"));
  const start = performance.now();
  const tidy = () => {
    if (options.keep) console.log(`Everything is kept in ${folder}`);
    else rmSync(folder, { recursive: true, force: true });
  };
  const network = await openNetwork(folder).catch((error) => {
    tidy();
    throw error;
  });
  const chains = options.anvil ? "anvil" : "embedded chains";
  console.log(`${network.nodes.length} nodes, gateway ${network.gateway}, ${chains}`);
  const stopAll = async () => {
    await network.stop();
    tidy();
  };
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => stopAll().then(() => process.exit(130)));
  }
  const { passed, failed } = await runAll(network, folder).finally(stopAll);
  const seconds = Math.round((performance.now() - start) / 1000);
  console.log(`\n${passed} passed, ${failed.length} failed in ${seconds} s (${chains})`);
  for (const name of failed) console.log(`  FAIL ${name}`);
  if (givenUp() > 0) console.log(`  ${givenUp()} sends were not seen again by their clients in time`);
  return failed.length === 0 && passed > 0 && givenUp() <= GIVEN_UP_MAX ? 0 : 1;
}

// Node.js ends without an error when nothing is left to wait for, also in the middle of the tests.
process.exitCode = 1;
// Work that clients leave running in the background ends with the process.
main().then(
  (code) => process.exit(code),
  (error) => {
    console.error(error.message ?? error);
    process.exit(1);
  },
);
