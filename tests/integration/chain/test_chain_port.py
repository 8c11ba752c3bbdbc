"""The chain port on a real EVM: what it says is on chain, what it is asked to send arrives once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from eth_hash.auto import keccak

from contracts.bindings import model_registry
from node.chain.accounts import LocalAccount
from node.chain.adapter import EvmChain, WrongChainError, open_chain, read_contract
from node.chain.rpc import RpcUnavailableError
from node.chain.sender import Sender
from node.ports import ActionOutcome, ActionStatus
from node.protocol.actions import (
    ChainAction,
    FundChannel,
    RedeemVoucher,
    RegisterModel,
    RegisterParticipant,
    SubmitHardwareDiff,
    SubmitPrompt,
)
from node.protocol.eip712 import channel_id, voucher_digest
from node.protocol.identifiers import Cid, Hash32, ModelId, NodeId, PeerId, TokenAmount
from node.protocol.peer_binding import peer_binding
from node.protocol.records import MLNodeRegistration, Voucher
from node.store.chain_tables import Attempt
from node.store.database import Database
from p2p.identity import Identity
from tests.integration.chain.conftest import TOKEN, Network

pytestmark = pytest.mark.chain
CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
MODEL = RegisterModel(
    ModelId("tiny"), CID, "Tiny", "A tiny model", "", "", ("--max-model-len", "512"), 512, 1000, 1, 512, 1000
)


@asynccontextmanager
async def opened(
    network: Network, account: LocalAccount, name: str = "owner", confirmations: int = 0, **options: Any
) -> AsyncIterator[EvmChain]:
    database = Database(network.folder / f"{name}.sqlite")
    async with open_chain(
        rpc_urls=[network.url],
        chain_id=31337,
        deployment=network.deployment,
        account=account,
        database=database,
        confirmations=confirmations,
        poll_seconds=0.05,
        **{"wall_clock": lambda: 1_800_000_000, "lock_dir": network.folder / "locks", **options},
    ) as chain:
        yield chain
    database.close()


async def done(chain: EvmChain, key: str, action: ChainAction) -> ActionOutcome:
    with trio.fail_after(30):
        await chain.submit(key, action)
        outcome = await chain.outcome(key)
        await caught_up(chain)
        return outcome


async def caught_up(chain: EvmChain) -> None:
    newest = await chain._rpc.block_number()
    async for head in chain.heads():
        if head.confirmed >= newest:
            return


async def test_a_registered_model_and_node_reach_the_state_of_another_daemon(network: Network) -> None:
    async with opened(network, network.owner) as owner, opened(network, network.miners[0], "miner") as miner:
        assert (await done(owner, "model", MODEL)).status is ActionStatus.DONE
        peer, consent = consenting_peer(miner)
        assert (await done(miner, "register", RegisterParticipant(peer, consent))).status is ActionStatus.DONE
        node = MLNodeRegistration(NodeId("node-1"), (ModelId("tiny"),), "cpu")
        assert (await done(miner, "hardware", SubmitHardwareDiff((node,), ()))).status is ActionStatus.DONE
        await caught_up(owner)
        assert owner.state.models[ModelId("tiny")].cid == CID
        assert owner.state.models[ModelId("tiny")].model_args == ("--max-model-len", "512")
        assert owner.state.participants[network.miners[0].address].ml_nodes == (node,)
        assert owner.state.participants[network.miners[0].address].peer_id == peer
        assert [account for account, _ in owner.state.group_weights(0)] == sorted(
            (m.address for m in network.miners), key=str.lower
        )
        assert owner.parameters.epoch_blocks == 60
        assert owner.parameters.halving_epochs == 100
        assert owner.parameters.unit_price == 10**12
        assert await owner.gas_price() > 0


def consenting_peer(chain: EvmChain) -> tuple[PeerId, bytes]:
    """A peer and its signature on the binding to the account of `chain`."""
    identity = Identity(b"\x07" * 32)
    return PeerId(identity.peer_id), identity.sign(peer_binding(chain.chain_id, chain.epoch_manager, chain.account))


async def test_who_names_a_peer_without_its_consent_is_nobody(network: Network) -> None:
    async with opened(network, network.owner) as owner, opened(network, network.miners[0], "miner") as miner:
        assert (await done(owner, "model", MODEL)).status is ActionStatus.DONE
        peer, consent = consenting_peer(owner)  # consent to another account
        assert (await done(miner, "squat", RegisterParticipant(peer, consent))).status is ActionStatus.DONE
        node = MLNodeRegistration(NodeId("node-1"), (ModelId("tiny"),), "cpu")
        assert (await done(miner, "hardware", SubmitHardwareDiff((node,), ()))).status is ActionStatus.DONE
        assert miner.account not in miner.state.participants
        assert (await done(owner, "register", RegisterParticipant(peer, consent))).status is ActionStatus.DONE
        assert owner.state.participant_of_peer(peer) == owner.account
        own_peer, own_consent = consenting_peer(miner)
        assert (await done(miner, "mend", RegisterParticipant(own_peer, own_consent))).status is ActionStatus.DONE
        assert miner.state.participants[miner.account].ml_nodes == (node,)


async def test_a_refused_intent_fails_in_the_contracts_own_words(network: Network) -> None:
    async with opened(network, network.miners[0], "miner") as miner:
        node = MLNodeRegistration(NodeId("node-1"), (ModelId("absent"),), "cpu")
        outcome = await done(miner, "hardware", SubmitHardwareDiff((node,), ()))
    assert outcome.status is ActionStatus.FAILED
    assert "NotRegistered" in outcome.reason


async def test_the_same_key_is_sent_once_even_after_a_restart(network: Network) -> None:
    payee = network.miners[0].address
    for _ in range(2):
        async with opened(network, network.owner) as owner:
            outcome = await done(owner, "fund", FundChannel(payee, TokenAmount(5 * TOKEN)))
            assert outcome.status is ActionStatus.DONE
            held = await owner.token_balance(network.deployment.addresses.payment_channels)
            assert held == 5 * TOKEN


async def test_what_was_signed_before_a_crash_is_what_is_sent_after_it(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    payee = network.miners[0].address
    before = await network.rpc.call("eth_getTransactionCount", network.owner.address, "latest")
    sent: list[str] = []

    async def fail_to_send(self: Sender, attempt: Attempt) -> None:
        sent.append(attempt.raw.hex())
        raise RpcUnavailableError("the process dies here")

    with monkeypatch.context() as broken:
        broken.setattr(Sender, "_broadcast", fail_to_send)
        async with opened(network, network.owner) as owner:
            await owner.submit("fund", FundChannel(payee, TokenAmount(5 * TOKEN)))
            with trio.fail_after(20):
                while not sent:
                    await trio.sleep(0.05)
    assert await network.rpc.call("eth_getTransactionCount", network.owner.address, "latest") == before
    async with opened(network, network.owner) as owner:
        with trio.fail_after(30):
            assert (await owner.outcome("fund")).status is ActionStatus.DONE
        assert await owner.token_balance(network.deployment.addresses.payment_channels) == 5 * TOKEN
        first = await network.rpc.call("eth_getTransactionByBlockNumberAndIndex", *await first_place(network, before))
        assert first["hash"] == "0x" + keccak(bytes.fromhex(sent[0])).hex()


async def first_place(network: Network, nonce: str) -> tuple[str, str]:
    """Block and index of the owner's transaction with `nonce`."""
    for number in range(await network.rpc.block_number() + 1):
        block = await network.rpc.call("eth_getBlockByNumber", hex(number), True)
        for transaction in block["transactions"]:
            same = transaction["from"].lower() == network.owner.address.lower()
            if same and int(transaction["nonce"], 16) == int(nonce, 16):
                return block["number"], transaction["transactionIndex"]
    raise AssertionError("not mined")


