"""The SQLite connection: one file, WAL, every commit on disk before it returns, or within a second if that suffices."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.store.migrations import migrate

BUSY_MILLISECONDS_MAX = 5_000
"""How long to wait for another process (a doctor, a backup) that holds the file before giving up."""


class Database:
    """One connection with one writer: the daemon. Calls are short and synchronous; trio's thread makes them in turn."""

    def __init__(self, path: Path | str) -> None:
        """Open or create the database at `path` (":memory:" for one that lives in memory) and migrate it."""
        self.connection = sqlite3.connect(path, isolation_level=None)
        self._log = Path(f"{path}-wal")
        self.has_unsynced = False
        """There are quick commits that a power cut would undo."""
        self.connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS_MAX}")
        self.connection.execute("PRAGMA journal_mode = WAL")
        # FULL: a nonce or a duty must survive power loss before its effect leaves this machine.
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("PRAGMA foreign_keys = ON")
        migrate(self.connection)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; durable when it returns."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    @contextmanager
    def quick_transaction(self) -> Iterator[sqlite3.Connection]:
        """As `transaction`, but when it returns the commit survives kill -9, and a power cut only after `sync`.

        For what comes many times a second, each time replacing what was before: waiting for the disk would stop
        everything else for milliseconds each time.
        """
        self.connection.execute("PRAGMA synchronous = NORMAL")
        try:
            with self.transaction() as connection:
                yield connection
        finally:
            self.connection.execute("PRAGMA synchronous = FULL")
            self.has_unsynced = True

    def sync(self) -> None:
        """Bring quick commits to the disk. Blocks; may run in another thread."""
        self.has_unsynced = False  # before: what is committed meanwhile is synced next time
        if not self._log.exists():
            return
        descriptor = os.open(self._log, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the connection; the file is complete without it."""
        self.connection.close()
