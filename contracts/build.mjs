#!/usr/bin/env node
// Writes artifacts/, one JSON file a contract: name, ABI, init code, runtime code and where its immutables go.
//
//   node build.mjs           compile and write
//   node build.mjs --check   compile and compare: with artifacts/ as it is, with the deployed contracts' interface, and
//                            with the size limits of EIP-170 and EIP-3860; fails on any difference
//
// Either fails if the compiler warns of anything.

import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { compareAbis } from "./abi-check.mjs";
import { compile } from "./compile.mjs";

const root = dirname(fileURLToPath(import.meta.url));
const folder = join(root, "artifacts");
const interfaceFile = join(root, "..", "tests", "vectors", "contracts", "abi.json");

const RUNTIME_BYTES_MAX = 24_576;
const INIT_BYTES_MAX = 49_152;

function main(argument) {
  if (argument !== undefined && argument !== "--check") throw new Error(`unknown argument ${argument}`);
  const { contracts, warnings } = compile();
  const files = new Map([...contracts].map(([name, artifact]) => [`${name}.json`, render(artifact)]));
  if (argument === undefined) write(files);
  const faults = [...warnings, ...(argument === "--check" ? check(files, contracts) : [])];
  for (const fault of faults) console.error(fault);
  if (faults.length > 0) process.exitCode = 1;
  else console.log(`${files.size} contracts ${argument === "--check" ? "are as committed" : "written"}`);
}

const render = (artifact) => `${JSON.stringify(artifact, null, 2)}\n`;

function write(files) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  for (const [file, text] of files) writeFileSync(join(folder, file), text);
}

function check(files, contracts) {
  const expected = JSON.parse(readFileSync(interfaceFile, "utf8")).contracts;
  return [...compareFiles(files), ...compareAbis(expected, contracts), ...oversized(contracts)];
}

function compareFiles(files) {
  const present = new Set(readdirSync(folder));
  const faults = [...present].filter((file) => !files.has(file)).map((file) => `artifacts/${file} has no source`);
  for (const [file, text] of files) {
    if (!present.has(file)) faults.push(`artifacts/${file} is missing: run node build.mjs`);
    else if (readFileSync(join(folder, file), "utf8") !== text) {
      faults.push(`artifacts/${file} is not what the sources compile to: run node build.mjs`);
    }
  }
  return faults;
}

function oversized(contracts) {
  const bytes = (hex) => (hex.length - 2) / 2;
  return [...contracts.values()].flatMap(({ contractName, bytecode, deployedBytecode }) => [
    ...limit(contractName, "runtime code", bytes(deployedBytecode), RUNTIME_BYTES_MAX),
    ...limit(contractName, "init code without arguments", bytes(bytecode), INIT_BYTES_MAX),
  ]);
}

const limit = (name, what, size, max) => (size > max ? [`${name}: ${what} has ${size} bytes, at most ${max} may be`] : []);

main(process.argv[2]);
