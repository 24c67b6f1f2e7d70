"""The judgement on evidence on signed trees, written from docs/protocol/misbehavior.md."""

from checkpoints import (
    SIZE_MAX, checkpoint_digest, is_canonical, leaf_hash, unhex, verify_consistency, verify_inclusion,
)
from misbehavior import BYTES_MAX, ENVELOPE, FIRST_NODE, Exhibit, Ruling, require_signed
from misbehavior_late import judge_late, judge_other, judge_two
from primitives import keccak256, recover
from protobuf import Refused, decode

HASHES_MAX = 1 + 64
CLOCKS_DIFFER = 300 * 10**9
PIECES = {"two_checkpoints": (2, 3), "two_leaves": (4,), "other_leaf": (3,), "gap": (3,), "other_tree": (1,)}
PIECES.update(late_release=(4,), other_report=(1, 2), two_reports=(2,), other_than_pruned=(2,), void_signed=(2,))


class Checkpoint:
    """A signed checkpoint in its binary form."""

    def __init__(self, data):
        if len(data) != 121:
            raise Ruling("refuted", "malformed")
        self.node, self.originator = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
        self.size, self.root = int.from_bytes(data[8:16], "big"), data[16:48]
        self.time, self.signature = int.from_bytes(data[48:56], "big"), data[56:]
        if self.size > SIZE_MAX or not is_canonical(self.signature):
            raise Ruling("refuted", "malformed")

    def is_signed_by(self, key):
        digest = checkpoint_digest(self.node, self.originator, self.size, self.root, self.time)
        return recover(self.signature, digest) == key

    def strand(self):
        return self.node, self.originator

    def ruling(self, verdict, fact, **more):
        return Ruling(verdict, fact, self.size, **more)


def hashes_of(data):
    """A hash and those that follow it."""
    if not data or len(data) % 32 or len(data) > 32 * HASHES_MAX:
        raise Ruling("refuted", "malformed")
    hashes = [data[i : i + 32] for i in range(0, len(data), 32)]
    return hashes[0], hashes[1:]


def read_leaf(data):
    """Index, leaf and path of the proof of a leaf."""
    if len(data) < 8:
        raise Ruling("refuted", "malformed")
    return int.from_bytes(data[:8], "big"), *hashes_of(data[8:])


def require_under(leaf, checkpoint):
    index, leaf, path = leaf
    if not verify_inclusion(leaf, index, checkpoint.size, path, checkpoint.root):
        raise Ruling("refuted", "no_leaf")


def judge_trees(case):
    """Returns the judgement of evidence on signed trees, in the form of other judgements."""
    registry = {int(node): unhex(key) for node, key in case["registry"].items()}
    try:
        judge(case, [unhex(piece) for piece in case["pieces"]], registry)
    except Ruling as ruling:
        return {**ruling.found, "host": None}
    raise AssertionError("each judgement ends")


def judge(case, pieces, registry):
    fault = case["fault"]
    if len(pieces) not in PIECES[fault]:
        raise Ruling("refuted", "malformed")
    if sum(map(len, pieces)) > BYTES_MAX:
        raise Ruling("refuted", "too_large")
    if fault == "late_release":
        judge_late(case, pieces, registry)
    if fault in ("other_report", "two_reports"):
        (judge_other if fault == "other_report" else judge_two)(pieces, registry)
    if fault in ("other_than_pruned", "void_signed"):
        (judge_pruned if fault == "other_than_pruned" else judge_void)(pieces, registry)
    count = 2 if fault in ("two_checkpoints", "two_leaves") else 1
    checkpoints, rest = [Checkpoint(piece) for piece in pieces[:count]], pieces[count:]
    first = checkpoints[0]
    if first.node < FIRST_NODE or first.node not in registry:
        raise Ruling("refuted", "unknown_node")
    if not all(checkpoint.is_signed_by(registry[first.node]) for checkpoint in checkpoints):
        raise Ruling("refuted", "forged")
    if count == 2:
        (judge_checkpoints if fault == "two_checkpoints" else judge_leaves)(*checkpoints, rest)
    if fault == "other_tree":
        accused = first.originator if first.originator >= FIRST_NODE else first.node
        raise first.ruling("claim", "other_tree") if accused in registry else Ruling("refuted", "unknown_node")
    if first.node != first.originator:
        raise first.ruling("refuted", "observer")
    (judge_leaf if fault == "other_leaf" else judge_gap)(first, rest, registry)


