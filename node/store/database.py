"""The SQLite connection: one file, WAL, every commit on disk before it returns."""

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
        self.connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS_MAX}")
        self.connection.execute("PRAGMA journal_mode = WAL")
        # FULL: a voucher or a nonce must survive power loss before its effect leaves this machine.
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

    def close(self) -> None:
        """Close the connection; the file is complete without it."""
        self.connection.close()
