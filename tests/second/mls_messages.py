"""The parts of group messages that a judgement on reports reads: docs/protocol/mls-framing.md."""

from protobuf import Refused


class Reader:
    """Reads the parts of an MLS message; `is_strict` as docs/protocol/mls-framing.md says, or as other software does."""

    def __init__(self, data, is_strict):
        self.rest, self.is_strict = data, is_strict

    def take(self, length):
        if length > len(self.rest):
            raise Refused("cut off")
        taken, self.rest = self.rest[:length], self.rest[length:]
        return taken

    def number(self, length):
        return int.from_bytes(self.take(length), "big")

    def vector(self):
        bits = self.rest[0] >> 6 if self.rest else 0
        length = self.number(1 << bits) & (1 << (8 << bits) - 2) - 1
        if self.is_strict and (bits == 3 or bits and length < 1 << (4 << bits) - 2):
            raise Refused("length")
        return self.take(length)


def content_type(data, is_strict, topic):
    """The content type of a message. Strictly, its group id may have any length only in a topic that no client reads,
    and an application message is read to its end, and no other one is."""
    reader = Reader(data, is_strict)
    version, wire_format = reader.number(2), reader.number(2)
    if version != 1 or wire_format not in (1, 2):
        raise Refused("message")
    is_public, is_member = wire_format == 1, False
    group = reader.vector()
    if is_strict and len(topic) == 17 and len(group) != 16:
        raise Refused("group id")
    reader.take(8)
    if is_public:
        sender = reader.number(1)
        if not 1 <= sender <= 4:
            raise Refused("sender")
        is_member = sender == 1
        reader.take(4 if sender < 3 else 0)
        reader.vector()
    content = reader.number(1)
    if (is_public or is_strict) and content not in (1, 2, 3):
        raise Refused("content type")
    if is_strict and content == 1:
        # Application data, a signature and a member's tag; or authenticated data, its sender and the ciphertext.
        for _ in range(2 + is_member if is_public else 3):
            reader.vector()
        if reader.rest:
            raise Refused("bytes behind the message")
    return content


def is_application(data, is_strict, topic=b""):
    try:
        content = content_type(data, is_strict, topic)
    except Refused:
        return False
    return content == 1 if is_strict else content not in (2, 3)
