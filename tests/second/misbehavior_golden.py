#!/usr/bin/env python3
"""Prints the golden reports of misbehaviour, with the judgement that each has to get.

    python3 tests/second/misbehavior_golden.py > audit/tests/data/misbehavior.jsonl
"""

import json
import sys

sys.dont_write_bytecode = True

from checkpoints import audit_path, be, checkpoint_digest, consistency_path, leaf_hash, tree_root
from misbehavior import CAUSAL, CHAIN, CLOCKS, DUPLICATE, MINUTE, ORDER, PAYLOAD, judge, units
from misbehavior_made import (
    BEYOND, DAY, EARLIER, END, LATER, NODES, NOW, PAYING, RATE, SECOND, START, TRANSACTION, attestation, client, flip,
    high_s, liveness, malformed_reports, on_chain, pay, payer_report, safety, secret, signed, statement, void,
)
from misbehavior_trees import judge_trees
from primitives import keccak256, public, sign
from protobuf import encode


def golden_liveness():
    for kind, name in [(1, "no answer"), (3, "a failed request")]:
        yield name, liveness(kind, 2**32 - 1), {}
        yield f"{name}: no request", liveness(kind, 5, arm=None), {}
    yield "a slow answer", liveness(2, 2 * SECOND), {}
    yield "a slow answer: it was fast", liveness(2, 2 * SECOND - 1), {}
    yield "a failed request: the accused is in no registry", liveness(3, 5, accused=900), {}
    report = liveness(1, 5, arm=2)
    host = sign(secret(200), keccak256(b"misbehavior|" + report)).hex()
    yield "no answer: kept by node 200", report, {"host_signature": host}
    yield "no answer: kept by no node", report, {"host_signature": sign(PAYING, keccak256(report)).hex()}


def golden_order():
    def of(*statements, **facts):
        return safety(ORDER, *map(signed, statements)), facts

    yield "order: the time goes back", *of(statement(7), statement(8, NOW - SECOND - 1))
    yield "order: the later place first", *of(statement(9, NOW - MINUTE), statement(7))
    yield "order: a step back of a second", *of(statement(7), statement(8, NOW - SECOND))
    yield "order: a gap", *of(statement(7), statement(9))
    yield "order: one place", *of(statement(7), statement(7, NOW + 1))
    yield "order: five minutes ahead", *of(statement(7, NOW + CLOCKS))
    yield "order: more than five minutes ahead", *of(statement(7, NOW + CLOCKS + 1))
    yield "order: ahead of a reporter whose clock is behind", *of(statement(7, NOW + CLOCKS + 1), held_at_ns=NOW + 1)
    yield "order: ahead of a block", *of(statement(7, NOW + CLOCKS + 1), anchors=[[100, 7, NOW]])
    yield "order: three envelopes", *of(statement(7), statement(8), statement(9))
    yield "order: another node's envelope", safety(ORDER, signed(statement(7)), signed(statement(8, node=200), 200)), {}
    yield "order: an envelope of a chain", safety(ORDER, on_chain(1)), {}


def golden_statements():
    first, other = statement(7), statement(7, NOW + 1)

    def of(*envelopes, accused=100):
        return safety(DUPLICATE, *envelopes, accused=accused), {}

    yield "two statements: other times", *of(signed(first), signed(other))
    yield "two statements: other payloads", *of(signed(first), signed(statement(7, paid=pay(client(b"\1\x08")))))
    yield "two statements: other fees", *of(signed(first), signed(statement(7, congestion=11)))
    yield "two statements: another expiry", *of(signed(first), signed(statement(7, expiry=1)))
    yield "two statements: an unknown field", *of(signed(first), signed(first + encode((15, 1))))
    yield "two statements: another form of a signature", *of(signed(first, change=high_s), signed(other))
    yield "one statement", *of(signed(first), signed(first))
    yield "one statement: another form of its signature", *of(signed(first), signed(first, change=high_s))
    yield "two statements: two places", *of(signed(first), signed(statement(8)))
    yield "two statements: one envelope", *of(signed(first))
    yield "two statements: three envelopes", *of(signed(first), signed(other), signed(other))
    yield "two statements: of another node", *of(signed(first), signed(statement(7, node=200), 200))
    yield "two statements: both of another node", *of(signed(first), signed(other), accused=200)
    yield "two statements: one of a chain", *of(signed(first), on_chain(7))
    yield "two statements: signed by another node", *of(signed(first), signed(other, 200))
    yield "two statements: of a node in no registry", *of(signed(first), signed(statement(7, node=900), 400))
    yield "two statements: no proof", *of(signed(first), encode((1, other)))


