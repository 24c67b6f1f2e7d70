#!/usr/bin/env python3
"""A second implementation of docs/protocol/checkpoints.md, written from that page and from the texts it cites.

    checkpoints.py check            reads vectors, one JSON object a line, and prints one verdict a line
    checkpoints.py make             prints the vectors

It needs nothing but Python 3.8: `primitives.py` has the hashes and signatures.
"""

import base64
import hashlib
import json
import random
import re
import sys

sys.dont_write_bytecode = True

from primitives import (
    N, blake3, ed_public, ed_sign, ed_verify, keccak256, public, recover, sign,
)

# Trees and proofs ----------------------------------------------------------------------------------

SIZE_MAX = 2**63 - 1
PROOF_MAX = 64


def leaf_hash(data):
    return blake3(b"\0" + data)


def node_hash(left, right):
    return blake3(b"\1" + left + right)


def tree_root(leaves):
    if not leaves:
        return blake3(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(tree_root(leaves[:k]), tree_root(leaves[k:]))


def audit_path(index, leaves):
    if len(leaves) <= 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return audit_path(index, leaves[:k]) + [tree_root(leaves[k:])]
    return audit_path(index - k, leaves[k:]) + [tree_root(leaves[:k])]


def consistency_path(size, leaves, known=True):
    if size in (0, len(leaves)):
        return [] if known or size == 0 else [tree_root(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if size <= k:
        return consistency_path(size, leaves[:k], known) + [tree_root(leaves[k:])]
    return consistency_path(size - k, leaves[k:], False) + [tree_root(leaves[:k])]


def tile_path(level, index, width):
    groups = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03}")
    return "/".join([str(level), *groups]) + (f".p/{width}" if width < 256 else "")


def tile_of(path):
    """Level, number and width of the tile with this path; None if there is no such path."""
    found = re.fullmatch(r"([0-7])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", path, re.ASCII)
    if not found:
        return None
    level, index = int(found[1]), int(found[2].replace("x", "").replace("/", ""))
    width = int(found[3]) if found[3] else 256
    is_tree = (256 * index + width) * 256**level <= SIZE_MAX
    return (level, index, width) if is_tree and tile_path(level, index, width) == path else None


def tiles_root(size, tiles):
    """The root of the tree that has these tiles, all of its own and no others; None if they contradict each other."""
    level, count, below, leaves = 0, size, None, []
    while count:
        hashes = b""
        for index in range((count + 255) // 256):
            width = min(256, count - 256 * index)
            tile = tiles.pop(tile_path(level, index, width), b"")
            if len(tile) != 32 * width:
                return None
            hashes += tile
        row = [hashes[i : i + 32] for i in range(0, len(hashes), 32)]
        whole = below and [tree_root(below[i : i + 256]) for i in range(0, len(below) - 255, 256)]
        if below is None:
            leaves = row
        elif whole != row:
            return None
        level, count, below = level + 1, count // 256, row
    return None if tiles else tree_root(leaves)


def verify_inclusion(leaf, index, size, proof, root):
    if size > SIZE_MAX or len(proof) > PROOF_MAX or index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def verify_consistency(m, n, proof, earlier, later):
    if n > SIZE_MAX or len(proof) > PROOF_MAX or m > n:
        return False
    if m == n:
        return not proof and earlier == later and (m > 0 or earlier == blake3(b""))
    if m == 0:
        return not proof and earlier == blake3(b"")
    if not proof:
        return False
    path = ([earlier] if m & (m - 1) == 0 else []) + proof
    fn, sn = m - 1, n - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == earlier and sr == later


# Checkpoints ---------------------------------------------------------------------------------------


def be(number, length):
    return number.to_bytes(length, "big")


def statement(node, originator, size, root):
    return be(node, 4) + be(originator, 4) + be(size, 8) + root


def checkpoint_digest(node, originator, size, root, time):
    return keccak256(b"checkpoint|" + statement(node, originator, size, root) + be(time, 8))


def cosignature_digest(cosigner, node, originator, size, root, time):
    said = be(cosigner, 4) + statement(node, originator, size, root) + be(time, 8)
    return keccak256(b"cosignature|" + said)


def is_canonical(signature):
    return signature[64] <= 1 and int.from_bytes(signature[32:64], "big") <= N // 2


def is_name(name):
    ok = all(not c.isspace() and c != "+" and not (ord(c) < 32 or 127 <= ord(c) < 160) for c in name)
    return 1 <= len(name.encode()) <= 128 and ok


class Refused(Exception):
    pass


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        if len(self.data) < count:
            raise Refused("cut off")
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def number(self, count):
        return int.from_bytes(self.take(count), "big")


def decode(data):
    """The binary form, with its cosignatures."""
    reader = Reader(data)
    node, originator, size = reader.number(4), reader.number(4), reader.number(8)
    root, time, signature = reader.take(32), reader.number(8), reader.take(65)
    if size > SIZE_MAX or not is_canonical(signature):
        raise Refused("checkpoint")
    nodes, witnesses = [], []
    count = reader.number(2)
    if count > 256:
        raise Refused("too many")
    for _ in range(count):
        one = reader.number(4), reader.number(8), reader.take(65)
        if not is_canonical(one[2]) or nodes and nodes[-1][0] >= one[0]:
            raise Refused("cosignature")
        nodes.append(one)
    count = reader.number(2)
    if count > 64:
        raise Refused("too many")
    for _ in range(count):
        try:
            name = reader.take(reader.number(1)).decode()
        except UnicodeDecodeError:
            raise Refused("name")
        one = name, reader.take(4), reader.number(8), reader.take(64)
        last = witnesses and (witnesses[-1][0].encode(), witnesses[-1][1])
        if not is_name(name) or last and last >= (name.encode(), one[1]):
            raise Refused("witness")
        witnesses.append(one)
    if reader.data:
        raise Refused("bytes are left over")
    return (node, originator, size, root, time, signature), nodes, witnesses


CHECKPOINT_TYPE = b"\xffhawser/checkpoint-secp256k1/v1"
COSIGNATURE_TYPE = b"\xffhawser/cosignature-secp256k1/v1"


def key_id(name, kind, key):
    return hashlib.sha256(name.encode() + b"\n" + kind + key).digest()[:4]


def note_text(network, node, originator, size, root):
    return f"{network}/strands/{originator}/{node}\n{size}\n{base64.b64encode(root).decode()}\n"


def note_line(name, kind, key, time, signature):
    blob = key_id(name, kind, key) + be(time, 8) + signature
    return f"\u2014 {name} {base64.b64encode(blob).decode()}\n"


def from_base64(text):
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused("base64")
    if base64.b64encode(data).decode() != text:
        raise Refused("base64")
    return data


def decimal(text, most):
    if not text or not all("0" <= c <= "9" for c in text) or text != str(int(text)):
        raise Refused("number")
    if int(text) > most:
        raise Refused("number")
    return int(text)


def read_note(note, network, registry):
    """The checkpoint and the verified signers of a note: (fields, node ids, witness lines)."""
    if len(note.encode()) > 131072 or any(ord(c) < 32 and c != "\n" or ord(c) == 127 for c in note):
        raise Refused("text")
    text, separator, lines = note.partition("\n\n")
    body = text.split("\n")
    if not separator or not lines.endswith("\n") or len(body) != 3:
        raise Refused("form")
    names = body[0].split("/")
    if len(names) != 4 or names[0] != network or names[1] != "strands":
        raise Refused("origin")
    originator, node = decimal(names[2], 2**32 - 1), decimal(names[3], 2**32 - 1)
    size, root = decimal(body[1], SIZE_MAX), from_base64(body[2])
    if len(root) != 32:
        raise Refused("root")
    own, others = [], []
    for line in lines[:-1].split("\n"):
        name, space, blob = line[2:].partition(" ")
        blob = from_base64(blob)
        if not line.startswith("\u2014 ") or not name or not space or len(blob) < 4:
            raise Refused("line")
        key = registry.get(node)
        is_own = key and name == body[0] and blob[:4] == key_id(name, CHECKPOINT_TYPE, key)
        (own if is_own else others).append((name, blob))
    if len(own) != 1 or len(own[0][1]) != 77:
        raise Refused("unsigned")
    time, signature = int.from_bytes(own[0][1][4:12], "big"), own[0][1][12:]
    if recover(signature, checkpoint_digest(node, originator, size, root, time)) != registry[node]:
        raise Refused("signature")
    keys = {f"{network}/nodes/{cosigner}": (cosigner, key) for cosigner, key in registry.items()}
    cosigners = set()
    for name, blob in others:
        cosigner, key = keys.get(name, (None, None))
        if key and blob[:4] == key_id(name, COSIGNATURE_TYPE, key):
            digest = cosignature_digest(cosigner, node, originator, size, root, int.from_bytes(blob[4:12], "big"))
            if recover(blob[12:], digest) != key:
                raise Refused("cosignature")
            cosigners.add(cosigner)
    return (node, originator, size, root, time), sorted(cosigners)


def verify_witness(case):
    text = note_text(case["network"], case["node"], case["originator"], case["size"], unhex(case["root"]))
    key, blob = unhex(case["public_key"]), unhex(case["blob"])
    time = int.from_bytes(blob[4:12], "big")
    if len(blob) != 76 or blob[:4] != key_id(case["name"], b"\4", key) or time >= 2**63:
        return False
    message = f"cosignature/v1\ntime {time}\n{text}".encode()
    return ed_verify(key, message, blob[12:])


# Vectors -------------------------------------------------------------------------------------------


def unhex(text):
    return bytes.fromhex(text)


def verdict(case):
    """Returns the verdict on a case: true, false, or the hash that it asks for."""
    kind = case["kind"]
    if kind == "leaf":
        transaction = unhex(case.get("transaction", ""))
        return leaf_hash(unhex(case["unsigned"]) + transaction).hex()
    if kind == "root":
        return tree_root([unhex(leaf) for leaf in case["leaves"]]).hex()
    if kind == "tile":
        return tile_of(case["path"])
    if kind == "tiles":
        root = tiles_root(case["size"], {path: unhex(tile) for path, tile in case["tiles"].items()})
        return root and root.hex()
    if kind == "inclusion":
        proof = [unhex(p) for p in case["proof"]]
        leaf, root = unhex(case["leaf"]), unhex(case["root"])
        return verify_inclusion(leaf, case["index"], case["size"], proof, root)
    if kind == "consistency":
        proof = [unhex(p) for p in case["proof"]]
        earlier, later = unhex(case["earlier"]), unhex(case["later"])
        return verify_consistency(case["from"], case["to"], proof, earlier, later)
    if kind == "witness":
        return verify_witness(case)
    registry = {int(node): unhex(key) for node, key in case["registry"].items()}
    try:
        if kind == "note":
            fields, cosigners = read_note(case["note"], case["network"], registry)
            return {"time": fields[4], "size": fields[2], "cosigners": cosigners}
        (node, originator, size, root, time, signature), nodes, _ = decode(unhex(case["bytes"]))
    except Refused:
        return False
    digest = checkpoint_digest(node, originator, size, root, time)
    found = node in registry and recover(signature, digest) == registry[node]
    for cosigner, said, signature in nodes:
        digest = cosignature_digest(cosigner, node, originator, size, root, said)
        found = found and cosigner in registry and recover(signature, digest) == registry[cosigner]
    return bool(found)


def make():
    chance = random.Random(6962)
    hashes = [leaf_hash(be(i, 8)) for i in range(40)]
    hexes = lambda values: [value.hex() for value in values]
    for length in (1, 63, 64, 1023, 1024, 1025, 5000):
        yield {"kind": "leaf", "unsigned": chance.randbytes(length).hex()}
    yield {"kind": "leaf", "unsigned": ""}
    yield {"kind": "leaf", "unsigned": "0a0b", "transaction": "77" * 32}
    for size in (0, 1, 2, 3, 7, 8, 21, 40):
        yield {"kind": "root", "leaves": hexes(hashes[:size])}

    for level, index, width in [(0, 0, 256), (0, 999, 1), (1, 1000, 255), (0, 1234067, 256), (7, 0, 127), (2, 0, 70)]:
        yield {"kind": "tile", "path": tile_path(level, index, width)}
    yield {"kind": "tile", "path": tile_path(0, 2**55 - 1, 255)}
    for path in [
        "0/000.p/0", "0/000.p/256", "0/000.p/07", "0/0", "00/000", "0/x000/001", "0/1000", "0/x001", "8/000", "7/000",
        "7/000.p/128", "0/x036/x028/x797/x018/x963/967", "0/x018/x446/x744/x073/x709/x551/615", "0/../000", "0/000/", "",
    ]:
        yield {"kind": "tile", "path": path}

    def flip(values):
        at = chance.randrange(len(values))
        bad = bytearray(values[at])
        bad[chance.randrange(32)] ^= 1 << chance.randrange(8)
        return values[:at] + [bytes(bad)] + values[at + 1 :]

    for index, size in [(0, 1), (0, 2), (1, 2), (2, 3), (3, 7), (6, 7), (0, 8), (20, 21), (32, 33), (39, 40)]:
        proof, root = audit_path(index, hashes[:size]), tree_root(hashes[:size])
        case = {"kind": "inclusion", "leaf": hashes[index].hex(), "index": index, "size": size, "root": root.hex()}
        yield {**case, "proof": hexes(proof)}
        yield {**case, "proof": hexes(proof), "index": (index + 1) % size if size > 1 else 1}
        yield {**case, "proof": hexes(proof + [root])}
        yield {**case, "proof": hexes(proof[:-1]), "size": size + 1}
        if proof:
            yield {**case, "proof": hexes(flip(proof))}
    yield {"kind": "inclusion", "leaf": hashes[0].hex(), "index": 0, "size": 0, "root": tree_root([]).hex(), "proof": []}
    for m, n in [(0, 0), (0, 5), (1, 1), (1, 2), (2, 3), (3, 7), (4, 7), (6, 7), (4, 8), (21, 40), (32, 40), (40, 40)]:
        proof = consistency_path(m, hashes[:n])
        earlier, later = tree_root(hashes[:m]), tree_root(hashes[:n])
        case = {"kind": "consistency", "from": m, "to": n, "earlier": earlier.hex(), "later": later.hex()}
        yield {**case, "proof": hexes(proof)}
        yield {**case, "proof": hexes(proof + [later])}
        yield {**case, "proof": hexes(proof), "from": n, "to": m}
        yield {**case, "proof": hexes(proof), "earlier": later.hex(), "later": earlier.hex()}
        if proof:
            yield {**case, "proof": hexes(proof[1:])}
            yield {**case, "proof": hexes(flip(proof))}
    yield from make_checkpoints(chance, tree_root(hashes))


def make_checkpoints(chance, root):
    secrets = {100: 11, 200: 22, 300: 33}
    registry = {str(node): public(secret).hex() for node, secret in secrets.items()}
    node, size, time, network = 100, 40, 1767000000123456789, "testnet"
    for originator in (100, 1):
        signature = sign(secrets[node], checkpoint_digest(node, originator, size, root, time))
        head = statement(node, originator, size, root) + be(time, 8) + signature
        cosigned = []
        for cosigner in (200, 300):
            said = time + cosigner
            digest = cosignature_digest(cosigner, node, originator, size, root, said)
            cosigned.append((cosigner, said, sign(secrets[cosigner], digest)))
        lists = be(2, 2) + b"".join(be(c, 4) + be(t, 8) + s for c, t, s in cosigned)
        name, seed, when = "witness.example/w1", b"\x09" * 32, 1767000001
        text = note_text(network, node, originator, size, root)
        message = f"cosignature/v1\ntime {when}\n{text}".encode()
        blob = key_id(name, b"\4", ed_public(seed)) + be(when, 8) + ed_sign(seed, message)
        lists += be(1, 2) + bytes([len(name)]) + name.encode() + blob
        whole = head + lists
        case = {"kind": "checkpoint", "registry": registry}
        yield {**case, "bytes": whole.hex()}
        yield {**case, "bytes": (head + bytes(4)).hex()}
        yield {**case, "bytes": (whole + b"\0").hex()}
        yield {**case, "bytes": whole[:-1].hex()}
        for at in [0, 4, 8, 15, 16, 47, 48, 55, 56, 120, 121, 122, 126, 130, 140, 199, len(head + be(2, 2)) + 77 * 2 + 1]:
            bad = bytearray(whole)
            bad[at] ^= 1 << chance.randrange(8)
            yield {**case, "bytes": bytes(bad).hex()}
        high = bytearray(head)
        s = N - int.from_bytes(head[88:120], "big")
        high[88:120], high[120] = be(s, 32), high[120] ^ 1
        yield {**case, "bytes": (bytes(high) + bytes(4)).hex()}
        witness = {"kind": "witness", "network": network, "node": node, "originator": originator, "size": size}
        witness.update(root=root.hex(), name=name, public_key=ed_public(seed).hex(), blob=blob.hex())
        yield witness
        yield {**witness, "network": "mainnet"}
        yield {**witness, "size": size + 1}
        yield {**witness, "name": name + "x"}
        for at in (0, 11, 12, 50, 75):
            bad = bytearray(blob)
            bad[at] ^= 1 << chance.randrange(8)
            yield {**witness, "blob": bytes(bad).hex()}
        origin = f"{network}/strands/{originator}/{node}"
        note = text + "\n" + note_line(origin, CHECKPOINT_TYPE, public(secrets[node]), time, signature)
        for c, t, s in cosigned:
            note += note_line(f"{network}/nodes/{c}", COSIGNATURE_TYPE, public(secrets[c]), t, s)
        note += f"\u2014 {name} {base64.b64encode(blob).decode()}\n"
        case = {"kind": "note", "registry": registry, "network": network}
        yield {**case, "note": note}
        yield {**case, "note": note + "\u2014 unknown.example AAAAAAE=\n"}
        yield {**case, "note": note, "network": "mainnet"}
        yield {**case, "note": note, "registry": {"200": registry["200"]}}
        for old, new in [
            ("\n40\n", "\n040\n"), ("\n40\n", "\n41\n"), ("\n40\n", "\n+40\n"), ("=\n\n", "=\nextension\n\n"),
            ("\n\n", "\n"), ("\n\n", "\n\n\n"), ("/strands/", "/strand/"), ("/100\n", "/0100\n"), ("/100\n", "/200\n"),
            ("\u2014 ", "- "), ("\n\n", "\t\n\n"),
        ]:
            assert old in note
            yield {**case, "note": note.replace(old, new, 1)}
        yield {**case, "note": note[:-1]}


def main():
    if sys.argv[1:] == ["make"]:
        for case in make():
            print(json.dumps({**case, "verdict": verdict(case)}, separators=(",", ":")))
    else:
        for line in sys.stdin:
            print(json.dumps(verdict(json.loads(line)), separators=(",", ":"), sort_keys=True))


if __name__ == "__main__":
    main()
