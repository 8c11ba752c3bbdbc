"""What the watcher keeps to when endpoints refuse, lag or reorganise."""

from typing import Any

import pytest
import trio

from node.chain import deep_history, watcher
from node.chain.rpc import JsonRpc, RpcError
from node.chain.watcher import DeepReorganisationError, NoFinalityError
from node.ports import StageChange
from node.protocol.actions import FundChannel
from node.protocol.identifiers import TokenAmount
from node.protocol.stages import Stage
from tests.integration.chain.conftest import PATIENCE_SECONDS, TOKEN, Network
from tests.integration.chain.test_chain_port import done, opened

pytestmark = pytest.mark.chain


async def until_confirmed(chain: Any, block: int) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        async for head in chain.heads():
            if head.confirmed >= block:
                return


async def test_refused_ranges_shrink_and_grow_again_and_nothing_is_missed(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(network, network.owner) as owner:
        await done(owner, "fund", FundChannel(network.miners[0].address, TokenAmount(TOKEN)))
        await network.mine(300)
        await done(owner, "more", FundChannel(network.miners[1].address, TokenAmount(TOKEN)))
        await network.mine(100)
        truth = owner.state.channels
    original, ranges = JsonRpc._ask, []

    async def refuse_long(self: JsonRpc, endpoint: Any, method: str, parameters: Any) -> Any:
        if method == "eth_getLogs" and "fromBlock" in parameters[0]:
            blocks = int(parameters[0]["toBlock"], 16) - int(parameters[0]["fromBlock"], 16) + 1
            ranges.append(blocks)
            if blocks > 20:
                raise RpcError(-32005, "query returned more than 10000 results", "")
        return await original(self, endpoint, method, parameters)

    monkeypatch.setattr(JsonRpc, "_ask", refuse_long)
    async with opened(network, network.owner, "afresh", confirmations=2) as afresh:
        assert afresh.state.channels == truth
    answered = [blocks for blocks in ranges if blocks <= 20]
    assert len(ranges) - len(answered) < len(answered), "it does not ask in vain more often than not"


async def test_ranges_grow_to_their_maximum(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_history, "RANGE_BLOCKS_FIRST", 20)
    monkeypatch.setattr(deep_history, "RANGE_BLOCKS_MAX", 80)
    await network.mine(500)
    original, ranges = JsonRpc._ask, []

    async def note(self: JsonRpc, endpoint: Any, method: str, parameters: Any) -> Any:
        if method == "eth_getLogs" and "fromBlock" in parameters[0]:
            ranges.append(int(parameters[0]["toBlock"], 16) - int(parameters[0]["fromBlock"], 16) + 1)
        return await original(self, endpoint, method, parameters)

    monkeypatch.setattr(JsonRpc, "_ask", note)
    async with opened(network, network.owner) as owner:
        assert owner.head.confirmed >= 500
    assert ranges[0] == 20
    assert max(ranges) == 80


async def test_a_shorter_chain_after_a_restart_does_not_unconfirm(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, polls = watcher.Watcher.catch_up, 0

    async def count(self: watcher.Watcher) -> None:
        nonlocal polls
        await original(self)
        polls += 1

    monkeypatch.setattr(watcher.Watcher, "catch_up", count)
    await network.mine(20)
    async with opened(network, network.owner, confirmations=2) as owner:
        confirmed = owner.head.confirmed
    await network.rpc.call("anvil_rollback", 10)
    async with opened(network, network.owner, confirmations=2) as owner:
        assert owner.head.confirmed == confirmed
        enough = polls + 5  # of an endpoint that is behind
        with trio.fail_after(PATIENCE_SECONDS):
            while polls < enough:
                await trio.sleep(0.05)
        assert owner.head.confirmed == confirmed


async def test_a_reorganisation_below_the_confirmed_block_stops_the_daemon_and_stays(network: Network) -> None:
    await network.mine(20)
    with pytest.RaisesGroup(DeepReorganisationError, flatten_subgroups=True), trio.fail_after(PATIENCE_SECONDS):
        async with opened(network, network.owner, confirmations=2):
            await network.rpc.call("anvil_reorg", 6, [])
            await network.mine(3)
            await trio.sleep_forever()
    with pytest.raises(DeepReorganisationError, match="raise confirmations"):
        async with opened(network, network.owner, confirmations=2):
            pass


async def test_with_finalized_only_what_the_chain_calls_final_is_confirmed(network: Network) -> None:
    await network.mine(100)
    async with opened(network, network.owner, finality="finalized") as owner:
        final = await network.rpc.finalized()
        assert final is not None
        assert final < owner.head.number
        assert owner.head.confirmed == final
        await network.mine(50)
        await until_confirmed(owner, final + 50)
        assert owner.head.confirmed == await network.rpc.finalized()


async def test_a_chain_without_finality_is_refused_where_it_is_asked_for(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(self: JsonRpc) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(JsonRpc, "finalized", none)
    with pytest.raises(NoFinalityError, match="confirmations"):
        async with opened(network, network.owner, finality="finalized"):
            pass


async def test_stage_changes_come_once_each_over_restarts(network: Network) -> None:
    seen: list[StageChange] = []

    async def take(count: int, handled: int) -> None:
        async with opened(network, network.owner) as owner:
            with trio.fail_after(PATIENCE_SECONDS):
                changes = owner.stage_changes("test")
                for _ in range(count):
                    seen.append(await anext(changes))
                if handled == count:  # asking for the next says that the last is done with
                    with trio.move_on_after(0.2):
                        await anext(changes)

    await network.mine(60)
    await take(1, 1)
    await network.mine(60)
    await take(7, 6)  # a whole epoch at once; the last change is not done with
    await take(1, 1)
    assert seen[8] == seen[7]
    del seen[8]
    assert [change.stage for change in seen[1:]] == [Stage((seen[0].stage + place) % 7) for place in range(1, 8)]
    assert [change.first_block for change in seen] == sorted({change.first_block for change in seen})
