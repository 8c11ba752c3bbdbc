"""Bans on disk, so that a liar does not wait for a restart. The book of conduct itself is p2p/standing.py."""

from collections.abc import Iterable

from node.store.database import Database
from p2p.standing import Ban


class BanTable:
    """The bans in force, replaced as a whole: there are few, and they change seldom."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> tuple[Ban, ...]:
        """All bans that were stored, ended ones included."""
        rows = self._database.connection.execute("SELECT peer, reason, since, until, count FROM bans")
        return tuple(Ban(*row) for row in rows)

    def replace(self, bans: Iterable[Ban]) -> None:
        """Store these, and no others."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM bans")
            connection.executemany(
                "INSERT INTO bans VALUES (?, ?, ?, ?, ?)",
                [(ban.peer, ban.reason, ban.since, ban.until, ban.count) for ban in bans],
            )
