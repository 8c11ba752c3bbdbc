"""Endpoints that fail, freeze or lie cost time, never a wrong answer in a question of record."""

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from node.chain.endpoints import ChainIdentity, HealthLimits, WrongChainError
from node.chain.rpc import EndpointsDisagreeError, RpcError, RpcUnavailableError
from tests.unit.chain.endpoints_stand_in import GENESIS, StandIn, client_of

IDENTITY = ChainIdentity(1, GENESIS)


async def test_an_endpoint_that_fails_is_put_back_alone(autojump_clock: MockClock) -> None:
    first, second = StandIn("first"), StandIn("second")
    rpc = client_of(first, second)
    first.down = True
    assert await rpc.block_number() == 10
    first.posts = 0
    assert await rpc.block_number() == 10
    assert first.posts == 0, "it was asked again within its back-off"
    first.down = False
    await trio.sleep(1)
    await rpc.block_number()
    assert first.posts == 1


async def test_the_back_off_grows_and_has_a_limit(autojump_clock: MockClock) -> None:
    only = StandIn("only")
    rpc = client_of(only, limits=HealthLimits(backoff_seconds_max=2.0))
    only.down = True
    for _ in range(100):
        with pytest.raises(RpcUnavailableError, match="http://only"):
            await rpc.call_once("eth_blockNumber")
    only.down = False
    await trio.sleep(3)
    assert await rpc.block_number() == 10


async def test_no_message_or_log_shows_the_secret_part_of_an_url(autojump_clock: MockClock) -> None:
    only = StandIn("only")
    only.down = True
    with capture_logs() as logs, pytest.raises(RpcUnavailableError) as raised:
        await client_of(only).call("eth_blockNumber")
    assert logs
    assert "secret-key" not in str(raised.value) + str(logs)


async def test_most_endpoints_decide_and_the_other_is_left_out_and_named(autojump_clock: MockClock) -> None:
    liar, honest, other = StandIn("liar", fork="b"), StandIn("honest"), StandIn("other")
    rpc = client_of(liar, honest, other)
    with capture_logs() as logs:
        found = await rpc.agreed_block(5)
    assert found is not None
    assert found.hash.hex().startswith("aa")
    assert [entry["endpoint"] for entry in logs if entry["log_level"] == "error"] == ["http://liar"]
    liar.asked.clear()
    await rpc.block(5)
    assert not liar.asked, "an endpoint in quarantine is not asked for ordinary reads either"
    await trio.sleep(200)
    await rpc.block(5)
    assert liar.asked, "quarantine ends"


async def test_two_that_differ_are_an_outage(autojump_clock: MockClock) -> None:
    rpc = client_of(StandIn("one"), StandIn("two", fork="b"))
    with pytest.raises(EndpointsDisagreeError, match=r"http://one.*http://two|http://two.*http://one"):
        await rpc.agreed_block(5)


async def test_two_that_differ_for_a_moment_are_not_blamed(autojump_clock: MockClock) -> None:
    one, two, three = StandIn("one"), StandIn("two"), StandIn("three")
    late, regular = [StandIn("x", fork="b").says["eth_getBlockByNumber"]], three.says["eth_getBlockByNumber"]

    def forked_once(*given: object) -> object:
        return (late.pop() if late else regular)(*given)  # type: ignore[operator]

    three.says["eth_getBlockByNumber"] = forked_once
    with capture_logs() as logs:
        assert await client_of(three, one, two).agreed_block(5) is not None
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_an_empty_answer_counts_only_if_nobody_has_anything(autojump_clock: MockClock) -> None:
    behind, one, two = StandIn("behind", head=3), StandIn("one"), StandIn("two")
    rpc = client_of(behind, one, two)
    assert await rpc.agreed_block(5) is not None
    assert await rpc.agreed_block(50) is None


async def test_with_three_endpoints_one_alone_is_not_believed(autojump_clock: MockClock) -> None:
    liar, one, two = StandIn("liar"), StandIn("one"), StandIn("two")
    rpc = client_of(liar, one, two)
    one.down = two.down = True
    with pytest.raises(RpcUnavailableError):
        await rpc.agreed_block(5)
    one.down = two.down = False
    one.head = two.head = 4
    with pytest.raises(RpcUnavailableError):
        await rpc.agreed_block(5)  # only the liar has it


async def test_a_single_endpoint_is_believed() -> None:
    assert await client_of(StandIn("only")).agreed_block(5) is not None


async def test_a_frozen_endpoint_does_not_hold_up_the_others(autojump_clock: MockClock) -> None:
    frozen, one, two = StandIn("frozen"), StandIn("one"), StandIn("two")
    frozen.frozen = True
    rpc = client_of(frozen, one, two)
    before = trio.current_time()
    assert await rpc.agreed_block(5) is not None
    assert trio.current_time() - before < 0.2
    assert await rpc.head() == 10
    assert trio.current_time() - before < 3


async def test_the_head_is_what_most_have_not_what_one_claims(autojump_clock: MockClock) -> None:
    prophet, one, two = StandIn("prophet", head=1000), StandIn("one"), StandIn("two", head=11)
    assert await client_of(prophet, one, two).head() == 11
    assert await client_of(prophet, one).head() == 10


