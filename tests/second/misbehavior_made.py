"""Signed parts of which golden reports of misbehaviour are made."""

from checkpoints import be
from misbehavior import MINUTE
from misbehavior_late import Report
from primitives import N, keccak256, sign
from protobuf import encode

SECOND = 10**9
NOW = 29_166_667 * MINUTE
DAY = 86_400
# Start, message fee, storage fee, congestion fee, target rate per minute.
RATE = [0, 7, 3, 11, 4]
NODES = (100, 200, 300)
TRANSACTION = bytes([5] * 32)
EARLIER, LATER, BEYOND = ({"originator": 0, "sequence": sequence} for sequence in (1, 2, 3))


def secret(node):
    return int.from_bytes(bytes([node // 100] * 32), "big")


PAYING = int.from_bytes(bytes([9] * 32), "big")


def pay(client, target=100, days=30, key=PAYING):
    """A payer envelope."""
    digest = keccak256(b"target|" + target.to_bytes(4, "big") + b"payer|" + client)
    return encode((1, client), (2, encode((1, sign(key, digest)))), (3, target), (4, days))


def client(topic=b"\1\x09", depends_on=(), arm=3, payload=b""):
    cursor = b"".join(encode((1, encode((1, node), (2, sequence)))) for node, sequence in depends_on)
    aad = encode((2, topic), (3, cursor))
    return encode((1, aad), (arm, payload))


def statement(sequence=7, ns=NOW, paid=None, days=30, base=None, congestion=0, node=100, expiry=0, more=b""):
    """Returns a statement of an originator. Only the arguments put faults into it."""
    paid = pay(client(), days=days) if paid is None else paid
    base = RATE[1] + RATE[2] * len(paid) * days if base is None else base
    expiry += ns // SECOND + days * DAY
    fields = (1, node), (2, sequence), (3, ns), (4, paid), (5, base), (6, congestion), (7, expiry)
    return encode(*fields) + more


def signed(statement, node=100, change=lambda signature: signature):
    signature = change(sign(secret(node), keccak256(b"originator|" + statement)))
    return encode((1, statement), (2, encode((1, signature))))


def on_chain(sequence, node=0, transaction=TRANSACTION):
    of_chain = statement(sequence, paid=encode((1, client())), base=0, node=node)
    return encode((1, of_chain), (3, encode((1, transaction))))


def safety(kind, *envelopes, accused=100, time_ns=NOW):
    failure = b"".join(encode((1, envelope)) for envelope in envelopes)
    return encode((1, time_ns), (2, accused), (3, kind), (5, failure))


def liveness(kind, response_ns, arm=3, accused=100):
    request = b"" if arm is None else encode((arm, b""))
    return encode((1, NOW), (2, accused), (3, kind), (4, encode((1, response_ns)) + request))


def high_s(signature):
    """The same signature in its other form."""
    s = N - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([28 - signature[64]])


def flip(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def void(first, last=9, time=0, node=100, key=None):
    """A statement about void places."""
    fields = be(node, 4) + be(first, 8) + be(last, 8) + be(time, 8) + bytes([4] * 16)
    return fields + sign(secret(node if key is None else key), keccak256(b"void|" + fields))


# Late releases: the contract's domain separator, and where the report of node 100 begins and ends.
DOMAIN = bytes([5] * 32)
START, END = 5, 20


def payer_report(start=START, end=END, node=100, minute=NOW // MINUTE, root=bytes([7] * 32), nodes=(100, 200)):
    """A domain separator and a report."""
    listed = b"".join(encode((6, each)) for each in nodes)
    return DOMAIN + encode((1, node), (2, start), (3, end), (4, minute), (5, root)) + listed


def attestation(report, ns, node=100, named=None, change=lambda signature: signature):
    """The envelope in which a node attests a report, maybe in another one's name."""
    identity = Report(report).id
    stated = encode((1, node if named is None else named), (2, encode((1, change(sign(secret(node), identity))))))
    payload = encode((1, identity), (2, stated))
    paid = pay(client(b"\5\x64\0\0\0", arm=7, payload=payload), node, key=secret(node))
    return signed(statement(END + 2, ns, paid=paid, base=0, node=node), node)


def malformed_reports(report):
    return {
        "short": report[:31],
        "of no contract": bytes(32) + report[32:],
        "cut off": report[:-1],
        "about originator 0": payer_report(node=0),
        "that ends before it starts": payer_report(END + 1),
        "that ends too high": payer_report(end=2**63),
        "of nothing with a root": payer_report(END),
        "with a short root": payer_report(root=bytes(31)),
        "without nodes": payer_report(nodes=()),
        "with a node twice": payer_report(nodes=(100, 100)),
        "with a node id of 32 bits": payer_report(nodes=(100, 2**31)),
        "with 256 nodes": payer_report(nodes=range(100, 356)),
        "of a minute with 32 bits": payer_report(minute=2**31),
    }
