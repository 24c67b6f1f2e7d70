// The services beside the nodes: Postgres, Redis, both chains, gateways.

import { execFileSync } from "node:child_process";
import { chownSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { freePort } from "../../clients/lib/ports.mjs";
import { rpc } from "./chain.mjs";
import { output, Program } from "./processes.mjs";

/** The first account that anvil makes: it has deployed the contracts. Its key is public. */
export const ADMIN_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
/** Another of them, with native tokens: pays for the gateway of the reference implementation. */
const PAYER_KEY = "0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba";

/** Ids of chains for development: networks on others may not add chains of contract wallets. */
const DEVELOPMENT = [31337, 31338];
/** 100 ether. */
const GAS = "0x56bc75e2d63100000";

/** The file of the administrator's key that anvil makes. */
function adminKeyIn(folder) {
  const file = join(folder, "admin.key");
  writeFileSync(file, `${ADMIN_KEY.slice(2)}\n`, { mode: 0o600 });
  return file;
}

/** A Postgres server with the durability that it has by itself. */
export class Postgres {
  static async start(folder) {
    const root = "/usr/lib/postgresql";
    const version = existsSync(root) && readdirSync(root).sort((a, b) => a - b).pop();
    if (!version) throw new Error("no Postgres here: scripts/postgres installs one");
    const bin = join(root, version, "bin");
    const postgres = new Postgres();
    // Not below the folder of the run, which other users may not enter.
    const home = mkdtempSync(join(tmpdir(), "hawser-beside-postgres-"));
    postgres.home = home;
    const user = otherUser();
    if (user) chownSync(home, user.uid, user.gid);
    const options = { cwd: home, ...user };
    const data = join(home, "data");
    await output(join(bin, "initdb"), ["-U", "postgres", "-A", "trust", "-E", "UTF8", "-D", data], options);
    postgres.port = await freePort();
    const settings = ["-D", data, "-k", home, "-h", "127.0.0.1", "-p", String(postgres.port), "-N", "400"];
    const log = join(folder, "postgres.log");
    postgres.program = Program.start(join(bin, "postgres"), settings, { log, user, cwd: home });
    await postgres.program.until("Postgres", () => postgres.query("postgres", "SELECT 1"));
    return postgres;
  }

  /** The result of a statement, a line a row. */
  async query(database, statement) {
    const args = ["-h", "127.0.0.1", "-p", String(this.port), "-U", "postgres", "-d", database];
    return (await output("psql", [...args, "-qAtc", statement])).trim();
  }

  create(database) {
    return this.query("postgres", `CREATE DATABASE ${database}`);
  }

  url(database) {
    return `postgres://postgres@127.0.0.1:${this.port}/${database}?sslmode=disable`;
  }

  async stop() {
    await this.program.stop("SIGINT");
    rmSync(this.home, { recursive: true, force: true });
  }
}

/** Postgres refuses to run as root. */
function otherUser() {
  if (process.getuid() !== 0) return undefined;
  const id = (flag) => Number(execFileSync("id", [flag, "postgres"]).toString());
  return { uid: id("-u"), gid: id("-g") };
}

export async function startRedis(folder) {
  const port = await freePort();
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder];
  const program = Program.start("redis-server", args, { log: join(folder, "redis.log") });
  await program.until("Redis", () => output("redis-cli", ["-p", String(port), "ping"]));
  return { url: `redis://127.0.0.1:${port}/0`, stop: () => program.stop() };
}

/** Both chains on anvil, with a registry that has `records`. */
export class Chains {
  /** Chains of this run, with Hawser's contracts. */
  static async start({ hawser, anvil, folder, records, payer }) {
    const chains = new Chains();
    chains.hawser = hawser;
    const base = await freePort([10, 11]);
    chains.file = join(folder, "chain.json");
    const registry = join(folder, "registry.json");
    writeFileSync(registry, JSON.stringify({ nodes: records }));
    chains.adminKey = adminKeyIn(folder);
    const args = ["chain", "dev", "--base-port", String(base), "--chain-json", chains.file];
    args.push("--register-nodes", registry, "--fund-payer", payer.address);
    args.push(anvil ? `--anvil=${anvil}` : "--anvil");
    chains.program = Program.start(hawser, args, { log: join(folder, "chains.log") });
    chains.app = `127.0.0.1:${base + 10}`;
    chains.settlement = `127.0.0.1:${base + 11}`;
    await chains.program.until("the chains", () => existsSync(chains.file) && chains.#answers());
    return chains;
  }

  /**
   * Chains that run already, with the contracts of this file. No node is registered there yet, so the first ones get the
   * ids of `records`. Nothing is taken back at the end.
   */
  static async given({ hawser, folder, file, app, settlement = app, adminKey = adminKeyIn(folder), records, payer }) {
    const chains = Object.assign(new Chains(), { hawser, file, app, settlement, adminKey });
    const known = JSON.parse(await chains.registry("node", "list", "--json"));
    if (known.length > 0) throw new Error(`the registry has ${known.length} nodes: begin with contracts that have none`);
    await rpc(app, "anvil_setBalance", [payer.address, GAS]);
    for (const record of records) await chains.register(record, record.signer);
    return chains;
  }

  async #answers() {
    return (await this.registry("node", "list")).length > 0;
  }

