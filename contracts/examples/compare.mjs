// Checks that three ways of reading say the same, whatever the order of their keys:
//
//   node compare.mjs ALLOY ETHERS NODES RATES PAYER
//
// ALLOY and ETHERS are what the examples print, the others what the hawser commands print.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const [alloy, ethers, nodes, rates, payer] = process.argv
  .slice(2)
  .map((path) => JSON.parse(readFileSync(path, "utf8")));
assert.deepEqual(ethers, alloy, "ethers and alloy read different things");
assert.deepEqual({ nodes, rates, balance: payer.balance }, alloy, "hawser and alloy read different things");
console.log("alloy, ethers and hawser read the same.");
