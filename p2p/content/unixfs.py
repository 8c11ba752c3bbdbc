"""UnixFS: what files and directories are made of, and the rules a block must keep to be read as one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import DagPbError, Link, Node, decode_node
from p2p.content.protobuf import ProtobufError, encode_bytes, encode_integer, read_fields

NAME_BYTES_MAX = 255
"""The longest file name that Linux file systems hold."""
CHUNK_BYTES_MAX = 2 * 1024 * 1024
"""Largest leaf of a file: what IPFS software exchanges at most."""
BLOCK_BYTES_MAX = CHUNK_BYTES_MAX + 1024
"""Largest block we store or take: the 2 MiB that IPFS transfers, and room for the frame around a 2 MiB leaf."""
FANOUT_BITS_MIN, FANOUT_BITS_MAX = 3, 10
"""Positions of one shard of a directory: everybody makes 256; others read up to 1,024."""

_TYPE, _DATA, _FILE_SIZE, _BLOCK_SIZES, _HASH_TYPE, _FANOUT = 1, 2, 3, 4, 5, 6
_MURMUR3_X64_64 = 0x22


class UnixFsError(ValueError):
    """Blocks that are what their CIDs say, but not a file or directory that we would write to disk."""


class Kind(IntEnum):
    """Type of a UnixFS node."""

    RAW = 0
    DIRECTORY = 1
    FILE = 2
    METADATA = 3
    SYMBOLIC_LINK = 4
    SHARDED_DIRECTORY = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory."""

    name: str
    cid: Cid
    total_bytes: int
    """Encoded bytes below, as the publisher claims; a hint."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file: the block below and the file bytes it must bring."""

    cid: Cid
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """File bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileNode:
    """A file made of parts, none of them empty."""

    parts: tuple[Part, ...]
    file_bytes: int


@dataclass(frozen=True, slots=True)
class DirectoryNode:
    """A directory; names are unique and safe to use as file names."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class ShardNode:
    """A part of a directory that has too many names for one block; names are safe. Read it with `hamt`."""

    fanout_bits: int
    entries: tuple[tuple[int, Entry], ...]
    """Names, each with its position in this shard."""
    shards: tuple[tuple[int, Cid], ...]
    """Shards below, each with its position."""


UnixFsNode = Leaf | FileNode | DirectoryNode | ShardNode


