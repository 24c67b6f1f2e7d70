// Ports for servers of a test that cannot choose one themselves.

import { createServer } from "node:net";

// The system gives a port that was just closed out again, so two calls might get the same one.
const taken = new Set();

/** A port that is free for TCP, and so are those at the other `offsets` from it. No later call gets one of them. */
export async function freePort(offsets = [0]) {
  for (let attempt = 0; attempt < 100; attempt++) {
    // Below the ports that systems hand out to outgoing connections.
    const base = 20000 + Math.floor(Math.random() * 10000);
    const wanted = offsets.map((offset) => base + offset);
    if (wanted.some((port) => taken.has(port))) continue;
    const free = await Promise.all(wanted.map(isFree));
    if (!free.every(Boolean)) continue;
    for (const port of wanted) taken.add(port);
    return base;
  }
  throw new Error(`no free ports at the offsets ${offsets.join(", ")}`);
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer().once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
