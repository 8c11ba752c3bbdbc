"""The watcher before endpoints that contradict themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
import trio.testing

from node.chain.endpoints import ChainIdentity, WrongChainError
from node.chain.event_decoder import EventDecoder
from node.chain.rpc import RpcUnavailableError
from node.chain.watcher import MISFITS_NOTED, Watcher
from node.protocol.identifiers import Address, BlockNumber
from node.store.chain_tables import ChainTables
from node.store.database import Database
from tests.unit.chain.endpoints_stand_in import GENESIS, StandIn, block, client_of

MANAGER = Address("0x" + "00" * 20)
LAST_GOOD = 4


@contextmanager
def watching(path: Path, *endpoints: StandIn, identity: ChainIdentity | None = None) -> Iterator[Watcher]:
    database = Database(path / "chain.sqlite")
    yield Watcher(
        client_of(*endpoints, identity=identity),
        ChainTables(database),
        {},
        EventDecoder(1, MANAGER),
        first_block=BlockNumber(1),
        confirmations=2,
        poll_seconds=1.0,
    )
    database.close()


async def test_while_nothing_changes_each_look_is_one_request(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = StandIn("one")
    endpoint.says["eth_getLogs"] = []
    with watching(tmp_path, endpoint) as watcher:
        await watcher.catch_up()
        endpoint.posts = 0
        await watcher.catch_up()
        assert endpoint.posts == 1
        assert watcher.head.number == endpoint.head


async def test_a_block_replaced_at_the_same_height_is_seen_at_the_next_look(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = StandIn("one")
    endpoint.says["eth_getLogs"] = []
    with watching(tmp_path, endpoint) as watcher:
        await watcher.catch_up()
        asked: list[str] = []

        def replaced(number: str, _: bool) -> dict[str, object]:
            found = block(int(number, 16), "b" if int(number, 16) == endpoint.head else "a")
            return {**found, "parentHash": block(int(number, 16))["parentHash"]}

        def logs(where: dict[str, str]) -> list[object]:
            asked.append(where["blockHash"])
            return []

        endpoint.says["eth_getBlockByNumber"] = replaced
        endpoint.says["eth_getLogs"] = logs
        await watcher.catch_up()
        assert asked == [block(endpoint.head, "b")["hash"]]
        assert watcher.head.number == endpoint.head


async def test_endpoints_that_are_behind_roll_nothing_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = StandIn("one")
    endpoint.says["eth_getLogs"] = []
    with watching(tmp_path, endpoint) as watcher:
        await watcher.catch_up()
        endpoint.head -= 3
        await watcher.catch_up()
        assert watcher.head.number == endpoint.head + 3


async def test_an_outage_and_a_wrong_chain_come_out_of_a_look_as_they_are(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = StandIn("one")
    endpoint.says["eth_getLogs"] = []
    with watching(tmp_path, endpoint, identity=ChainIdentity(1, GENESIS)) as watcher:
        await watcher.catch_up()
        endpoint.down = True
        with pytest.raises(RpcUnavailableError):
            await watcher.catch_up()
        endpoint.down = False
        endpoint.says["eth_chainId"] = "0x2"
        await trio.sleep(60)
        with pytest.raises((WrongChainError, RpcUnavailableError)):
            await watcher.catch_up()
        with pytest.raises(WrongChainError):
            await watcher.catch_up()


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
