"""The main job, and what it claims, held against the chain: blocks, receipts, logs and storage, no daemon's word."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from contracts.bindings import epoch_manager, quern_token
from node.chain.adapter import read_contract
from node.chain.parameters import from_parameters
from node.chain.rpc import JsonRpc, quantity
from node.control.views import AskView
from node.protocol.events import (
    ChannelFunded,
    EpochResultPosted,
    EventBody,
    GroupStored,
    MLNodeSet,
    ModelRecorded,
    PocCommitted,
    PromptAnswered,
    PromptSubmitted,
    RewardClaimed,
    VotesCommitted,
    VoucherRedeemed,
)
from node.protocol.rewards import subsidy
from node.protocol.stages import Stage, stage_at
from scripts.local_network import GATEWAY, GATEWAY_TOKENS, MINERS, NONCES_MAX, QUERN, TINY_MODEL, TOKEN, LocalNetwork
from scripts.main_job import Report, run_main_job
from tests.system.chain_evidence import read_events

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@dataclass
class Evidence:
    """What was read from the chain while the network was there."""

    events: list[tuple[int, EventBody]] = field(default_factory=list)
    gas: dict[str, int] = field(default_factory=dict)
    balances: dict[str, int] = field(default_factory=dict)
    channels_hold: int = 0
    coordinator_holds: int = 0
    parameters: Any = None
    accounts: dict[str, str] = field(default_factory=dict)
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of the model that each miner's engine loaded."""
    doctors: dict[str, str] = field(default_factory=dict)
    """What `quern doctor --json` said, by daemon."""

    def of(self, kind: type) -> list[Any]:
        return [body for _, body in self.events if isinstance(body, kind)]


async def gather(network: LocalNetwork, evidence: Evidence, last_block: int) -> None:
    rpc, addresses = network.rpc, network.deployment.addresses
    evidence.events = await read_events(rpc, network.deployment)
    accounts = {daemon.account.lower(): daemon.name for daemon in network.daemons.values()}
    evidence.gas = await gas_by_account(rpc, accounts, last_block)
    for daemon in network.daemons.values():
        balance = quern_token.balance_of(daemon.account)
        evidence.balances[daemon.name] = await read_contract(rpc, addresses.token, balance)
    held = quern_token.balance_of(addresses.payment_channels)
    evidence.channels_hold = await read_contract(rpc, addresses.token, held)
    held = quern_token.balance_of(addresses.inference_coordinator)
    evidence.coordinator_holds = await read_contract(rpc, addresses.token, held)
    evidence.parameters = from_parameters(await read_contract(rpc, addresses.epoch_manager, epoch_manager.parameters()))


async def gas_by_account(rpc: JsonRpc, accounts: dict[str, str], last_block: int) -> dict[str, int]:
    """Gas of all transactions of each account up to a block, from their receipts."""
    spent = dict.fromkeys(accounts.values(), 0)
    for number in range(last_block + 1):
        block = await rpc.call("eth_getBlockByNumber", hex(number), True)
        for transaction in block["transactions"]:
            name = accounts.get(transaction["from"].lower())
            if name is not None:
                receipt = await rpc.call("eth_getTransactionReceipt", transaction["hash"])
                called = f"{name}, block {number}: {transaction['input'][:10]} of {transaction['to']}"
                assert quantity(receipt["status"]) == 1, f"{called} was reverted"
                spent[name] += quantity(receipt["gasUsed"])
    return spent


@pytest.fixture(scope="module")
def job() -> tuple[Report, Evidence]:
    evidence = Evidence()

    async def inspect(network: LocalNetwork, report: Report) -> None:
        evidence.accounts = {d.name: d.account for d in network.daemons.values()}
        for miner in network.miners:
            folder = miner.directory / "models" / "ipfs" / report.cid
            evidence.models[miner.name] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        for daemon in network.daemons.values():
            evidence.doctors[daemon.name] = await network.command(
                QUERN, "doctor", "--data-dir", daemon.directory, "--json", check=False
            )
        await gather(network, evidence, report.settled_block)

    async def run() -> Report:
        return await run_main_job(inspect=inspect)

    return trio.run(run), evidence


Job = tuple[Report, Evidence]


def account(job: Job, name: str) -> str:
    return str(job[1].accounts[name])


def test_the_model_on_chain_is_the_one_that_was_published(job: Job) -> None:
    report, evidence = job
    (model,) = evidence.of(ModelRecorded)
    assert model.record.cid == report.cid
    assert model.record.active


def test_every_miner_loaded_the_published_files_byte_for_byte(job: Job) -> None:
    published = {path.name: path.read_bytes() for path in sorted(TINY_MODEL.iterdir())}
    assert "model.safetensors" in published
    assert job[1].models == dict.fromkeys(MINERS, published)


def test_each_miner_registered_its_node_for_the_model(job: Job) -> None:
    nodes = job[1].of(MLNodeSet)
    assert {node.participant for node in nodes} == {account(job, name) for name in MINERS}


def test_the_answer_over_the_network_was_paid_by_voucher_to_the_token(job: Job) -> None:
    report, evidence = job
    assert report.answer
    payers = {body.channel_id: body.payer for body in evidence.of(ChannelFunded)}
    redeemed = newest_redemptions(evidence)
    assert {payers[channel] for channel in redeemed} == {account(job, GATEWAY)}
    paid = sum(redeemed.values())
    served = sum(int(report.books[name].receipts_price) for name in MINERS)
    assert paid == served == int(report.books[GATEWAY].vouchers_issued) > 0


