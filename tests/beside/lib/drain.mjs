// A whole strand, taken by one call as fast as a plain reader gets it.

import http2 from "node:http2";
import { readFileSync } from "node:fs";

import { field, frame } from "../../clients/lib/wire.mjs";
import { envelopesIn, subscription } from "./failover.mjs";

const SUBSCRIBE = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeOriginators";
/** Windows of a stream and of its connection, as followers have them. */
const [STREAM_WINDOW, CONNECTION_WINDOW] = [4 << 20, 32 << 20];
/** Clock ticks of /proc in a second, as on every Linux. */
const TICKS = 100;

/** Processor time of a process so far, in seconds. */
function cpu(pid) {
  const [user, system] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ").slice(11, 13);
  return (Number(user) + Number(system)) / TICKS;
}

/** The place of an envelope. */
const placeOf = (envelope) => Number(field(field(envelope, 1), 2));

/**
 * Reads a strand of `node` from its first place to `head`: `{ envelopes, bytes, messages, largest, seconds, cpu }`. Looks into
 * one envelope of each message, so that the reader costs little.
 */
export function drain(node, originator, head, seconds = 600) {
  const session = http2.connect(`http://${node.address}`, { settings: { initialWindowSize: STREAM_WINDOW } });
  session.once("connect", () => session.setLocalWindowSize(CONNECTION_WINDOW));
  const told = { envelopes: 0, bytes: 0, messages: 0, largest: 0 };
  const [start, before] = [performance.now(), cpu(node.program.pid)];
  return new Promise((resolve, reject) => {
    const fail = (text) => done(reject, new Error(`${node.label}, strand ${originator}: ${text}`));
    const timer = setTimeout(() => fail(`at ${told.envelopes} of ${head} after ${seconds} s`), seconds * 1000);
    const stream = session.request({
      ":method": "POST", ":path": SUBSCRIBE, "content-type": "application/grpc", te: "trailers",
    });
    const done = (settle, value) => {
      clearTimeout(timer);
      session.destroy();
      settle(value);
    };
    let [parts, size, wanted] = [[], 0, 5];
    const take = (message) => {
      const envelopes = envelopesIn(message);
      told.messages += 1;
      told.largest = Math.max(told.largest, message.length);
      told.envelopes += envelopes.length;
      told.bytes += message.length;
      return envelopes.length > 0 && placeOf(envelopes.at(-1)) >= head;
    };
    stream.on("data", (part) => {
      parts.push(part);
      size += part.length;
      while (size >= wanted) {
        let bytes = parts.length === 1 ? parts[0] : Buffer.concat(parts, size);
        [parts, size] = [[bytes], bytes.length];
        wanted = 5 + bytes.readUInt32BE(1);
        if (size < wanted) break;
        if (take(bytes.subarray(5, wanted))) {
          const seconds = (performance.now() - start) / 1000;
          return done(resolve, { ...told, seconds, cpu: cpu(node.program.pid) - before });
        }
        bytes = bytes.subarray(wanted);
        [parts, size, wanted] = [[bytes], bytes.length, 5];
      }
    });
    stream.on("error", (error) => fail(error.message));
    stream.on("end", () => fail(`the stream ended at ${told.envelopes}`));
    stream.end(frame(subscription(originator, 0)));
  });
}

/** In words. */
export const drained = ({ envelopes, bytes, messages, largest, seconds, cpu: used }) =>
  `${Math.round(envelopes / seconds)}/s, ${Math.round(bytes / seconds / 1e6)} MB/s over ${envelopes} envelopes in ${messages} messages, ` +
  `the largest of ${Math.round(largest / 1024)} KiB; the node used ${used.toFixed(1)} s of processor time in ${seconds.toFixed(1)} s`;
