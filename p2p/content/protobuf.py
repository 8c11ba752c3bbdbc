"""The little of protobuf that dag-pb and UnixFS need: fields of varints and bytes, read strictly."""

from collections.abc import Iterator

VARINT_BYTES_MAX = 9
"""63 bits: sizes fit; a longer varint is a waste of our time."""

_VARINT = 0
_BYTES = 2

Field = tuple[int, int | bytes]
"""Field number and value: an int for wire type 0, bytes for wire type 2."""


class ProtobufError(ValueError):
    """Not well-formed, or a wire type that none of our messages uses."""


def encode_varint(value: int) -> bytes:
    """Return `value` (not negative) as a varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint_bytes(value: int) -> int:
    """Return how many bytes `encode_varint` makes of `value`."""
    return max(1, (value.bit_length() + 6) // 7)


def encode_integer(field: int, value: int) -> bytes:
    """Return a varint field."""
    return encode_varint(field << 3 | _VARINT) + encode_varint(value)


def encode_bytes(field: int, value: bytes) -> bytes:
    """Return a field of bytes."""
    return encode_varint(field << 3 | _BYTES) + encode_varint(len(value)) + value


def read_fields(data: bytes) -> Iterator[Field]:
    """Yield the fields of a message in their order; raise ProtobufError at the first fault."""
    position, end = 0, len(data)
    while position < end:
        key = data[position]
        if key < 0x80:  # here and below: most varints are one byte, and a call costs more than all else
            position += 1
        else:
            key, position = _read_varint(data, position)
        field, wire_type = key >> 3, key & 7
        if field == 0:
            raise ProtobufError("field number 0")
        if position < end and data[position] < 0x80:
            number = data[position]
            position += 1
        else:
            number, position = _read_varint(data, position)
        if wire_type == _VARINT:
            yield field, number
        elif wire_type == _BYTES:
            if number > end - position:
                raise ProtobufError(f"field {field} is longer than its message")
            yield field, data[position : position + number]
            position += number
        else:
            raise ProtobufError(f"wire type {wire_type} in field {field}")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(VARINT_BYTES_MAX):
        if position >= len(data):
            raise ProtobufError("ends within a varint")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise ProtobufError("varint not in its shortest form")
            return value, position
    raise ProtobufError(f"varint longer than {VARINT_BYTES_MAX} bytes")
