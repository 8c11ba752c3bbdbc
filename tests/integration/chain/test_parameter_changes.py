"""Changes of parameters and beacon blocks, through a real EVM: the daemon's epochs are the contract's."""

import pytest
import trio

from contracts.bindings import epoch_manager
from node.chain.adapter import read_contract
from node.chain.deployer import send_transaction
from node.ports import StageChange
from node.protocol.stages import Stage, first_block_of, stage_at
from tests.integration.chain.conftest import PATIENCE_SECONDS, Network
from tests.integration.chain.test_chain_port import opened
from tests.integration.chain.test_watcher import until_confirmed

pytestmark = pytest.mark.chain
LONGER = epoch_manager.Schedule(90, 40, 50, 54, 62, 66, 74, 64, 4, 3 * 10**12)


async def schedule(network: Network, from_epoch: int) -> None:
    call = epoch_manager.schedule_parameters(from_epoch, LONGER)
    manager = network.deployment.addresses.epoch_manager
    await send_transaction(network.rpc, network.owner, "schedule", manager, data=call.calldata)


async def test_a_daemon_follows_a_change_as_the_contract_does(network: Network) -> None:
    manager = network.deployment.addresses.epoch_manager
    seen: list[StageChange] = []
    await schedule(network, 2)
    async with opened(network, network.owner) as daemon, trio.open_nursery() as nursery:

        async def follow() -> None:
            async for change in daemon.stage_changes("test"):
                seen.append(change)

        nursery.start_soon(follow)
        await until_confirmed(daemon, await network.rpc.block_number())
        begin = first_block_of(2, Stage.SERVE, daemon.schedule)
        assert daemon.parameters.unit_price == 10**12
        while daemon.head.number < begin + 200:
            await network.mine(25)
            await until_confirmed(daemon, await network.rpc.block_number())
        assert daemon.parameters.unit_price == LONGER.unit_price
        assert daemon.parameters.poc_sample_size == LONGER.poc_sample_size
        for block in (begin - 1, begin, begin + 39, begin + 40, begin + 89, begin + 90, begin + 199):
            where = stage_at(block, daemon.schedule)
            told = await read_contract(network.rpc, manager, epoch_manager.stage_at(block))
            assert (where.epoch, where.stage.value) == (told.epoch, told.stage.value)
            assert (where.first_block, where.next_block) == (told.first_block, told.next_block)
        last = stage_at(begin + 199, daemon.schedule)
        with trio.fail_after(PATIENCE_SECONDS):
            while seen[-1].first_block < last.first_block:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    order = [(change.epoch, change.stage) for change in seen]
    first = order[0]
    expected = [(epoch, stage) for epoch in range(first[0], 6) for stage in Stage]
    assert order == expected[expected.index(first) :][: len(order)], "each stage once, in order, through the change"


async def test_the_hash_of_a_beacon_block_is_that_of_the_chain_that_stays(network: Network) -> None:
    async with opened(network, network.owner, confirmations=4) as daemon:
        await network.mine(10)
        beacon = await network.rpc.block_number()
        doomed = await network.rpc.block(beacon)
        assert doomed is not None
        found = []

        async def ask() -> None:
            found.append(await daemon.block_hash(beacon))

        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                async for head in daemon.heads():  # it has seen the block, and keeps its hash to itself
                    if head.number >= beacon:
                        break
                await network.rpc.call("anvil_reorg", 2, [])
                assert not found
                await network.mine(6)
        stays = await network.rpc.block(beacon)
        assert stays is not None
        assert stays.hash != doomed.hash
        assert found == [stays.hash]
