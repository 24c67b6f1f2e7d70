"""Golden reports about envelopes that only other software, or a newer version, accepts."""

from checkpoints import be
from misbehavior import PAYLOAD
from misbehavior_made import DAY, NOW, RATE, SECOND, client, pay, safety, signed, statement
from protobuf import encode


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


def golden_newer():
    """Payloads and kinds of topics that no schema has yet, and what is wrong by each schema."""

    def of(paid, **more):
        return safety(PAYLOAD, signed(statement(paid=paid, **more))), {"rates": [RATE]}

    later = encode((8, b"?"))

    def bare(topic, *fields):
        return pay(encode((1, encode((2, topic)))) + b"".join(fields))

    yield "newer: a payload", *of(bare(b"\1\x09", later))
    yield "newer: a kind", *of(pay(client(b"\6\x09")))
    yield "newer: a payload and a kind", *of(bare(b"\6\x09", later))
    yield "newer: a kind without fees", *of(bare(b"\6\x09", later), base=0)
    yield "newer: a kind, and an identity update", *of(pay(client(b"\xff\x09", arm=5)))
    yield "newer: a payload on a reserved topic", *of(bare(b"\4\x09", later), base=0)
    yield "newer: a payload beside a known one", *of(pay(client() + later))
    yield "rule 1: a newer kind, no payload", *of(bare(b"\6\x09"))
    yield "rule 1: no payload", *of(bare(b"\1\x09"))
    yield "rule 1: a newer payload that is a number", *of(bare(b"\1\x09", encode((8, 1))))
    yield "rule 1: a newer payload that is cut off", *of(bare(b"\1\x09", later[:-1]))
    yield "rule 1: a newer payload, and a topic of a byte", *of(bare(b"\6", later))
    yield "rule 1: a newer payload, no topic", *of(pay(later))
    yield "rule 1: a newer payload, for another node", *of(pay(later + client(b"\6\x09"), 200))
    yield "rule 4: another kind, and a newer payload", *of(pay(client(b"\0\x09") + later))
