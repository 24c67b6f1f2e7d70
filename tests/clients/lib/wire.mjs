// As much protobuf and gRPC framing as it takes to look into a few messages.

/** The fields of a message: `{ number, value }` with a bigint or bytes. */
export function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      if (at >= bytes.length) throw new Error("a message ends within a number");
      const byte = bytes[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const start = at;
    const tag = varint();
    const [number, kind] = [Number(tag >> 3n), Number(tag & 7n)];
    let value;
    if (kind === 0) {
      value = varint();
    } else if (kind === 2) {
      const length = Number(varint());
      value = bytes.subarray(at, at + length);
      at += length;
    } else {
      throw new Error(`a field of kind ${kind}, which nothing here has`);
    }
    yield { number, value, raw: bytes.subarray(start, at) };
  }
}

/** The last value of a field, or `otherwise`. */
export function field(bytes, number, otherwise) {
  let found = otherwise;
  for (const each of fields(bytes)) if (each.number === number) found = each.value;
  return found;
}

/** A number as a varint. */
export function varint(value) {
  const out = [];
  let rest = BigInt(value);
  for (; rest >= 0x80n; rest >>= 7n) out.push(Number(rest & 0x7fn) | 0x80);
  out.push(Number(rest));
  return Buffer.from(out);
}

/** A field with a number. */
export const numberField = (number, value) => Buffer.concat([varint(number << 3), varint(value)]);

/** A field with bytes. */
export const bytesField = (number, value) =>
  Buffer.concat([varint((number << 3) | 2), varint(value.length), value]);

/** A gRPC frame with a message. */
export function frame(message) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** The frames of a body: `{ flags, message }`; gRPC-Web puts trailers in the last one. */
export function* frames(body) {
  for (let at = 0; at + 5 <= body.length; ) {
    const length = body.readUInt32BE(at + 1);
    yield { flags: body[at], message: body.subarray(at + 5, at + 5 + length) };
    at += 5 + length;
  }
}

/** The same body with every message that is no trailer changed. */
export function mapMessages(body, change) {
  const out = [];
  for (const { flags, message } of frames(body)) {
    const changed = flags & 0x80 ? message : change(message);
    const head = Buffer.alloc(5);
    head[0] = flags;
    head.writeUInt32BE(changed.length, 1);
    out.push(head, changed);
  }
  return Buffer.concat(out);
}

/** Originator and sequence id of an originator envelope. */
export function envelopeId(originatorEnvelope) {
  const unsigned = field(originatorEnvelope, 1, Buffer.alloc(0));
  return {
    originator: Number(field(unsigned, 1, 0n)),
    sequence: Number(field(unsigned, 2, 0n)),
  };
}
