"""The wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding), field by field.

Positions are in a record as a whole, so that nothing is copied. What does not parse raises ValueError, or IndexError
where the bytes end too early.
"""

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
_UINT64 = 0xFFFF_FFFF_FFFF_FFFF


def fields(view: memoryview, position: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a message: number, wire type, and where its value begins and ends."""
    while position < stop:
        tag = view[position]
        if tag < 0x80:  # nearly always, and a call would double the time
            position += 1
        else:
            tag, position = varint(view, position)
            if tag >> 32:
                raise ValueError("a field's number is too large")
        wire = tag & 7
        if wire == LENGTH:
            end = view[position]
            if end < 0x80:
                position += 1
            else:
                end, position = varint(view, position)
            end += position
        elif wire == VARINT:
            _, end = varint(view, position)
        elif wire == FIXED32:
            end = position + 4
        elif wire == FIXED64:
            end = position + 8
        else:
            raise ValueError(f"wire type {wire} is not known")
        if end > stop or tag < 8:
            raise ValueError("a field does not fit its message")
        yield tag >> 3, wire, position, end
        position = end


def varint(view: memoryview | bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends."""
    value = view[position]
    if value < 0x80:
        return value, position + 1
    value &= 0x7F
    shift = 7
    while shift < 70:
        position += 1
        byte = view[position]
        if byte < 0x80:
            return (value | byte << shift) & _UINT64, position + 1
        value |= (byte & 0x7F) << shift
        shift += 7
    raise ValueError("a number of more than ten bytes")


def message(field: int, content: bytes) -> bytes:
    return encoded(field << 3 | LENGTH) + encoded(len(content)) + content


def encoded(value: int) -> bytes:
    """A varint."""
    value &= _UINT64
    varint = bytearray()
    while value >= 0x80:
        varint.append(value & 0x7F | 0x80)
        value >>= 7
    varint.append(value)
    return bytes(varint)
