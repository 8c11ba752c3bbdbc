"""A false result on a real EVM: two members' daemons void it, the true one takes its place, and is paid once."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from eth_hash.auto import keccak

from contracts.bindings import epoch_manager
from netsim.network import SimulatedNetwork, Switchboard
from netsim.trace import Trace
from node.chain.accounts import LocalAccount
from node.chain.adapter import EvmChain, read_contract
from node.ports import ActionStatus
from node.protocol.actions import ClaimReward, PostEpochResult, VoidEpochResult
from node.protocol.eip712 import epoch_result_digest, objection_digest
from node.protocol.identifiers import Cid, EpochNumber, Hash32, PeerId, TokenAmount
from node.protocol.records import EpochResultSummary, RewardShare
from node.protocol.results import pack_validator_set
from node.protocol.rewards import reward_proof, rewards_root
from node.services.gossip import GossipRouter
from node.services.objecting import ObjectingService, ObjectionStatus
from node.services.objections_heard import ObjectionsHeard
from node.services.result_signatures import ResultSignatures
from node.store.books import Books
from node.store.database import Database
from tests.integration.chain.conftest import PATIENCE_SECONDS, TOKEN, Network
from tests.integration.chain.test_chain_port import caught_up, done, opened
from tests.unit.services.test_objecting import StubEpochs

pytestmark = pytest.mark.chain
EPOCH = EpochNumber(0)
FALSE_CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
TRUE_CID = Cid("bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
FORM = 46


def summary_of(network: Network, cid: Cid, shares: Sequence[RewardShare]) -> tuple[EpochResultSummary, bytes]:
    accounts = sorted((miner.address for miner in network.miners), key=str.lower)
    validator_set = pack_validator_set([(account, 1) for account in accounts])
    root, total = rewards_root(shares), TokenAmount(sum(share.cumulative for share in shares))
    return EpochResultSummary(EPOCH, cid, Hash32(keccak(validator_set)), len(accounts), root, total), validator_set


def signed_by(members: Sequence[LocalAccount], digest: Hash32) -> tuple[tuple[Any, bytes], ...]:
    ordered = sorted(members, key=lambda member: member.address.lower())
    return tuple((member.address, member.sign_digest(digest)) for member in ordered)


async def go_to(network: Network, offset: int) -> None:
    """Mine so that the next transaction is in the block `offset` of the first epoch."""
    manager = network.deployment.addresses.epoch_manager
    genesis = (await read_contract(network.rpc, manager, epoch_manager.parameters())).genesis_block
    await network.mine(genesis + offset - 1 - await network.rpc.block_number())


async def sent_by(network: Network, chain: EvmChain) -> int:
    """How many transactions of the account are on their way to a block."""
    counts = [
        int(await network.rpc.call("eth_getTransactionCount", chain.account, block), 16)
        for block in ("latest", "pending")
    ]
    return counts[1] - counts[0]


def objecting(
    network: Network, chain: EvmChain, switchboard: Switchboard, name: str
) -> tuple[GossipRouter, ObjectingService]:
    gossip = SimulatedNetwork(switchboard, PeerId(name), chain.account, chain.sign)
    router = GossipRouter(gossip)
    store = Books(Database(network.folder / f"{name}-books.sqlite"), chain.account)
    unused: Any = None
    epochs: Any = StubEpochs(wrong=True)
    service = ObjectingService(
        chain, gossip, unused, store, unused, epochs, unused,
        ResultSignatures(chain, router, lambda: None), ObjectionsHeard(chain, router),
    )  # fmt: skip
    switchboard.join(gossip)
    return router, service


def status_of(service: ObjectingService) -> ObjectionStatus | None:
    return service.status(EPOCH)


async def test_members_void_a_false_result_and_the_true_one_is_paid_once(network: Network) -> None:
    thief = RewardShare(network.owner.address, TokenAmount(90 * TOKEN))
    honest = [RewardShare(miner.address, TokenAmount(30 * TOKEN)) for miner in network.miners]
    honest.sort(key=lambda share: share.account.lower())
    manager = network.deployment.addresses.epoch_manager
    false, group = summary_of(network, FALSE_CID, [thief])
    true, _ = summary_of(network, TRUE_CID, honest)
    false_digest, true_digest = (epoch_result_digest(summary, 31337, manager) for summary in (false, true))
    posting = PostEpochResult(false, group, signed_by(network.miners, false_digest))
    async with (
        opened(network, network.owner) as owner,
        opened(network, network.miners[0], "first") as first,
        opened(network, network.miners[1], "second") as second,
        trio.open_nursery() as nursery,
    ):
        switchboard = Switchboard(nursery, 0, Trace())
        await go_to(network, FORM)
        assert (await done(first, "result/0", posting)).status is ActionStatus.DONE
        services = []
        for chain, name in ((first, "peer-1"), (second, "peer-2")):
            router, service = objecting(network, chain, switchboard, name)
            nursery.start_soon(router.run)
            nursery.start_soon(service.run)
            services.append(service)
        with trio.fail_after(PATIENCE_SECONDS):
            while not all(status is not None and status.own for status in map(status_of, services)):
                await trio.sleep(0.05)
            await network.mine()  # a third is enough, so each of them submits when it looks again
            while EPOCH in owner.state.results:
                await trio.sleep(0.05)
        assert owner.state.voided == {EPOCH: (false_digest,)}
        await caught_up(first)
        again = await done(first, "again", posting)
        assert again.status is ActionStatus.FAILED
        assert "ResultVoid" in again.reason
        replacing = PostEpochResult(true, group, signed_by(network.miners, true_digest))
        assert (await done(first, "result/0/1", replacing)).status is ActionStatus.DONE
        await go_to(network, 60)
        await caught_up(owner)
        assert owner.state.results == {EPOCH: true}
        cumulative, proof = reward_proof(honest, network.miners[2].address)
        claim = ClaimReward(network.miners[2].address, cumulative, proof)
        assert (await done(owner, "claim", claim)).status is ActionStatus.DONE
        assert (await done(owner, "claim again", claim)).status is ActionStatus.FAILED
        assert await owner.token_balance(network.miners[2].address) == 30 * TOKEN
        stolen = ClaimReward(thief.account, *reward_proof([thief], thief.account))
        assert (await done(owner, "steal", stolen)).status is ActionStatus.FAILED
        nursery.cancel_scope.cancel()


async def test_the_contract_takes_objections_of_a_third_and_no_fewer_and_none_of_another_result(
    network: Network,
) -> None:
    manager = network.deployment.addresses.epoch_manager
    summary, group = summary_of(network, TRUE_CID, [RewardShare(network.miners[0].address, TokenAmount(TOKEN))])
    digest = epoch_result_digest(summary, 31337, manager)
    async with opened(network, network.owner) as owner, opened(network, network.miners[0], "first") as first:
        await go_to(network, FORM)
        posting = PostEpochResult(summary, group, signed_by(network.miners, digest))
        assert not await owner.is_overtaken(posting)  # its group is not stored yet, which is nobody's doing
        assert (await done(first, "result/0", posting)).status is ActionStatus.DONE
        await caught_up(owner)
        assert await owner.is_overtaken(posting)
        objection = objection_digest(EPOCH, digest, 31337, manager)
        nobody = await done(owner, "void by nobody", VoidEpochResult(EPOCH, digest, ()))
        assert nobody.status is ActionStatus.FAILED
        other = Hash32(b"\x05" * 32)
        signatures = signed_by(network.miners[:1], objection_digest(EPOCH, other, 31337, manager))
        wrong = await done(owner, "void another", VoidEpochResult(EPOCH, other, signatures))
        assert "ResultMismatch" in wrong.reason
        third = VoidEpochResult(EPOCH, digest, signed_by(network.miners[1:2], objection))
        assert not await owner.is_overtaken(third)
        assert (await done(owner, "void", third)).status is ActionStatus.DONE
        assert owner.state.results == {}
        assert owner.state.groups.keys() == {EPOCH}
        assert await first.is_overtaken(third)


async def test_what_another_has_on_its_way_to_a_block_is_seen_before_one_pays_for_the_same(network: Network) -> None:
    manager = network.deployment.addresses.epoch_manager
    summary, group = summary_of(network, TRUE_CID, [RewardShare(network.miners[0].address, TokenAmount(TOKEN))])
    digest = epoch_result_digest(summary, 31337, manager)
    posting = PostEpochResult(summary, group, signed_by(network.miners, digest))
    async with (
        opened(network, network.miners[1], "second") as second,
        opened(network, network.miners[0], "first") as first,
    ):
        await go_to(network, FORM)
        assert (await done(first, "result/0", posting)).status is ActionStatus.DONE
        await caught_up(second)
        objection = objection_digest(EPOCH, digest, 31337, manager)
        third = VoidEpochResult(EPOCH, digest, signed_by(network.miners[1:2], objection))
        await network.rpc.call("evm_setAutomine", False)
        try:
            await first.submit("void", third)
            with trio.fail_after(PATIENCE_SECONDS):
                while not await second.is_overtaken(third):
                    await trio.sleep(0.05)
            assert second.state.results  # it is in no block
            assert not await second.is_overtaken(third, in_a_block=True)
            await second.submit("void too", third)  # it gave way for long enough: what is on its way stops nobody
            with trio.fail_after(PATIENCE_SECONDS):
                while await sent_by(network, second) == 0:
                    await trio.sleep(0.05)
        finally:
            await network.rpc.call("evm_setAutomine", True)
            await network.mine()
