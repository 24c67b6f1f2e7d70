// Reads nodes, rates and a payer's balance with ethers:
//
//   node contracts/examples/read-back.mjs RPC_URL CHAIN_JSON PAYER
//
// Needs what scripts/contract-tools installs.

import { readFileSync } from "node:fs";
import { Contract, JsonRpcProvider, formatUnits } from "ethers";

const [rpcUrl, chainJson, payer] = process.argv.slice(2);
const addresses = JSON.parse(readFileSync(chainJson, "utf8"));
const provider = new JsonRpcProvider(rpcUrl);

const contract = (name, address) => {
  const artifact = new URL(`../artifacts/${name}.json`, import.meta.url);
  return new Contract(address, JSON.parse(readFileSync(artifact, "utf8")).abi, provider);
};
const nodeRegistry = contract("NodeRegistry", addresses.nodeRegistry);
const rateRegistry = contract("RateRegistry", addresses.rateRegistry);
const payerRegistry = contract("PayerRegistry", addresses.payerRegistry);

const nodes = [];
for (const { nodeId, node } of await nodeRegistry.getAllNodes()) {
  nodes.push({
    nodeId: Number(nodeId),
    owner: await nodeRegistry.ownerOf(nodeId),
    signer: node.signer,
    isCanonical: node.isCanonical,
    signingPublicKey: node.signingPublicKey,
    httpAddress: node.httpAddress,
  });
}

const count = await rateRegistry.getRatesCount();
const rates = (await rateRegistry.getRates(0, count)).map((entry, index) => ({
  index,
  messageFee: Number(entry.messageFee),
  storageFee: Number(entry.storageFee),
  congestionFee: Number(entry.congestionFee),
  targetRatePerMinute: Number(entry.targetRatePerMinute),
  startTime: Number(entry.startTime),
}));

const microdollars = await payerRegistry.getBalance(payer);
const balance = {
  microdollars: microdollars.toString(),
  usd: formatUnits(microdollars, 6).replace(/\.?0+$/, ""),
};

console.log(JSON.stringify({ nodes, rates, balance }));
