// The way to a node, TCP and UDP on one port, which can be cut and mended.

import dgram from "node:dgram";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import net from "node:net";

/** The local ports of the TCP connections of a process, as Linux tells them. */
function portsOf(pid) {
  const inodes = new Set();
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      const [, inode] = readlinkSync(`/proc/${pid}/fd/${fd}`).match(/^socket:\[(\d+)\]$/) ?? [];
      if (inode) inodes.add(inode);
    } catch {
      // Closed meanwhile.
    }
  }
  const ports = new Set();
  for (const table of ["tcp", "tcp6"]) {
    for (const line of readFileSync(`/proc/${pid}/net/${table}`, "utf8").split("\n").slice(1)) {
      const columns = line.trim().split(/\s+/);
      if (inodes.has(columns[9])) ports.add(parseInt(columns[1].split(":")[1], 16));
    }
  }
  return ports;
}

export class Cable {
  #sockets = new Set();
  #callers = new Set();
  #flows = new Map();
  #cut = false;
  #lost = new Set();
  #server;
  #udp;

  /** Listens at `port` and passes on what comes to `target`. */
  static async open(port, target) {
    const cable = new Cable();
    cable.port = port;
    cable.#server = net.createServer((from) => cable.#join(from, target));
    await new Promise((done, failed) => {
      cable.#server.once("error", failed).listen(port, "127.0.0.1", done);
    });
    cable.#udp = dgram.createSocket("udp4", (message, from) => cable.#send(message, from, target));
    await new Promise((done) => cable.#udp.bind(port, "127.0.0.1", done));
    return cable;
  }

  #join(from, target) {
    if (this.#cut || this.#isLost(from)) return from.destroy();
    this.#callers.add(from);
    from.on("close", () => this.#callers.delete(from));
    const to = net.connect(target, "127.0.0.1");
    for (const socket of [from, to]) {
      socket.setNoDelay(true);
      this.#sockets.add(socket);
      socket.on("error", () => {}).on("close", () => {
        this.#sockets.delete(socket);
        from.destroy();
        to.destroy();
      });
    }
    from.pipe(to).pipe(from);
  }

  #send(message, from, target) {
    if (this.#cut) return;
    const key = `${from.address}:${from.port}`;
    if (!this.#flows.has(key)) {
      const flow = dgram.createSocket("udp4");
      flow.on("message", (back) => this.#cut || this.#udp.send(back, from.port, from.address));
      flow.on("error", () => {});
      this.#flows.set(key, flow);
    }
    this.#flows.get(key).send(message, target, "127.0.0.1", () => {});
  }

  /** Nothing passes any more, and connections break. */
  cut() {
    this.#cut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  /** The same for the TCP connections of one process alone. */
  cutFor(pid) {
    this.#lost.add(pid);
    for (const socket of this.#callers) if (this.#isLost(socket)) socket.destroy();
  }

  #isLost(socket) {
    return [...this.#lost].some((pid) => portsOf(pid).has(socket.remotePort));
  }

  mend() {
    this.#cut = false;
    this.#lost.clear();
  }

  close() {
    this.cut();
    this.#server.close();
    this.#udp.close();
    for (const flow of this.#flows.values()) flow.close();
  }
}
