"""What each operation costs in gas, by real transactions on a fresh chain: .venv/bin/python -m benchmarks.gas

Gas is the same on every machine. The limits are what the design promises; an operation above its limit makes the exit
code 1.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import trio
from eth_hash.auto import keccak

from benchmarks.network import PARAMETERS, TOKEN, Cost, MeasuredNetwork, measured_network, numbered_account
from contracts.bindings import access_vault, epoch_manager, inference_coordinator, model_registry, quern_token
from node.chain.accounts import LocalAccount
from node.chain.adapter import read_contract
from node.cli.render import print_table
from node.protocol.actions import (
    AnswerPrompt,
    ClaimReward,
    CommitPoc,
    CommitVotes,
    DepositCollateral,
    DisputePrompt,
    FundChannel,
    PostEpochResult,
    PunishParticipant,
    RedeemVoucher,
    RedeemVouchers,
    RegisterModel,
    RegisterParticipant,
    SettlePrompt,
    SubmitHardwareDiff,
    SubmitPrompt,
    UpdateModel,
)
from node.protocol.eip712 import channel_id, epoch_result_digest, verdict_digest, voucher_digest
from node.protocol.identifiers import Cid, EpochNumber, Hash32, ModelId, NodeId, PeerId, TokenAmount
from node.protocol.records import (
    EpochResultSummary,
    MLNodeRegistration,
    OffenceVerdict,
    PocCommit,
    RewardShare,
    Voucher,
)
from node.protocol.results import pack_validator_set
from node.protocol.rewards import reward_proof, rewards_root
from node.protocol.verdicts import Offence

GROUP_SIZES = (16, 64, 256)
GROUP_SIZE_USUAL = 64
"""The size at which everything else is measured."""
LEAVES = 1000
INFERENCES_PER_REDEEM = 10_000
CHANNELS_TOGETHER = 20
"""Payers whose vouchers a daemon redeems in one transaction."""
VESTING_SECONDS = 30 * 86_400

VOUCHER_GAS_PER_INFERENCE_MAX = 5
COMMIT_POC_GAS_MAX = 50_000
SUBMIT_RESULT_GAS_MAX = 300_000
"""For the group of the usual size."""
CLAIM_REPEAT_GAS_MAX = 60_000

CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
OTHER_CID = Cid("bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
PEER = PeerId("12D3KooWGRUVh7FcjoRbUKBdTvRFDxDHDkJXaJ1gMBoRyGWHAJhV")
MODEL = RegisterModel(
    ModelId("tiny"), CID, "Tiny", "A tiny model", "", "", ("--max-model-len", "512"), 512, 1000, 1, 512, 1000
)
ROOT = Hash32(keccak(b"root"))


@dataclass(frozen=True, slots=True)
class Measurement:
    """An operation and what it cost; `limit` is in gas per operation."""

    operation: str
    cost: Cost
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Miner:
    """A participant that proves: a member of the group that has registered."""

    account: LocalAccount
    node_id: NodeId


async def measure_models(network: MeasuredNetwork) -> list[Measurement]:
    """Register models, change one."""
    plain = model_registry.register_model("plain", CID, "Plain", "A plain model")
    return [
        Measurement("registerModel", await network.send(network.owner, plain)),
        Measurement("registerModelWithSpec", (await network.act(network.owner, MODEL))[0]),
        Measurement("updateModel", (await network.act(network.owner, UpdateModel(ModelId("plain"), OTHER_CID)))[0]),
    ]


async def measure_registration(network: MeasuredNetwork, miner: Miner) -> list[Measurement]:
    """Make a member a miner with collateral."""
    account = miner.account
    await network.fund(account.address)
    await network.send(network.owner, quern_token.transfer(account.address, 20 * TOKEN))
    node = MLNodeRegistration(miner.node_id, (MODEL.model_id,), "NVIDIA H200, 141 GiB")
    found = [
        Measurement("register", (await network.act(account, RegisterParticipant(PEER, bytes(range(64)))))[0]),
        Measurement("submitHardwareDiff, one node", (await network.act(account, SubmitHardwareDiff((node,), ())))[0]),
    ]
    approval, deposit = await network.act(account, DepositCollateral(TokenAmount(10 * TOKEN)))
    return [*found, Measurement("approve", approval), Measurement("depositCollateral", deposit)]


async def measure_channel(network: MeasuredNetwork) -> list[Measurement]:
    """Open a channel and redeem from it, twice."""
    payer, payee = network.owner, network.members[1]
    await network.fund(payee.address)
    _, opened = await network.act(payer, FundChannel(payee.address, TokenAmount(100 * TOKEN)))
    _, more = await network.act(payer, FundChannel(payee.address, TokenAmount(100 * TOKEN)))
    channels, chain_id = network.deployment.addresses.payment_channels, network.deployment.chain_id
    redeems = []
    for cumulative in (10 * TOKEN + 7, 25 * TOKEN + 11, 61 * TOKEN + 3):
        identifier = channel_id(chain_id, channels, payer.address, payee.address)
        voucher = Voucher(identifier, TokenAmount(cumulative), ROOT)
        signature = payer.sign_digest(voucher_digest(voucher, chain_id, channels))
        action = RedeemVoucher(payer.address, payee.address, voucher, signature)
        redeems.append((await network.act(payee, action))[0])
    together = await _redeem_together(network, payee)
    return [
        Measurement("deposit, opens a channel", opened),
        Measurement("deposit, channel is open", more),
        Measurement("redeem, first of a channel", redeems[0]),
        Measurement(
            f"redeem, channel is open (for {INFERENCES_PER_REDEEM} inferences)",
            redeems[2],
            VOUCHER_GAS_PER_INFERENCE_MAX * INFERENCES_PER_REDEEM,
        ),
        Measurement(
            f"redeemMany of {CHANNELS_TOGETHER} channels, for each",
            Cost(together.gas // CHANNELS_TOGETHER, together.intrinsic // CHANNELS_TOGETHER),
            VOUCHER_GAS_PER_INFERENCE_MAX * INFERENCES_PER_REDEEM,
        ),
    ]


async def _redeem_together(network: MeasuredNetwork, payee: LocalAccount) -> Cost:
    """Redeem from several open channels at once, as daemons do at the end of an epoch."""
    channels, chain_id = network.deployment.addresses.payment_channels, network.deployment.chain_id
    payers = [numbered_account(20_000 + index) for index in range(CHANNELS_TOGETHER)]
    for payer in payers:
        await network.fund(payer.address)
        await network.send(network.owner, quern_token.transfer(payer.address, 10 * TOKEN))
        await network.act(payer, FundChannel(payee.address, TokenAmount(10 * TOKEN)))
    cost = Cost(0, 0)
    for cumulative in (TOKEN + 7, 3 * TOKEN + 11):  # the second one finds no empty words
        vouchers = []
        for payer in payers:
            identifier = channel_id(chain_id, channels, payer.address, payee.address)
            voucher = Voucher(identifier, TokenAmount(cumulative), ROOT)
            signature = payer.sign_digest(voucher_digest(voucher, chain_id, channels))
            vouchers.append(RedeemVoucher(payer.address, payee.address, voucher, signature))
        cost = (await network.act(payee, RedeemVouchers(tuple(vouchers))))[0]
    return cost


async def measure_proofs(network: MeasuredNetwork, miner: Miner, epoch: int) -> list[Measurement]:
    """Commit a batch, then a bundle of votes."""
    await network.go_to(epoch, PARAMETERS.generate_offset)
    commit = PocCommit(EpochNumber(epoch), miner.account.address, miner.node_id, MODEL.model_id, 5000, ROOT, CID)
    batch = (await network.act(miner.account, CommitPoc(commit)))[0]
    await network.go_to(epoch, PARAMETERS.validate_offset)
    votes = (await network.act(miner.account, CommitVotes(EpochNumber(epoch), CID)))[0]
    if epoch == 0:  # fills empty words of the chain, once for each node
        return [Measurement("commitPoc, first of a node", batch), Measurement("commitVotes, first", votes)]
    return [Measurement("commitPoc", batch, COMMIT_POC_GAS_MAX), Measurement("commitVotes", votes)]


async def measure_result(
    network: MeasuredNetwork, epoch: int, shares: Sequence[RewardShare], reward_total: int
) -> list[Measurement]:
    """Store the next group and post the result of `epoch`."""
    await network.go_to(epoch, PARAMETERS.form_offset)
    # Other weights in each epoch, or the set would be stored already. The group in charge keeps its members.
    validator_set = pack_validator_set([(account, 1_000_000 + epoch) for account, _ in network.group])
    summary = EpochResultSummary(
        epoch=EpochNumber(epoch),
        content_cid=CID,
        validator_set_hash=Hash32(keccak(validator_set)),
        total_weight=(1_000_000 + epoch) * len(network.members),
        rewards_root=rewards_root(shares),
        reward_total=TokenAmount(reward_total),
    )
    addresses = network.deployment.addresses
    digest = epoch_result_digest(summary, network.deployment.chain_id, addresses.epoch_manager)
    poster = network.members[0]
    stored, posted = await network.act(poster, PostEpochResult(summary, validator_set, network.sign_all(digest)))
    size = len(network.members)
    limit = SUBMIT_RESULT_GAS_MAX if size == GROUP_SIZE_USUAL and epoch else None
    when = "first of the network" if epoch == 0 else "later"
    return [
        Measurement(f"storeGroup of {size}, {when}", stored),
        Measurement(f"submitEpochResult, group of {size}, {when}", posted, limit),
    ]


def shares_of(epoch: int) -> list[RewardShare]:
    """Return what LEAVES accounts have earned by the end of `epoch`."""
    return [
        RewardShare(numbered_account(10_000 + index).address, TokenAmount((epoch + 1) * (TOKEN // 20 + index)))
        for index in range(LEAVES)
    ]


async def measure_claims(network: MeasuredNetwork, epoch: int, *, vested: bool) -> list[Measurement]:
    """Claim from the result of `epoch`, which is the network's first or second, once it is active."""
    await network.go_to(epoch + 1, 0)
    shares = shares_of(epoch)
    costs = []
    for share in (shares[1], shares[700]):
        cumulative, proof = reward_proof(shares, share.account)
        costs.append((await network.act(network.owner, ClaimReward(share.account, cumulative, proof)))[0])
    which = "first of an account" if epoch == 0 else "repeat"
    how = f", vested, {LEAVES} leaves" if vested else f", {LEAVES} leaves"
    limit = CLAIM_REPEAT_GAS_MAX if epoch else None
    return [
        Measurement(f"claim, {which}{how}; activates the result", costs[0]),
        Measurement(f"claim, {which}{how}", costs[1], None if vested else limit),
    ]


