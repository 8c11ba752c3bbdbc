"""The Bitswap message: what two peers want of, have for and give to each other, as protobuf, read strictly.

Every list is bounded, so that a message of the largest size cannot cost more than its bytes.
"""

from dataclasses import dataclass

from p2p.content.cid import CID_BYTES, DIGEST_BYTES, Cid, CidError, Codec
from p2p.content.protobuf import ProtobufError, encode_bytes, encode_integer, encode_varint, read_fields

PROTOCOL = "/ipfs/bitswap/1.2.0"
PROTOCOL_WITHOUT_PRESENCES = "/ipfs/bitswap/1.1.0"
"""Blocks and wants only: whoever speaks no more than this is not told HAVE and DONT_HAVE."""
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""As the specification has it; the largest blocks are half as large."""
WANTS_MAX = 8192
"""In one message: more than fit into the lists that are read of strangers."""
BLOCKS_MAX = 1024
PRESENCES_MAX = 4096
NAME_BYTES_MAX = 128
"""Longest CID: those of hash functions we do not speak are up to 64 bytes and a prefix."""

_WANTLIST, _BLOCKS, _PRESENCES = 1, 3, 4
_ENTRIES, _FULL = 1, 2
_NAME, _PRIORITY, _CANCEL, _WANT_TYPE, _SEND_DONT_HAVE = 1, 2, 3, 4, 5
_PREFIX, _DATA = 1, 2
_PRESENCE_NAME, _PRESENCE_TYPE = 1, 2

_WANT_HAVE = 1
_DONT_HAVE = 1
_NUMBER_MAX = 0x7FFFFFFF
_SHA2_256_OF_32_BYTES = bytes((0x12, DIGEST_BYTES))
_PREFIX_OF_VERSION_0 = bytes((0x00, Codec.DAG_PB)) + _SHA2_256_OF_32_BYTES


class MessageError(ValueError):
    """Bytes that no honest implementation sends as a Bitswap message."""


@dataclass(frozen=True, slots=True)
class Want:
    """One entry of a list of wants. `name` is the CID as its peer wrote it, of any kind."""

    name: bytes
    priority: int = 1
    cancel: bool = False
    have: bool = False
    """The peer asks only whether we have it (WANT-HAVE)."""
    send_dont_have: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A block as it travels: its CID without the digest, which the receiver finds itself, and its bytes."""

    prefix: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Presence:
    """HAVE or DONT_HAVE."""

    name: bytes
    has: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message."""

    wants: tuple[Want, ...] = ()
    full: bool = False
    """The wants replace all earlier ones."""
    blocks: tuple[Block, ...] = ()
    presences: tuple[Presence, ...] = ()


def cid_of_name(name: bytes) -> Cid | None:
    """Return the CID that `name` means, also from version 0; None for kinds we do not hold."""
    if len(name) == CID_BYTES - 2 and name.startswith(_SHA2_256_OF_32_BYTES):
        return Cid(Codec.DAG_PB, name[2:])
    try:
        return Cid.from_bytes(name)
    except CidError:
        return None


def prefix_of_name(name: bytes) -> bytes:
    """Return the prefix under which the block of such a CID travels: everything but its digest."""
    if name.startswith(_SHA2_256_OF_32_BYTES):
        return _PREFIX_OF_VERSION_0
    return name[:-DIGEST_BYTES]


def encode_message(message: Message) -> bytes:
    """Return the wire bytes, with their length before them. The caller keeps to the limits."""
    parts = []
    if message.wants or message.full:
        entries = b"".join(encode_bytes(_ENTRIES, _encode_want(want)) for want in message.wants)
        parts.append(encode_bytes(_WANTLIST, entries + _encode_flag(_FULL, message.full)))
    for block in message.blocks:
        head = encode_bytes(_PREFIX, block.prefix) + _bytes_head(_DATA, len(block.data))
        parts += [_bytes_head(_BLOCKS, len(head) + len(block.data)), head, block.data]
    parts += [encode_bytes(_PRESENCES, _encode_presence(presence)) for presence in message.presences]
    return b"".join((encode_varint(sum(map(len, parts))), *parts))


def decode_message(data: bytes) -> Message:
    """Read what follows the length. Raises MessageError."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise MessageError(f"a message of {len(data)} bytes; at most {MESSAGE_BYTES_MAX}")
    wants: tuple[Want, ...] = ()
    full = False
    blocks: list[Block] = []
    presences: list[Presence] = []
    try:
        for field, value in read_fields(data):
            match field, value:
                case (1, bytes()):
                    if wants:
                        raise MessageError("a message has two lists of wants")
                    wants, full = _decode_wants(value)
                case (3, bytes()):
                    if len(blocks) == BLOCKS_MAX:
                        raise MessageError(f"more than {BLOCKS_MAX} blocks")
                    blocks.append(_decode_block(value))
                case (4, bytes()):
                    if len(presences) == PRESENCES_MAX:
                        raise MessageError(f"more than {PRESENCES_MAX} presences")
                    presences.append(_decode_presence(value))
                case (1 | 3 | 4, int()):
                    raise MessageError(f"field {field} is a number")
                case _:  # version 1.0.0's blocks, pending bytes, what later versions add
                    pass
    except ProtobufError as error:
        raise MessageError(f"not protobuf: {error}") from error
    return Message(wants, full, tuple(blocks), tuple(presences))