def golden_causal():
    places = [{**EARLIER, "block_ns": NOW - MINUTE}, {**LATER, "block_ns": NOW + CLOCKS + 1}]
    places += [{**BEYOND, "final_ns": NOW + CLOCKS + 1}, {"originator": 1, "sequence": 1, "final_ns": NOW + CLOCKS}]

    def of(*depends_on, node=100):
        paid = pay(client(depends_on=depends_on))
        return safety(CAUSAL, signed(statement(paid=paid, node=node), node)), {"places": places}

    yield "dependency: on a node", *of((200, 1))
    yield "dependency: on an event that came later", *of((0, 2))
    yield "dependency: on an event that did not come", *of((0, 3))
    yield "dependency: on an event that came later, and on one that is not known", *of((0, 2), (1, 9))
    yield "dependency: on an event that came later, and on a node", *of((0, 2), (200, 1))
    yield "dependency: on an event that may have come", *of((1, 1))
    yield "dependency: on an event that is not known", *of((0, 4))
    yield "dependency: on an earlier event", *of((0, 1))
    yield "dependency: on none", *of()
    yield "dependency: of another node", *of((200, 1), node=200)
    circle = [(7, (100, 8)), (8, (100, 7))]
    circle = [signed(statement(at, paid=pay(client(depends_on=[needed])))) for at, needed in circle]
    yield "dependency: in a circle", safety(CAUSAL, *circle), {}
    yield "dependency: an envelope of a chain", safety(CAUSAL, on_chain(1)), {"places": places}


def golden_rules():
    def of(*statements, rates=(RATE,), **facts):
        return safety(PAYLOAD, *map(signed, statements)), {"rates": list(rates), **facts}

    yield "rule 1", *of(statement(paid=b"noise"))
    yield "rule 2", *of(statement(paid=encode((1, client()), (3, 100), (4, 30))))
    yield "rule 3", *of(statement(paid=pay(client(), 200)))
    yield "rule 4: another kind", *of(statement(paid=pay(client(b"\0\x09"))))
    yield "rule 4: too long", *of(statement(paid=pay(client(b"\1" * 129))))
    yield "rule 5", *of(statement(paid=pay(client(b"\4\x09", arm=6)), base=0))
    yield "rule 6: no message", *of(statement(paid=pay(client(b"\0\x09", arm=2))))
    yield "rule 6: an identity update", *of(statement(paid=pay(client(b"\2\x09", arm=5))))
    yield "rule 7", *of(statement(paid=pay(client(depends_on=[(100, 1)]))))
    yield "rule 8", *of(statement(days=1))
    yield "rule 9", *of(statement(expiry=-601))
    yield "rule 9: ten minutes", *of(statement(expiry=-600))
    yield "rule 9: a day late", *of(statement(expiry=DAY))
    yield "rule 9: more than a day late", *of(statement(expiry=DAY + 1))
    yield "rule 9: late, without rates", *of(statement(expiry=DAY + 1), rates=[])
    yield "rule 9: late, and a wrong fee", *of(statement(expiry=DAY + 1, base=1))
    yield "rule 9: late, and from an absence", *of(statement(expiry=DAY + 1), absences={"100": [[0, None]]})
    yield "rule 10", *of(statement(base=1))
    yield "rule 11", *of(statement(congestion=12))
    yield "rule 11: any multiple up to a hundred", *of(statement(congestion=1100))
    off = [[*RATE[:4], target] for target in (0, 2**31, 2**32)]
    for rate in off:
        yield f"rule 11: the target {rate[4]} switches congestion off", *of(statement(congestion=11), rates=[rate])
    on, late = [*RATE[:4], 2**32 + 1], NOW // SECOND - 60
    yield "rule 11: a target of 33 bits whose lower half is positive", *of(statement(congestion=11), rates=[on])
    before = [off[1], [late, *on[1:]]]
    yield "rule 11: one of two rates has congestion", *of(statement(congestion=11), rates=before)
    yield "rule 14: no key package", *of(statement(paid=pay(client(b"\3\x09", arm=4))))
    yield "no rule", *of(statement())
    free = pay(client(b"\4\x09", arm=6), key=secret(100))
    yield "a free envelope: a base fee", *of(statement(paid=free, base=1), rates=())
    yield "a free envelope: a congestion fee", *of(statement(paid=free, base=0, congestion=1), rates=())
    yield "a free envelope", *of(statement(paid=free, base=0), rates=())