def check_name(name: bytes) -> str:
    """Return a file name as text; raise UnixFsError if it could leave its directory or cannot be written."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise UnixFsError(f"unsafe file name {name!r}")
    if len(name) > NAME_BYTES_MAX:
        raise UnixFsError(f"file name of {len(name)} bytes; at most {NAME_BYTES_MAX}")
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise UnixFsError(f"file name {name!r} is not UTF-8") from None


def encode_file_data(part_sizes: tuple[int, ...]) -> bytes:
    """Return the UnixFS message of a file node whose parts bring so many file bytes each."""
    return (
        encode_integer(_TYPE, Kind.FILE)
        + encode_integer(_FILE_SIZE, sum(part_sizes))
        + b"".join(encode_integer(_BLOCK_SIZES, size) for size in part_sizes)
    )


DIRECTORY_DATA = encode_integer(_TYPE, Kind.DIRECTORY)
"""The UnixFS message of a plain directory: all it says is in its links."""


def encode_shard_data(positions: Sequence[int], fanout_bits: int) -> bytes:
    """Return the UnixFS message of a shard that links these positions."""
    bits = sum(1 << position for position in positions)
    return (
        encode_integer(_TYPE, Kind.SHARDED_DIRECTORY)
        + encode_bytes(_DATA, bits.to_bytes(max(1, (bits.bit_length() + 7) // 8), "big"))
        + encode_integer(_HASH_TYPE, _MURMUR3_X64_64)
        + encode_integer(_FANOUT, 1 << fanout_bits)
    )


def read_block(cid: Cid, block: bytes) -> UnixFsNode:
    """Read a verified block as its own codec says, never as the sender says; raise UnixFsError."""
    if cid.codec is Codec.RAW:
        return Leaf(block)
    try:
        node = decode_node(block)
        message = _decode_data(node.data)
    except (DagPbError, ProtobufError) as error:
        raise UnixFsError(f"block {cid}: {error}") from error
    match message.kind:
        case Kind.DIRECTORY:
            return DirectoryNode(_read_entries(node.links))
        case Kind.FILE | Kind.RAW:
            return _read_file(cid, node, message)
        case Kind.SHARDED_DIRECTORY:
            return _read_shard(cid, node, message)
    raise UnixFsError(f"block {cid} is a {message.kind.name.lower().replace('_', ' ')}, which is not supported")


def blocks_below(node: UnixFsNode) -> list[Cid]:
    """Return what a node links."""
    match node:
        case Leaf():
            return []
        case FileNode():
            return [part.cid for part in node.parts]
        case DirectoryNode():
            return [entry.cid for entry in node.entries]
        case ShardNode():
            return [*(entry.cid for _, entry in node.entries), *(shard for _, shard in node.shards)]


def _read_entries(links: tuple[Link, ...]) -> tuple[Entry, ...]:
    entries = tuple(Entry(check_name(link.name), link.cid, link.total_bytes) for link in links)
    if len({entry.name for entry in entries}) != len(entries):
        raise UnixFsError("a directory has one name twice")
    return entries


def _read_file(cid: Cid, node: Node, message: "_Message") -> UnixFsNode:
    data, part_sizes = message.data, message.part_sizes
    if not node.links:
        if part_sizes or message.file_bytes not in (None, len(data)):
            raise UnixFsError(f"block {cid}: sizes of a leaf contradict its data")
        return Leaf(data)
    if data:
        raise UnixFsError(f"block {cid}: file bytes beside links are not supported")
    if len(part_sizes) != len(node.links) or message.file_bytes != sum(part_sizes):
        raise UnixFsError(f"block {cid}: sizes of the parts contradict the file")
    # A part without bytes brings nothing, and a tree of them would keep a reader busy for ever.
    if 0 in part_sizes:
        raise UnixFsError(f"block {cid}: a part of a file is empty")
    return FileNode(
        tuple(Part(link.cid, size) for link, size in zip(node.links, part_sizes, strict=True)), sum(part_sizes)
    )


def _read_shard(cid: Cid, node: Node, message: "_Message") -> ShardNode:
    bits = message.fanout.bit_length() - 1
    if message.fanout != 1 << max(bits, 0) or not FANOUT_BITS_MIN <= bits <= FANOUT_BITS_MAX:
        raise UnixFsError(f"block {cid}: a shard with {message.fanout} positions")
    if message.hash_type != _MURMUR3_X64_64:
        raise UnixFsError(f"block {cid}: shards by hash function 0x{message.hash_type:x}, which is not supported")
    digits = len(f"{message.fanout - 1:X}")
    entries: list[tuple[int, Entry]] = []
    shards: list[tuple[int, Cid]] = []
    seen = 0
    for link in node.links:
        position = _read_position(cid, link.name[:digits], digits)
        if position >= message.fanout or seen >> position & 1:
            raise UnixFsError(f"block {cid}: position {position} of a shard is used twice or does not exist")
        seen |= 1 << position
        name = link.name[digits:]
        if name:
            entries.append((position, Entry(check_name(name), link.cid, link.total_bytes)))
        else:
            shards.append((position, link.cid))
    if seen != int.from_bytes(message.data, "big"):
        raise UnixFsError(f"block {cid}: the links of a shard contradict its bit field")
    return ShardNode(bits, tuple(entries), tuple(shards))


def _read_position(cid: Cid, label: bytes, digits: int) -> int:
    if len(label) != digits or not _HEXADECIMAL.issuperset(label):
        raise UnixFsError(f"block {cid}: a link of a shard is named {label!r}")
    return int(label, 16)


_HEXADECIMAL = frozenset(b"0123456789ABCDEF")


@dataclass(slots=True)
class _Message:
    """The UnixFS message in a node."""

    kind: Kind = Kind.RAW
    data: bytes = b""
    file_bytes: int | None = None
    part_sizes: list[int] = field(default_factory=list)
    hash_type: int = 0
    fanout: int = 0


def _decode_data(encoded: bytes) -> _Message:
    message = _Message()
    has_kind = False
    for number, value in read_fields(encoded):
        match number, value:
            case (1, int()):
                try:
                    message.kind = Kind(value)
                except ValueError:
                    raise ProtobufError(f"UnixFS type {value} is unknown") from None
                has_kind = True
            case (2, bytes()):
                message.data = value
            case (3, int()):
                message.file_bytes = value
            case (4, int()):
                message.part_sizes.append(value)
            case (4, bytes()):  # packed: rare, but allowed by protobuf
                raise ProtobufError("packed block sizes are not supported")
            case (5, int()):
                message.hash_type = value
            case (6, int()):
                message.fanout = value
            case _:  # mode and mtime: nothing that we restore
                pass
    if not has_kind:
        raise ProtobufError("no UnixFS type")
    return message


def encode_leaf_data(data: bytes) -> bytes:
    """Return the UnixFS message of a file that sits in one dag-pb block (as older importers write it)."""
    return encode_integer(_TYPE, Kind.FILE) + encode_bytes(_DATA, data) + encode_integer(_FILE_SIZE, len(data))