async def measure_prompt(network: MeasuredNetwork) -> list[Measurement]:
    """Submit two prompts, answer them; settle one, dispute the other."""
    rpc, coordinator = network.rpc, network.deployment.addresses.inference_coordinator
    submitted, answered = [], []
    for prompt_id in (0, 1):
        action = SubmitPrompt(CID, MODEL.model_id, 512, TokenAmount(TOKEN))
        submitted.append((await network.act(network.owner, action))[1])
        prompt = await read_contract(rpc, coordinator, inference_coordinator.get_prompt(prompt_id))
        executor = next(member for member in network.members if member.address == prompt.executor)
        await network.fund(executor.address)
        answered.append((await network.act(executor, AnswerPrompt(prompt_id, OTHER_CID, 40, 200)))[0])
    disputed = (await network.act(network.owner, DisputePrompt(1, OTHER_CID)))[1]
    await rpc.call("anvil_mine", hex(8))
    settled = (await network.act(network.owner, SettlePrompt(0)))[0]
    size = len(network.members)
    return [
        Measurement(f"submitPrompt, group of {size}", submitted[1]),
        Measurement("submitResult", answered[1]),
        Measurement("settle", settled),
        Measurement("dispute", disputed),
    ]


async def measure_punishment(network: MeasuredNetwork, offender: LocalAccount, epoch: int) -> list[Measurement]:
    """Punish a participant for fraud, by the quorum."""
    verdict = OffenceVerdict(EpochNumber(epoch), offender.address, Offence.FRAUD, CID)
    digest = verdict_digest(verdict, network.deployment.chain_id, network.deployment.addresses.slashing)
    cost = (await network.act(network.owner, PunishParticipant(verdict, network.sign_all(digest))))[0]
    return [Measurement(f"punish, group of {len(network.members)}", cost)]


