"""UnixFS export: verified blocks become files, staged beside their destination and then renamed, all or nothing.

Blocking code, meant for a worker thread. Every block is verified as it is read, sizes are held against what the parent
promised, and depth, entries and bytes are bounded, so that a small hostile tree cannot fill a disk or run for ever.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2p.content.cid import Cid
from p2p.content.places import sync_directory
from p2p.content.unixfs import DirectoryNode, FileNode, Leaf, UnixFsError, UnixFsNode, read_block

EXPORT_DEPTH_MAX = 32
"""Directories within directories; also, separately, rows of a file tree (4 rows of 1,024 hold an exbibyte)."""
EXPORT_ENTRIES_MAX = 100_000
"""Files and directories of one export; a directory that links one subtree many times would grow without end."""

PARTIAL_PREFIX = ".partial-"
"""Names of staging directories beside a destination. Found at rest, they are what a killed export left."""

ReadBlock = Callable[[Cid], bytes]
"""Returns the bytes of a block; raises if they are not held."""
Advance = Callable[[int], None]
"""Told the number of file bytes just written. May raise to stop the export."""


class CorruptBlockError(Exception):
    """Stored bytes are not those that their CID names."""

    def __init__(self, cid: Cid) -> None:
        super().__init__(f"block {cid} is damaged: its bytes have another hash")
        self.cid = cid


def file_chunks(cid: Cid, read: ReadBlock, *, limit_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of the file `cid` in order; raise UnixFsError beyond `limit_bytes` or for what is no file."""
    yield from _Reader(read, limit_bytes).chunks(cid, None, 0)


def export(cid: Cid, read: ReadBlock, destination: Path, *, limit_bytes: int, advance: Advance | None = None) -> None:
    """Write the file or directory `cid` to `destination`, which must not exist, in one atomic step.

    Raises FileExistsError, UnixFsError (not what we write, or beyond a limit), CorruptBlockError, OSError and whatever
    `read` raises for a missing block; then nothing is left at `destination`.
    """
    if os.path.lexists(destination):
        raise FileExistsError(f"{destination} exists")
    staging = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=destination.parent))
    try:
        staged = staging / "content"
        _Writer(_Reader(read, limit_bytes), advance).write(cid, staged, 0)
        staged.rename(destination)
        sync_directory(destination.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@dataclass(slots=True)
class _Reader:
    """Reads verified nodes and the bytes of files, within a budget of bytes."""

    read: ReadBlock
    bytes_left: int

    def node(self, cid: Cid) -> UnixFsNode:
        block = self.read(cid)
        if not cid.matches(block):
            raise CorruptBlockError(cid)
        return read_block(cid, block)

    def chunks(self, cid: Cid, promised_bytes: int | None, depth: int) -> Iterator[bytes]:
        """Yield the bytes of a file, or of a part that its parent promised to have so many bytes."""
        node = self.node(cid)
        if isinstance(node, DirectoryNode):
            raise UnixFsError(f"{cid} is a directory where a file was expected")
        yield from self.chunks_of(cid, node, promised_bytes, depth)

    def chunks_of(self, cid: Cid, node: Leaf | FileNode, promised_bytes: int | None, depth: int) -> Iterator[bytes]:
        """Yield the bytes below a node that was already read."""
        file_bytes = len(node.data) if isinstance(node, Leaf) else node.file_bytes
        if promised_bytes is not None and file_bytes != promised_bytes:
            raise UnixFsError(f"block {cid} brings {file_bytes} bytes where {promised_bytes} were promised")
        if file_bytes > self.bytes_left:  # known from the root, before a byte is written
            raise UnixFsError(f"larger than the limit given for it: {file_bytes} bytes more")
        if isinstance(node, Leaf):
            self.bytes_left -= file_bytes
            yield node.data
            return
        if depth == EXPORT_DEPTH_MAX:
            raise UnixFsError(f"a file tree of more than {EXPORT_DEPTH_MAX} rows")
        for part in node.parts:
            yield from self.chunks(part.cid, part.file_bytes, depth + 1)


@dataclass(slots=True)
class _Writer:
    """Writes a tree of files, within a budget of entries."""

    reader: _Reader
    advance: Advance | None
    entries_left: int = EXPORT_ENTRIES_MAX

    def write(self, cid: Cid, path: Path, depth: int) -> None:
        self.entries_left -= 1
        if self.entries_left < 0:
            raise UnixFsError(f"more than {EXPORT_ENTRIES_MAX} files and directories")
        node = self.reader.node(cid)
        if not isinstance(node, DirectoryNode):
            self._write_file(cid, node, path)
            return
        if depth == EXPORT_DEPTH_MAX:
            raise UnixFsError(f"more than {EXPORT_DEPTH_MAX} directories deep")
        path.mkdir()
        for entry in node.entries:
            self.write(entry.cid, path / entry.name, depth + 1)
        sync_directory(path)

    def _write_file(self, cid: Cid, node: Leaf | FileNode, path: Path) -> None:
        with path.open("xb") as file:
            for chunk in self.reader.chunks_of(cid, node, None, 0):
                file.write(chunk)
                if self.advance is not None:
                    self.advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
