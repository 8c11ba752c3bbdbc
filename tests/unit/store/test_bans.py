"""Bans outlive the daemon, and a flood of them costs one write a second."""

from pathlib import Path

import trio
import trio.testing

from node.network.bans import WRITE_SECONDS, open_standing
from node.store.bans import BanTable
from node.store.database import Database
from p2p.standing import BAN_SECONDS_MIN, Ban, Offence

NOW = 1_800_000_000


class CountingTable(BanTable):
    writes = 0

    def replace(self, bans: object) -> None:
        self.writes += 1
        super().replace(bans)  # type: ignore[arg-type]


async def test_a_ban_outlives_a_restart_and_a_pardon_too(tmp_path: Path) -> None:
    database = Database(tmp_path / "quern.sqlite")
    async with open_standing(BanTable(database), lambda: NOW) as standing:
        standing.blame("liar", Offence.CORRUPT_BLOCK, "one byte was wrong")
        standing.ban("pardoned", "why", 100)
        standing.pardon("pardoned")
    database.close()
    database = Database(tmp_path / "quern.sqlite")
    async with open_standing(BanTable(database), lambda: NOW + 1) as standing:
        (ban,) = standing.bans()
        assert ban == Ban("liar", "corrupt block: one byte was wrong", NOW, NOW + BAN_SECONDS_MIN)
    async with open_standing(BanTable(database), lambda: NOW + BAN_SECONDS_MIN) as standing:
        assert standing.bans() == ()
    database.close()


async def test_many_bans_are_written_at_once_while_the_daemon_runs(
    mock_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    mock_clock.autojump_threshold = 0
    database = Database(tmp_path / "quern.sqlite")
    table = CountingTable(database)
    async with open_standing(table, lambda: NOW) as standing:
        for number in range(500):
            standing.ban(f"peer {number}", "why", 100)
        await trio.sleep(3 * WRITE_SECONDS)
        assert (table.writes, len(table.load())) == (1, 500)
    assert table.writes == 1
    database.close()
