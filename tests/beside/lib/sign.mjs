// Payer envelopes made by hand: Keccak-256 and ECDSA over secp256k1, as slow as they are short. For
// tests only: nothing here hides a key from a watch.

import { createHmac } from "node:crypto";

import { bytesField, numberField } from "../../clients/lib/wire.mjs";

const MASK = (1n << 64n) - 1n;
const rotate = (word, by) => ((word << by) | (word >> (64n - by))) & MASK;

/** Round constants and rotations of Keccak-f[1600], made by the rules of FIPS 202 §3.2. */
const [ROUNDS, TURNS] = (() => {
  const bits = [];
  for (let at = 0, state = 1; at < 255; at += 1) {
    bits.push(BigInt(state & 1));
    state <<= 1;
    if (state & 0x100) state ^= 0x171;
  }
  const rounds = Array.from({ length: 24 }, (_, round) => {
    let word = 0n;
    for (let j = 0; j <= 6; j += 1) word |= bits[(j + 7 * round) % 255] << BigInt(2 ** j - 1);
    return word;
  });
  const turns = new Array(25).fill(0n);
  for (let step = 0, x = 1, y = 0; step < 24; step += 1) {
    turns[x + 5 * y] = BigInt((((step + 1) * (step + 2)) / 2) % 64);
    [x, y] = [y, (2 * x + 3 * y) % 5];
  }
  return [rounds, turns];
})();

function permute(lanes) {
  for (const constant of ROUNDS) {
    const sums = [0, 1, 2, 3, 4].map((x) => [0, 5, 10, 15, 20].reduce((sum, y) => sum ^ lanes[x + y], 0n));
    const mixed = sums.map((_, x) => sums[(x + 4) % 5] ^ rotate(sums[(x + 1) % 5], 1n));
    const moved = new Array(25);
    for (let x = 0; x < 5; x += 1) {
      for (let y = 0; y < 5; y += 1) {
        const lane = lanes[x + 5 * y] ^ mixed[x];
        moved[y + 5 * ((2 * x + 3 * y) % 5)] = rotate(lane, TURNS[x + 5 * y]);
      }
    }
    for (let at = 0; at < 25; at += 1) {
      const row = at - (at % 5);
      lanes[at] = moved[at] ^ (~moved[row + ((at + 1) % 5)] & MASK & moved[row + ((at + 2) % 5)]);
    }
    lanes[0] ^= constant;
  }
}

/** Keccak with 256 bits as Ethereum uses it, with the padding that came before SHA-3. */
export function keccak(bytes) {
  const rate = 136;
  const padded = Buffer.alloc((Math.floor(bytes.length / rate) + 1) * rate);
  bytes.copy(padded);
  padded[bytes.length] ^= 0x01;
  padded[padded.length - 1] ^= 0x80;
  const lanes = new Array(25).fill(0n);
  for (let at = 0; at < padded.length; at += rate) {
    for (let lane = 0; lane < rate / 8; lane += 1) lanes[lane] ^= padded.readBigUInt64LE(at + 8 * lane);
    permute(lanes);
  }
  const digest = Buffer.alloc(32);
  for (let lane = 0; lane < 4; lane += 1) digest.writeBigUInt64LE(lanes[lane], 8 * lane);
  return digest;
}

// SEC 2 §2.4.1.
const P = 2n ** 256n - 2n ** 32n - 977n;
const N = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const G = [
  0x79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798n,
  0x483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8n,
];

const modulo = (value, by) => ((value % by) + by) % by;

function inverse(value, by) {
  let [a, b, x, y] = [modulo(value, by), by, 1n, 0n];
  while (a > 1n) {
    const quotient = b / a;
    [a, b] = [b % a, a];
    [x, y] = [y - quotient * x, x];
  }
  return modulo(x, by);
}

function add(one, other) {
  if (!one) return other;
  if (!other) return one;
  if (one[0] === other[0] && one[1] !== other[1]) return undefined;
  const slope = one[0] === other[0]
    ? 3n * one[0] * one[0] * inverse(2n * one[1], P)
    : (other[1] - one[1]) * inverse(other[0] - one[0], P);
  const x = modulo(slope * slope - one[0] - other[0], P);
  return [x, modulo(slope * (one[0] - x) - one[1], P)];
}

function multiply(point, by) {
  let [sum, power] = [undefined, point];
  for (let rest = by; rest > 0n; rest >>= 1n) {
    if (rest & 1n) sum = add(sum, power);
    power = add(power, power);
  }
  return sum;
}

const number = (bytes) => BigInt(`0x${bytes.toString("hex")}`);
const word = (value) => Buffer.from(value.toString(16).padStart(64, "0"), "hex");

/** 65 bytes: r, s, and the recovery id 0 or 1. `high`: the other of the two values that s may have. */
export function signature(digest, secret, { high = false } = {}) {
  const key = typeof secret === "bigint" ? secret : number(Buffer.from(secret.replace(/^0x/, ""), "hex"));
  const seed = createHmac("sha256", word(key)).update(digest).digest();
  const nonce = modulo(number(seed), N - 1n) + 1n;
  const [x, y] = multiply(G, nonce);
  const r = modulo(x, N);
  let s = modulo(inverse(nonce, N) * (modulo(number(digest), N) + r * key), N);
  let parity = Number(y & 1n);
  if (s > N / 2n !== high) [s, parity] = [N - s, 1 - parity];
  return Buffer.concat([word(r), word(s), Buffer.from([parity])]);
}

/** The bytes that a payer signs. */
export function payerDigest(target, client) {
  const id = Buffer.alloc(4);
  id.writeUInt32BE(target);
  return keccak(Buffer.concat([Buffer.from("target|"), id, Buffer.from("payer|"), client]));
}

/** A payer envelope; a part that is `null` is left out. */
export function payerEnvelope(client, { key, target, days = 60, proof, more = Buffer.alloc(0) }) {
  const signed = proof === undefined ? signature(payerDigest(target, client), key) : proof;
  const parts = [bytesField(1, client)];
  if (signed !== null) parts.push(bytesField(2, bytesField(1, signed)));
  if (target) parts.push(numberField(3, target));
  if (days) parts.push(numberField(4, days));
  return Buffer.concat([...parts, more]);
}