def golden_odd():
    """Payer envelopes that do not decode, and that other software may decode."""

    def of(paid, *others, rates=(RATE,), **facts):
        return safety(PAYLOAD, signed(statement(paid=paid, base=1)), *others), {"rates": list(rates), **facts}

    def groups(count):
        return b"\x7b" * count + b"\x7c" * count

    def grouped(number):
        return b"\x7b" + encode((number, 1)) + b"\x7c"

    number = encode((2, 5))
    odd = client() + number
    yield "odd: a payload that is a number", *of(pay(odd))
    yield "odd: a topic that is a number", *of(pay(client() + encode((1, number))))
    yield "odd: a client envelope that is a number", *of(pay(client()) + encode((1, 5)))
    yield "odd: a target that is a text", *of(pay(client()) + encode((3, b"100")))
    yield "odd: groups in groups", *of(pay(client() + groups(150)))
    yield "odd: a number of 31 bits in a group", *of(pay(client() + grouped((1 << 31) - 1)))
    yield "odd: a signature in two parts", *of(encode((2, b"")) + pay(odd))
    yield "odd: a payload that is malformed", *of(pay(client(payload=b"\x0a\5")))
    yield "odd: no rates", *of(pay(odd), rates=())
    yield "odd: absent", *of(pay(odd), absences={"100": [[NOW // SECOND - 7200, None]]})
    yield "odd: beside an honest one", *of(pay(odd), signed(statement(8)))
    yield "odd: beside wrong fees", *of(pay(odd), signed(statement(8, base=1)))
    yield "odd: as many groups as are decoded here", *of(pay(client() + groups(100)))
    yield "rule 1: more groups than any software reads", *of(pay(client() + groups(10_002)))
    yield "rule 1: a number of 32 bits in a group", *of(pay(client() + grouped(1 << 31)))
    yield "rule 1: a number of 30 bits", *of(pay(client() + encode((1 << 29, 1))))
    yield "rule 1: a group that ends as another one", *of(pay(odd + b"\x7b\x74"))
    yield "rule 1: cut off", *of(pay(odd + b"\x0a\5"))
    yield "rule 1: for another node", *of(pay(odd, 200))
    yield "rule 1: no payer", *of(encode((1, odd), (3, 100), (4, 30)))
    yield "rule 1: a signature of 64 bytes", *of(encode((1, odd), (2, encode((1, bytes(64)))), (3, 100), (4, 30)))
    yield "rule 1: a retention of a day", *of(pay(odd, days=1))
    yield "rule 1: another kind", *of(pay(client(b"\0\x09") + number))
    yield "rule 1: an identity update", *of(pay(client(b"\2\x09", arm=5) + number))
    yield "rule 1: a reserved topic", *of(pay(client(b"\4\x09", arm=6) + number))
    yield "rule 1: no topic", *of(pay(encode((3, b"")) + number))


def golden_taken():
    """Messages and signatures that are refused, and that other software may take."""

    def of(paid, rates=(RATE,), **more):
        return safety(PAYLOAD, signed(statement(paid=paid, **more))), {"rates": list(rates)}

    def message(content, behind=bytes(3), length=b"\0", head=b"", topic=b"\0\x09"):
        """A message of a group with this content; a public one has a head before that. `length` has the group id."""
        data = be(1, 2) + be(1 if head else 2, 2) + length + bytes(8) + head + bytes([content]) + behind
        return pay(client(topic, arm=2, payload=encode((1, encode((1, data))))))

    def changed(more, target=100):
        """A payer envelope with another recovery id."""
        paid = pay(client(), target)
        at = paid.index(encode((3, target), (4, 30))) - 1
        return paid[:at] + bytes([paid[at] + more]) + paid[at + 1 :]

    def group(length):
        return bytes([length]) + bytes(length)

    public = b"\3\0"
    yield "no rule: a message", *of(message(1))
    yield "no rule: a group id of 16 bytes", *of(message(1, length=group(16), topic=bytes(17)))
    yield "no rule: a group id of 15 bytes in a topic that no client reads", *of(message(1, length=group(15), topic=bytes(16)))
    yield "no rule: a public message", *of(message(1, bytes(2), head=public))
    yield "no rule: a public message of a member", *of(message(1, head=bytes([1, 0, 0, 0, 0, 0])))
    taken = {
        "bytes behind a message": message(1, bytes(4)),
        "a message that is cut off": message(1, b""),
        "an unknown content": message(4),
        "a length in more bytes than it needs": message(1, length=b"\x40\0"),
        "a length of eight bytes": message(1, length=b"\xc0" + bytes(7)),
        "bytes behind a public message": message(1, head=public),
        "a group id of 15 bytes": message(1, length=group(15), topic=bytes(17)),
        "a group id of 17 bytes in a public message": message(1, bytes(2), group(17), public, bytes(17)),
    }
    for name, paid in taken.items():
        yield f"odd: {name}", *of(paid)
    odd = taken["bytes behind a message"]
    yield "odd: bytes behind a message, no rates", *of(odd, rates=())
    yield "odd: bytes behind a message, and a late expiry", *of(odd, expiry=DAY + 1)
    yield "rule 6: bytes behind a message, and another expiry", *of(odd, expiry=-601)
    yield "rule 10: bytes behind a message", *of(odd, base=1)
    yield "rule 6: a commit", *of(message(3))
    yield "rule 6: bytes behind a commit", *of(message(3, bytes(4)))
    yield "rule 6: a commit with a group id of 15 bytes", *of(message(3, length=group(15), topic=bytes(17)))
    yield "rule 6: a proposal that is cut off", *of(message(2, b""))
    yield "rule 6: an unknown content of a public message", *of(message(4, head=public))
    yield "rule 6: an unknown sender", *of(message(1, head=b"\5\0"))
    yield "rule 6: a length beyond the message", *of(message(1, length=b"\x3f"))
    yield "odd: a recovery id of 4 or 5", *of(changed(4))
    yield "rule 2: a recovery id of 8 or 9", *of(changed(8))
    yield "rule 2: a recovery id of 27 or 28", *of(changed(27))
    yield "rule 3: a recovery id of 4 or 5", *of(changed(4, 200))


def golden_payloads():
    def of(*envelopes, rates=(RATE,), **facts):
        return safety(PAYLOAD, *envelopes), {"rates": list(rates), **facts}

    wrong, right, now_s = signed(statement(base=1)), signed(statement()), NOW // SECOND
    base = RATE[1] + RATE[2] * len(pay(client())) * 30
    yield "fees: no rates", *of(wrong, rates=())
    yield "fees: rates that begin later", *of(wrong, rates=([now_s + 1000, *RATE[1:]],))
    yield "fees: rates that end before", *of(wrong, rates_complete_until_ns=NOW - 1)
    yield "fees: rates up to then", *of(wrong, rates_complete_until_ns=NOW)
    newer = (RATE, [now_s - 30 * DAY, RATE[1] + 1, *RATE[2:4], 100])
    yield "fees: a former rate", *of(right, rates=newer)
    yield "fees: the newer rate", *of(signed(statement(base=base + 1)), rates=newer)
    yield "fees: neither rate", *of(signed(statement(base=base + 2)), rates=newer)
    recent = (RATE, [now_s - 65 * 60, RATE[1] + 1, *RATE[2:]])
    yield "fees: a rate that another one replaced 65 minutes ago", *of(right, rates=recent)

    away, later = {"100": [[now_s, None]]}, NOW + 61 * MINUTE
    yield "absent: within an hour of the removal", *of(signed(statement(7, NOW + MINUTE)), absences=away)
    yield "absent", *of(signed(statement(7, later)), absences=away)
    yield "absent: it has come back", *of(signed(statement(7, later)), absences={"100": [[now_s, now_s + 60 * 61]]})
    yield "absent: no rates", *of(signed(statement(7, later)), rates=(), absences=away)
    broken = signed(statement(7, later, paid=pay(client(), 200)))
    yield "absent: another rule as well", *of(broken, absences=away)

    # Place 1 is before the five minutes, place 8 the one that is judged. Up to four envelopes in a minute are free.
    def strand(fee, count=8):
        yield signed(statement(1, NOW - 5 * MINUTE))
        for place in range(2, count):
            yield signed(statement(place, NOW + place))
        yield signed(statement(count, NOW + 100, congestion=fee))

    due = RATE[3] * units([6, 0, 0, 0, 0], RATE[4])
    yield "congestion: as due", *of(*strand(due))
    yield "congestion: too high", *of(*strand(RATE[3], 4))
    yield "congestion: too low", *of(*strand(0))
    window = list(strand(0))
    yield "congestion: a place is missing", *of(*window[:4], *window[5:])
    yield "congestion: the start is missing", *of(*window[1:])
    yield "congestion: no rates", *of(*window, rates=())

    forged = signed(statement(8), 200)
    for name, worthless in [("a forged envelope", forged), ("an envelope of a chain", on_chain(7))]:
        yield f"payload: {name}", *of(worthless)
        yield f"payload: {name} beside a proof", *of(worthless, wrong)
        yield f"payload: {name} beside an honest one", *of(right, worthless)
    yield "payload: of another node", *of(signed(statement(node=200, paid=pay(client(), 300)), 200))


def golden_chain():
    event = {**EARLIER, "transaction": TRANSACTION.hex(), "identifier": "09", "client": client().hex()}
    events = [event, {**event, **LATER, "identifier": "08"}, {**event, **BEYOND}]
    del events[2]["client"], events[2]["identifier"]
    facts = {"events": events}
    yield "chain: as on the chain", safety(CHAIN, on_chain(1)), facts
    yield "chain: other content", safety(CHAIN, on_chain(2)), facts
    yield "chain: no such event", safety(CHAIN, on_chain(3)), facts
    yield "chain: not known", safety(CHAIN, on_chain(4)), facts
    yield "chain: no chain was asked", safety(CHAIN, on_chain(2)), {}
    yield "chain: one of two is false", safety(CHAIN, on_chain(1), on_chain(2)), facts
    yield "chain: an envelope that a node signed", safety(CHAIN, signed(statement())), facts
    yield "chain: an unsigned envelope of a node", safety(CHAIN, on_chain(1, node=100)), facts
    for node in (2, 10, 99):
        yield f"chain: originator {node} is of no chain", safety(CHAIN, on_chain(1, node=node)), facts
    yield "chain: a short transaction hash", safety(CHAIN, on_chain(1, transaction=TRANSACTION[:31])), facts


def golden_beside():
    """Evidence that decides nothing, beside other evidence: it refutes its own part only."""
    forged, of_chain, rated = signed(statement(8), 200), on_chain(4), {"rates": [RATE]}
    unknown = signed(statement(paid=pay(client(depends_on=[(0, 4)]))))
    yield "beside: a forged envelope, and an unknown dependency", safety(CAUSAL, forged, unknown), {}
    yield "beside: an envelope of a chain, and an unknown dependency", safety(CAUSAL, unknown, of_chain), {}
    yield "beside: a forged envelope, and one without rates", safety(PAYLOAD, forged, signed(statement())), {}
    yield "beside: an envelope of a chain, and one without rates", safety(PAYLOAD, signed(statement()), of_chain), {}
    yield "beside: a signed envelope, and an unknown one of a chain", safety(CHAIN, signed(statement()), of_chain), {}
    free = signed(statement(9, paid=pay(client(b"\4\x09", arm=6), key=secret(100)), base=0))
    yield "beside: an honest envelope, and a free one", safety(PAYLOAD, signed(statement()), free), rated
    overcharged = signed(statement(1, congestion=RATE[3])), signed(statement(2, congestion=RATE[3]))
    yield "beside: a forged envelope, and a congestion fee", safety(PAYLOAD, forged, *overcharged), rated


def mutated():
    """Changes to a proof, each of which a judge refuses for another reason."""
    one, other = signed(statement(7)), signed(statement(7, NOW + 1))
    proof, at = safety(DUPLICATE, one, other), len(statement(7))
    yield "mutated: nothing", proof, {}
    yield "mutated: a signature", safety(DUPLICATE, one, flip(other, len(other) - 20)), {}
    yield "mutated: the v of a signature", safety(DUPLICATE, one, other[:-1] + bytes([5])), {}
    short = signed(statement(7), change=lambda signature: signature[:-1])
    yield "mutated: a signature of 64 bytes", safety(DUPLICATE, one, short), {}
    yield "mutated: a fee in the statement", safety(DUPLICATE, one, flip(other, at - 8)), {}
    yield "mutated: the statement's first tag", safety(DUPLICATE, one, flip(other, 3)), {}
    yield "mutated: cut off", proof[:-1], {}
    yield "mutated: empty", b"", {}
    yield "mutated: the other node", safety(DUPLICATE, one, other, accused=200), {}
    yield "mutated: a chain's id", safety(DUPLICATE, one, other, accused=0), {}
    for what, kind in {"an unknown kind": 9, "no kind": 0, "a kind of the other failure": 1}.items():
        yield f"mutated: {what}", safety(kind, one, other), {}
    yield "mutated: the other failure", liveness(DUPLICATE, 5), {}
    yield "mutated: no envelopes", safety(DUPLICATE), {}
    yield "mutated: the other kinds", safety(ORDER, one, other), {}
    yield "mutated: 65 envelopes", safety(DUPLICATE, *[b""] * 65), {}
    yield "mutated: 1001 envelopes", safety(PAYLOAD, *[b""] * 1001), {}
    yield "mutated: a request of more than 65 KiB", encode((1, NOW), (2, 100), (3, 1), (4, bytes(66561))), {}
    yield "mutated: another key in the registry", proof, {"registry": {"100": public(secret(300)).hex()}}


# Evidence on signed trees: a strand of node 100, and one that differs from place 4 on.
STRAND = [statement(place, NOW + place) for place in range(1, 12)]
LEAVES = [leaf_hash(each) for each in STRAND]
OTHERS = LEAVES[:3] + [leaf_hash(each + b"other") for each in STRAND[3:]]


def checkpoint(leaves, time=NOW, node=100, originator=None, key=None):
    originator = node if originator is None else originator
    fields = node, originator, len(leaves), tree_root(leaves)
    signature = sign(secret(node if key is None else key), checkpoint_digest(*fields, time))
    return be(node, 4) + be(originator, 4) + be(fields[2], 8) + fields[3] + be(time, 8) + signature


def shown(leaves, index):
    """The proof of a leaf."""
    return be(index, 8) + leaves[index] + b"".join(audit_path(index, leaves))


def beginning(size, leaves):
    """The root with which a tree begins, and the proof of it."""
    return tree_root(leaves[:size]) + b"".join(consistency_path(size, leaves))


def golden_checkpoints():
    def of(*pieces):
        return "two_checkpoints", pieces

    five, eight, other, later = LEAVES[:5], LEAVES[:8], OTHERS[:5], NOW + SECOND
    yield "two roots", *of(checkpoint(five), checkpoint(other, later))
    yield "two roots: of an observer", *of(checkpoint(five, originator=0), checkpoint(other, later, originator=0))
    yield "a smaller tree later", *of(checkpoint(eight), checkpoint(five, later))
    yield "a smaller tree later: of an observer", *of(checkpoint(eight, NOW, 100, 0), checkpoint(five, later, 100, 0))
    yield "a smaller tree at the same time", *of(checkpoint(eight), checkpoint(five))
    yield "another beginning", *of(checkpoint(other), checkpoint(eight, later), beginning(5, eight))
    yield "another beginning: of an observer", *of(
        checkpoint(other, originator=0), checkpoint(eight, later, originator=0), beginning(5, eight)
    )
    yield "another beginning: not shown", *of(checkpoint(other), checkpoint(eight, later))
    yield "another beginning: of another size", *of(checkpoint(other), checkpoint(eight, later), beginning(6, eight))
    yield "another beginning: it is the same", *of(checkpoint(five), checkpoint(eight, later), beginning(5, eight))
    yield "another beginning: half a hash", *of(checkpoint(other), checkpoint(eight, later), beginning(5, eight)[16:])
    yield "another beginning: 66 hashes", *of(checkpoint(other), checkpoint(eight, later), bytes(32 * 66))
    yield "two checkpoints: one twice", *of(checkpoint(five), checkpoint(five, later))
    yield "two checkpoints: about two strands", *of(checkpoint(five, originator=0), checkpoint(other, originator=1))
    yield "two checkpoints: one of another node", *of(checkpoint(five), checkpoint(other, node=200))
    yield "two checkpoints: signed by another node", *of(checkpoint(five), checkpoint(other, key=200))
    yield "two checkpoints: of a node in no registry", *of(checkpoint(five, node=900), checkpoint(other, node=900))
    yield "two checkpoints: cut off", *of(checkpoint(five), checkpoint(other)[:-1])
    yield "two checkpoints: one", *of(checkpoint(five))


def trees_beside():
    """Checkpoints that contradict each other, beside a piece that shows nothing."""
    five, eight, other, later = LEAVES[:5], LEAVES[:8], OTHERS[:5], NOW + SECOND
    two_roots, smaller = (checkpoint(five), checkpoint(other, later)), (checkpoint(eight), checkpoint(five, later))
    yield "beside: noise, and two roots", "two_checkpoints", (*two_roots, b"noise"), {}
    pieces = *smaller, beginning(5, eight)
    yield "beside: the beginning of a tree, and a smaller tree later", "two_checkpoints", pieces, {}


def golden_leaves():
    def two(*pieces):
        return "two_leaves", pieces

    def other_leaf(*pieces):
        return "other_leaf", pieces

    five, eight, others = LEAVES[:5], LEAVES[:8], OTHERS[:8]
    both = checkpoint(five), checkpoint(others)
    yield "two leaves", *two(*both, shown(five, 3), shown(others, 3))
    observed = checkpoint(five, originator=0), checkpoint(others, originator=0)
    yield "two leaves: of an observer", *two(*observed, shown(five, 3), shown(others, 3))
    yield "two leaves: one leaf", *two(*both, shown(five, 1), shown(others, 1))
    yield "two leaves: two places", *two(*both, shown(five, 3), shown(others, 4))
    yield "two leaves: not under the checkpoint", *two(*both, shown(five, 3), shown(eight, 3))
    yield "two leaves: no index", *two(*both, shown(five, 3), b"\0" * 7)
    yield "two leaves: about two strands", *two(observed[0], both[1], shown(five, 3), shown(others, 3))
    yield "another leaf", *other_leaf(both[1], shown(others, 3), signed(STRAND[3]))
    yield "another leaf: the same", *other_leaf(both[0], shown(five, 3), signed(STRAND[3]))
    yield "another leaf: of another place", *other_leaf(both[1], shown(others, 3), signed(STRAND[4]))
    yield "another leaf: of an observer", *other_leaf(observed[1], shown(others, 3), signed(STRAND[3]))
    of_other = signed(statement(4, node=200), 200)
    yield "another leaf: an envelope of another node", *other_leaf(both[1], shown(others, 3), of_other)
    yield "another leaf: a forged envelope", *other_leaf(both[1], shown(others, 3), signed(STRAND[3], 200))


def golden_trees():
    yield from golden_checkpoints()
    yield from golden_leaves()
    five = checkpoint(LEAVES[:5])

    def gap(before, after, of=five):
        return "gap", (of, signed(STRAND[before - 1]), signed(STRAND[after - 1]))

    yield "a gap under a checkpoint", *gap(2, 4)
    yield "a gap that ends behind a checkpoint", *gap(4, 6)
    yield "a gap above a checkpoint", *gap(4, 7)
    yield "a gap: no place between", *gap(2, 3)
    yield "a gap: of an observer", *gap(2, 4, checkpoint(LEAVES[:5], originator=0))
    yield "another tree", "other_tree", (five,)
    strands = {"of an observer of a chain": 0, "of an observer of a node": 300, "about a node in no registry": 900}
    for what, node in strands.items():
        yield f"another tree: {what}", "other_tree", (checkpoint(LEAVES[:5], originator=node),)
    yield "another tree: two checkpoints", "other_tree", (five, five)
    name, fault, other = "another envelope than the pruned one", "other_than_pruned", signed(statement(4))
    for what, envelope in {"": other, ": the same": signed(STRAND[3]), ": of a chain": on_chain(4)}.items():
        yield f"{name}{what}", fault, (envelope, LEAVES[3])
    yield f"{name}: half a leaf", fault, (other, LEAVES[3][16:])
    name, fault, before = "a void place", "void_signed", NOW - 301 * SECOND
    statements = {
        "": void(7, time=before),
        ": five minutes before": void(7, time=NOW - 300 * SECOND),
        ": another place": void(8, time=before),
        ": of another node": void(7, time=before, node=200),
        ": signed by another node": void(7, time=before, key=200),
        ": of a node in no registry": void(7, time=before, node=900),
        ": that ends before it starts": void(7, last=6, time=before),
        ": cut off": void(7, time=before)[:-1],
    }
    for what, piece in statements.items():
        yield f"{name}{what}", fault, (piece, signed(statement()))
    yield f"{name}: a forged envelope", fault, (statements[""], flip(signed(statement()), -9))


def golden_late():
    report, later, name = payer_report(), NOW + 2 * MINUTE, "a late release"
    own = attestation(report, later)

    def welcome(place=END + 1, ns=NOW, **more):
        return signed(statement(place, ns, **more))

    end = welcome(END, NOW + SECOND)

    def of(late, attested=own, end=end, report=report, **facts):
        return "late_release", (report, attested, end, late), facts

    def of_report(report, attested_as=None):
        return of(welcome(), attestation(attested_as or report, later), report=report)

    yield name, *of(welcome())
    yield f"{name}: of an earlier minute", *of(welcome(END + 9, NOW - 3 * MINUTE))
    yield f"{name}: at the end of the minute", *of(welcome(ns=NOW + MINUTE - 1))
    yield f"{name}: of the next minute", *of(welcome(ns=NOW + MINUTE))
    yield f"{name}: in the report", *of(welcome(END - 1))
    yield f"{name}: the end of the report", *of(end)
    yield f"{name}: before 1970", *of(welcome(ns=-1))
    over = NOW + MINUTE + 10 * SECOND
    yield f"{name}: attested ten seconds after its minute", *of(welcome(), attestation(report, over))
    yield f"{name}: attested sooner", *of(welcome(), attestation(report, over - 1))
    now_s = NOW // SECOND
    yield f"{name}: the node has left at an unknown time", *of(welcome(), left=[100])
    yield f"{name}: the node left later", *of(welcome(), left=[100], absences={"100": [[now_s + 60, None]]})
    yield f"{name}: the node had left", *of(welcome(), absences={"100": [[now_s - 60, None]]})
    yield f"{name}: of a free topic", *of(attestation(report, NOW))
    yield f"{name}: for another node", *of(welcome(paid=pay(client(), 200)))
    yield f"{name}: another expiry", *of(welcome(expiry=-601))
    yield f"{name}: a late expiry", *of(welcome(expiry=DAY))
    yield f"{name}: an expiry that is too late", *of(welcome(expiry=DAY + 1))
    yield f"{name}: no client envelope", *of(welcome(paid=b"noise"))
    yield f"{name}: of another node", *of(signed(statement(END + 1, node=200), 200))
    yield f"{name}: a forged envelope", *of(signed(statement(END + 1), 200))
    yield f"{name}: an envelope of a chain", *of(on_chain(END + 1))
    yield f"{name}: cut off", *of(welcome()[:-1])
    yield f"{name}: attested by another node", *of(welcome(), attestation(report, later, 200))
    yield f"{name}: attested in another node's name", *of(welcome(), attestation(report, later, named=200))
    signatures = {
        "with a high s": lambda signature: high_s(signature)[:64] + bytes([1 - signature[64]]),
        "with a v of 27 or 28": lambda signature: signature[:64] + bytes([27 + signature[64]]),
        "by a wrong signature": lambda signature: flip(signature, 40),
        "by no signature": lambda signature: b"",
    }
    for how, change in signatures.items():
        yield f"{name}: attested {how}", *of(welcome(), attestation(report, later, change=change))
    yield f"{name}: no attestation", *of(welcome(), welcome(END + 2))
    yield f"{name}: another report was attested", *of_report(report, payer_report(START - 1))
    yield f"{name}: of another contract", *of_report(flip(report, 0), report)
    yield f"{name}: not the report's end", *of(welcome(), end=welcome(END - 1))
    yield f"{name}: a report of nothing", *of_report(payer_report(END, root=bytes(32)))
    yield f"{name}: nodes in another order", *of_report(payer_report(nodes=(200, 100)), report)
    packed = payer_report(nodes=()) + encode((6, b"\x64\xc8\1"))
    yield f"{name}: nodes in the other form", *of_report(packed, report)
    yield f"{name}: the report of no node", *of(welcome(), report=payer_report(node=900))
    yield f"{name}: the report of a chain", *of(welcome(), report=payer_report(node=1))
    for what, piece in malformed_reports(report).items():
        yield f"{name}: a report {what}", *of(welcome(), report=piece)
    yield f"{name}: no envelope at the end", "late_release", (report, own, welcome()), {}


def golden_reports():
    def stated(**more):
        return payer_report(**more)[32:]

    def written(report, place=3, node=200, payer=None, topic=b"\4\x64\0\0\0", **more):
        """The envelope in which a node has written a report."""
        paid = pay(client(topic, arm=6, payload=report), node, key=secret(node) if payer is None else payer)
        return signed(statement(place, paid=paid, base=0, node=node, **more), node)

    report, other = stated(), stated(root=bytes([8] * 32))
    figures = {
        "other amounts": other,
        "another minute": stated(minute=1),
        "another end": stated(end=END + 1),
        "the same": report,
        "other nodes": stated(nodes=(100,)),
        "another start": stated(start=START + 1, root=bytes([8] * 32)),
        "another originator": stated(node=200, root=bytes([8] * 32)),
    }
    name = "another report"
    for what, own in figures.items():
        yield f"{name}: {what}", "other_report", (written(report), own), {}
    yield f"{name}: of no figures", "other_report", (written(report),), {}
    for what, piece in malformed_reports(payer_report()).items():
        # Neither piece has a domain separator.
        if what not in ("short", "of no contract"):
            yield f"{name}: own figures {what}", "other_report", (written(report), piece[32:]), {}
            yield f"{name}: written {what}", "other_report", (written(piece[32:]), other), {}
    envelopes = {
        "with the payer of another": written(report, payer=PAYING),
        "on another topic": written(report, topic=b"\4\xc8\0\0\0"),
        "another expiry": written(report, expiry=-601),
        "a late expiry": written(report, expiry=DAY),
        "of no node": written(report, node=900),
        "no report": signed(statement()),
        "an attestation": attestation(payer_report(), NOW),
        "of a chain": on_chain(3),
        "a forged envelope": flip(written(report), -9),
        "no envelope": b"noise",
        "no client envelope": signed(statement(paid=b"noise")),
    }
    for what, envelope in envelopes.items():
        yield f"{name}: {what}", "other_report", (envelope, other), {}
    name = "two reports"
    for what, second in figures.items():
        yield f"{name}: {what}", "two_reports", (written(report), written(second, 8)), {}
    topic = b"\4\xc8\0\0\0"
    about_other = written(figures["another originator"], 8, topic=topic)
    yield f"{name}: about two originators", "two_reports", (written(report), about_other), {}
    yield f"{name}: of two nodes", "two_reports", (written(report), written(other, 8, node=300)), {}
    yield f"{name}: one", "two_reports", (written(report),), {}


def make():
    registry = {str(node): public(secret(node)).hex() for node in NODES}
    kinds = [golden_liveness, golden_order, golden_statements, golden_causal, golden_rules, golden_payloads]
    for golden in [*kinds, golden_chain, mutated]:
        for name, report, facts in golden():
            yield {"name": name, "report": report.hex(), "registry": registry, **facts}
    trees = [(*case, {}) for case in golden_trees()]
    for name, fault, pieces, facts in [*trees, *golden_late(), *golden_reports()]:
        yield {"name": name, "fault": fault, "pieces": [piece.hex() for piece in pieces], "registry": registry, **facts}
    for name, report, facts in [*golden_odd(), *golden_taken(), *golden_beside()]:
        yield {"name": name, "report": report.hex(), "registry": registry, **facts}
    for name, fault, pieces, facts in trees_beside():
        yield {"name": name, "fault": fault, "pieces": [piece.hex() for piece in pieces], "registry": registry, **facts}


if __name__ == "__main__":
    for case in make():
        expected = judge_trees(case) if "fault" in case else judge(case)
        print(json.dumps({**case, "expected": expected}, separators=(",", ":")))
