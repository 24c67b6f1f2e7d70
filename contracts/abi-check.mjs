// Compares compiled interfaces with the published interface of the deployed contracts.

import { createRequire } from "node:module";

const { keccak256 } = createRequire(import.meta.url)("js-sha3");

// Stand-ins of a development chain with further functions: those that a relayer calls and reads.
const MAY_HAVE_MORE = new Set(["ERC20Inbox", "ArbSys"]);

/**
 * Lists every way in which `artifacts` (a Map by name) differ from `expected`, the `contracts` of abi.json: an entry
 * that is missing, one that differs in a name, a type, its mutability, an indexed flag, a selector or a topic, and one
 * that should not be there. Empty if there are none.
 */
export function compareAbis(expected, artifacts) {
  return Object.entries(expected).flatMap(([name, wanted]) => {
    const artifact = artifacts.get(name);
    if (!artifact) return [`${name}: there is no such contract`];
    return compareContract(wanted, artifact.abi, MAY_HAVE_MORE.has(name)).map((line) => `${name}: ${line}`);
  });
}

function compareContract(wanted, abi, mayHaveMore) {
  const differences = [];
  const compare = (kind, published, compiled) => {
    for (const [key, text] of published) {
      if (!compiled.has(key)) differences.push(`${kind} ${key} is missing`);
      else if (compiled.get(key) !== text) differences.push(`${kind} is ${compiled.get(key)}, should be ${text}`);
    }
    for (const key of compiled.keys()) {
      if (!published.has(key) && !mayHaveMore) differences.push(`${kind} ${key} should not be there`);
    }
  };

  const ofType = (type) => abi.filter((entry) => entry.type === type);
  compare("function", published(wanted.functions, functionText), compiled(ofType("function"), functionText));
  compare("event", published(wanted.events, eventText), compiled(ofType("event"), eventText));
  compare("error", published(wanted.errors, errorText), compiled(ofType("error"), errorText));
  if (!wanted.external_dependency) compare("", ...constructors(wanted, ofType("constructor")));
  compare("", fallbacks(wanted.special ?? []), fallbacks([...ofType("fallback"), ...ofType("receive")]));
  return differences;
}

const published = (entries, text) => new Map(entries.map((entry) => [entry.signature, text(entry)]));

function compiled(entries, text) {
  return new Map(
    entries.map((entry) => {
      const signature = `${entry.name}(${entry.inputs.map(canonicalType).join(",")})`;
      const hash = `0x${keccak256(signature)}`;
      return [signature, text({ ...entry, signature, selector: hash.slice(0, 10), topic0: hash })];
    }),
  );
}

function constructors(wanted, found) {
  const text = (entry) => new Map([["constructor", `constructor${inputs(entry.inputs)} ${entry.stateMutability}`]]);
  const none = { inputs: [], stateMutability: "nonpayable" };
  // Every object has something called `constructor`: ask whether this one was given it.
  return [text(Object.hasOwn(wanted, "constructor") ? wanted.constructor : none), text(found[0] ?? none)];
}

const fallbacks = (entries) => new Map(entries.map(({ type, stateMutability }) => [type, `${type} ${stateMutability}`]));

const functionText = (entry) =>
  `${entry.selector} ${entry.signature} ${entry.stateMutability} ${inputs(entry.inputs)} -> ${inputs(entry.outputs)}`;
const eventText = (entry) => `${entry.topic0} ${entry.signature} ${entry.anonymous ?? false} ${inputs(entry.inputs)}`;
const errorText = (entry) => `${entry.selector} ${entry.signature} ${inputs(entry.inputs ?? [])}`;

const inputs = (parameters) => `(${parameters.map(parameterText).join(", ")})`;

function parameterText({ type, name, indexed, components }) {
  return [type, name, indexed ? "indexed" : "", components ? inputs(components) : ""].filter(Boolean).join(" ");
}

function canonicalType({ type, components }) {
  if (!components) return type;
  return `(${components.map(canonicalType).join(",")})${type.slice("tuple".length)}`;
}
