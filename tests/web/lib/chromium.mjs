// Chromium without a window, driven over a pipe with its DevTools protocol: nothing listens on a port.

import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";

import { sleep } from "../../clients/lib/wait.mjs";

const STOP_SECONDS = 10;
/** Bytes of the browser's own words that are kept for a failure. */
const SAID_MAX = 20_000;
/** Lines of a page's console that are kept for a failure. */
const LINES_MAX = 50;

export class Chromium {
  #process;
  #next = 1;
  #waiting = new Map();
  #pages = new Map();
  #said = "";

  /** Starts it. `trusted`: the hashes of the public keys of certificates that no authority has signed. */
  static async start({ program, folder, trusted = [] }) {
    mkdirSync(folder, { recursive: true });
    const args = [
      "--headless=new",
      "--remote-debugging-pipe",
      `--user-data-dir=${folder}`,
      "--no-first-run",
      "--no-default-browser-check",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--password-store=basic",
    ];
    if (trusted.length > 0) args.push(`--ignore-certificate-errors-spki-list=${trusted.join(",")}`);
    // The sandbox wants a user of its own, which a container may not have.
    if (process.getuid?.() === 0) args.push("--no-sandbox");
    const browser = new Chromium();
    const stdio = ["ignore", "ignore", "pipe", "pipe", "pipe"];
    browser.#process = spawn(program, args, { stdio });
    browser.#process.stderr.on("data", (data) => (browser.#said = (browser.#said + data).slice(-SAID_MAX)));
    browser.#process.on("error", (error) => browser.#fail(error));
    browser.#process.on("exit", (code) => browser.#fail(new Error(`the browser has ended: ${code}\n${browser.#said}`)));
    browser.#process.stdio[3].on("error", () => {});
    browser.#listen(browser.#process.stdio[4]);
    await browser.send("Browser.getVersion");
    return browser;
  }

  #listen(pipe) {
    let parts = [];
    pipe.on("data", (data) => {
      for (let end; (end = data.indexOf(0)) >= 0; data = data.subarray(end + 1)) {
        parts.push(data.subarray(0, end));
        this.#take(JSON.parse(Buffer.concat(parts).toString()));
        parts = [];
      }
      parts.push(data);
    });
  }

  #take(message) {
    const waiting = this.#waiting.get(message.id);
    if (waiting) {
      this.#waiting.delete(message.id);
      if (message.error) waiting.reject(new Error(`${waiting.method}: ${message.error.message}`));
      else waiting.resolve(message.result);
    } else if (message.method) {
      this.#pages.get(message.sessionId)?.hear(message.method, message.params);
    }
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  /** Sends a command, and returns its result. */
  send(method, params = {}, sessionId) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { method, resolve, reject });
      this.#process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  /** Opens a page with storage of its own, as in a new profile. */
  async open(url) {
    const { browserContextId } = await this.send("Target.createBrowserContext");
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank", browserContextId });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page((method, params) => this.send(method, params, sessionId));
    this.#pages.set(sessionId, page);
    page.close = async () => {
      this.#pages.delete(sessionId);
      await this.send("Target.disposeBrowserContext", { browserContextId });
    };
    await page.load(url);
    return page;
  }

  /** Ends it; what does not end by itself is killed. */
  async stop() {
    const ended = () => this.#process.exitCode !== null || this.#process.signalCode !== null;
    if (this.#process.pid === undefined || ended()) return;
    await Promise.race([this.send("Browser.close").catch(() => {}), sleep(STOP_SECONDS * 1000)]);
    for (let waited = 0; !ended() && waited < STOP_SECONDS * 1000; waited += 50) await sleep(50);
    if (!ended()) this.#process.kill("SIGKILL");
  }
}

/** One page. */
class Page {
  #send;
  #lines = [];

  constructor(send) {
    this.#send = send;
  }

  async load(url) {
    await this.#send("Runtime.enable");
    await this.#send("Page.enable");
    await this.#send("Page.navigate", { url });
  }

  reload() {
    return this.#send("Page.reload");
  }

  /** Gives the page a window of this size, in pixels; `mobile`: that of a phone. */
  resize({ width, height, mobile }) {
    return this.#send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile });
  }

  /** The whole page as a picture, PNG. */
  async picture() {
    const { cssContentSize } = await this.#send("Page.getLayoutMetrics");
    const clip = { ...cssContentSize, scale: 1 };
    const { data } = await this.#send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true, clip });
    return Buffer.from(data, "base64");
  }

  /** Takes what the page says beside its results. */
  hear(method, params) {
    const note = (line) => this.#lines.push(line) > LINES_MAX && this.#lines.shift();
    if (method === "Runtime.exceptionThrown") note(described(params.exceptionDetails));
    if (method === "Runtime.consoleAPICalled") {
      note(`${params.type}: ${params.args.map((each) => each.value ?? each.description ?? "").join(" ")}`);
    }
  }

  /** The lines of its console. */
  get lines() {
    return this.#lines;
  }

  /** Runs an expression, waits for its promise, and returns its value. */
  async run(expression) {
    const answer = await this.#send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (answer.exceptionDetails) throw new Error(described(answer.exceptionDetails));
    return answer.result.value;
  }

  /** Calls a function of the page. */
  call(name, ...args) {
    return this.run(`window.page[${JSON.stringify(name)}](...${JSON.stringify(args)})`);
  }
}

const described = ({ exception, text }) => exception?.description ?? exception?.value ?? text;