def test_the_channels_hold_what_was_deposited_and_not_redeemed(job: Job) -> None:
    _, evidence = job
    deposits: dict[bytes, int] = {}
    for body in evidence.of(ChannelFunded):
        deposits[body.channel_id] = body.deposited
    redeemed = sum(newest_redemptions(evidence).values())
    assert evidence.channels_hold == sum(deposits.values()) - redeemed


def test_the_prompt_on_chain_was_answered_by_whoever_was_drawn_and_the_rest_refunded(job: Job) -> None:
    report, evidence = job
    (submitted,) = evidence.of(PromptSubmitted)
    (answered,) = evidence.of(PromptAnswered)
    assert isinstance(report.chain_answer, AskView)
    assert answered.prompt_id == submitted.prompt_id
    assert answered.executor == submitted.executor == report.chain_answer.executor
    assert answered.output_tokens == report.chain_answer.output_tokens > 0
    assert answered.price == int(report.chain_answer.price) <= submitted.max_price
    assert evidence.coordinator_holds == 0


def test_every_miner_committed_nonces_and_votes_within_their_stages(job: Job) -> None:
    report, evidence = job
    committed = [(n, body.commit) for n, body in evidence.events if isinstance(body, PocCommitted)]
    commits = {commit.participant: (n, commit) for n, commit in committed if commit.epoch == report.epoch}
    votes = {b.validator: n for n, b in evidence.events if isinstance(b, VotesCommitted) and b.epoch == report.epoch}
    for name in MINERS:
        number, commit = commits[account(job, name)]
        assert stage_at(number, evidence.parameters).stage in (Stage.GENERATE, Stage.EXCHANGE)
        assert stage_at(votes[account(job, name)], evidence.parameters).stage in (Stage.VALIDATE, Stage.VOTE_EXCHANGE)
        assert commit.count == report.nonces[name] == NONCES_MAX


def test_the_result_on_chain_made_the_next_group_of_the_proved_nonces(job: Job) -> None:
    report, evidence = job
    posted = [body for body in evidence.of(EpochResultPosted) if body.summary.epoch == report.epoch]
    assert len(posted) == 1
    stored = posted[0].summary.validator_set_hash
    groups = [body for body in evidence.of(GroupStored) if body.validator_set_hash == stored]
    assert len(groups) == 1
    assert dict(groups[0].weights) == {account(job, name): report.nonces[name] for name in MINERS}
    assert posted[0].summary.total_weight == sum(report.nonces.values())


def newest_redemptions(evidence: Evidence) -> dict[bytes, int]:
    """What each channel has paid in all."""
    return {body.channel_id: body.cumulative for body in evidence.of(VoucherRedeemed)}


def test_rewards_claimed_are_rewards_posted_and_within_the_subsidy(job: Job) -> None:
    report, evidence = job
    claimed: dict[str, int] = {}
    for body in evidence.of(RewardClaimed):
        claimed[body.account] = body.cumulative
    posted = [body.summary for body in evidence.of(EpochResultPosted)]
    assert claimed == {account(job, name): int(report.books[name].rewards_cumulative) for name in MINERS}
    assert sum(claimed.values()) == sum(summary.reward_total for summary in posted)
    assert all(summary.reward_total <= subsidy(summary.epoch, evidence.parameters) for summary in posted)


def test_the_balances_of_the_summary_are_the_chains_and_add_up(job: Job) -> None:
    report, evidence = job
    assert evidence.balances == report.after.tokens
    answered = evidence.of(PromptAnswered)
    for name in MINERS:
        redeemed = sum(
            newest_redemptions(evidence).get(b.channel_id, 0)
            for b in {b.channel_id: b for b in evidence.of(ChannelFunded)}.values()
            if b.payee == account(job, name)
        )
        claimed = max(b.cumulative for b in evidence.of(RewardClaimed) if b.account == account(job, name))
        prompts = sum(b.price for b in answered if b.executor == account(job, name))
        assert evidence.balances[name] == redeemed + claimed + prompts
    deposited = sum({b.channel_id: b.deposited for b in evidence.of(ChannelFunded)}.values())
    prompts = sum(b.price for b in answered)
    assert evidence.balances[GATEWAY] == GATEWAY_TOKENS * TOKEN - deposited - prompts


def test_the_gas_of_the_summary_is_that_of_the_receipts(job: Job) -> None:
    report, evidence = job
    assert evidence.gas == {name: report.books[name].gas_spent for name in (*MINERS, GATEWAY)}


NOT_ON_LOOPBACK = {("router's port", "skipped"), ("local network", "skipped"), ("reachable by peers", "skipped")}
"""What cannot be checked where all daemons listen on loopback; everything else has to be well."""


def test_the_doctor_finds_nothing_wrong_with_any_daemon(job: Job) -> None:
    for name, text in job[1].doctors.items():
        findings = json.loads(text)["findings"]
        assert len(findings) > 8
        imperfect = {(f["check"], f["severity"]) for f in findings if f["severity"] != "ok"}
        assert imperfect <= NOT_ON_LOOPBACK, (name, imperfect)


def test_the_stream_survived_the_death_of_its_miner(job: Job) -> None:
    report, _ = job
    assert report.killed in MINERS
    assert report.survived_finish in ("stop", "length")
    assert report.survived_answer