async def test_many_intents_at_once_all_arrive_and_money_adds_up(network: Network) -> None:
    async with opened(network, network.owner) as owner:
        for index in range(12):
            await owner.submit(f"fund/{index}", FundChannel(network.miners[index % 3].address, TokenAmount(TOKEN)))
        with trio.fail_after(60):
            outcomes = [await owner.outcome(f"fund/{index}") for index in range(12)]
        assert {outcome.status for outcome in outcomes} == {ActionStatus.DONE}
        assert await owner.token_balance(network.deployment.addresses.payment_channels) == 12 * TOKEN


async def test_a_voucher_signed_here_is_paid_by_the_contract(network: Network) -> None:
    payer, payee = network.owner, network.miners[1]
    async with opened(network, payer) as paying, opened(network, payee, "payee") as earning:
        await done(paying, "fund", FundChannel(payee.address, TokenAmount(5 * TOKEN)))
        identifier = channel_id(31337, earning.payment_channels, payer.address, payee.address)
        voucher = Voucher(identifier, TokenAmount(2 * TOKEN + 7), Hash32(bytes(32)))
        signature = paying.sign(voucher_digest(voucher, 31337, earning.payment_channels))
        redeem = RedeemVoucher(payer.address, payee.address, voucher, signature)
        assert (await done(earning, "redeem", redeem)).status is ActionStatus.DONE
        assert await earning.token_balance(payee.address) == 2 * TOKEN + 7
        await caught_up(earning)
        assert earning.state.channels[identifier].redeemed == 2 * TOKEN + 7
        forged = replace(redeem, voucher=replace(voucher, cumulative=TokenAmount(3 * TOKEN)))
        assert (await done(earning, "forged", forged)).status is ActionStatus.FAILED