async def measure_purchase(network: MeasuredNetwork) -> list[Measurement]:
    """Sell access to a model, twice to the same buyer."""
    addresses, buyer = network.deployment.addresses, network.members[2]
    await network.fund(buyer.address)
    await network.send(network.owner, quern_token.transfer(buyer.address, 10 * TOKEN))
    await network.send(buyer, quern_token.approve(addresses.access_vault, 10 * TOKEN))
    offer = access_vault.Offer(addresses.token, TOKEN, 86_400)
    gate = access_vault.Gate(addresses.token, 100 * TOKEN, offer)
    set_gate = await network.send(network.owner, access_vault.set_gate(MODEL.model_id, gate))
    costs = [await network.send(buyer, access_vault.purchase(MODEL.model_id, offer)) for _ in range(2)]
    return [
        Measurement("setGate", set_gate),
        Measurement("purchase, first", costs[0]),
        Measurement("purchase, prolongs", costs[1]),
    ]


async def measure_change(network: MeasuredNetwork, miner: Miner, epoch: int) -> list[Measurement]:
    """Schedule other parameters from the epoch after the next on; commit before, and in their first epoch.

    Epochs keep their length, so that `go_to` finds its way.
    """
    changed = epoch_manager.Schedule(
        epoch_blocks=PARAMETERS.epoch_blocks,
        generate_offset=PARAMETERS.generate_offset,
        exchange_offset=PARAMETERS.exchange_offset,
        validate_offset=PARAMETERS.validate_offset,
        vote_exchange_offset=PARAMETERS.vote_exchange_offset,
        form_offset=PARAMETERS.form_offset,
        load_offset=PARAMETERS.load_offset,
        poc_sample_size=PARAMETERS.poc_sample_size,
        poc_reject_mismatches=PARAMETERS.poc_reject_mismatches,
        unit_price=2 * PARAMETERS.unit_price,
    )
    scheduled = await network.send(network.owner, epoch_manager.schedule_parameters(epoch + 2, changed))
    ahead, *_ = await measure_proofs(network, miner, epoch)
    first, *_ = await measure_proofs(network, miner, epoch + 2)
    return [
        Measurement("scheduleParameters", scheduled),
        replace(ahead, operation="commitPoc, a change is scheduled"),
        replace(first, operation="commitPoc, first epoch of a change"),
    ]


