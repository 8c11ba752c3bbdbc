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
from node.chain.watcher import MISFITS_NOTED, RANGE_BLOCKS_WORTH, Finality, Watcher
from node.protocol.identifiers import Address, BlockNumber
from node.store.chain_tables import ChainTables
from node.store.database import Database
from tests.unit.chain.endpoints_stand_in import GENESIS, StandIn, block, client_of

MANAGER = Address("0x" + "00" * 20)
LAST_GOOD = 4
TIP = 10
LOOKS = 20
"""Tasks take their turns in an order that trio draws by lot."""


@contextmanager
def watching(
    path: Path, *endpoints: StandIn, identity: ChainIdentity | None = None, finality: Finality = "confirmations"
) -> Iterator[Watcher]:
    database = Database(path / "chain.sqlite")
    yield Watcher(
        client_of(*endpoints, identity=identity),
        ChainTables(database),
        {},
        EventDecoder(1, MANAGER),
        first_block=BlockNumber(1),
        confirmations=2,
        poll_seconds=1.0,
        finality=finality,
    )
    database.close()


async def test_while_nothing_changes_each_look_is_one_request(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = StandIn("one")
    endpoint.says["eth_getLogs"] = []
    with watching(tmp_path, endpoint) as watcher:
        await watcher.catch_up()
        for _ in range(LOOKS):
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


@pytest.mark.parametrize(
    ("finality", "newest"),
    [
        ("finalized", TIP),
        ("finalized", TIP + 1),
        ("finalized", TIP + 4),
        ("confirmations", TIP + 1),
        ("confirmations", TIP + 2),
        ("confirmations", TIP + 4),
        ("confirmations", TIP + 2 * RANGE_BLOCKS_WORTH),
    ],
)
async def test_a_tip_that_leaves_the_chain_while_it_is_looked_at_is_not_confirmed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, finality: Finality, newest: int
) -> None:
    endpoint = StandIn("one", head=TIP)
    endpoint.says["eth_getLogs"] = []
    first_replaced = TIP - 1  # above what is confirmed
    final, is_armed, is_replaced = 5, False, False

    def get(asked: str, _: bool) -> dict[str, object] | None:
        nonlocal is_replaced
        number = final if asked == "finalized" else int(asked, 16)
        if number > endpoint.head:
            return None
        found = block(number, "b" if is_replaced and number >= first_replaced else "a")
        if number == first_replaced:
            found["parentHash"] = block(number)["parentHash"]
        is_replaced = is_replaced or (is_armed and number == TIP)
        return found

    endpoint.says["eth_getBlockByNumber"] = get
    with watching(tmp_path, endpoint, finality=finality) as watcher:
        await watcher.catch_up()
        assert watcher.head.number == TIP
        assert watcher.head.confirmed < first_replaced
        endpoint.head, final, is_armed = newest, newest, True
        for _ in range(2):
            await watcher.catch_up()
            assert is_replaced
            assert watcher.head.number == newest
            assert watcher.head.confirmed == (newest if finality == "finalized" else newest - 2)
            assert hash_at(watcher, newest) == block(newest, "b")["hash"]
            assert hash_at(watcher, TIP) != block(TIP, "a")["hash"]


async def test_a_tip_becomes_final_without_a_new_block(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    endpoint = StandIn("one", head=TIP)
    endpoint.says["eth_getLogs"] = []
    final = 5
    endpoint.says["eth_getBlockByNumber"] = lambda number, _: block(final if number == "finalized" else int(number, 16))
    with watching(tmp_path, endpoint, finality="finalized") as watcher:
        await watcher.catch_up()
        assert watcher.head.confirmed == final
        final = TIP
        await watcher.catch_up()
        assert watcher.head.confirmed == TIP


async def test_a_new_block_costs_no_second_look_at_the_tip(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    endpoint = StandIn("one", head=TIP)
    endpoint.says["eth_getLogs"] = []
    with watching(tmp_path, endpoint) as watcher:
        await watcher.catch_up()
        endpoint.head += 1
        endpoint.asked.clear()
        await watcher.catch_up()
        assert watcher.head.confirmed == TIP - 1
        assert endpoint.asked.count("eth_getBlockByNumber") == 2  # the tip and the new block


def hash_at(watcher: Watcher, number: int) -> str | None:
    """The hash of a block as it is stored, in the words of an endpoint."""
    found = watcher._tables.hash_at(BlockNumber(number))
    return None if found is None else "0x" + found.hex()
