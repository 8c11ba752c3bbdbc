"""The watcher before endpoints that contradict themselves."""

from pathlib import Path

import structlog
import trio.testing

from node.chain.event_decoder import EventDecoder
from node.chain.watcher import MISFITS_NOTED, Watcher
from node.protocol.identifiers import Address, BlockNumber
from node.store.chain_tables import ChainTables
from node.store.database import Database
from tests.unit.chain.endpoints_stand_in import StandIn, block, client_of

MANAGER = Address("0x" + "00" * 20)
LAST_GOOD = 4


async def test_blocks_that_do_not_follow_are_not_taken_in_and_the_operator_is_told_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = StandIn("one")
    endpoint.says["eth_getLogs"] = []
    endpoint.says["eth_getBlockByNumber"] = lambda number, _: block(
        int(number, 16), "a" if int(number, 16) <= LAST_GOOD else "b"
    )
    database = Database(tmp_path / "chain.sqlite")
    watcher = Watcher(
        client_of(endpoint),
        ChainTables(database),
        {},
        EventDecoder(1, MANAGER),
        first_block=BlockNumber(1),
        confirmations=0,
        poll_seconds=1.0,
    )
    with structlog.testing.capture_logs() as lines:
        for _ in range(2 * MISFITS_NOTED):
            await watcher.catch_up()
    assert watcher.head.number == LAST_GOOD
    assert [line["block"] for line in lines if line["log_level"] == "warning"] == [LAST_GOOD]
    endpoint.says["eth_getBlockByNumber"] = lambda number, _: block(int(number, 16))
    await watcher.catch_up()
    assert watcher.head.number == endpoint.head
    database.close()
