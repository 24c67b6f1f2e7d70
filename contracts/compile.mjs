// Compiles src/ with the pinned compiler, in memory.

import { createRequire } from "node:module";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const root = dirname(fileURLToPath(import.meta.url));

const SETTINGS = {
  evmVersion: "cancun",
  optimizer: { enabled: true, runs: 1000 },
  // Nothing but code in the bytecode: neither a hash of the sources nor the compiler's version.
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: {
    "*": {
      "": ["ast"],
      "*": [
        "abi",
        "evm.bytecode.object",
        "evm.bytecode.linkReferences",
        "evm.deployedBytecode.object",
        "evm.deployedBytecode.immutableReferences",
      ],
    },
  },
};

/**
 * Compiles every file below src/.
 *
 * Returns the deployable contracts by name, and what the compiler warns of in our own files. Throws with the compiler's
 * own words if something does not compile, or if two contracts share a name.
 */
export function compile() {
  const solc = require("solc");
  const input = { language: "Solidity", sources: readSources(), settings: SETTINGS };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: readImport }));

  const messages = output.errors ?? [];
  const errors = messages.filter((message) => message.severity === "error");
  if (errors.length > 0) throw new Error(errors.map((error) => error.formattedMessage).join("\n"));

  const contracts = new Map();
  for (const path of Object.keys(input.sources).sort()) {
    for (const name of deployableContracts(output.sources[path].ast)) {
      if (contracts.has(name)) throw new Error(`two contracts are called ${name}; the second is in ${path}`);
      contracts.set(name, artifact(name, output.contracts[path][name]));
    }
  }
  const ours = messages.filter((message) => message.sourceLocation?.file.startsWith("src/"));
  return { contracts, warnings: ours.map((message) => message.formattedMessage) };
}

function readSources() {
  const entries = readdirSync(join(root, "src"), { recursive: true, withFileTypes: true });
  const sources = {};
  for (const entry of entries) {
    if (!entry.isFile() || !entry.name.endsWith(".sol")) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    sources[relative(root, path).split(sep).join("/")] = { content: readFileSync(path, "utf8") };
  }
  return Object.fromEntries(Object.entries(sources).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function readImport(path) {
  try {
    return { contents: readFileSync(join(root, "node_modules", path), "utf8") };
  } catch {
    return { error: `${path} is not in src/ or node_modules/: run npm ci first` };
  }
}

function deployableContracts(ast) {
  return ast.nodes
    .filter((node) => node.nodeType === "ContractDefinition" && node.contractKind === "contract" && !node.abstract)
    .map((node) => node.name);
}

function artifact(contractName, { abi, evm }) {
  if (Object.keys(evm.bytecode.linkReferences).length > 0) {
    throw new Error(`${contractName} calls a library from outside: make the library's functions internal`);
  }
  return {
    contractName,
    abi,
    bytecode: `0x${evm.bytecode.object}`,
    deployedBytecode: `0x${evm.deployedBytecode.object}`,
    ...immutables(evm.deployedBytecode.immutableReferences),
  };
}

// The compiler names immutables by numbers of its syntax tree, which move with every edit anywhere; only places count.
function immutables(references) {
  const places = Object.values(references ?? {})
    .flat()
    .sort((a, b) => a.start - b.start);
  return places.length > 0 ? { immutableReferences: places } : {};
}