async def test_an_endpoint_far_behind_is_not_used_until_it_caught_up(autojump_clock: MockClock) -> None:
    behind, one, two = StandIn("behind", head=100), StandIn("one", head=200), StandIn("two", head=200)
    rpc = client_of(behind, one, two)
    assert await rpc.head() == 200
    behind.asked.clear()
    assert await rpc.block_number() == 200
    assert not behind.asked
    behind.head = 200
    await rpc.head()
    behind.asked.clear()
    await rpc.block_number()
    assert behind.asked


async def test_an_endpoint_whose_head_stands_still_is_not_used(autojump_clock: MockClock) -> None:
    still, moving = StandIn("still"), StandIn("moving")
    rpc = client_of(still, moving)
    await rpc.head()
    for _ in range(10):
        moving.head += 1
        await trio.sleep(10)
        newest = await rpc.head()
    assert newest == 20
    assert await rpc.block_number() == 20


async def test_an_endpoint_of_another_chain_is_refused_for_good(autojump_clock: MockClock) -> None:
    foreign, right = StandIn("foreign"), StandIn("right")
    foreign.says["eth_chainId"] = "0x2"
    rpc = client_of(foreign, right, identity=IDENTITY)
    with capture_logs() as logs:
        assert await rpc.block_number() == 10
    assert [entry["endpoint"] for entry in logs if entry["log_level"] == "error"] == ["http://foreign"]
    foreign.asked.clear()
    await trio.sleep(10_000)
    await rpc.agreed_block(5)
    assert not foreign.asked


async def test_no_endpoint_of_the_right_chain_is_an_error_not_an_outage(autojump_clock: MockClock) -> None:
    past = StandIn("past")
    with pytest.raises(WrongChainError, match="another past"):
        await client_of(past, identity=ChainIdentity(1, "22" * 32)).head()


async def test_an_endpoint_that_became_another_chain_is_found_out(autojump_clock: MockClock) -> None:
    changing = StandIn("changing")
    rpc = client_of(changing, identity=IDENTITY)
    await rpc.head()
    changing.down = True
    with pytest.raises(RpcUnavailableError):
        await rpc.head()
    changing.down = False
    changing.says["eth_chainId"] = "0x2"
    await trio.sleep(60)
    with pytest.raises(WrongChainError):
        await rpc.head()


async def test_a_rate_limit_is_an_outage_of_one_endpoint(autojump_clock: MockClock) -> None:
    busy, free = StandIn("busy"), StandIn("free")
    busy.says["eth_blockNumber"] = {"code": -32005, "message": "rate limit reached"}
    assert await client_of(busy, free).block_number() == 10


async def test_a_range_refused_by_most_is_refused(autojump_clock: MockClock) -> None:
    stand_ins = [StandIn(name) for name in ("one", "two", "three")]
    for stand_in in stand_ins:
        stand_in.says["eth_getLogs"] = {"code": -32005, "message": "query returned more than 10000 results"}
    stand_ins[0].says["eth_getLogs"] = []
    with pytest.raises(RpcError, match="10000"):
        await client_of(*stand_ins).call_agreed("eth_getLogs", {})


async def test_any_endpoint_that_estimates_fine_outweighs_those_that_do_not(autojump_clock: MockClock) -> None:
    one, two, three = StandIn("one"), StandIn("two"), StandIn("three")
    for stand_in in (one, two, three):
        stand_in.says["eth_estimateGas"] = {"code": 3, "message": "execution reverted", "data": "0x12345678"}
    rpc = client_of(one, two, three)
    with pytest.raises(RpcError, match="execution reverted"):
        await rpc.call_any("eth_estimateGas", {})
    three.says["eth_estimateGas"] = "0x5208"
    assert await rpc.call_any("eth_estimateGas", {}) == "0x5208"


async def test_calls_made_at_once_travel_together_and_each_gets_its_own_answer() -> None:
    only = StandIn("only", head=500)
    rpc = client_of(only)
    found: dict[int, int] = {}

    async def ask(number: int) -> None:
        block = await rpc.block(number)
        assert block is not None
        found[number] = block.number

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, number)
    assert found == {number: number for number in range(200)}
    assert only.posts < 20


async def test_an_endpoint_without_batches_is_asked_singly() -> None:
    only = StandIn("only", head=500)
    only.batches = False
    rpc = client_of(only)
    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(rpc.block, number)
    assert only.asked.count("eth_getBlockByNumber") == 60


async def test_a_cancelled_leader_does_not_take_the_others_calls_with_it(autojump_clock: MockClock) -> None:
    only = StandIn("only", head=500)
    rpc = client_of(only)
    only.frozen = True
    scopes: dict[trio.lowlevel.Task, trio.CancelScope] = {}
    done = 0

    async def ask() -> None:
        nonlocal done
        with trio.CancelScope() as scope:
            scopes[trio.lowlevel.current_task()] = scope
            await rpc.block(1)
            done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask)
        await trio.sleep(0.5)
        assert only.posts == 1, "all six travel together"
        only.frozen = False
        scopes[only.sender].cancel()
    assert done == 5