def against(first):
    """An observer may have been shown two histories, so a contradiction is a claim."""
    return "proven" if first.node == first.originator else "claim"


def judge_checkpoints(first, other, rest):
    earlier, later = sorted((first, other), key=lambda it: it.time)
    is_own = first.node == first.originator
    has_two_roots = first.size == other.size and first.root != other.root
    shrinks = is_own and later.size < earlier.size and later.time != earlier.time
    if first.strand() == other.strand() and (has_two_roots or shrinks):
        raise first.ruling(against(first), "two_checkpoints")
    if rest:
        judge_beginning(first, other, *hashes_of(rest[0]))
    if first.strand() != other.strand():
        raise first.ruling("refuted", "other_strand")
    if first.size == other.size:
        raise first.ruling("refuted", "consistent")
    raise first.ruling("inconclusive", "no_beginning", missing=["tree"])


def judge_beginning(first, other, root, path):
    smaller, larger = sorted((first, other), key=lambda it: it.size)
    if first.strand() != other.strand():
        raise first.ruling("refuted", "other_strand")
    if root == smaller.root:
        raise first.ruling("refuted", "consistent")
    if not verify_consistency(smaller.size, larger.size, path, root, larger.root):
        raise first.ruling("refuted", "no_beginning")
    raise first.ruling(against(first), "two_checkpoints")


def judge_leaves(first, other, rest):
    if first.strand() != other.strand():
        raise first.ruling("refuted", "other_strand")
    one, another = map(read_leaf, rest)
    require_under(one, first)
    require_under(another, other)
    place = one[0] + 1
    if one[0] != another[0]:
        raise Ruling("refuted", "other_place", place)
    if one[1] == another[1]:
        raise Ruling("refuted", "consistent", place)
    raise Ruling(against(first), "two_leaves", place)


def open_envelope(piece, registry):
    try:
        return Exhibit(decode(piece, ENVELOPE), registry)
    except Refused:
        raise Ruling("refuted", "malformed")


def signed_envelope(piece, node, registry):
    exhibit = open_envelope(piece, registry)
    require_signed(node, [exhibit])
    return exhibit


def judge_leaf(first, rest, registry):
    leaf = read_leaf(rest[0])
    require_under(leaf, first)
    envelope = signed_envelope(rest[1], first.node, registry)
    if envelope.sequence != leaf[0] + 1:
        raise envelope.ruling("refuted", "other_place")
    is_same = leaf_hash(envelope.statement) == leaf[1]
    raise envelope.ruling(*(("refuted", "consistent") if is_same else ("proven", "other_leaf")))


def judge_gap(first, rest, registry):
    before, after = (signed_envelope(piece, first.node, registry) for piece in rest)
    if after.sequence - before.sequence < 2:
        raise after.ruling("refuted", "in_order")
    is_covered = first.size >= after.sequence - 1
    raise after.ruling(*(("claim", "gap") if is_covered else ("refuted", "not_covered")))


def judge_pruned(pieces, registry):
    """An envelope, and the leaf of the one that the reporter has pruned."""
    envelope = open_envelope(pieces[0], registry)
    if envelope.node < FIRST_NODE:
        raise Ruling("refuted", "unknown_node")
    require_signed(envelope.node, [envelope])
    if len(pieces[1]) != 32:
        raise Ruling("refuted", "malformed")
    is_same = leaf_hash(envelope.statement) == pieces[1]
    raise envelope.ruling(*(("refuted", "consistent") if is_same else ("claim", "other_than_pruned")))


def judge_void(pieces, registry):
    """A statement that places are void, and an envelope for one of them that is later than clocks differ."""
    fields, signature = pieces[0][:44], pieces[0][44:]
    node, first, last, time = (int.from_bytes(fields[at:to], "big") for at, to in ((0, 4), (4, 12), (12, 20), (20, 28)))
    if len(pieces[0]) != 109 or not 1 <= first <= last <= SIZE_MAX or not is_canonical(signature):
        raise Ruling("refuted", "malformed")
    if node < FIRST_NODE or node not in registry:
        raise Ruling("refuted", "unknown_node")
    if recover(signature, keccak256(b"void|" + fields)) != registry[node]:
        raise Ruling("refuted", "forged")
    envelope = signed_envelope(pieces[1], node, registry)
    if not first <= envelope.sequence <= last:
        raise envelope.ruling("refuted", "other_place")
    is_later = envelope.ns > time + CLOCKS_DIFFER
    raise envelope.ruling(*(("claim", "void_signed") if is_later else ("refuted", "not_later")))
