"""Protocol buffers, as far as the second implementations need them."""


class Refused(Exception):
    """Bytes that do not decode."""


U32, U64, I64, BOOL, BYTES = "u32", "u64", "i64", "bool", "bytes"
# Messages and groups within each other that are read, and open groups that other software passes over.
LEVELS, OPEN_GROUPS = 100, 10_001
# Bits of the key of a field. In a group, other software reads longer ones.
KEY_BITS, GROUPED_KEY_BITS = 32, 34


def varint(data, at):
    value = 0
    for index in range(10):
        if at + index >= len(data):
            raise Refused("cut off")
        byte = data[at + index]
        if index == 9 and byte > 1:
            raise Refused("number")
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, at + index + 1
    raise Refused("number")


def content(data, at, wire, number=None, levels=None, groups=None):
    """The content of a field, and the end of it. A group has none; without a number it ends like any group."""
    if wire == 0:
        return varint(data, at)
    if wire == 2:
        length, at = varint(data, at)
    elif wire in (1, 5):
        length = 8 if wire == 1 else 4
    elif wire == 3:
        return None, skip_group(data, at, number, levels, groups)
    else:
        raise Refused("wire type")
    if at + length > len(data):
        raise Refused("cut off")
    return data[at : at + length], at + length


def tag(data, at, bits=KEY_BITS):
    key, at = varint(data, at)
    if key >> bits or key < 8:
        raise Refused("tag")
    return key >> 3, key & 7, at


def skip_group(data, at, number, levels, groups):
    """The end of a group. Limits are the levels below it, and the groups that are open at once."""
    opened = [number]
    while opened:
        inner, wire, at = tag(data, at, KEY_BITS if groups is None else GROUPED_KEY_BITS)
        if wire == 4:
            if opened.pop() not in (None, inner):
                raise Refused("another group")
            continue
        if levels is not None and len(opened) >= levels:
            raise Refused("levels")
        if wire == 3:
            if groups is not None and len(opened) >= groups:
                raise Refused("groups")
            opened.append(None if number is None else inner)
        else:
            _, at = content(data, at, wire)
    return at


def each_field(data):
    """Number, wire type and content of each field, of any form that can be told apart."""
    at = 0
    while at < len(data):
        number, wire, at = tag(data, at)
        value, at = content(data, at, wire, number, groups=OPEN_GROUPS)
        yield number, wire, value


def decode(data, schema, found=None, levels=LEVELS):
    """The fields of a message by number. A message that is there twice is both of them, merged."""
    found, at = {} if found is None else found, 0
    while at < len(data):
        number, wire, at = tag(data, at)
        value, at = content(data, at, wire, number, levels)
        kind = schema.get(number)
        if kind is None:
            continue
        for other in schema.get("one of", ()):
            if other != number and number in schema["one of"]:
                found.pop(other, None)
        is_list = isinstance(kind, list)
        kind = kind[0] if is_list else kind
        if is_list and kind == U32 and wire == 2:
            inner = 0
            while inner < len(value):
                one, inner = varint(value, inner)
                found.setdefault(number, []).append(one & 0xFFFFFFFF)
            continue
        if wire != (2 if isinstance(kind, dict) or kind == BYTES else 0):
            raise Refused("wire type")
        if isinstance(kind, dict):
            value = decode(value, kind, {} if is_list else found.get(number, {}), levels - 1)
        elif kind == U32:
            value &= 0xFFFFFFFF
        elif kind == I64:
            value -= value >> 63 << 64
        if is_list:
            found.setdefault(number, []).append(value)
        else:
            found[number] = value
    return found


def contents(data, wanted):
    """The contents of all fields of this number that have bytes."""
    at, found = 0, []
    while at < len(data):
        number, wire, at = tag(data, at)
        value, at = content(data, at, wire)
        found += [value] if number == wanted and isinstance(value, bytes) else []
    return found


def put_varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def encode(*fields):
    """The canonical form of a message: pairs of number and value, without defaults. Bytes are written as they are."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += put_varint(number << 3 | 2) + put_varint(len(value)) + value
        elif value:
            out += put_varint(number << 3) + put_varint(value % 2**64)
    return out
