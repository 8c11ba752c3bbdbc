"""Brings quick commits to the disk soon after, in a thread: a power cut loses vouchers of the last second at most.

And of those only what no later voucher of the same payer replaces: each is a total. A payer that lost its newest is
told by the payee, which shows it at the next call.
"""

import structlog
import trio

from node.store.database import Database

log = structlog.get_logger(__name__)

SYNC_SECONDS = 1.0


class SyncService:
    """Syncs every SYNC_SECONDS while there is something to sync."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Sync until cancelled, and once more then."""
        try:
            while True:
                await trio.sleep(SYNC_SECONDS)
                if self._database.has_unsynced:
                    await trio.to_thread.run_sync(self._database.sync)
        finally:
            self._database.sync()
