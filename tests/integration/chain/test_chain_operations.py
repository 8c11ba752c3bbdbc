"""`quern chain` on a real EVM: what an operator wishes happens once and is told, what cannot be is refused unsent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import base58
import pytest
import trio
from nacl.signing import SigningKey

from contracts.bindings import quern_token, reward_distributor
from node.chain.accounts import LocalAccount
from node.chain.action_encoder import encode_action
from node.chain.adapter import EvmChain, open_chain, read_contract
from node.chain.deployer import send_transaction
from node.control.chain_methods import (
    DepositCollateralParams,
    DisputePromptParams,
    IntentsParams,
    RequestChannelParams,
    SponsorParams,
    UnbondCollateralParams,
    UnregisterParams,
    Wish,
    WithdrawChannelParams,
    WithdrawCollateralParams,
)
from node.control.chain_views import ChainDoneView, ChainProgress
from node.control.jsonrpc import RpcError
from node.operations.chain import DaemonChainOperations
from node.ports import ActionStatus
from node.protocol.actions import AnswerPrompt, FundChannel, RegisterParticipant, SubmitPrompt
from node.protocol.identifiers import ModelId, PeerId, TokenAmount
from node.protocol.peer_binding import PEER_KEY_PREFIX, peer_binding
from node.settings import Settings
from node.store.books import Books
from node.store.chain_tables import ChainTables
from node.store.database import Database
from tests.integration.chain.conftest import TOKEN, Network
from tests.integration.chain.test_chain_port import CID, MODEL, caught_up, done

pytestmark = pytest.mark.chain


@dataclass
class Operator:
    """Somebody at the command line of one daemon."""

    chain: EvmChain
    operations: DaemonChainOperations
    clock: list[int]
    told: list[str] = field(default_factory=list)

    async def wish(self, wish: Wish) -> ChainDoneView:
        async def emit(progress: ChainProgress) -> None:
            self.told.append(progress.message)

        with trio.fail_after(30):
            done_view = await self.operations.carry_out(wish, emit)
            await caught_up(self.chain)
            return done_view

    async def refused(self, wish: Wish) -> str:
        before = self.chain.gas_spent()
        with pytest.raises(RpcError) as caught:
            await self.wish(wish)
        assert self.chain.gas_spent() == before
        assert caught.value.remedy
        return caught.value.message


@asynccontextmanager
async def operator(
    network: Network, account: LocalAccount, *, registers_itself: bool = False
) -> AsyncIterator[Operator]:
    database = Database(network.folder / f"{account.address}.sqlite")
    clock = [1_800_000_000]
    settings = Settings.model_validate(
        {"chain": {"rpc_urls": [network.url]}, "participant": {"register_on_start": registers_itself}}
    )
    async with open_chain(
        rpc_urls=[network.url],
        chain_id=31337,
        deployment=network.deployment,
        account=account,
        database=database,
        confirmations=0,
        poll_seconds=0.05,
        wall_clock=lambda: clock[0],
    ) as chain:
        books = Books(database, account.address)
        yield Operator(
            chain, DaemonChainOperations(settings, chain, ChainTables(database), books, lambda: clock[0]), clock
        )
    database.close()


async def give_tokens(network: Network, account: LocalAccount, amount: int) -> None:
    call = quern_token.transfer(account.address, amount)
    await send_transaction(network.rpc, network.owner, "tokens", network.deployment.addresses.token, data=call.calldata)


async def register(network: Network, someone: Operator) -> None:
    key = SigningKey(bytes(range(32)))
    peer_id = PeerId(base58.b58encode(PEER_KEY_PREFIX + bytes(key.verify_key)).decode())
    binding = peer_binding(31337, network.deployment.addresses.epoch_manager, someone.chain.account)
    registration = RegisterParticipant(peer_id, key.sign(binding).signature)
    assert (await done(someone.chain, "register", registration)).status is ActionStatus.DONE
    assert someone.chain.account in someone.chain.state.participants


async def pass_time(network: Network, someone: Operator, seconds: int) -> None:
    """Move the chain's clock and the operator's."""
    await network.rpc.call("evm_increaseTime", hex(seconds))
    await network.mine()
    block = await network.rpc.call("eth_getBlockByNumber", "latest", False)
    someone.clock[0] = int(block["timestamp"], 16)


async def test_collateral_is_posted_unbonded_and_withdrawn_and_each_step_is_told(network: Network) -> None:
    miner = network.miners[0]
    await give_tokens(network, miner, 10 * TOKEN)
    async with operator(network, miner) as someone:
        await pass_time(network, someone, 0)
        deposit = DepositCollateralParams(amount=str(4 * TOKEN))
        assert "not registered" in await someone.refused(deposit)
        await register(network, someone)
        posted = await someone.wish(deposit)
        assert posted.what == "posted 4 tokens of Quern as collateral"
        assert len(posted.transactions) == 2  # the allowance and the deposit
        assert posted.gas_used > 50_000
        assert someone.told[0] == "transaction 1 of 2 is in the outbox"
        assert (await someone.operations.collateral()).deposited == str(4 * TOKEN)

        assert "only 4 tokens" in await someone.refused(UnbondCollateralParams(amount=str(5 * TOKEN)))
        assert "no collateral is unbonding" in await someone.refused(WithdrawCollateralParams())
        await someone.wish(UnbondCollateralParams(amount=str(3 * TOKEN)))
        assert "unbond until" in await someone.refused(WithdrawCollateralParams())
        await pass_time(network, someone, 3601)
        assert (await someone.wish(WithdrawCollateralParams())).what == "withdrew 3 tokens of Quern of collateral"
        view = await someone.operations.collateral()
        assert (view.deposited, view.unbonding, view.standing) == (str(TOKEN), "0", "active")
        assert await someone.chain.token_balance(miner.address) == 9 * TOKEN


async def test_a_channel_is_emptied_only_after_it_was_announced_and_unlocked(network: Network) -> None:
    payee = network.miners[1].address
    async with operator(network, network.owner) as someone:
        await pass_time(network, someone, 0)
        assert "pays no channel" in await someone.refused(RequestChannelParams(payee=payee))
        assert "checksummed" in await someone.refused(RequestChannelParams(payee=payee.lower()))
        await done(someone.chain, "fund", FundChannel(payee, TokenAmount(2 * TOKEN)))
        assert "is announced" in await someone.refused(WithdrawChannelParams(payee=payee))
        await someone.wish(RequestChannelParams(payee=payee))
        assert "locked until" in await someone.refused(WithdrawChannelParams(payee=payee))
        await pass_time(network, someone, 601)
        await someone.wish(WithdrawChannelParams(payee=payee))
        (channel,) = (await someone.operations.channels()).channels
        assert (channel.deposited, channel.redeemed, channel.unlock_time) == ("0", "0", None)
        assert "is empty" in await someone.refused(WithdrawChannelParams(payee=payee))


async def test_a_dispute_binds_the_price_and_only_its_user_makes_it_in_time(network: Network) -> None:
    async with operator(network, network.owner) as user, operator(network, network.miners[0]) as stranger:
        await done(user.chain, "model", MODEL)
        for index in range(2):
            await done(user.chain, f"prompt/{index}", SubmitPrompt(CID, ModelId("tiny"), 100, TokenAmount(TOKEN)))
        assert "is open" in await user.refused(DisputePromptParams(prompt_id=0, reason_cid=CID))
        for index in range(2):
            drawn = user.chain.state.prompts[index].submitted.executor
            executor = next(miner for miner in network.miners if miner.address == drawn)
            (call,) = encode_action(AnswerPrompt(index, CID, 10, 20), network.deployment.addresses)
            await send_transaction(network.rpc, executor, "answer", call.recipient, data=call.calldata)
        await caught_up(user.chain)
        await caught_up(stranger.chain)
        assert "not one of this account's" in await stranger.refused(DisputePromptParams(prompt_id=0, reason_cid=CID))
        assert "no CID" in await user.refused(DisputePromptParams(prompt_id=0, reason_cid="nonsense"))
        before = await user.chain.token_balance(network.owner.address)
        await user.wish(DisputePromptParams(prompt_id=0, reason_cid=CID))
        assert await user.chain.token_balance(network.owner.address) == before - 30 * 10**12
        assert {p.prompt_id: p.state for p in (await user.operations.prompts()).prompts} == {
            0: "disputed",
            1: "answered",
        }
        await network.mine(5)
        await caught_up(user.chain)
        assert "ended with block" in await user.refused(DisputePromptParams(prompt_id=1, reason_cid=CID))


async def test_a_sponsor_fills_the_pot_but_not_beyond_what_it_has(network: Network) -> None:
    async with operator(network, network.owner) as someone:
        assert "this needs 20000" in await someone.refused(SponsorParams(amount=str(20_000 * TOKEN)))
        await someone.wish(SponsorParams(amount=str(7 * TOKEN)))
        distributor = network.deployment.addresses.reward_distributor
        assert await read_contract(network.rpc, distributor, reward_distributor.pot()) == 7 * TOKEN


async def test_a_daemon_that_would_register_again_does_not_unregister(network: Network) -> None:
    miner = network.miners[0]
    async with operator(network, miner, registers_itself=True) as someone:
        assert "is not registered" in await someone.refused(UnregisterParams())
        await register(network, someone)
        assert "register again at once" in await someone.refused(UnregisterParams())
    async with operator(network, miner) as someone:
        await someone.wish(UnregisterParams())
        assert miner.address not in someone.chain.state.participants


async def test_the_outbox_shows_what_was_refused_and_why_and_what_it_used(network: Network) -> None:
    async with operator(network, network.owner) as someone:
        await done(someone.chain, "model", MODEL)
        assert (await done(someone.chain, "again", MODEL)).status is ActionStatus.FAILED
        await someone.wish(SponsorParams(amount="1"))
        assert (await someone.operations.intents(IntentsParams())).intents == []
        intents = (await someone.operations.intents(IntentsParams(all=True))).intents
        assert [intent.status for intent in intents] == ["done", "failed", "done"]
        assert "ModelExists" in intents[1].reason
        assert intents[0].key.startswith("operator/sponsor/")
        assert all(step.transaction is not None and step.status == "done" for step in intents[0].steps)
        status = await someone.operations.status()
        assert (status.intents_pending, status.intents_failed, status.intents_done) == (0, 1, 2)
        assert status.gas_spent == sum(intent.gas_used for intent in intents)
        assert status.endpoints == [network.url]


async def test_participants_are_listed_with_weight_and_standing(network: Network) -> None:
    async with operator(network, network.miners[0]) as someone:
        await register(network, someone)
        view = await someone.operations.participants()
        (participant,) = view.participants
        assert (participant.account, participant.weight, view.total_weight) == (network.miners[0].address, 1, 3)
        assert participant.standing == "active"
