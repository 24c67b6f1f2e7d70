// Nodes of both kinds. Each is registered at the end of a cable, so that it can be cut off.

import { join } from "node:path";

import { Cable } from "./cable.mjs";
import { Channel } from "./grpc.mjs";
import { freePort } from "../../clients/lib/ports.mjs";
import { output, Program } from "./processes.mjs";
import { newKey, reachable } from "./services.mjs";

class Node {
  /** A node with a key, a port and a cable, not yet running. */
  static async prepare(id, surroundings) {
    const node = new this();
    Object.assign(node, { id, ...surroundings });
    node.port = await freePort([0, 1]);
    node.address = `127.0.0.1:${node.port}`;
    node.key = await newKey(node.hawser, node.folder, `node-${id}`);
    node.cable = await Cable.open(await freePort(), node.port);
    node.channel = new Channel(node.address);
    node.log = join(node.folder, `node-${id}.log`);
    node.starts = 0;
    return node;
  }

  /** The record of the registry, as `registry.json` has it. */
  get record() {
    return {
      nodeId: this.id,
      signer: this.key.address,
      isCanonical: true,
      signingPublicKey: this.key.publicKey,
      httpAddress: `http://127.0.0.1:${this.cable.port}`,
    };
  }

  /** The variables that nodes of both kinds read alike. */
  get commonEnv() {
    return {
      ...this.chains.env,
      XMTPD_SIGNER_PRIVATE_KEY: this.key.secret,
      XMTPD_API_REQUIRE_REPLICATION_NODE_AUTH: String(this.auth),
      XMTPD_METRICS_ENABLE: "true",
      XMTPD_METRICS_METRICS_PORT: String(this.port + 1),
      XMTPD_SETTLEMENT_CHAIN_NODE_REGISTRY_REFRESH_INTERVAL: "5s",
      XMTPD_PAYER_REPORT_ATTESTATION_WORKER_POLL_INTERVAL: "10s",
    };
  }

  get label() {
    return `${this.kind} ${this.id}`;
  }

  get running() {
    return this.program !== undefined && !this.program.ended;
  }

  stop() {
    return this.program?.stop("SIGTERM", 15);
  }

  kill() {
    return this.program.stop("SIGKILL");
  }

  /** Stopped in the middle of what it does, with its connections open. */
  freeze() {
    this.program.process.kill("SIGSTOP");
  }

  thaw() {
    this.program.process.kill("SIGCONT");
  }
}

export class HawserNode extends Node {
  kind = "Hawser";

  get dataDir() {
    return join(this.folder, `node-${this.id}.data`);
  }

  /** Variables that name what a Hawser node has of its own. */
  get folders() {
    return {
      HAWSER_DATA_DIR: this.dataDir,
      HAWSER_STATE_DIR: `${this.dataDir}-state`,
      HAWSER_NETWORK: "beside",
      HAWSER_LISTEN_ADDRESS: "127.0.0.1",
      HAWSER_SHUTDOWN_DRAIN: "0s",
      // For xmtpd nodes, which have no validation of their own.
      HAWSER_VALIDATION_API: "true",
      HAWSER_WALLET_CHAINS: this.chains.wallets.chains,
      HAWSER_WALLET_RPC: this.chains.wallets.rpc,
    };
  }

  /** `isNew`: its key has published nothing; by itself only at the first start of a new node. */
  async start({ isNew = this.starts === 0 } = {}) {
    this.starts += 1;
    const env = { ...this.commonEnv, ...this.inherited, ...this.folders };
    const args = ["node", "--exit-with-parent", "-p", String(this.port)];
    if (isNew) args.push("--new-strand");
    this.program = Program.start(this.hawser, args, { log: this.log, env });
    await this.program.until(this.label, () => this.ready("read"));
    return this;
  }

  /** True if the node says that it is ready for `what`. */
  async ready(what) {
    await output(this.hawser, ["health", "--for", what, "--metrics", `127.0.0.1:${this.port + 1}`]);
    return true;
  }
}

export class XmtpdNode extends Node {
  kind = "xmtpd";

  get database() {
    return `node_${this.id}`;
  }

  /** All of its variables. */
  get env() {
    return {
      ...this.commonEnv,
      XMTPD_DB_WRITER_CONNECTION_STRING: this.postgres.url(this.database),
      XMTPD_MLS_VALIDATION_GRPC_ADDRESS: `http://${this.validator}`,
      XMTPD_API_ENABLE: "true",
      XMTPD_API_ORIGINATOR_CACHE_TTL: "1s",
      XMTPD_SYNC_ENABLE: "true",
      XMTPD_INDEXER_ENABLE: "true",
      XMTPD_PAYER_REPORT_RUN_WORKERS: "true",
      // Reports are due at the first turn after those of a Hawser node.
      XMTPD_PAYER_REPORT_GENERATE_REPORT_SELF_PERIOD: "2m",
      XMTPD_PAYER_REPORT_GENERATE_REPORT_OTHERS_PERIOD: "2m",
    };
  }

  async start() {
    if (this.starts === 0) await this.postgres.create(this.database);
    this.starts += 1;
    this.program = Program.start(this.xmtpd, ["-p", String(this.port)], { log: this.log, env: this.env });
    await this.program.until(this.label, () => reachable(this.port));
    return this;
  }
}