  /** The ids of both chains. */
  get ids() {
    const { appChainId: app, settlementChainId: settlement } = JSON.parse(readFileSync(this.file, "utf8"));
    return { app, settlement };
  }

  /** The settings of contract wallets on these chains; empty texts if the network may have none. */
  get wallets() {
    const { app, settlement } = this.ids;
    const all = [...new Map([[app, this.app], [settlement, this.settlement]])];
    const known = all.every(([id]) => DEVELOPMENT.includes(id)) ? all : [];
    return { chains: known.map(([id]) => id).join(","), rpc: known.map(([id, at]) => `${id}=http://${at}`).join(",") };
  }

  /** The variables that programs of both kinds read. */
  get env() {
    return {
      XMTPD_CONTRACTS_CONFIG_FILE_PATH: this.file,
      XMTPD_APP_CHAIN_RPC_URL: `http://${this.app}`,
      XMTPD_APP_CHAIN_WSS_URL: `ws://${this.app}`,
      XMTPD_SETTLEMENT_CHAIN_RPC_URL: `http://${this.settlement}`,
      XMTPD_SETTLEMENT_CHAIN_WSS_URL: `ws://${this.settlement}`,
    };
  }

  /** The output of `hawser registry …`. */
  registry(...words) {
    const change = /^(add|remove|update-http)$/.test(words[1]);
    const sending = change ? ["--yes", "--key-file", this.adminKey] : [];
    return output(this.hawser, ["registry", ...words, ...sending], { env: { ...this.env } });
  }

  /** Registers a node that was not there when the chains were started, and makes it canonical. */
  async register(record, owner) {
    const { signingPublicKey, httpAddress } = record;
    await this.registry(
      "node", "add", "--owner", owner, "--public-key", signingPublicKey, "--http-address", httpAddress,
    );
    await this.registry("canonical", "add", String(record.nodeId));
  }

  /** Ends the chains that this run has started. */
  stop() {
    return this.program?.stop();
  }
}

/** A key in a file of its own: `{ file, address, publicKey, secret }`. */
export async function newKey(hawser, folder, name) {
  const file = join(folder, `${name}.key`);
  await output(hawser, ["keys", "generate", "--out", file]);
  const shown = JSON.parse(await output(hawser, ["keys", "show", "--json", file]));
  const secret = `0x${readFileSync(file, "utf8").trim().replace(/^0x/, "")}`;
  return { file, secret, address: shown.address, publicKey: shown.public_key };
}

/** A gateway of either kind. */
export class Gateway {
  static async hawser({ hawser, chains, folder, payer }) {
    const gateway = new Gateway();
    const port = await freePort();
    gateway.kind = "Hawser";
    gateway.payer = payer;
    gateway.address = `127.0.0.1:${port}`;
    const args = ["gateway", "--payer.key-file", payer.file, "--nonce-record", join(folder, "nonces")];
    args.push("--api.port", String(port), "--metrics.metrics-port", String(await freePort()));
    const { wallets } = chains;
    if (wallets.chains) args.push("--wallet-chains", wallets.chains, "--wallet-rpc", wallets.rpc);
    args.push("--listen-address", "127.0.0.1");
    // All nodes are on this machine.
    args.push("--allow-private-nodes");
    // Without a file strangers have limits, and all load here comes from one caller.
    const policies = join(folder, "policies.toml");
    writeFileSync(policies, "");
    args.push("--policies-file", policies);
    const options = { log: join(folder, "gateway-hawser.log"), env: chains.env };
    gateway.program = Program.start(hawser, args, options);
    return gateway.#ready();
  }

  static async xmtpd({ program, chains, folder, redis }) {
    const gateway = new Gateway();
    const port = await freePort();
    gateway.kind = "xmtpd";
    gateway.address = `127.0.0.1:${port}`;
    const env = {
      ...chains.env,
      XMTPD_REDIS_URL: redis.url,
      XMTPD_PAYER_PRIVATE_KEY: PAYER_KEY,
      XMTPD_API_PORT: String(port),
      XMTPD_APP_CHAIN_CHAIN_ID: String(chains.ids.app),
      XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_REFRESH_INTERVAL: "5s",
    };
    gateway.program = Program.start(program, [], { log: join(folder, "gateway-xmtpd.log"), env });
    return gateway.#ready();
  }

  async #ready() {
    const port = this.address.split(":")[1];
    await this.program.until(`the gateway of ${this.kind}`, () => reachable(port));
    return this;
  }

  stop() {
    return this.program.stop();
  }
}

/** True if a program listens at a port of this machine. */
export async function reachable(port) {
  const net = await import("node:net");
  return new Promise((resolve) => {
    const socket = net.connect(Number(port), "127.0.0.1", () => resolve(true) || socket.destroy());
    socket.on("error", () => resolve(false));
  });
}
