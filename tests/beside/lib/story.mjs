// The chapters of one run, in their order.

import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { eventually, sleep } from "../../clients/lib/wait.mjs";
import { compareAnswers } from "./answers.mjs";
import { addInvalidUpdates, nodesOf } from "./chain.mjs";
import { runClients } from "./clients.mjs";
import { conformance } from "./conformance.mjs";
import { failOver } from "./failover.mjs";
import { COMMIT, groupMessage, Load, publishAt, Publisher } from "./load.mjs";
import { followLong } from "./long.mjs";
import { lateness, rateTo, spread } from "./measure.mjs";
import { HawserNode, XmtpdNode } from "./nodes.mjs";
import { compareBooks, settleReports } from "./reports.mjs";
import { Chains, Gateway, newKey, Postgres, startRedis } from "./services.mjs";
import { compare, cursor, FIRST_NODE, settled, shows, strand } from "./strands.mjs";
import { takeOver } from "./takeover.mjs";

/** All chapters, in their order. */
export const CHAPTERS = ["exchange", "chain", "answers", "clients", "tokens", "reports", "failover", "faults", "late",
  "takeover", "comparison", "long", "conformance"];
/** Single messages that are timed in each direction. */
const TIMED = 200;
/** Both chains' strands: commits, identity updates. */
const CHAINS = [0, 1];
/** Commits through each gateway, and identity updates that no node shows. */
const ON_CHAIN = 10;
/** Longer than a Hawser gateway lets a node be late. */
const LATE_SECONDS = 100;
/** Time in which each node has what the other kind has taken. */
const BOOKED_SECONDS = 5;

export class Story {
  #options;
  #lines = [];
  #faults = [];
  #nodes = [];
  #gone = [];
  #visitors = [];
  #gateways = [];
  #services = [];
  #acknowledged = [];
  /** Parts that a comparison leaves out. */
  #except = { absent: () => false, marked: new Set() };

  constructor(options) {
    this.#options = options;
  }

