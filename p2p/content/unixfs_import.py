"""UnixFS import: files and directories become blocks, with the root CID that any IPFS tool gives for the profile.

Blocking code, meant for a worker thread. Memory is some chunks, the pending links of each level of a file's tree, and
the names of one directory on each level, whatever the size. Chunks are read and hashed by a few threads at once.

A file may stay in place: its leaves are then ranges of it, and only the nodes above them are stored.
"""

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from p2p.content.blockstore import FileChangedError
from p2p.content.cid import CID_BYTES, Cid, Codec
from p2p.content.dagpb import LINKS_MAX, Link, Node, encode_node
from p2p.content.hamt import build_shards
from p2p.content.protobuf import varint_bytes
from p2p.content.unixfs import (
    BLOCK_BYTES_MAX,
    CHUNK_BYTES_MAX,
    DIRECTORY_DATA,
    UnixFsError,
    check_name,
    encode_file_data,
)

IMPORT_DEPTH_MAX = 32
"""Directories within directories. Deeper trees are a mistake (a link cycle, a wrong path), and exports refuse them."""
IMPORT_ENTRIES_MAX = 100_000
"""Files and directories of one import: as many as an export takes. Bounds the memory for names."""
SHARDING_BYTES_MIN = 256 * 1024
"""A directory whose links take more than this is spread over shards."""
READERS = 4
"""Threads that read and hash, so that disk and processors work at the same time. With more, the disk is the limit."""
GROUP_BYTES = 1024 * 1024
"""What one thread takes at a time: one chunk by default, many if chunks are small, so that handing over is cheap."""

PutBlock = Callable[[Codec, bytes], Cid]
"""Stores a block and returns its CID. Called from several threads at once for leaves."""
ReferenceFile = Callable[[Path, Iterable[tuple[Cid, int, int]]], None]
"""Holds blocks as (CID, offset, size) of a file in place: `BlockStore.reference_file`."""
Advance = Callable[[int], None]
"""Told the number of file bytes just taken in. May raise to stop the import."""


WIDTH_MIN, WIDTH_MAX = 2, 16_384
"""Links of a file node: below, the tree does not get narrower; above, readers refuse it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is cut. The default is the `unixfs-v1-2025` profile of IPIP-499; other values give other CIDs."""

    chunk_bytes: int = 1024 * 1024
    width: int = 1024
    """Most links of one file node."""

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_bytes <= CHUNK_BYTES_MAX:
            raise ValueError(f"chunks have 1 to {CHUNK_BYTES_MAX} bytes: larger blocks are not exchanged over IPFS")
        if not WIDTH_MIN <= self.width <= WIDTH_MAX:
            raise ValueError(f"file nodes have {WIDTH_MIN} to {WIDTH_MAX} links")


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
    reference: ReferenceFile | None = None,
) -> Imported:
    """Import a file, or a directory with all below it.

    `include_hidden` also takes entries whose names begin with a dot (below `path`; `path` itself is always taken).
    With `reference` (usually `store.reference_file`) leaves are not stored: files stay in place and are held there.
    Raises UnixFsError for what UnixFS blocks of ours cannot hold (symbolic links, devices, names that are not UTF-8,
    too many entries), FileChangedError for a file that is written to meanwhile, and OSError for what cannot be read.
    """
    with ThreadPoolExecutor(READERS, thread_name_prefix="import") as readers:
        return _Importer(put, layout, include_hidden, advance, reference, readers).take(path.absolute(), 0).imported


@dataclass(frozen=True, slots=True)
class _Taken:
    imported: Imported
    is_counted: bool
    """Whether it counts when its directory is measured: see `_link_bytes`."""