async def measure_group(network: MeasuredNetwork, *, vested: bool) -> list[Measurement]:
    """Everything, on one network."""
    for member in network.members[:3]:
        await network.fund(member.address)
    miner = Miner(network.members[0], NodeId("node-1"))
    found = await measure_models(network)
    found += await measure_registration(network, miner)
    found += await measure_channel(network)
    found += await measure_prompt(network)
    found += await measure_purchase(network)
    reward_total = 60 * TOKEN
    for epoch in (0, 1):
        found += await measure_proofs(network, miner, epoch)
        found += await measure_result(network, epoch, shares_of(epoch), reward_total)
        found += await measure_claims(network, epoch, vested=vested)
    found += await measure_punishment(network, miner.account, 1)
    return found + await measure_change(network, miner, 2)


async def measure(folder: Path) -> list[Measurement]:
    """Measure everything for the usual size of group, and for the others what depends on the size."""
    found: list[Measurement] = []
    for size in GROUP_SIZES:
        vested = size != GROUP_SIZE_USUAL
        async with measured_network(
            folder, members=size, vesting_seconds=VESTING_SECONDS if vested else 0, progress=_tell
        ) as network:
            measured = await measure_group(network, vested=vested)
        if size != GROUP_SIZE_USUAL:
            measured = [item for item in measured if f"of {size}" in item.operation or "vested" in item.operation]
        if size == max(GROUP_SIZES):
            measured = [item for item in measured if "vested" not in item.operation]
        found += measured
    return found


def rows(measurements: Sequence[Measurement]) -> list[tuple[str, str, str, str, str]]:
    """Return the rows of the table: operation, gas, of which intrinsic, limit, ratio."""
    return [
        (
            item.operation,
            f"{item.cost.gas:,}",
            f"{item.cost.intrinsic:,}",
            "–" if item.limit is None else f"{item.limit:,}",
            "–" if item.limit is None else f"{item.cost.gas / item.limit:.2f}",
        )
        for item in measurements
    ]


@click.command(help=__doc__)
def main() -> None:
    """Command line."""
    with tempfile.TemporaryDirectory(prefix="quern-gas-") as folder:
        found = trio.run(measure, Path(folder))
    print_table(("OPERATION", "GAS", "BEFORE THE CONTRACT", "LIMIT", "RATIO"), rows(found), empty="nothing measured")
    missed = [item for item in found if item.limit is not None and item.cost.gas > item.limit]
    for item in missed:
        click.echo(f"above its limit: {item.operation}, by {item.cost.gas - item.limit:,} gas" if item.limit else "")
    sys.exit(1 if missed else 0)


def _tell(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
