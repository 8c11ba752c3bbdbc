"""UnixFS: what files and directories are made of, and the rules a block must keep to be read as one."""

from dataclasses import dataclass
from enum import IntEnum

from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import DagPbError, Link, Node, decode_node
from p2p.content.protobuf import ProtobufError, encode_bytes, encode_integer, read_fields

NAME_BYTES_MAX = 255
"""The longest file name that Linux file systems hold."""
BLOCK_BYTES_MAX = 2 * 1024 * 1024 + 1024
"""Largest block we store or take: the 2 MiB that IPFS transfers, and room for the frame around a 2 MiB leaf."""
DIRECTORY_BLOCK_BYTES_MAX = 256 * 1024
"""Above this the reference importers shard a directory (HAMT), which we do not: the CID would differ from theirs."""

_TYPE, _DATA, _FILE_SIZE, _BLOCK_SIZES = 1, 2, 3, 4


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


UnixFsNode = Leaf | FileNode | DirectoryNode


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


def read_block(cid: Cid, block: bytes) -> UnixFsNode:
    """Read a verified block as its own codec says, never as the sender says; raise UnixFsError."""
    if cid.codec is Codec.RAW:
        return Leaf(block)
    try:
        node = decode_node(block)
        kind, data, file_bytes, part_sizes = _decode_data(node.data)
    except (DagPbError, ProtobufError) as error:
        raise UnixFsError(f"block {cid}: {error}") from error
    if kind is Kind.DIRECTORY:
        return DirectoryNode(_read_entries(node.links))
    if kind in (Kind.FILE, Kind.RAW):
        return _read_file(cid, node, data, file_bytes, part_sizes)
    raise UnixFsError(f"block {cid} is a {kind.name.lower().replace('_', ' ')}, which is not supported")


def _read_entries(links: tuple[Link, ...]) -> tuple[Entry, ...]:
    entries = tuple(Entry(check_name(link.name), link.cid, link.total_bytes) for link in links)
    if len({entry.name for entry in entries}) != len(entries):
        raise UnixFsError("a directory has one name twice")
    return entries


def _read_file(cid: Cid, node: Node, data: bytes, file_bytes: int | None, part_sizes: list[int]) -> UnixFsNode:
    if not node.links:
        if part_sizes or file_bytes not in (None, len(data)):
            raise UnixFsError(f"block {cid}: sizes of a leaf contradict its data")
        return Leaf(data)
    if data:
        raise UnixFsError(f"block {cid}: file bytes beside links are not supported")
    if len(part_sizes) != len(node.links) or file_bytes != sum(part_sizes):
        raise UnixFsError(f"block {cid}: sizes of the parts contradict the file")
    # A part without bytes brings nothing, and a tree of them would keep a reader busy for ever.
    if 0 in part_sizes:
        raise UnixFsError(f"block {cid}: a part of a file is empty")
    return FileNode(
        tuple(Part(link.cid, size) for link, size in zip(node.links, part_sizes, strict=True)), sum(part_sizes)
    )


def _decode_data(message: bytes) -> tuple[Kind, bytes, int | None, list[int]]:
    kind: Kind | None = None
    data: bytes = b""
    file_bytes: int | None = None
    part_sizes: list[int] = []
    for field, value in read_fields(message):
        match field, value:
            case (1, int()):
                try:
                    kind = Kind(value)
                except ValueError:
                    raise ProtobufError(f"UnixFS type {value} is unknown") from None
            case (2, bytes()):
                data = value
            case (3, int()):
                file_bytes = value
            case (4, int()):
                part_sizes.append(value)
            case (4, bytes()):  # packed: rare, but allowed by protobuf
                raise ProtobufError("packed block sizes are not supported")
            case _:  # mode, mtime, fan-out: nothing that we restore
                pass
    if kind is None:
        raise ProtobufError("no UnixFS type")
    return kind, data, file_bytes, part_sizes


def encode_leaf_data(data: bytes) -> bytes:
    """Return the UnixFS message of a file that sits in one dag-pb block (as older importers write it)."""
    return encode_integer(_TYPE, Kind.FILE) + encode_bytes(_DATA, data) + encode_integer(_FILE_SIZE, len(data))
