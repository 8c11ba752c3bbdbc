"""The index of a block store: which blocks are held, where their bytes are, what is pinned. One SQLite file.

A row is written only after its bytes are on disk, and bytes are deleted only after their row is gone: a process that is
killed between the two leaves bytes without a row (swept later), never a row without its bytes. Several processes may
have the file open; WAL lets them read while one writes.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p.content.block_index_file import as_os_error, connect, open_index
from p2p.content.cid import Cid

FORGOTTEN_PER_COMMIT = 10_000
"""Rows deleted at once: a file of a terabyte has a million, and others that want to write must not wait for all."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the one that was read: if any of it changed, its bytes may have."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take it from a `stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A block in a file of its own."""

    size: int
    own: bool
    used_ms: int


@dataclass(frozen=True, slots=True)
class LeafRow:
    """A block inside a file that is kept in place."""

    file: int
    path: Path
    stamp: Stamp
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file that is kept in place."""

    file: int
    path: Path
    stamp: Stamp
    added_ms: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the index."""

    blocks: int
    block_bytes: int
    duplicates: int
    """Blocks that were to be stored and were held already."""
    duplicate_bytes: int
    files: int
    leaves: int
    leaf_bytes: int
    repeats: int
    repeated_bytes: int


class BlockIndex:
    """Blocking and thread-safe: one connection reads, one writes, each behind a lock held for one statement or
    transaction. Every change is on disk when the call returns. Methods raise OSError if the index fails."""

    def __init__(self, path: Path, found: Callable[[], Iterable[tuple[Cid, int]]]) -> None:
        """Open or create the index. `found` names the blocks (with sizes) that are there when it is created."""
        self.path = path
        self._writer = open_index(path, found)
        self._reader = connect(path)
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    def close(self) -> None:
        """Close both connections; further calls raise sqlite3.ProgrammingError."""
        with self._write_lock:
            self._writer.close()
        with self._read_lock:
            self._reader.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other thread or process writes beside: all or nothing, durable when it ends.

        Raises OSError, with ENOSPC if the disk is full.
        """
        with self._write_lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.DatabaseError):
                    raise as_os_error(error, self.path) from error
                raise

    def _rows(self, query: str, *values: object) -> list[Any]:
        """Return all rows of a query. Any: a row is as its query says."""
        with self._read_lock:
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise as_os_error(error, self.path) from error

    def block(self, cid: Cid) -> BlockRow | None:
        """Return the row of a block that has a file of its own."""
        rows = self._rows("SELECT size, own, used_ms FROM blocks WHERE cid = ?", cid.to_bytes())
        return BlockRow(rows[0][0], bool(rows[0][1]), rows[0][2]) if rows else None

    def leaves(self, cid: Cid) -> list[LeafRow]:
        """Return the places of a block in files that are kept in place."""
        rows = self._rows(
            "SELECT f.id, f.path, f.size, f.mtime_ns, f.inode, l.offset, l.size"
            " FROM leaves l JOIN files f ON f.id = l.file WHERE l.cid = ?",
            cid.to_bytes(),
        )
        return [LeafRow(row[0], _path(row[1]), Stamp(*row[2:5]), row[5], row[6]) for row in rows]

    def known(self, cids: Sequence[Cid]) -> set[Cid]:
        """Return those of a few hundred blocks that have a row: whether they are held, their files tell."""
        marks = ",".join("?" * len(cids))
        names = [cid.to_bytes() for cid in cids]
        query = f"SELECT cid FROM blocks WHERE cid IN ({marks}) UNION SELECT cid FROM leaves WHERE cid IN ({marks})"  # noqa: S608 - marks only
        return {Cid.from_bytes(row[0]) for row in self._rows(query, *names, *names)}

    def totals(self) -> Totals:
        """Return the sums over the index; reads all references."""
        (stored,) = self._rows("SELECT * FROM totals")
        (files,) = self._rows("SELECT count(*) FROM files")
        (leaves,) = self._rows("SELECT count(*), coalesce(sum(size), 0) FROM leaves")
        (repeats,) = self._rows("SELECT count(*), coalesce(sum(size), 0) FROM repeats")
        return Totals(*stored, *files, *leaves, *repeats)

    def block_bytes(self) -> int:
        """Return the bytes of blocks in files of their own."""
        total: int = self._rows("SELECT block_bytes FROM totals")[0][0]
        return total

    def blocks_after(self, cid: bytes, limit: int) -> list[tuple[Cid, int]]:
        """Return the next blocks (with sizes) in the order of their CIDs, for a walk over all in bounded memory."""
        rows = self._rows("SELECT cid, size FROM blocks WHERE cid > ? ORDER BY cid LIMIT ?", cid, limit)
        return [(Cid.from_bytes(row[0]), row[1]) for row in rows]

    def files(self) -> list[FileRow]:
        """Return all files that are kept in place."""
        rows = self._rows("SELECT id, path, size, mtime_ns, inode, added_ms FROM files")
        return [FileRow(row[0], _path(row[1]), Stamp(*row[2:5]), row[5]) for row in rows]

    def leaves_of(self, file: int, after: tuple[int, bytes], limit: int) -> list[tuple[Cid, int, int]]:
        """Return the next blocks of a file as (CID, offset, size), in the order of their offsets, then CIDs.

        `after` is the (offset, CID) to go on from; two may begin at one offset if a file was cut in two ways.
        """
        page = "SELECT cid, offset, size FROM {} WHERE file = ? AND (offset, cid) > (?, ?)"
        rows = self._rows(
            f"{page.format('leaves')} UNION ALL {page.format('repeats')} ORDER BY offset, cid LIMIT ?",
            *(file, *after, file, *after, limit),
        )
        return [(Cid.from_bytes(row[0]), row[1], row[2]) for row in rows]

    def has_file(self, file: int) -> bool:
        """Whether the file is still known."""
        return bool(self._rows("SELECT 1 FROM files WHERE id = ?", file))

    def pins(self) -> list[tuple[Cid, str, int]]:
        """Return all pins as (root, name, since in milliseconds)."""
        rows = self._rows("SELECT root, name, since_ms FROM pins ORDER BY since_ms, name")
        return [(Cid.from_bytes(row[0]), row[1], row[2]) for row in rows]

    def add_file(
        self, path: Path, stamp: Stamp, now_ms: int, leaves: Sequence[tuple[Cid, int, int]]
    ) -> tuple[int, bool]:
        """Add a file with its first blocks; return its number, and whether it is new.

        What was known of it with another stamp is forgotten.
        """
        query = "SELECT id, size, mtime_ns, inode FROM files WHERE path = ?"
        for known in self._rows(query, os.fsencode(path)):
            if Stamp(*known[1:]) != stamp:
                self.forget_file(known[0])
        with self.writing() as rows:
            found = rows.execute(query, (os.fsencode(path),)).fetchone()
            if found is not None and Stamp(*found[1:]) == stamp:
                file: int = found[0]
                rows.execute("UPDATE files SET added_ms = ? WHERE id = ?", (now_ms, file))
                is_new = False
            else:
                rows.execute("DELETE FROM files WHERE path = ?", (os.fsencode(path),))
                (file,) = rows.execute(
                    "INSERT INTO files (path, size, mtime_ns, inode, added_ms) VALUES (?, ?, ?, ?, ?) RETURNING id",
                    (os.fsencode(path), stamp.size, stamp.mtime_ns, stamp.inode, now_ms),
                ).fetchone()
                is_new = True
            _insert_leaves(rows, file, leaves)
            return file, is_new

    def rename_file(self, stamp: Stamp, path: Path) -> bool:
        """Give the file of this stamp its present path; return whether one is known."""
        name = os.fsencode(path)
        with self.writing() as rows:
            found = rows.execute(
                "SELECT id FROM files WHERE inode = ? AND size = ? AND mtime_ns = ? ORDER BY path = ? DESC LIMIT 1",
                (stamp.inode, stamp.size, stamp.mtime_ns, name),
            ).fetchone()
            if found is None:
                return False
            rows.execute("DELETE FROM files WHERE path = ? AND id != ?", (name, found[0]))
            rows.execute("UPDATE files SET path = ? WHERE id = ?", (name, found[0]))
            return True

    def add_leaves(self, file: int, leaves: Sequence[tuple[Cid, int, int]]) -> None:
        """Add blocks of a file."""
        with self.writing() as rows:
            _insert_leaves(rows, file, leaves)

    def forget_file(self, file: int) -> None:
        """Drop a file and its blocks from the index."""
        for table in ("leaves", "repeats"):
            # The table is one of two names of our own.
            batch = f"SELECT file, offset, cid FROM {table} WHERE file = ? LIMIT {FORGOTTEN_PER_COMMIT}"  # noqa: S608
            removed = 1
            while removed:
                with self.writing() as rows:
                    removed = rows.execute(
                        f"DELETE FROM {table} WHERE (file, offset, cid) IN ({batch})",  # noqa: S608 - a name of ours
                        (file,),
                    ).rowcount
        with self.writing() as rows:
            rows.execute("DELETE FROM files WHERE id = ?", (file,))

    def forget_leaf(self, file: int, cid: Cid) -> None:
        """Drop a block of a file, at all its offsets."""
        with self.writing() as rows:
            rows.execute("DELETE FROM leaves WHERE cid = ? AND file = ?", (cid.to_bytes(), file))
            rows.execute("DELETE FROM repeats WHERE cid = ? AND file = ?", (cid.to_bytes(), file))

    def forget_below(self, directory: Path) -> None:
        """Drop the file of that path, and all files in the directory of that path."""
        name = os.fsencode(directory)
        query = "SELECT id FROM files WHERE path = ? OR (path >= ? AND path < ?)"
        for (file,) in self._rows(query, name, name + b"/", name + b"0"):
            self.forget_file(file)


def _insert_leaves(rows: sqlite3.Connection, file: int, leaves: Sequence[tuple[Cid, int, int]]) -> None:
    inserted = rows.executemany(
        "INSERT OR IGNORE INTO leaves (cid, file, offset, size) VALUES (?, ?, ?, ?)",
        [(cid.to_bytes(), file, offset, size) for cid, offset, size in leaves],
    )
    if inserted.rowcount == len(leaves):
        return
    rows.executemany(
        "INSERT OR IGNORE INTO repeats (file, offset, cid, size) SELECT ?1, ?2, ?3, ?4"
        " WHERE NOT EXISTS (SELECT 1 FROM leaves WHERE cid = ?3 AND file = ?1 AND offset = ?2)",
        [(file, offset, cid.to_bytes(), size) for cid, offset, size in leaves],
    )


def _path(name: bytes) -> Path:
    return Path(os.fsdecode(name))
