"""UnixFS export: verified blocks become files, staged beside their destination and then renamed, all or nothing.

Blocking code, meant for a worker thread. Every block is verified as it is read, sizes are held against what the parent
promised, and depth, entries and bytes are bounded, so that a small hostile tree cannot fill a disk or run for ever.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2p.content.cid import Cid
from p2p.content.places import sync_directory
from p2p.content.tree import DEPTH_MAX, CorruptBlockError, ReadBlock, TreeReader, file_bytes
from p2p.content.unixfs import FileNode, Leaf, UnixFsError

__all__ = ["CorruptBlockError", "export", "file_chunks", "sync_directory"]

EXPORT_ENTRIES_MAX = 100_000
"""Files and directories of one export; a directory that links one subtree many times would grow without end."""

PARTIAL_PREFIX = ".partial-"
"""Names of staging directories beside a destination. Found at rest, they are what a killed export left."""

Advance = Callable[[int], None]
"""Told the number of file bytes just written. May raise to stop the export."""


def file_chunks(cid: Cid, read: ReadBlock, *, limit_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of the file `cid` in order; raise UnixFsError beyond `limit_bytes` or for what is no file."""
    yield from TreeReader(read, limit_bytes).chunks(cid)


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
        _Writer(TreeReader(read, limit_bytes), advance, EXPORT_ENTRIES_MAX).write(cid, staged, 0)
        staged.rename(destination)
        sync_directory(destination.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@dataclass(slots=True)
class _Writer:
    """Writes a tree of files, within a budget of entries."""

    reader: TreeReader
    advance: Advance | None
    entries_left: int

    def write(self, cid: Cid, path: Path, depth: int) -> None:
        self.entries_left -= 1
        if self.entries_left < 0:
            raise UnixFsError(f"more than {EXPORT_ENTRIES_MAX} files and directories")
        node = self.reader.node(cid)
        if isinstance(node, Leaf | FileNode):
            self._write_file(cid, node, path)
            return
        if depth == DEPTH_MAX:
            raise UnixFsError(f"more than {DEPTH_MAX} directories deep")
        path.mkdir()
        for entry in self.reader.entries(node):
            self.write(entry.cid, path / entry.name, depth + 1)
        sync_directory(path)

    def _write_file(self, cid: Cid, node: Leaf | FileNode, path: Path) -> None:
        self.reader.check_budget(file_bytes(node))
        # One small block linked a million times is a large file: refused before the disk is filled with it.
        if file_bytes(node) > (free := shutil.disk_usage(path.parent).free):
            raise OSError(errno.ENOSPC, f"no room for {file_bytes(node)} bytes where {free} are free", str(path))
        with path.open("xb") as file:
            for chunk in self.reader.chunks_of(cid, node):
                file.write(chunk)
                if self.advance is not None:
                    self.advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