  /** A row of the summary; `good` is undefined for what is only told. */
  #note(what, result, good) {
    const mark = good === undefined ? "    " : good ? "ok  " : "FAIL";
    console.log(`  ${mark} ${what}: ${result}`);
    this.#lines.push({ what, result, good });
    if (good === false) this.#faults.push(what);
  }

  async #chapter(name, tell) {
    if (!CHAPTERS.includes(name)) throw new Error(`CHAPTERS lacks ${name}`);
    const { skip, only } = this.#options;
    if (skip.includes(name) || (only.length > 0 && !only.includes(name))) return;
    console.log(`\n${name} (${new Date().toISOString().slice(11, 19)})`);
    try {
      await tell();
    } catch (error) {
      this.#note(name, error.stack ?? String(error), false);
    }
  }

  async tell() {
    await this.#start();
    await this.#chapter("exchange", () => this.#exchange());
    await this.#chapter("chain", () => this.#chain());
    await this.#chapter("answers", () => this.#answers());
    if (this.#options.clients) await this.#chapter("clients", () => this.#clients());
    await this.#chapter("tokens", () => this.#tokens());
    if (this.#options.reports) await this.#chapter("reports", () => this.#reports());
    await this.#chapter("failover", () => this.#failover());
    await this.#chapter("faults", () => this.#troubles());
    await this.#chapter("late", () => this.#late());
    await this.#chapter("takeover", () => this.#takeover());
    await this.#chapter("comparison", () => this.#comparison());
    if (Number(this.#options.long) > 0) await this.#chapter("long", () => this.#long());
    await this.#chapter("conformance", () => this.#conformance());
  }

  /** The nodes of a kind that run. */
  #of(kind) {
    return this.#nodes.filter((node) => node.kind === kind && node.running);
  }

  get #originators() {
    return [...CHAINS, ...[...this.#nodes, ...this.#gone].map((node) => node.id)];
  }

  async #start() {
    const { hawser, xmtpd, gateway, anvil, folder, contracts } = this.#options;
    const { "app-chain": app, "settlement-chain": settlement, "admin-key": adminKey } = this.#options;
    const postgres = await Postgres.start(folder);
    this.#services.push(postgres);
    this.surroundings = { hawser, xmtpd, folder, postgres, auth: false };
    const payer = await newKey(hawser, folder, "payer");
    this.payer = payer;
    this.#nodes = [
      await HawserNode.prepare(100, this.surroundings),
      await HawserNode.prepare(200, this.surroundings),
      await XmtpdNode.prepare(300, this.surroundings),
      await XmtpdNode.prepare(400, this.surroundings),
    ];
    const records = this.#nodes.map((node) => node.record);
    this.chains = contracts
      ? await Chains.given({ hawser, folder, file: contracts, app, settlement, adminKey, records, payer })
      : await Chains.start({ hawser, anvil, folder, records, payer });
    this.#services.push(this.chains);
    this.surroundings.chains = this.chains;
    // Reference nodes have payloads validated elsewhere: by a node that no chapter stops.
    this.surroundings.validator = this.#nodes[0].address;
    for (const node of this.#nodes) Object.assign(node, this.surroundings);
    await Promise.all(this.#nodes.slice(0, 2).map((node) => node.start()));
    await Promise.all(this.#nodes.slice(2).map((node) => node.start()));
    this.#gateways.push(await Gateway.hawser({ hawser, chains: this.chains, folder, payer }));
    if (gateway) {
      const redis = await startRedis(folder);
      this.#services.push(redis);
      this.#gateways.push(await Gateway.xmtpd({ program: gateway, chains: this.chains, folder, redis }));
    }
    this.#note("started", [...this.#nodes.map((node) => node.label),
      ...this.#gateways.map((each) => `gateway of ${each.kind}`)].join(", "));
  }

  async #exchange() {
    const [hawser, xmtpd] = [this.#of("Hawser")[0], this.#of("xmtpd")[0]];
    for (const gateway of this.#gateways) {
      for (const [from, to] of [[hawser, xmtpd], [xmtpd, hawser]]) {
        const times = await lateness(gateway, from, to, gateway === this.#gateways[0] ? TIMED : 20);
        const what = `gateway of ${gateway.kind}: answered by ${from.label} → readable at ${to.label}`;
        this.#note(what, `${spread(times)} (${times.length} messages)`);
      }
    }
    await this.#agree("after the exchange");
  }

  /** Waits until all nodes show the same, and compares. */
  async #agree(when) {
    const nodes = this.#nodes.filter((node) => node.running);
    const behind = await settled(nodes, this.#originators, this.#except);
    this.#note(`${when}: all strands end at the same place at ${nodes.length} nodes`, behind.join(", ") || "yes",
      behind.length === 0);
    const { differences } = await compare(nodes, this.#originators, this.#except);
    this.#note(`${when}: all strands have the same content`, differences.join("\n       ") || "yes",
      differences.length === 0);
  }

  async #chain() {
    for (const gateway of this.#gateways) {
      const publisher = new Publisher(gateway);
      const times = [];
      for (let count = 0; count < ON_CHAIN; count += 1) {
        const start = performance.now();
        await publisher.publish([groupMessage(randomBytes(16), { kind: COMMIT })]);
        times.push(performance.now() - start);
      }
      publisher.close();
      this.#note(`gateway of ${gateway.kind}: commits answered`, `${spread(times)} (${times.length} commits)`);
    }
    await addInvalidUpdates(this.chains, ON_CHAIN);
    await this.#agree("after commits and invalid identity updates");
    const ids = this.#nodes.map((node) => node.id).join(" ");
    const load = new Load(this.#gateways, { rate: 2 });
    for (let waited = 0; waited < LATE_SECONDS; waited += 5) {
      await sleep(5000);
      for (const gateway of this.#gateways) {
        const named = (await nodesOf(gateway)).join(" ");
        if (named !== ids) this.#note(`gateway of ${gateway.kind} names all nodes`, `${named} after ${waited} s`, false);
      }
    }
    await load.stop();
    this.#note("both gateways name all nodes", `asked for ${LATE_SECONDS} s under a light load`);
  }

  async #answers() {
    const [hawser, xmtpd] = [this.#of("Hawser")[0], this.#of("xmtpd")[0]];
    const { rows, marked } = await compareAnswers(hawser, xmtpd, this.#gateways);
    for (const place of marked) this.#except.marked.add(place);
    const different = rows.filter(({ equal }) => !equal);
    this.#note(`of ${rows.length} equal requests answered alike`, rows.length - different.length);
    for (const { request, hawser: one, xmtpd: two, row, isExplained } of different) {
      const reason = isExplained ? (row === request ? "" : `, as "${row}"`) : "; docs/beside-xmtpd.md has no row for it";
      this.#note(`differs: ${request}`, `Hawser ${one}, xmtpd ${two}${reason}`, isExplained ? undefined : false);
    }
    // Some of what xmtpd has taken has a mark at Hawser nodes. Its payer owes for it at both.
    await sleep(BOOKED_SECONDS * 1000);
    await compareBooks({ hawser: [hawser], xmtpd: [xmtpd], note: (...row) => this.#note(...row) });
  }

  async #clients() {
    for (const gateway of this.#gateways) {
      const nodes = ["xmtpd", "Hawser"].flatMap((kind) => this.#of(kind));
      nodes.sort((one, other) => (one.id % 300) - (other.id % 300)); // kinds take turns
      const file = join(this.#options.folder, `network-${gateway.kind}.json`);
      const described = nodes.map((node) => ({ node_id: node.id, grpc: node.address, pid: node.program.pid }));
      writeFileSync(file, JSON.stringify({ nodes: described, gateway: { grpc: gateway.address } }));
      const { passed, failed } = await runClients(file);
      this.#note(`clients through the gateway of ${gateway.kind}`,
        `${passed} scenarios passed${failed.map((name) => `\n       not passed: ${name}`).join("")}`);
    }
    await this.#agree("after the clients");
  }

  async #restart(auth) {
    for (const node of this.#nodes) {
      await node.stop();
      node.auth = auth;
      await node.start();
    }
    if (auth) return; // gateways are refused
    const ids = this.#nodes.map((node) => node.id).join(" ");
    for (const gateway of this.#gateways) {
      await eventually(`the gateway of ${gateway.kind} names all nodes`, async () => (await nodesOf(gateway)).join(" ") === ids, 60);
    }
  }

  /** All nodes ask their peers for tokens. Gateways are refused meanwhile, of either kind. */
  async #tokens() {
    await this.#restart(true);
    const key = await newKey(this.#options.hawser, this.#options.folder, "payer-of-tokens");
    for (const node of this.#nodes) {
      const { text } = await publishAt(node, groupMessage(randomBytes(16)), key);
      this.#note(`with node tokens: published at ${node.label}`, text, text === "taken");
    }
    await this.#agree("with node tokens");
    await this.#restart(false);
  }

  /** Reports of both kinds of nodes, from writing to settling. Takes up to an hour and a quarter. */
  async #reports() {
    const load = new Load(this.#gateways, { rate: 2 });
    const quiet = async () => {
      await load.stop();
      this.#acknowledged.push(...load.acknowledged);
    };
    try {
      await settleReports({ hawser: this.#of("Hawser"), xmtpd: this.#of("xmtpd"), chains: this.chains, quiet,
        note: (...row) => this.#note(...row) });
    } finally {
      await load.stop();
    }
    await this.#agree("with payer reports");
  }

  /** Something happens to a node under load; then all nodes have to agree. */
  async #under(what, happen) {
    const load = new Load(this.#gateways);
    const seconds = Number(this.#options.load);
    await sleep(seconds * 500);
    await happen();
    await sleep(seconds * 500);
    await load.stop();
    this.#acknowledged.push(...load.acknowledged);
    const failed = [...load.failed].map(([error, count]) => `\n       ${count} × ${error}`).join("");
    this.#note(`${what}: acknowledged under load`, `${load.acknowledged.length}${failed}`);
    await this.#agree(what);
  }

  async #troubles() {
    const seconds = Number(this.#options.load);
    const [, hawser] = this.#of("Hawser");
    const [, xmtpd] = this.#of("xmtpd");
    for (const node of [hawser, xmtpd]) {
      await this.#under(`${node.label} killed and started again`, async () => {
        await node.kill();
        await sleep(5000);
        await node.start();
      });
      await this.#under(`${node.label} stopped and started again`, async () => {
        const willing = await node.stop();
        if (!willing) this.#note(`${node.label} ended on SIGTERM`, "only when killed");
        await node.start();
      });
      await this.#under(`${node.label} cut off for ${seconds} s`, async () => {
        node.cable.cut();
        await sleep(seconds * 1000);
        node.cable.mend();
      });
      await this.#under(`${node.label} frozen for ${seconds} s`, async () => {
        node.freeze();
        await sleep(seconds * 1000);
        node.thaw();
      });
    }
    await this.#burned();
    await this.#agree("after a burned id");
  }

  /** Ids that transactions of xmtpd have taken and not used, as a rollback leaves them. */
  async #burned() {
    const [hawser] = this.#of("Hawser");
    const [xmtpd] = this.#of("xmtpd");
    const publisher = new Publisher(this.#gateways[0]);
    const group = await publisher.groupAt(xmtpd);
    await xmtpd.postgres.query(xmtpd.database, "SELECT nextval('staged_originator_envelopes_id_seq')");
    const [made] = await publisher.publish([groupMessage(group)]);
    publisher.close();
    const start = performance.now();
    await eventually("the strand goes on", () => shows(hawser, made), 90);
    const seconds = Math.round((performance.now() - start) / 1000);
    this.#note(`an id that ${xmtpd.label} has burned holds its strand up at ${hawser.label} for`, `${seconds} s`);
  }

  /** A backlog that is quick to make: large requests to one node. */
  async #backlog(node, count) {
    const publisher = new Publisher(this.#gateways[0]);
    const group = await publisher.groupAt(node);
    let last;
    for (let made = 0; made < count; made += 500) {
      const messages = Array.from({ length: 500 }, () => groupMessage(group));
      last = (await publisher.publish(messages, { seconds: 60 })).at(-1);
      if (last.originator !== node.id) throw new Error(`the backlog of ${node.label} went elsewhere`);
    }
    publisher.close();
    return last.sequence;
  }

  /** One of each kind goes for good, then one of each kind joins. */
  async #late() {
    const [stays, leaves] = this.#of("Hawser");
    const [staysToo, leavesToo] = this.#of("xmtpd");
    const ends = new Map();
    for (const node of [stays, staysToo]) ends.set(node, await this.#backlog(node, Number(this.#options.backlog)));
    await this.#agree("before one of each kind goes");
    for (const node of [leaves, leavesToo]) {
      await node.kill();
      node.cable.cut();
      this.#nodes.splice(this.#nodes.indexOf(node), 1);
      this.#gone.push(node);
    }
    const joiners = [
      await HawserNode.prepare(500, this.surroundings),
      await XmtpdNode.prepare(600, this.surroundings),
    ];
    for (const node of joiners) {
      await this.chains.register(node.record, node.key.address);
      const starting = node.start();
      this.#nodes.push(node);
      await Promise.all([...ends].map(async ([from, end]) => {
        const { rate, count } = await rateTo(node, from.id, end, 300);
        this.#note(`${node.label} catches up from ${from.label}`, `${Math.round(rate)}/s over ${count} envelopes`);
      }));
      await starting;
    }
    // xmtpd takes a strand from its own node only.
    const gone = new Set(this.#gone.map((node) => node.id));
    this.#except.absent = (node, originator) => node.id === 600 && node.kind === "xmtpd" && gone.has(originator);
    await this.#agree("with one of each kind gone and one new");
    for (const originator of gone) {
      const lengths = [];
      for (const node of this.#nodes) lengths.push(`${node.label} ${(await strand(node, originator)).size}`);
      this.#note(`strand ${originator}, whose node is gone`, lengths.join(", "));
    }
  }

  /** A follower loses the node of a strand; another node has both. */
  async #failover() {
    const follower = this.#of("Hawser").at(-1);
    const source = this.#of("xmtpd")[0];
    await failOver({ follower, source, gateway: this.#gateways[0], seconds: Number(this.#options.load),
      note: (...row) => this.#note(...row) });
    await this.#agree("after the change of source");
  }

  /** Long strands, each followed by a new node of the other kind, which leaves after that. */
  async #long() {
    const [hawser, xmtpd] = [this.#of("Hawser")[0], this.#of("xmtpd")[0]];
    for (const [from, Kind] of [[xmtpd, HawserNode], [hawser, XmtpdNode]]) {
      const away = from === xmtpd && Kind === HawserNode ? this.#of("Hawser") : [];
      await followLong({ from, away, gateway: this.#gateways[0], count: Number(this.#options.long),
        seconds: Number(this.#options.patience), note: (...row) => this.#note(...row),
        join: async () => {
          // The registry counts.
          const registered = this.#nodes.length + this.#gone.length + this.#visitors.length;
          const node = await Kind.prepare(100 * (registered + 1), this.surroundings);
          this.#visitors.push(node);
          await this.chains.register(node.record, node.key.address);
          return node;
        } });
    }
  }

  /** Judges a node of each kind. What it publishes is judged by each kind differently, so it comes last. */
  async #conformance() {
    const [hawser, xmtpd] = [this.#of("Hawser")[0], this.#of("xmtpd")[0]];
    for (const [target, second] of [[xmtpd, hawser], [hawser, xmtpd]]) {
      const { hawser: program, folder } = this.#options;
      const { passed, failed, findings, skipped, cases } = await conformance({
        hawser: program, folder, target, second, gateway: this.#gateways[0], payer: this.payer,
      });
      this.#note(`hawser conformance --target ${target.label}`,
        `${passed} passed, ${findings} findings, ${failed} failed, ${skipped} skipped`);
      for (const { case: id, outcome, reason } of cases) {
        if (outcome === "failed" || outcome === "finding") this.#note(`${outcome}: ${id}`, reason ?? "");
      }
    }
  }

  async #takeover() {
    const node = this.#of("xmtpd")[0];
    const others = this.#nodes.filter((each) => each !== node);
    let current = node;
    const become = (next) => {
      this.#nodes.splice(this.#nodes.indexOf(current), 1, next);
      current = next;
    };
    await takeOver({ node, others, gateway: this.#gateways[0], note: (...row) => this.#note(...row),
      become: async (successor) => {
        become(successor);
        await this.#agree("after the takeover");
      } });
    become(node);
  }

  async #comparison() {
    const nodes = this.#nodes.filter((node) => node.running);
    const { rows } = await compare(nodes, this.#originators, this.#except);
    for (const originator of this.#originators) {
      const of = rows.filter((row) => row.originator === originator);
      const kinds = new Map();
      for (const { count, digest, node } of of) {
        const has = `${count} ${digest}`;
        kinds.set(has, [...(kinds.get(has) ?? []), node]);
      }
      const text = [...kinds].map(([has, list]) => `${has} at ${list.join(", ")}`);
      this.#note(`strand ${originator}`, text.join("; "));
    }
    const held = new Map();
    for (const originator of this.#originators) held.set(originator, await strand(nodes[0], originator));
    const lost = this.#acknowledged
      .filter(({ originator, sequence }) => !held.get(originator)?.has(sequence))
      .map(({ originator, sequence }) => `${originator}:${sequence}`);
    this.#note(`of ${this.#acknowledged.length} acknowledged messages ${nodes[0].label} lacks`,
      lost.length === 0 ? "none" : `${lost.length}: ${lost.slice(0, 5).join(", ")}`, lost.length === 0);
    for (const node of nodes) {
      const places = [...(await cursor(node))].filter(([id]) => id >= FIRST_NODE || CHAINS.includes(id));
      this.#note(`cursor of ${node.label}`, places.map(([id, place]) => `${id}:${place}`).join(" "));
    }
  }

  /** The summary; says if nothing failed. */
  report() {
    const width = 100;
    console.log(`\n| what | result |\n|---|---|`);
    for (const { what, result, good } of this.#lines) {
      const text = String(result).replaceAll(/\n\s*/g, "; ");
      console.log(`| ${what.slice(0, width)} | ${good === false ? "**FAIL** " : ""}${text} |`);
    }
    console.log(`\n${this.#faults.length === 0 ? "nothing failed" : `FAILED: ${this.#faults.join("; ")}`}`);
    return this.#faults.length === 0;
  }

  async stop() {
    for (const node of [...this.#nodes, ...this.#visitors]) await node.stop();
    for (const gateway of this.#gateways) await gateway.stop();
    for (const service of this.#services.reverse()) await service.stop();
  }
}