@dataclass(slots=True)
class _Importer:
    put: PutBlock
    layout: Layout
    include_hidden: bool
    advance: Advance | None
    reference: ReferenceFile | None
    readers: ThreadPoolExecutor
    entries_left: int = IMPORT_ENTRIES_MAX

    def take(self, path: Path, depth: int) -> _Taken:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            # Followed, a link in somebody's repository could publish any file of this machine.
            raise UnixFsError(f"{path} is a symbolic link; put the file itself in its place (cp -L)")
        if stat.S_ISREG(mode):
            return _Taken(self._take_file(path), is_counted=True)
        if not stat.S_ISDIR(mode):
            raise UnixFsError(f"{path} is neither a file nor a directory")
        if depth == IMPORT_DEPTH_MAX:
            raise UnixFsError(f"{path}: more than {IMPORT_DEPTH_MAX} directories deep")
        return self._take_directory(path, depth)

    def _take_file(self, path: Path) -> Imported:
        builder = _FileBuilder(self.put, self.layout.width)
        leaves = _read_leaves(path, None if self.reference is not None else self.put, self.layout, self.readers)

        def build() -> Iterator[tuple[Cid, int, int]]:
            for cid, offset, size in leaves:
                builder.add(Imported(cid, size, size))
                if self.advance is not None:
                    self.advance(size)
                yield cid, offset, size

        if self.reference is not None:
            self.reference(path, build())
        else:
            deque(build(), maxlen=0)
        return builder.finish()

    def _take_directory(self, path: Path, depth: int) -> _Taken:
        names = self._names(path)
        links: list[Link] = []
        measured = len(encode_node(Node((), DIRECTORY_DATA)))
        file_bytes = 0
        for name in names:
            child = self.take(path / check_name(name), depth + 1)
            link = Link(child.imported.cid, name, child.imported.total_bytes)
            links.append(link)
            file_bytes += child.imported.file_bytes
            measured += _link_bytes(link) if child.is_counted else 0
        cid, total_bytes = _store_directory(self.put, tuple(links), measured)
        return _Taken(Imported(cid, file_bytes, total_bytes), is_counted=not links)

    def _names(self, path: Path) -> list[bytes]:
        names: list[bytes] = []
        with os.scandir(os.fsencode(path)) as found:
            for entry in found:
                if entry.name.startswith(b".") and not self.include_hidden:
                    continue
                self.entries_left -= 1
                if self.entries_left < 0:
                    raise UnixFsError(f"more than {IMPORT_ENTRIES_MAX} files and directories, at {path}")
                names.append(entry.name)
        return sorted(names)


def _store_directory(put: PutBlock, links: tuple[Link, ...], measured: int) -> tuple[Cid, int]:
    """Store a directory as one block, or as shards; return its CID and total bytes."""
    block = encode_node(Node(links, DIRECTORY_DATA))
    # The last two conditions only concern directories of very many directories, which are not measured.
    if measured > SHARDING_BYTES_MIN or len(links) > LINKS_MAX or len(block) > BLOCK_BYTES_MAX:
        root = build_shards(links, put)
        return root.cid, root.total_bytes
    return put(Codec.DAG_PB, block), len(block) + sum(link.total_bytes for link in links)


def _link_bytes(link: Link) -> int:
    """Return the encoded size of a link, by which the reference importer decides whether to shard a directory.

    It decides while it takes files in, when directories that are not empty have no CID yet: it does not count them.
    Neither do we, for the same CIDs; they matter from about 3,000 directories in one.
    """
    fields = 1 + varint_bytes(CID_BYTES) + CID_BYTES
    fields += 1 + varint_bytes(len(link.name)) + len(link.name) + 1 + varint_bytes(link.total_bytes)
    return 1 + varint_bytes(fields) + fields


def _read_leaves(
    path: Path, put: PutBlock | None, layout: Layout, readers: ThreadPoolExecutor
) -> Iterator[tuple[Cid, int, int]]:
    """Yield the leaves of a file as (CID, offset, size), in order; `put` stores them, without it they are hashed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    pending: deque[Future[list[tuple[Cid, int, int]]]] = deque()
    try:
        before = os.fstat(descriptor)
        size = before.st_size
        step = max(1, GROUP_BYTES // layout.chunk_bytes) * layout.chunk_bytes
        for offset in range(0, max(size, 1), step):
            group = min(step, size - offset)
            pending.append(readers.submit(_read_group, path, descriptor, put, layout.chunk_bytes, offset, group))
            if len(pending) > READERS:  # one more than threads: none waits for us
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
        after = os.fstat(descriptor)
        if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns) or os.pread(descriptor, 1, size):
            raise _changed(path)
    finally:
        for future in pending:
            future.cancel()
        for future in pending:
            if not future.cancelled():
                future.exception()  # it still uses the descriptor
        os.close(descriptor)


def _read_group(
    path: Path, descriptor: int, put: PutBlock | None, chunk_bytes: int, start: int, size: int
) -> list[tuple[Cid, int, int]]:
    """Read a range of a file and cut it; a file without bytes is one chunk without bytes."""
    buffer = memoryview(_buffer(size))[:size]
    filled = 0
    while filled < size:
        read = os.preadv(descriptor, [buffer[filled:]], start + filled)
        if read == 0:
            raise _changed(path)
        filled += read
    leaves: list[tuple[Cid, int, int]] = []
    for offset in range(0, max(size, 1), chunk_bytes):
        chunk = buffer[offset : offset + chunk_bytes]
        cid = Cid.of(Codec.RAW, chunk) if put is None else put(Codec.RAW, bytes(chunk))
        leaves.append((cid, start + offset, len(chunk)))
    return leaves


_buffers = threading.local()


def _buffer(size: int) -> bytearray:
    """Return this thread's buffer: a fresh one for each chunk would cost as much as a fifth of the hash."""
    buffer: bytearray = getattr(_buffers, "buffer", bytearray())
    if len(buffer) < size:
        buffer = _buffers.buffer = bytearray(size)
    return buffer


def _changed(path: Path) -> FileChangedError:
    return FileChangedError(f"{path} was changed while it was read: start again when it is at rest")


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
