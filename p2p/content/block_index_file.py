"""The file of a block store's index: its tables, how it is opened or made anew, and what its failures mean."""

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from p2p.content.cid import Cid

log = structlog.get_logger(__name__)

BUSY_SECONDS_MAX = 30.0
"""How long to wait for another process that writes; it holds the lock for milliseconds."""
OPEN_ATTEMPTS_MAX = 50
"""Switching to WAL while another process opens the file fails at once, whatever the busy time; tried this often."""
OPEN_RETRY_SECONDS = 0.05
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE blocks (
    cid BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    own INTEGER NOT NULL,
    used_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX blocks_by_use ON blocks (own, used_ms);
CREATE TABLE files (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    added_ms INTEGER NOT NULL
);
CREATE TABLE leaves (
    cid BLOB NOT NULL,
    file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    offset INTEGER NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (cid, file)
) WITHOUT ROWID;
CREATE INDEX leaves_by_file ON leaves (file, offset, cid, size);
CREATE TABLE repeats (
    file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    offset INTEGER NOT NULL,
    cid BLOB NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (file, offset, cid)
) WITHOUT ROWID;
CREATE INDEX repeats_by_cid ON repeats (cid);
CREATE TABLE pins (
    root BLOB NOT NULL,
    name TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (root, name)
) WITHOUT ROWID;
CREATE TABLE totals (
    blocks INTEGER NOT NULL,
    block_bytes INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    duplicate_bytes INTEGER NOT NULL
);
INSERT INTO totals VALUES (0, 0, 0, 0);
CREATE TRIGGER block_added AFTER INSERT ON blocks BEGIN
    UPDATE totals SET blocks = blocks + 1, block_bytes = block_bytes + NEW.size;
END;
CREATE TRIGGER block_removed AFTER DELETE ON blocks BEGIN
    UPDATE totals SET blocks = blocks - 1, block_bytes = block_bytes - OLD.size;
END;
"""
"""`own` blocks were made here (nobody else may have them), the others were fetched. `totals` has one row.

A block that a file has several times is a leaf at its first offset and repeats at the others: one place is enough to
read it (a file of zeros would have a hundred thousand), but a scrub must see them all.
"""


def open_index(path: Path, found: Callable[[], Iterable[tuple[Cid, int]]]) -> sqlite3.Connection:
    """Open or create an index; a damaged one is moved aside. `found` names the blocks (with sizes) that are there when
    it is created. Raises OSError."""
    try:
        return _open_once(path, found)
    except sqlite3.OperationalError as error:  # locked, full, or not permitted: the file itself may be fine
        raise as_os_error(error, path) from error
    except sqlite3.DatabaseError as error:
        # Blocks can be found again by their names; references and pins are lost, which the operator must know.
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        log.error(
            "the index of the content store is damaged and is made anew: pins and files kept in place are forgotten",
            error=str(error),
            kept_as=str(aside),
        )
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _open_once(path, found)


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to the file; the first one makes it."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS_MAX, isolation_level=None, check_same_thread=False)
    try:
        for attempt in range(OPEN_ATTEMPTS_MAX):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                if attempt == OPEN_ATTEMPTS_MAX - 1:
                    raise
                time.sleep(OPEN_RETRY_SECONDS)
        # FULL: a row must not be lost that a daemon has announced, nor come back after its bytes are deleted.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_private(path: Path) -> sqlite3.Connection:
    """Return a further connection with an empty temporary table `reachable(cid)`, kept on disk when it grows."""
    connection = connect(path)
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute("CREATE TEMP TABLE reachable (cid BLOB PRIMARY KEY) WITHOUT ROWID")
    return connection


@contextmanager
def as_os_errors(path: Path) -> Iterator[None]:
    """Raise OSError for what the index at `path` fails at within; for connections of `connect_private`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise as_os_error(error, path) from error


def as_os_error(error: sqlite3.DatabaseError, path: Path) -> OSError:
    """Return what the index's failure means for whoever uses the store."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if isinstance(error, sqlite3.OperationalError):  # locked for too long, not permitted, the disk fails
        return OSError(errno.EIO, f"the index of the content store cannot be used: {error}", str(path))
    return OSError(
        errno.EIO,
        f"the index of the content store is damaged ({error}): stop the daemon, move the index away and start again; "
        "blocks are found again, pins and files in place must be added again",
        str(path),
    )


def _open_once(path: Path, found: Callable[[], Iterable[tuple[Cid, int]]]) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise sqlite3.OperationalError(f"{path} was written by a newer version of Quern ({version})")
        if version == 0:
            for statement in _statements(_SCHEMA):
                connection.execute(statement)
            now_ms = time.time_ns() // 1_000_000
            # Who made them is not known: as blocks of our own they are not evicted.
            connection.executemany(
                "INSERT INTO blocks VALUES (?, ?, 1, ?)", ((cid.to_bytes(), size, now_ms) for cid, size in found())
            )
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        connection.close()
        raise
    connection.execute("COMMIT")
    return connection


def _statements(script: str) -> Iterator[str]:
    """Yield the statements one by one: `executescript` would commit the transaction that they are to be part of."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