async def test_a_prompt_escrows_what_the_model_costs(network: Network) -> None:
    async with opened(network, network.owner) as owner:
        await done(owner, "model", MODEL)
        prompt = SubmitPrompt(CID, ModelId("tiny"), 100, TokenAmount(TOKEN))
        outcome = await done(owner, "prompt", prompt)
        assert outcome.status is ActionStatus.DONE, outcome.reason
        assert owner.state.prompts[0].submitted.max_price == 100 * 10**12
        assert owner.state.prompts[0].submitted.executor in {miner.address for miner in network.miners}


async def test_events_of_a_reorganised_block_are_forgotten_and_its_intent_sent_again(network: Network) -> None:
    async with opened(network, network.owner, confirmations=4) as owner:
        before = await network.rpc.call("evm_snapshot")
        height = await network.rpc.block_number()
        await owner.submit("model", MODEL)
        with trio.fail_after(60):
            async for head in owner.heads():  # the watcher took the block in, unconfirmed
                if head.number > height:
                    break
            assert await network.rpc.call("evm_revert", before)
            assert not await is_active(network)
            while ModelId("tiny") not in owner.state.models:
                await network.mine()
                await trio.sleep(0.1)
            assert (await owner.outcome("model")).status is ActionStatus.DONE
        assert await is_active(network)


async def is_active(network: Network) -> bool:
    registry = network.deployment.addresses.model_registry
    return await read_contract(network.rpc, registry, model_registry.is_active("tiny"))


async def test_an_outage_is_waited_out_and_nothing_is_lost(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(network, network.owner) as owner:
        with monkeypatch.context() as down:

            async def unreachable(*_: object) -> object:
                raise httpx.ConnectError("no endpoint answers")

            down.setattr(owner._rpc, "_ask", unreachable)
            await owner.submit("fund", FundChannel(network.miners[0].address, TokenAmount(TOKEN)))
            with trio.move_on_after(1.0) as waiting:
                await owner.outcome("fund")
            assert waiting.cancelled_caught
            with trio.move_on_after(1.0) as waiting:
                await owner.block_hash(owner.head.confirmed)
            assert waiting.cancelled_caught
        with trio.fail_after(30):
            assert (await owner.outcome("fund")).status is ActionStatus.DONE


async def test_another_chain_id_is_refused(network: Network) -> None:
    database = Database(":memory:")
    with pytest.raises(WrongChainError, match="31337"):
        async with open_chain(
            rpc_urls=[network.url],
            chain_id=1,
            deployment=network.deployment,
            account=network.owner,
            database=database,
            confirmations=0,
            poll_seconds=1,
            wall_clock=lambda: 0,
        ):
            pass


async def test_a_chain_with_another_past_is_refused(network: Network, tmp_path: Path) -> None:
    other = replace(network.deployment, genesis_hash="00" * 32)
    with pytest.raises(WrongChainError, match="another past"):
        async with opened(replace(network, deployment=other), network.owner):
            pass