def _bytes_head(field: int, length: int) -> bytes:
    return encode_varint(field << 3 | 2) + encode_varint(length)


def _encode_flag(field: int, value: bool) -> bytes:
    return encode_integer(field, 1) if value else b""


def _encode_want(want: Want) -> bytes:
    return (
        encode_bytes(_NAME, want.name)
        + encode_integer(_PRIORITY, want.priority)
        + _encode_flag(_CANCEL, want.cancel)
        + _encode_flag(_WANT_TYPE, want.have)
        + _encode_flag(_SEND_DONT_HAVE, want.send_dont_have)
    )


def _encode_presence(presence: Presence) -> bytes:
    return encode_bytes(_PRESENCE_NAME, presence.name) + _encode_flag(_PRESENCE_TYPE, not presence.has)


def _decode_wants(data: bytes) -> tuple[tuple[Want, ...], bool]:
    wants: list[Want] = []
    full = False
    for field, value in read_fields(data):
        match field, value:
            case (1, bytes()):
                if len(wants) == WANTS_MAX:
                    raise MessageError(f"more than {WANTS_MAX} wants")
                wants.append(_decode_want(value))
            case (2, int()):
                full = value != 0
            case (1 | 2, _):
                raise MessageError(f"field {field} of a list of wants has the wrong type")
            case _:
                pass
    return tuple(wants), full


def _decode_want(data: bytes) -> Want:
    name = b""
    numbers = dict.fromkeys((_PRIORITY, _CANCEL, _WANT_TYPE, _SEND_DONT_HAVE), 0)
    for field, value in read_fields(data):
        if field == _NAME and isinstance(value, bytes):
            name = _check_name(value)
        elif field in numbers and isinstance(value, int):
            if value > _NUMBER_MAX:
                raise MessageError(f"field {field} of a want is {value}")
            numbers[field] = value
        elif field == _NAME or field in numbers:
            raise MessageError(f"field {field} of a want has the wrong type")
    return Want(
        _check_name(name),
        numbers[_PRIORITY],
        cancel=numbers[_CANCEL] != 0,
        have=numbers[_WANT_TYPE] == _WANT_HAVE,
        send_dont_have=numbers[_SEND_DONT_HAVE] != 0,
    )


def _decode_block(data: bytes) -> Block:
    prefix, content = b"", None
    for field, value in read_fields(data):
        if field == _PREFIX and isinstance(value, bytes):
            prefix = value
        elif field == _DATA and isinstance(value, bytes):
            content = value
        elif field in (_PREFIX, _DATA):
            raise MessageError(f"field {field} of a block is a number")
    if not prefix or len(prefix) > NAME_BYTES_MAX:
        raise MessageError(f"a block's prefix has {len(prefix)} bytes")
    return Block(prefix, content if content is not None else b"")


def _decode_presence(data: bytes) -> Presence:
    name, has = b"", True
    for field, value in read_fields(data):
        if field == _PRESENCE_NAME and isinstance(value, bytes):
            name = value
        elif field == _PRESENCE_TYPE and isinstance(value, int):
            has = value != _DONT_HAVE
        elif field in (_PRESENCE_NAME, _PRESENCE_TYPE):
            raise MessageError(f"field {field} of a presence has the wrong type")
    return Presence(_check_name(name), has)


def _check_name(name: bytes) -> bytes:
    if not 0 < len(name) <= NAME_BYTES_MAX:
        raise MessageError(f"a CID of {len(name)} bytes")
    return name
