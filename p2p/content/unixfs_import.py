"""UnixFS import: files and directories become blocks, with the root CID that any IPFS tool gives for the profile.

Blocking code, meant for a worker thread. Memory is one chunk and the pending links of each level, whatever the size.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import Link, Node, encode_node
from p2p.content.unixfs import (
    DIRECTORY_BLOCK_BYTES_MAX,
    DIRECTORY_DATA,
    UnixFsError,
    check_name,
    encode_file_data,
)

IMPORT_DEPTH_MAX = 32
"""Directories within directories. Deeper trees are a mistake (a link cycle, a wrong path), and exports refuse them."""

PutBlock = Callable[[Codec, bytes], Cid]
"""Stores a block and returns its CID."""
Advance = Callable[[int], None]
"""Told the number of file bytes just taken in. May raise to stop the import."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is cut. The default is the `unixfs-v1-2025` profile of IPIP-499; other values give other CIDs."""

    chunk_bytes: int = 1024 * 1024
    width: int = 1024
    """Most links of one file node."""

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1 or self.width < 2:
            raise ValueError("a layout needs chunks of at least 1 byte and at least 2 links per node")


PROFILE_2025 = Layout()


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made."""

    cid: Cid
    file_bytes: int
    """Bytes of all files."""
    total_bytes: int
    """Encoded bytes of all blocks, equal ones counted as often as they are linked (`Tsize`)."""


class _FileBuilder:
    """Builds the balanced tree from the left, holding at most `width` links per level."""

    def __init__(self, put: PutBlock, width: int) -> None:
        self._put = put
        self._width = width
        self._levels: list[list[Imported]] = []

    def add(self, part: Imported, level: int = 0) -> None:
        if level == len(self._levels):
            self._levels.append([])
        # Folded only when one more arrives, so that a last full row is known to be the last.
        if len(self._levels[level]) == self._width:
            self._fold(level)
        self._levels[level].append(part)

    def finish(self) -> Imported:
        level = 0
        while level + 1 < len(self._levels) or len(self._levels[level]) > 1:
            self._fold(level)
            level += 1
        return self._levels[level][0]

    def _fold(self, level: int) -> None:
        parts = self._levels[level]
        node = Node(
            tuple(Link(part.cid, b"", part.total_bytes) for part in parts),
            encode_file_data(tuple(part.file_bytes for part in parts)),
        )
        self._levels[level] = []
        self.add(_store(self._put, node, parts), level + 1)


def import_file(
    source: BinaryIO, put: PutBlock, layout: Layout = PROFILE_2025, advance: Advance | None = None
) -> Imported:
    """Import the bytes of `source` up to its end."""
    builder = _FileBuilder(put, layout.width)
    first = True
    while (chunk := _read_full(source, layout.chunk_bytes)) or first:
        first = False
        builder.add(Imported(put(Codec.RAW, chunk), len(chunk), len(chunk)))
        if advance is not None:
            advance(len(chunk))
    return builder.finish()


def import_path(
    path: Path,
    put: PutBlock,
    layout: Layout = PROFILE_2025,
    *,
    include_hidden: bool = True,
    advance: Advance | None = None,
) -> Imported:
    """Import a file, or a directory with all below it.

    `include_hidden` also takes entries whose names begin with a dot (below `path`; `path` itself is always taken).
    Raises UnixFsError for what UnixFS blocks of ours cannot hold (symbolic links, devices, names that are not UTF-8,
    directories of more than 256 KiB of names) and OSError for what cannot be read.
    """
    return _Importer(put, layout, include_hidden, advance).take(path, 0)


@dataclass(frozen=True, slots=True)
class _Importer:
    put: PutBlock
    layout: Layout
    include_hidden: bool
    advance: Advance | None

    def take(self, path: Path, depth: int) -> Imported:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            # Followed, a link in somebody's repository could publish any file of this machine.
            raise UnixFsError(f"{path} is a symbolic link; put the file itself in its place (cp -L)")
        if stat.S_ISREG(mode):
            with path.open("rb") as source:
                return import_file(source, self.put, self.layout, self.advance)
        if not stat.S_ISDIR(mode):
            raise UnixFsError(f"{path} is neither a file nor a directory")
        if depth == IMPORT_DEPTH_MAX:
            raise UnixFsError(f"{path}: more than {IMPORT_DEPTH_MAX} directories deep")
        return self._take_directory(path, depth)

    def _take_directory(self, path: Path, depth: int) -> Imported:
        links: list[Link] = []
        children: list[Imported] = []
        for name in sorted(os.fsencode(entry.name) for entry in path.iterdir()):
            if name.startswith(b".") and not self.include_hidden:
                continue
            child = self.take(path / check_name(name), depth + 1)
            links.append(Link(child.cid, name, child.total_bytes))
            children.append(child)
        node = Node(tuple(links), DIRECTORY_DATA)
        if len(encode_node(node)) > DIRECTORY_BLOCK_BYTES_MAX:
            raise UnixFsError(f"{path} has too many entries ({len(links)}) for one directory block; use subdirectories")
        return _store(self.put, node, children)


def _store(put: PutBlock, node: Node, children: list[Imported]) -> Imported:
    block = encode_node(node)
    return Imported(
        put(Codec.DAG_PB, block),
        sum(child.file_bytes for child in children),
        len(block) + sum(child.total_bytes for child in children),
    )


def _read_full(source: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end: a short read in the middle must not move the chunk boundaries."""
    data = source.read(size)
    if len(data) == size or not data:
        return data
    pieces = [data]
    missing = size - len(data)
    while missing and (piece := source.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
