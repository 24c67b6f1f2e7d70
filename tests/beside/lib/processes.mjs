// Programs of one run: each with a log of its own, and none outlives the run.

import { execFile, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";

import { sleep } from "../../clients/lib/wait.mjs";

const running = new Set();

/** A program that was started. */
export class Program {
  /** `user`: `{ uid, gid }` of another user. */
  static start(program, args, { log, env = {}, user = {}, cwd } = {}) {
    const self = new Program();
    self.log = log;
    const out = openSync(log, "a");
    self.process = spawn(program, args, {
      stdio: ["pipe", out, out],
      env: { PATH: process.env.PATH, HOME: process.env.HOME, ...env },
      cwd,
      ...user,
    });
    closeSync(out);
    self.process.on("error", (error) => (self.error = error));
    running.add(self);
    self.process.once("exit", () => running.delete(self));
    return self;
  }

  get pid() {
    return this.process.pid;
  }

  get ended() {
    const { exitCode, signalCode } = this.process;
    return this.error !== undefined || exitCode !== null || signalCode !== null;
  }

  /** Ends it with a signal, and with SIGKILL if that takes too long. Says if it ended by itself. */
  async stop(signal = "SIGTERM", seconds = 20) {
    if (this.ended) return true;
    this.process.kill(signal);
    for (let waited = 0; waited < seconds * 20 && !this.ended; waited += 1) await sleep(50);
    if (this.ended) return true;
    this.process.kill("SIGKILL");
    while (!this.ended) await sleep(20);
    return false;
  }

  /** The last lines of its log. */
  lastLines(count = 15) {
    return readFileSync(this.log, "utf8").trimEnd().split("\n").slice(-count).join("\n");
  }

  /** Waits until `probe` gives something, as long as the program runs. */
  async until(what, probe, seconds = 60) {
    const end = Date.now() + seconds * 1000;
    for (;;) {
      const found = await Promise.resolve().then(probe).catch(() => undefined);
      if (found) return found;
      if (this.ended || Date.now() > end) {
        throw new Error(`${what}: ${this.ended ? "the program has ended" : "not in time"}\n${this.lastLines()}`);
      }
      await sleep(100);
    }
  }
}

/** Ends everything at once. */
export function killAll() {
  for (const program of running) program.process.kill("SIGKILL");
}

/** Runs a program to its end and gives what it printed. */
export function output(program, args, options = {}) {
  return new Promise((resolve, reject) => {
    execFile(program, args, { maxBuffer: 1 << 26, ...options }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${program} ${args.join(" ")}\n${stdout}${stderr}`));
      else resolve(stdout);
    }).stdin.end();
  });
}
