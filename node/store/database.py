"""The SQLite connection: one file, WAL. A commit survives kill -9 at once, and the loss of power when it was synced.

Most commits are synced before they return. Where many come per second and each has an effect that can wait a moment,
they are made without, and `durable` syncs all that were made so far: one wait for the disk, however many share it, and
not on the event loop.

SQLite moves the log into the database now and then, and waits for the disk twice to do it: left to itself, within some
commit, on the event loop. `keep_log_short` does it in a thread, by a connection of its own.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import structlog
import trio

from node.store.migrations import migrate

log = structlog.get_logger(__name__)

BUSY_MILLISECONDS_MAX = 5_000
"""How long to wait for another process (a doctor, a backup) that holds the file before giving up."""

MOVE_COMMITS = 64
"""Commits after which the log is moved: some hundred pages. Fewer would have the disk write the same pages anew."""
MOVE_SECONDS = 1.0
"""Between two looks at how many there were."""
MOVE_AGAIN_SECONDS = 30.0
"""After a try that failed: what is in the way (a full disk, say) stays for more than a second, and each is logged."""
LOG_PAGES_MAX = 1 << 14
"""64 MiB: a commit that makes the log longer moves it itself, whoever waits. It comes to that where commits never
pause, for then the log is moved and yet not begun anew, and where nobody runs `keep_log_short`."""


class Database:
    """One connection with one writer: the daemon. Calls are short and synchronous; trio's thread makes them in turn."""

    def __init__(self, path: Path | str) -> None:
        """Open or create the database at `path` (":memory:" for one that lives in memory) and migrate it."""
        self._path = None if str(path) == ":memory:" else Path(path)
        self._log_path = None if str(path) == ":memory:" else Path(f"{path}-wal")
        self._made = self._synced = 0
        """Commits without sync so far, and how many of them a sync has reached."""
        self._is_syncing = False
        self._sync_ended = trio.lowlevel.ParkingLot()
        self._commits = 0
        """Of either kind."""
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS_MAX}")
        self.connection.execute("PRAGMA journal_mode = WAL")
        # FULL: a voucher or a nonce must survive power loss before its effect leaves this machine.
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
        self.connection.execute("PRAGMA foreign_keys = ON")
        migrate(self.connection)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; durable when it returns."""
        with self._begun() as connection:
            yield connection

    @contextmanager
    def quick_transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; when it returns it survives the end of this process, and after `durable` that of power."""
        self.connection.execute("PRAGMA synchronous = NORMAL")
        try:
            with self._begun() as connection:
                yield connection
        finally:
            self.connection.execute("PRAGMA synchronous = FULL")
        self._made += 1

    async def durable(self) -> None:
        """Wait until all commits made so far survive the loss of power."""
        wanted = self._made
        if self._log_path is None or self._synced >= wanted:
            await trio.lowlevel.checkpoint()
            return
        while self._synced < wanted:
            if self._is_syncing:
                await self._sync_ended.park()  # all who wait wake at once; a lock would pass from one to the next
            else:
                await self._sync(self._log_path)

    async def _sync(self, log_path: Path) -> None:
        made, self._is_syncing = self._made, True
        try:
            await trio.to_thread.run_sync(_sync, log_path)
            self._synced = made
        finally:
            self._is_syncing = False
            self._sync_ended.unpark_all()

    async def keep_log_short(self) -> None:
        """Move the log into the database whenever there is enough of it, for ever; nobody waits for that."""
        moved = 0
        while True:
            await trio.sleep(MOVE_SECONDS)
            commits = self._commits
            if self._path is None or commits - moved < MOVE_COMMITS:
                continue
            try:
                await trio.to_thread.run_sync(_move_log, self._path)
                moved = commits
            except sqlite3.Error as error:
                log.warning("the log of the store could not be moved; it is tried again", reason=str(error))
                await trio.sleep(MOVE_AGAIN_SECONDS)

    @contextmanager
    def _begun(self) -> Iterator[sqlite3.Connection]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        self._commits += 1

    def close(self) -> None:
        """Close the connection; the file is complete without it."""
        self.connection.close()


def _move_log(path: Path) -> None:
    """Move the write-ahead log into the database as far as nobody is in the way. Nobody waits for this connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _sync(log_path: Path) -> None:
    """Bring the write-ahead log to the disk. What is no longer in it SQLite synced when it moved it to the database."""
    try:
        descriptor = os.open(log_path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
