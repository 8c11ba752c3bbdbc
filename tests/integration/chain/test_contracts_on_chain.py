"""What money and votes do on a real EVM, through the typed bindings: govern, gate, sell, slash, time out, refund."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import trio
from eth_hash.auto import keccak

from contracts.binding_base import Call, ViewCall
from contracts.bindings import (
    access_vault,
    inference_coordinator,
    model_registry,
    participant_registry,
    quern_governor,
    quern_token,
    reward_distributor,
    slashing,
    voting_quern,
)
from node.chain.accounts import LocalAccount
from node.chain.action_encoder import encode_action, encode_signed_action, join_signatures
from node.chain.adapter import read_contract
from node.chain.deployer import DeploymentFailedError, send_transaction
from node.chain.deployment import Governance, deploy_network
from node.chain.devnet import development_account, find_anvil, run_anvil
from node.chain.rpc import JsonRpc
from node.protocol.actions import ZERO_ADDRESS, PunishParticipant, RegisterModel, SubmitPrompt
from node.protocol.eip712 import access_request_digest, dispute_verdict_digest, verdict_digest
from node.protocol.identifiers import Address, Cid, EpochNumber, ModelId, TokenAmount
from node.protocol.records import AccessRequest, OffenceVerdict
from node.protocol.verdicts import Offence
from tests.integration.chain.conftest import ROOT, TOKEN, Network, plan_for

pytestmark = pytest.mark.chain
CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
EVIDENCE = Cid("bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
TINY = RegisterModel(ModelId("tiny"), CID, "Tiny", "A tiny model", "", "", (), 512, 1000, 1, 512, 1000)
CHAIN_ID = 31337
STABLE_PRICE = 25 * TOKEN
GUEST = development_account(7)
Result = TypeVar("Result")


async def send(network: Network, sender: LocalAccount, recipient: Address, call: Call) -> None:
    await send_transaction(network.rpc, sender, call.function, recipient, data=call.calldata)


async def refused(network: Network, sender: LocalAccount, recipient: Address, call: Call, why: str) -> None:
    with pytest.raises(DeploymentFailedError, match=why):
        await send(network, sender, recipient, call)


async def ask(network: Network, recipient: Address, view: ViewCall[Result]) -> Result:
    return await read_contract(network.rpc, recipient, view)


async def balance(network: Network, account: Address) -> int:
    return await ask(network, network.deployment.addresses.token, quern_token.balance_of(account))


async def act(network: Network, sender: LocalAccount, action: Any) -> None:
    for call in encode_action(action, network.deployment.addresses):
        await send_transaction(network.rpc, sender, type(action).__name__, call.recipient, data=call.calldata)


async def pass_time(network: Network, seconds: int) -> None:
    await network.rpc.call("evm_increaseTime", hex(seconds))
    await network.mine()


def group(network: Network) -> list[tuple[Address, int]]:
    return sorted(((miner.address, 1) for miner in network.miners), key=lambda entry: entry[0].lower())


# --- governance -------------------------------------------------------------------------------------------------------


async def test_a_model_is_registered_and_changed_by_proposal_vote_queue_and_execution(tmp_path: Path) -> None:
    owner, miners = development_account(0), tuple(development_account(index) for index in (1, 2, 3))
    governance = Governance(
        voting_delay_blocks=1,
        voting_period_blocks=10,
        proposal_threshold=TokenAmount(TOKEN),
        quorum_percent=4,
        timelock_seconds=60,
    )
    plan = replace(plan_for(owner, miners), governance=governance)
    async with (
        run_anvil(find_anvil(ROOT), block_seconds=None, log_path=tmp_path / "anvil.log") as chain,
        httpx.AsyncClient() as client,
    ):
        rpc = JsonRpc([chain.url], client)
        with trio.fail_after(90):
            deployment = await deploy_network(rpc, owner, plan, tmp_path / "deployment.json", lambda line: None)
            network = Network(chain.url, rpc, deployment, owner, miners, tmp_path)
            await vote_through(network)


async def vote_through(network: Network) -> None:
    addresses = network.deployment.addresses
    owner = network.owner
    (register,) = encode_action(TINY, addresses)
    await refused(network, owner, addresses.model_registry, Call("", "register", register.calldata), "Unauthorized")
    stake = 1000 * TOKEN
    await send(network, owner, addresses.token, quern_token.approve(addresses.voting_token, stake))
    await send(network, owner, addresses.voting_token, voting_quern.deposit_for(owner.address, stake))
    await send(network, owner, addresses.voting_token, voting_quern.delegate(owner.address))
    await network.mine()
    update = model_registry.update_model("tiny", EVIDENCE).calldata
    for description, calldata in (("register tiny", register.calldata), ("a new version of tiny", update)):
        proposal = ([addresses.model_registry], [0], [calldata])
        described = keccak(description.encode())
        propose = quern_governor.propose(*proposal, description)
        await send(network, owner, addresses.governor, propose)
        number = await ask(network, addresses.governor, quern_governor.hash_proposal(*proposal, described))
        await network.mine(2)
        await send(network, owner, addresses.governor, quern_governor.cast_vote(number, 1))
        await network.mine(11)
        await send(network, owner, addresses.governor, quern_governor.queue(*proposal, described))
        execute = quern_governor.execute(*proposal, described, wei=0)
        await refused(network, owner, addresses.governor, execute, "TimelockUnexpectedOperationState")
        await pass_time(network, 61)
        await send(network, network.miners[0], addresses.governor, execute)  # whoever
    model = await ask(network, addresses.model_registry, model_registry.get_model("tiny"))
    assert (model.cid, model.version, model.owner) == (EVIDENCE, 2, addresses.timelock)
    assert await ask(network, addresses.model_registry, model_registry.cid_at("tiny", 1)) == CID


# --- access -----------------------------------------------------------------------------------------------------------


async def gated_model(network: Network, gate: access_vault.Gate) -> LocalAccount:
    """A gated model of the second miner, which proposed it."""
    proposer = network.miners[1]
    await act(network, network.owner, replace(TINY, gated=True, proposer=proposer.address))
    await send(network, proposer, network.deployment.addresses.access_vault, access_vault.set_gate("tiny", gate))
    return proposer


def gate_of(network: Network, *, holds: int = 0, price: int = 0, seconds: int = 0) -> access_vault.Gate:
    token = network.deployment.addresses.token
    offer = access_vault.Offer(token if price else ZERO_ADDRESS, price, seconds)
    return access_vault.Gate(token if holds else ZERO_ADDRESS, holds, offer)


async def test_access_follows_the_token_that_an_account_holds(network: Network) -> None:
    addresses = network.deployment.addresses
    await gated_model(network, gate_of(network, holds=10 * TOKEN))
    has_access = access_vault.has_access("tiny", GUEST.address)
    assert not await ask(network, addresses.access_vault, has_access)
    await send(network, network.owner, addresses.token, quern_token.transfer(GUEST.address, 10 * TOKEN))
    assert await ask(network, addresses.access_vault, has_access)
    block = await network.rpc.block("latest")
    assert block is not None
    request = AccessRequest(ModelId("tiny"), GUEST.address, nonce=1, expiry=block.timestamp + 600)
    signature = GUEST.sign_digest(access_request_digest(request, CHAIN_ID, addresses.access_vault))
    signed = access_vault.AccessRequest(request.model_id, request.account, request.nonce, request.expiry)
    is_authorised = access_vault.is_authorised(signed, signature)
    assert await ask(network, addresses.access_vault, is_authorised)
    replayed = access_vault.is_authorised(replace(signed, nonce=2), signature)
    assert not await ask(network, addresses.access_vault, replayed)
    await pass_time(network, 601)
    assert not await ask(network, addresses.access_vault, is_authorised)


async def test_a_purchase_goes_whole_to_the_proposer_and_a_key_is_wrapped_for_the_buyer(network: Network) -> None:
    addresses = network.deployment.addresses
    vault = addresses.access_vault
    proposer = await gated_model(network, gate_of(network, price=STABLE_PRICE, seconds=3600))
    offer = (await ask(network, vault, access_vault.gate_of("tiny"))).offer
    await send(network, network.owner, addresses.token, quern_token.transfer(GUEST.address, 2 * STABLE_PRICE))
    await send(network, GUEST, addresses.token, quern_token.approve(vault, STABLE_PRICE))
    cheaper = replace(offer, price=STABLE_PRICE - 1)
    await refused(network, GUEST, vault, access_vault.purchase("tiny", cheaper), "OfferChanged")
    await send(network, GUEST, vault, access_vault.purchase("tiny", offer))
    assert await balance(network, proposer.address) == STABLE_PRICE
    assert await balance(network, vault) == 0
    await send(network, proposer, vault, access_vault.set_wrapped_key("tiny", GUEST.address, b"\x05" * 92))
    grant = await ask(network, vault, access_vault.grant_of("tiny", GUEST.address))
    assert grant.wrapped_key == b"\x05" * 92
    await send(network, proposer, vault, access_vault.revoke_access("tiny", GUEST.address))
    assert not await ask(network, vault, access_vault.has_access("tiny", GUEST.address))
    assert (await ask(network, vault, access_vault.grant_of("tiny", GUEST.address))).wrapped_key == b""


# --- slashing ---------------------------------------------------------------------------------------------------------


async def test_a_quorum_slashes_and_bars_a_participant_even_while_it_leaves(network: Network) -> None:
    addresses = network.deployment.addresses
    registry, offender = addresses.participant_registry, network.miners[0]
    await act(network, network.owner, TINY)
    await send(network, offender, registry, participant_registry.register(b"peer", b""))
    await send(network, network.owner, addresses.token, quern_token.transfer(offender.address, 100 * TOKEN))
    await send(network, offender, addresses.token, quern_token.approve(registry, 100 * TOKEN))
    await send(network, offender, registry, participant_registry.deposit_collateral(100 * TOKEN))
    await send(network, offender, registry, participant_registry.request_withdraw_collateral(60 * TOKEN))
    supply = await ask(network, addresses.token, quern_token.total_supply())

    verdict = OffenceVerdict(EpochNumber(0), offender.address, Offence.FRAUD, EVIDENCE)
    digest = verdict_digest(verdict, CHAIN_ID, addresses.slashing)
    signatures = tuple((miner.address, miner.sign_digest(digest)) for miner in network.miners)
    (too_few,) = encode_signed_action(PunishParticipant(verdict, signatures[:2]), group(network), addresses)
    await refused(network, GUEST, addresses.slashing, Call("", "punish", too_few.calldata), "QuorumNotReached")
    (punish,) = encode_signed_action(PunishParticipant(verdict, signatures), group(network), addresses)
    await send(network, GUEST, addresses.slashing, Call("", "punish", punish.calldata))
    left = await ask(network, registry, participant_registry.collateral_of(offender.address))
    assert (left.deposited, left.unbonding) == (20 * TOKEN, 30 * TOKEN)
    assert await ask(network, addresses.token, quern_token.total_supply()) == supply - 50 * TOKEN
    assert left.barred_until == 10  # epochs
    again = Call("", "punish", punish.calldata)
    await refused(network, GUEST, addresses.slashing, again, "AlreadyPunished")
    await pass_time(network, 3600)
    await send(network, offender, registry, participant_registry.withdraw_collateral())
    assert await balance(network, offender.address) == 30 * TOKEN
    penalty = await ask(network, addresses.slashing, slashing.penalty_of(slashing.Offence.FRAUD))
    assert penalty.per_mille == 500


# --- prompts on chain -------------------------------------------------------------------------------------------------


async def prompt_of_guest(network: Network) -> tuple[int, LocalAccount]:
    """A prompt of a hundred tokens; its number and who was drawn for it."""
    addresses = network.deployment.addresses
    await act(network, network.owner, TINY)
    await send(network, network.owner, addresses.token, quern_token.transfer(GUEST.address, TOKEN))
    await act(network, GUEST, SubmitPrompt(CID, ModelId("tiny"), 100, TokenAmount(100 * 10**12)))
    prompt = await ask(network, addresses.inference_coordinator, inference_coordinator.get_prompt(0))
    assert prompt.max_price == 100 * 10**12
    return 0, next(miner for miner in network.miners if miner.address == prompt.executor)


async def test_an_answer_is_paid_after_the_time_for_dispute_and_the_rest_refunded(network: Network) -> None:
    coordinator = network.deployment.addresses.inference_coordinator
    number, executor = await prompt_of_guest(network)
    await send(network, executor, coordinator, inference_coordinator.submit_result(number, EVIDENCE, 20, 30))
    settle = inference_coordinator.settle(number)
    await refused(network, GUEST, coordinator, settle, "DeadlineNotReached")
    await network.mine(5)
    await send(network, executor, coordinator, settle)
    assert await balance(network, executor.address) == 50 * 10**12
    assert await balance(network, GUEST.address) == TOKEN - 50 * 10**12
    assert await balance(network, coordinator) == 0


async def test_a_prompt_that_times_out_is_refunded_in_full(network: Network) -> None:
    coordinator = network.deployment.addresses.inference_coordinator
    number, executor = await prompt_of_guest(network)
    reclaim = inference_coordinator.reclaim(number)
    await refused(network, GUEST, coordinator, reclaim, "DeadlineNotReached")
    await network.mine(41)
    late = inference_coordinator.submit_result(number, EVIDENCE, 20, 30)
    await refused(network, executor, coordinator, late, "DeadlinePassed")
    await send(network, GUEST, coordinator, reclaim)
    assert await balance(network, GUEST.address) == TOKEN


@pytest.mark.parametrize("for_user", [True, False])
async def test_a_dispute_goes_as_the_group_decides(network: Network, for_user: bool) -> None:
    addresses = network.deployment.addresses
    coordinator = addresses.inference_coordinator
    number, executor = await prompt_of_guest(network)
    await send(network, executor, coordinator, inference_coordinator.submit_result(number, EVIDENCE, 20, 30))
    await send(network, GUEST, coordinator, inference_coordinator.dispute(number, EVIDENCE))
    digest = dispute_verdict_digest(number, for_user=for_user, chain_id=CHAIN_ID, coordinator=coordinator)
    signatures = [(miner.address, miner.sign_digest(digest)) for miner in network.miners]
    bitmap, joined = join_signatures(signatures, group(network))
    other = inference_coordinator.resolve_dispute(number, not for_user, bitmap, joined)
    await refused(network, GUEST, coordinator, other, "WrongSigner")
    await send(network, GUEST, coordinator, inference_coordinator.resolve_dispute(number, for_user, bitmap, joined))
    assert await balance(network, executor.address) == (0 if for_user else 100 * 10**12)
    assert await balance(network, GUEST.address) == (TOKEN if for_user else TOKEN - 100 * 10**12)
    assert await balance(network, coordinator) == 0


# --- the pot ----------------------------------------------------------------------------------------------------------


async def test_work_coins_wait_in_the_pot_for_the_next_result(network: Network) -> None:
    addresses = network.deployment.addresses
    await send(network, network.owner, addresses.token, quern_token.approve(addresses.reward_distributor, 7))
    await send(network, network.owner, addresses.reward_distributor, reward_distributor.add_work_coins(7))
    assert await ask(network, addresses.reward_distributor, reward_distributor.pot()) == 7
    assert await balance(network, addresses.reward_distributor) == 7
