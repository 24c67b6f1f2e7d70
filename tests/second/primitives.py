"""BLAKE3, Keccak, secp256k1 and Ed25519, slow and short. They need nothing but Python 3.8."""

import hashlib

# BLAKE3 --------------------------------------------------------------------------------------------

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
MASK = 0xFFFFFFFF
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def rotate(word, bits):
    return (word >> bits | word << (32 - bits)) & MASK


def mix(v, a, b, c, d, x, y):
    v[a] = (v[a] + v[b] + x) & MASK
    v[d] = rotate(v[d] ^ v[a], 16)
    v[c] = (v[c] + v[d]) & MASK
    v[b] = rotate(v[b] ^ v[c], 12)
    v[a] = (v[a] + v[b] + y) & MASK
    v[d] = rotate(v[d] ^ v[a], 8)
    v[c] = (v[c] + v[d]) & MASK
    v[b] = rotate(v[b] ^ v[c], 7)


def compress(chaining, block, counter, length, flags):
    m = [int.from_bytes(block[i : i + 4], "little") for i in range(0, 64, 4)]
    v = chaining + IV[:4] + [counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for column in range(4):
            mix(v, column, 4 + column, 8 + column, 12 + column, m[2 * column], m[2 * column + 1])
        for row in range(4):
            a, b, c, d = row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4
            mix(v, a, b, c, d, m[8 + 2 * row], m[9 + 2 * row])
        m = [m[i] for i in ORDER]
    return [v[i] ^ v[i + 8] for i in range(8)]


def chunk(data, counter, flags):
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    value = IV
    for i, block in enumerate(blocks):
        first = CHUNK_START if i == 0 else 0
        last = CHUNK_END | flags if i == len(blocks) - 1 else 0
        value = compress(value, block.ljust(64, b"\0"), counter, len(block), first | last)
    return value


def words(value):
    return b"".join(word.to_bytes(4, "little") for word in value)


def subtree(data, counter, flags):
    if len(data) <= 1024:
        return chunk(data, counter, flags)
    left = 1024
    while left * 2 < len(data):
        left *= 2
    parts = subtree(data[:left], counter, 0), subtree(data[left:], counter + left // 1024, 0)
    return compress(IV, words(parts[0]) + words(parts[1]), 0, 64, PARENT | flags)


def blake3(data):
    return words(subtree(data, 0, ROOT))


# Keccak-256 ----------------------------------------------------------------------------------------


def keccak_f(lanes):
    r = 1
    for _ in range(24):
        c = [lanes[x][0] ^ lanes[x][1] ^ lanes[x][2] ^ lanes[x][3] ^ lanes[x][4] for x in range(5)]
        d = [c[(x + 4) % 5] ^ turn(c[(x + 1) % 5], 1) for x in range(5)]
        lanes = [[lanes[x][y] ^ d[x] for y in range(5)] for x in range(5)]
        x, y, current = 1, 0, lanes[1][0]
        for t in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            current, lanes[x][y] = lanes[x][y], turn(current, (t + 1) * (t + 2) // 2)
        for y in range(5):
            row = [lanes[x][y] for x in range(5)]
            for x in range(5):
                lanes[x][y] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5])
        for j in range(7):
            r = (r << 1 ^ (r >> 7) * 0x71) % 256
            if r & 2:
                lanes[0][0] ^= 1 << ((1 << j) - 1)
    return lanes


def turn(lane, bits):
    bits %= 64
    return (lane << bits | lane >> (64 - bits)) & (2**64 - 1)


def keccak256(data):
    rate = 136
    padded = bytearray(data + b"\1" + b"\0" * (-(len(data) + 1) % rate))
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for start in range(0, len(padded), rate):
        for i in range(rate // 8):
            at = start + 8 * i
            lanes[i % 5][i // 5] ^= int.from_bytes(padded[at : at + 8], "little")
        lanes = keccak_f(lanes)
    return b"".join(lanes[i % 5][i // 5].to_bytes(8, "little") for i in range(4))


# secp256k1 -----------------------------------------------------------------------------------------

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % P == 0:
            return None
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(scalar, point):
    result = None
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point, scalar = add(point, point), scalar >> 1
    return result


def public(secret):
    x, y = times(secret, G)
    return b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")


def sign(secret, digest):
    """The nonce is a hash of key and digest: good enough for vectors."""
    z = int.from_bytes(digest, "big")
    k = int.from_bytes(hashlib.sha512(secret.to_bytes(32, "big") + digest).digest(), "big") % N
    x, y = times(k, G)
    s = pow(k, -1, N) * (z + x * secret) % N
    v = y & 1
    if s > N // 2:
        s, v = N - s, v ^ 1
    return x.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])


def recover(signature, digest):
    """The key of a signature in canonical form; None for any other bytes."""
    if len(signature) != 65 or signature[64] > 1:
        return None
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    if not 0 < r < N or not 0 < s <= N // 2:
        return None
    square = (r**3 + 7) % P
    y = pow(square, (P + 1) // 4, P)
    if y * y % P != square:
        return None
    point = (r, y if y & 1 == signature[64] else P - y)
    inverse = pow(r, -1, N)
    z = int.from_bytes(digest, "big")
    key = add(times(s * inverse % N, point), times(-z * inverse % N, G))
    return key and b"\4" + key[0].to_bytes(32, "big") + key[1].to_bytes(32, "big")


# Ed25519 -------------------------------------------------------------------------------------------

Q = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, Q) % Q


def ed_add(a, b):
    (x, y), (u, v) = a, b
    both = D * x * u * y * v
    return (
        (x * v + y * u) * pow(1 + both, -1, Q) % Q,
        (y * v + x * u) * pow(1 - both, -1, Q) % Q,
    )


def ed_times(scalar, point):
    result = (0, 1)
    while scalar:
        if scalar & 1:
            result = ed_add(result, point)
        point, scalar = ed_add(point, point), scalar >> 1
    return result


def ed_x(y, sign_bit):
    square = (y * y - 1) * pow(D * y * y + 1, -1, Q) % Q
    x = pow(square, (Q + 3) // 8, Q)
    if (x * x - square) % Q:
        x = x * pow(2, (Q - 1) // 4, Q) % Q
    if (x * x - square) % Q or (x == 0 and sign_bit):
        return None
    return Q - x if x & 1 != sign_bit else x


ED_G = (ed_x(4 * pow(5, -1, Q) % Q, 0), 4 * pow(5, -1, Q) % Q)


def ed_encode(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def ed_decode(data):
    number = int.from_bytes(data, "little")
    y = number & (2**255 - 1)
    if y >= Q:
        return None
    x = ed_x(y, number >> 255)
    return None if x is None else (x, y)


def ed_scalar(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def ed_secret(seed):
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254
    return scalar, digest[32:]


def ed_public(seed):
    return ed_encode(ed_times(ed_secret(seed)[0], ED_G))


def ed_sign(seed, message):
    scalar, prefix = ed_secret(seed)
    r = ed_scalar(prefix, message) % L
    point = ed_encode(ed_times(r, ED_G))
    s = (r + ed_scalar(point, ed_public(seed), message) * scalar) % L
    return point + s.to_bytes(32, "little")


def ed_verify(key, message, signature):
    a, r = ed_decode(key), ed_decode(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    if ed_times(8, a) == (0, 1) or ed_times(8, r) == (0, 1):
        return False
    k = ed_scalar(signature[:32], key, message) % L
    return ed_times(s, ED_G) == ed_add(r, ed_times(k, a))
