// Uses the development chain as a program with ethers does: node ethers.mjs RPC_URL
//
// Needs what scripts/contract-tools installs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const contracts = new URL("../../../contracts/", import.meta.url);
const { ethers } = createRequire(contracts)("ethers");

const provider = new ethers.JsonRpcProvider(process.argv[2], undefined, { cacheTimeout: -1, pollingInterval: 50 });
const send = (method, ...params) => provider.send(method, params);
const artifact = (name) => JSON.parse(readFileSync(new URL(`artifacts/${name}.json`, contracts), "utf8"));

async function deploy(name, signer, ...args) {
  const { abi, bytecode } = artifact(name);
  const contract = await new ethers.ContractFactory(abi, bytecode, signer).deploy(...args);
  return contract.waitForDeployment();
}

const mined = async (sent) => (await sent).wait();
const step = (name) => console.log(`ok ${name}`);

// The usual ten accounts, and signatures by the chain.
const accounts = await provider.listAccounts();
assert.equal(accounts.length, 10);
const [first, second] = accounts;
assert.equal(first.address, "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
const message = "signed by the chain";
assert.equal(ethers.verifyMessage(message, await second.signMessage(message)), second.address);
step("accounts");

// Transfers: signed by the chain, and signed here.
const stranger = ethers.Wallet.createRandom().connect(provider);
await mined(first.sendTransaction({ to: stranger.address, value: ethers.parseEther("2") }));
const receipt = await mined(stranger.sendTransaction({ to: second.address, value: 5n }));
assert.equal(receipt.status, 1);
assert.equal(receipt.from, stranger.address);
const left = ethers.parseEther("2") - 5n - receipt.fee;
assert.equal(await provider.getBalance(stranger.address), left);
assert.equal(await provider.getTransactionCount(stranger.address), 1);
const found = await provider.getTransaction(receipt.hash);
assert.equal(found.blockHash, receipt.blockHash);
const fees = await provider.getFeeData();
assert.ok(fees.maxFeePerGas > 0n && fees.maxPriorityFeePerGas > 0n);
step("transfers");

// A contract: deployment, calls, events, errors, storage.
const token = await deploy("MockUnderlyingFeeToken", first, ethers.ZeroAddress);
const heard = new Promise((resolve) => token.once("Transfer", (from, to, amount) => resolve([from, to, amount])));
await provider.getBlockNumber();
await mined(token.mint(second.address, 70n));
assert.deepEqual(await heard, [ethers.ZeroAddress, second.address, 70n]);
assert.equal(await token.balanceOf(second.address), 70n);
const past = await token.queryFilter(token.filters.Transfer(null, second.address), 0, "latest");
assert.deepEqual(past.map((event) => event.args.value ?? event.args[2]), [70n]);
await assert.rejects(token.mint.staticCall(ethers.ZeroAddress, 1n), (error) => {
  assert.equal(error.code, "CALL_EXCEPTION");
  assert.equal(error.revert.name, "ERC20InvalidReceiver");
  return true;
});
await assert.rejects(token.mint(ethers.ZeroAddress, 1n), { code: "CALL_EXCEPTION", action: "estimateGas" });
const wallet = await deploy("WalletHarness", first, second.address);
await assert.rejects(wallet.isValidSignature(ethers.ZeroHash, "0x01"), { reason: "as told" });
assert.equal(ethers.toBeHex(await provider.getStorage(wallet.target, 0), 20), second.address.toLowerCase());
step("contracts");

// Nested calls of a trace, also into code that no transaction deployed.
const factory = await deploy("WalletFactoryHarness", first);
const made = await factory.deploy.staticCall(second.address, ethers.id("salt"));
const making = await mined(factory.deploy(second.address, ethers.id("salt")));
const trace = (hash, config) =>
  send("debug_traceTransaction", hash, { tracer: "callTracer", tracerConfig: config ?? {} });
const frame = await trace(making.hash);
assert.equal(frame.calls.length, 1);
assert.equal(frame.calls[0].type, "CREATE2");
assert.equal(ethers.getAddress(frame.calls[0].to), made);
assert.equal((await trace(making.hash, { onlyTopCall: true })).calls, undefined);
const [outer, inner] = ["0x00000000000000000000000000000000000000c1", "0x00000000000000000000000000000000000000c2"];
await send("anvil_setCode", outer, `0x5f5f5f5f5f73${inner.slice(2)}5af100`);
await send("anvil_setCode", inner, "0x5f5ffd");
const forwarded = await mined(first.sendTransaction({ to: outer, gasLimit: 200_000 }));
const [call] = (await trace(forwarded.hash)).calls;
assert.deepEqual([call.type, call.from, call.to, call.error], ["CALL", outer, inner, "execution reverted"]);
step("traces");

// Time: blocks made at once lead the clock, and the next one is later by all that was asked for.
for (let value = 0n; value < 20n; value += 1n) await mined(first.sendTransaction({ to: second.address, value }));
const before = await provider.getBlock("latest");
await send("evm_increaseTime", 1000);
await send("evm_mine");
const after = await provider.getBlock("latest");
assert.ok(after.timestamp >= before.timestamp + 1000, `${after.timestamp} after ${before.timestamp}`);
step("time");

// Snapshots.
const snapshot = await send("evm_snapshot");
await mined(token.mint(second.address, 1n));
assert.equal(await send("evm_revert", snapshot), true);
assert.equal(await token.balanceOf(second.address), 70n);
step("snapshots");

// The proof of an account begins at the state root of its block.
const proof = await send("eth_getProof", token.target, [ethers.ZeroHash], "latest");
assert.equal(ethers.keccak256(proof.accountProof[0]), (await send("eth_getBlockByNumber", "latest", false)).stateRoot);
assert.equal(proof.codeHash, ethers.keccak256(await provider.getCode(token.target)));
step("proofs");

provider.destroy();
