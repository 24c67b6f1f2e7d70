// A network of `hawser dev` for the time of the tests, or one that runs already.

import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

import { freePort } from "./ports.mjs";
import { sleep } from "./wait.mjs";

const START_SECONDS = 180;
const STOP_SECONDS = 30;

/** A port that is free together with those that a network of so many nodes takes beside it. */
function freeBasePort(nodes) {
  const offsets = [2, 3, 10, 11];
  for (let node = 0; node < nodes; node++) offsets.push(node * 100, node * 100 + 1);
  return freePort(offsets);
}

export class Network {
  #process;
  #said = "";

  /** Starts `hawser dev` with its data in `folder` and waits until it says that it is ready. */
  static async start({ hawser, folder, anvil = false, nodes = 3 }) {
    const network = new Network();
    const base = await freeBasePort(nodes);
    const dataDir = join(folder, "network");
    const args = ["dev", "--data-dir", dataDir, "--base-port", String(base), "--nodes", String(nodes)];
    if (anvil) args.push("--anvil");
    network.#process = spawn(hawser, args, { stdio: ["ignore", "pipe", "pipe"] });
    const hear = (data) => (network.#said = (network.#said + data).slice(-20000));
    network.#process.stdout.on("data", hear);
    network.#process.stderr.on("data", hear);
    network.#process.on("error", (error) => hear(`${error}\n`));
    const file = join(dataDir, "network.json");
    try {
      const end = Date.now() + START_SECONDS * 1000;
      while (!existsSync(file)) {
        if (network.ended) throw new Error("hawser dev has ended");
        if (Date.now() > end) throw new Error(`hawser dev was not ready within ${START_SECONDS} s`);
        await sleep(50);
      }
    } catch (error) {
      await network.stop();
      throw new Error(`${error.message}\n${network.#said}`);
    }
    network.#read(file);
    network.dataDir = dataDir;
    return network;
  }

  /** A network that another program has started and will stop. */
  static join(file) {
    const network = new Network();
    network.#read(file);
    return network;
  }

  #read(file) {
    this.description = JSON.parse(readFileSync(file, "utf8"));
    this.nodes = this.description.nodes;
    this.nodeIds = this.nodes.map((node) => node.node_id);
    this.gateway = this.description.gateway?.grpc;
    if (!this.gateway) throw new Error(`${file} names no gateway`);
  }

  get ended() {
    const { exitCode, signalCode } = this.#process;
    return exitCode !== null || signalCode !== null;
  }

  node(nodeId) {
    return this.nodes.find((node) => node.node_id === nodeId);
  }

  /** Ends a node's process without warning. */
  kill(nodeId) {
    process.kill(this.node(nodeId).pid, "SIGKILL");
    this.nodeIds = this.nodeIds.filter((id) => id !== nodeId);
  }

  /** The present end of each log. */
  logEnds() {
    return new Map(this.#logs().map((path) => [path, statSync(path).size]));
  }

  /** Warnings and errors that nodes, gateway and chains have written since `logEnds()`. */
  complaintsSince(ends, most = 30) {
    const found = [];
    for (const path of this.#logs()) {
      const name = path.slice(this.dataDir.length + 1);
      const text = readFileSync(path).subarray(ends.get(path) ?? 0).toString();
      for (const line of text.split("\n")) {
        if (/\b(WARN|ERROR)\b|"level":"(warn|error)"|panicked/i.test(line)) found.push(`${name}: ${line}`);
      }
    }
    return found.slice(-most);
  }

  #logs() {
    if (!this.dataDir) return [];
    const all = readdirSync(this.dataDir, { recursive: true });
    return all.filter((path) => /(^|\/)log[^/]*\.txt$/.test(path)).map((path) => join(this.dataDir, path));
  }

  /** Stops everything; what does not stop by itself is killed. */
  async stop() {
    if (!this.#process || this.#process.pid === undefined || this.ended) return;
    this.#process.kill("SIGTERM");
    for (let waited = 0; !this.ended; waited += 100) {
      if (waited === STOP_SECONDS * 1000) this.#process.kill("SIGTERM");
      if (waited > 2 * STOP_SECONDS * 1000) this.#process.kill("SIGKILL");
      await sleep(100);
    }
  }
}
