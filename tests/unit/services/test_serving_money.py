"""Money at the edges of serving: refused and interrupted deposits, answers side by side, users who leave."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import CallFailedError, Engine, GenerationChunk, GenerationRequest, SignedVoucher
from node.protocol.codec import to_bytes
from node.protocol.identifiers import RequestId, TokenAmount
from node.services.deposits import RETRY_SECONDS_MIN
from node.services.frames import Payment, Prompt, Turn
from node.services.gateway import ChatRequest, GatewayError
from node.services.payments import PayerBook
from node.store.books import Books
from node.store.database import Database
from tests.builders import account
from tests.unit.services.serving_network import (
    DEPOSIT,
    GATEWAY,
    NODE,
    PLENTY,
    UNIT,
    ServingNetwork,
    serving_network,
)
from tests.unit.services.test_serving import call_with, request_to, signed

CHAT = ChatRequest(MODEL_ID, Prompt((Turn("user", "what is a quern"),)), max_tokens=50, seed=5)
REQUEST_MOST = TokenAmount(1000)


def number_requests(network: ServingNetwork) -> None:
    """Give every request of the gateway an id of its own."""
    numbers = iter(range(1, 255))
    network.gateway._random_bytes = lambda count: bytes([next(numbers)]) * count


def deposited(network: ServingNetwork) -> int:
    return sum(channel.deposited for channel in network.ledger.state.channels.values())


async def read(network: ServingNetwork, chat: ChatRequest = CHAT) -> int:
    """Ask, read to the end, and return the price."""
    async with network.gateway.ask(chat) as answer:
        async for _ in answer:
            pass
    return answer.summary.price


# --- deposits ---


async def test_a_deposit_refused_for_want_of_tokens_is_made_once_there_are_some(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        number_requests(network)
        payer = account(GATEWAY)
        network.ledger.balances[payer] = TokenAmount(0)
        with pytest.raises(GatewayError) as caught:
            await read(network)
        assert caught.value.code == "payment"
        network.ledger.balances[payer] = PLENTY
        with pytest.raises(GatewayError, match="tried again in"):
            await read(network)
        await trio.sleep(RETRY_SECONDS_MIN)
        assert await read(network) > 0


async def test_a_deposit_whose_asker_left_still_counts_against_the_budget(autojump_clock: object) -> None:
    async with serving_network(2, budget=TokenAmount(DEPOSIT * 3 // 2)) as network:
        payer = network.members[GATEWAY].payer
        with trio.move_on_after(0.1) as patience:
            await payer.reserve(account(1), REQUEST_MOST)
        assert patience.cancelled_caught
        with pytest.raises(GatewayError, match="budget"):
            network.gateway._presence._records.pop(account(1))
            await read(network)
        await trio.sleep(20)
        assert deposited(network) == DEPOSIT


async def test_a_daemon_that_died_while_depositing_does_not_deposit_twice(autojump_clock: object) -> None:
    async with serving_network(1, budget=PLENTY) as network:
        member = network.members[GATEWAY]
        with trio.move_on_after(0.1):
            await member.payer.reserve(account(1), REQUEST_MOST)
        again = PayerBook(member.chain, member.store, channel_deposit=TokenAmount(DEPOSIT + 1), budget=PLENTY)
        await again.reserve(account(1), REQUEST_MOST)
        await trio.sleep(20)
        assert deposited(network) == DEPOSIT


async def test_a_daemon_that_died_while_depositing_remembers_its_budget(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        member = network.members[GATEWAY]
        with trio.move_on_after(0.1):
            await member.payer.reserve(account(1), REQUEST_MOST)
        budget = TokenAmount(DEPOSIT * 3 // 2)
        again = PayerBook(member.chain, member.store, channel_deposit=DEPOSIT, budget=budget)
        with pytest.raises(Exception, match="budget"):
            await again.reserve(account(2), REQUEST_MOST)


async def test_a_channel_is_funded_ahead_and_topped_up_before_it_is_empty(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        payer = network.members[GATEWAY].payer
        payer.prepare(account(1))
        assert deposited(network) == 0
        await trio.sleep(20)
        assert deposited(network) == DEPOSIT
        payer.pay(account(1), DEPOSIT // 2)
        payer.prepare(account(1))
        await trio.sleep(20)
        assert deposited(network) == DEPOSIT
        payer.pay(account(1), DEPOSIT // 3)
        await trio.sleep(20)
        assert deposited(network) == DEPOSIT * 2


async def test_a_deposit_refused_in_the_background_is_tried_again_ever_less_often(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        payer = network.members[GATEWAY].payer
        network.ledger.balances[account(GATEWAY)] = TokenAmount(0)
        payer.prepare(account(1))
        await trio.sleep(60)
        (record,) = payer.deposits._records.values()
        assert 2 <= record.ended <= 5
        network.ledger.balances[account(GATEWAY)] = PLENTY
        await trio.sleep(200)
        assert deposited(network) == DEPOSIT


async def test_a_deposit_that_was_on_its_way_at_a_crash_is_seen_to_its_end_without_being_asked(
    autojump_clock: object,
) -> None:
    async with serving_network(1) as network:
        member = network.members[GATEWAY]
        with trio.move_on_after(0.1):
            await member.payer.deposits.reach(account(1), REQUEST_MOST)
        again = PayerBook(member.chain, member.store, channel_deposit=DEPOSIT, budget=PLENTY)
        assert again.deposits.in_flight() == (account(1),)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.run)
            await trio.sleep(20)
            assert again.deposits.in_flight() == ()
            nursery.cancel_scope.cancel()
        assert again.deposits.locked() == deposited(network) == DEPOSIT


# --- answers side by side ---


@pytest.mark.parametrize("read_before_leaving", [1, 4, 7])
async def test_a_user_who_leaves_costs_nobody_else_anything(autojump_clock: object, read_before_leaving: int) -> None:
    async with serving_network(1) as network:
        number_requests(network)

        async def leave() -> None:
            async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
                left = read_before_leaving
                async for _ in answer:
                    left -= 1
                    if not left:
                        break

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            price = await read(network)
        await trio.sleep(5)
        receipts = network.members[1].store.receipts(limit=9)
        settled = tuple(given for given in receipts if given.payer_signature)
        assert [given.receipt.price for given in settled] == [price]
        assert network.members[GATEWAY].store.receipts(limit=9) == settled
        (unfinished,) = set(receipts) - set(settled)
        assert read_before_leaving <= unfinished.receipt.output_tokens < 400
        await read(network)  # the leaver's own last voucher may have been lost on its way: the next one has it
        await trio.sleep(5)
        assert network.paid_by_gateway() == network.paid_to(1)


class LostCall:
    """A call whose payer pays the prompt and is then cut off, with tokens unpaid."""

    def __init__(self, network: ServingNetwork, payload: bytes) -> None:
        self.peer_id = network.members[GATEWAY].network.peer_id
        self.payload = payload
        self._payer = network.members[GATEWAY].payer
        self._sent = 0
        self._lost = trio.Event()
        self._paid = False

    may_send_now = False

    def send_now(self, data: bytes) -> None:
        raise AssertionError("it may not")

    async def send(self, data: bytes) -> None:
        self._sent += 1
        if self._sent == 4:  # an opening, and three pieces of four tokens
            self._lost.set()
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        if not self._paid:
            self._paid = True
            return to_bytes(Payment(self._payer.pay(account(1), UNIT * 2), TokenAmount(UNIT * 2), b""))
        await self._lost.wait()
        raise CallFailedError("lost", "the connection broke")


async def test_what_a_lost_payer_owed_holds_up_none_of_its_other_answers(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        number_requests(network)
        await network.members[GATEWAY].payer.reserve(account(1), TokenAmount(UNIT * 500))
        executor = network.members[1].executor
        assert executor is not None
        lost = LostCall(network, signed(network, request_to(1, request_id=RequestId(b"\xee" * 32))))
        prices: list[int] = []

        async def read_on() -> None:
            prices.append(await read(network))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_on)
            nursery.start_soon(executor.serve, lost)
        await trio.sleep(5)
        (receipt,) = [given for given in network.members[1].store.receipts(limit=9) if given.payer_signature]
        assert [receipt.receipt.price] == prices


async def test_each_answer_is_paid_by_its_own_last_voucher_before_its_call_ends(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        number_requests(network)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, network, replace(CHAT, max_tokens=400))
            await trio.sleep(1)
            await read(network, replace(CHAT, max_tokens=10))
            (receipt,) = network.members[1].store.receipts(limit=9)
            (held,) = network.members[1].store.received_vouchers()
            nursery.cancel_scope.cancel()
        assert receipt.receipt.output_tokens == 10
        assert held.voucher.receipts_root != bytes(32)


# --- nothing for nothing ---


class CountingEngine(SimulatedEngine):
    """Counts the generations that were begun."""

    begun = 0

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        type(self).begun += 1
        async with super().generate(request) as chunks:
            yield chunks


def counting_engine(number: int) -> Engine:
    return CountingEngine(NODE, MODEL_ID, "honest", 0.0, number)


@pytest.mark.parametrize(("words", "funded"), [(300, False), (300, True)])
async def test_no_engine_works_for_who_cannot_or_does_not_pay(autojump_clock: object, words: int, funded: bool) -> None:
    CountingEngine.begun = 0
    async with serving_network(1, engine=counting_engine) as network:
        if funded:
            await network.members[GATEWAY].payer.reserve(account(1), TokenAmount(UNIT * 500))
        request = request_to(1, prompt=Prompt((Turn("user", "word " * words),)))
        with pytest.raises(CallFailedError) as caught:
            await call_with(network, signed(network, request))
        assert caught.value.code == "unpaid"
        assert CountingEngine.begun == 0
        executor = network.members[1].executor
        assert executor is not None
        assert executor.running == 0


# --- lost books ---


async def test_books_lost_with_little_left_in_the_channel_are_made_good_by_a_deposit(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        number_requests(network)
        await read(network)
        await trio.sleep(5)
        member = network.members[GATEWAY]
        # A voucher that promised nearly all of the deposit, known to the payee alone.
        spent = member.payer.pay(account(1), DEPOSIT - network.paid_by_gateway() - UNIT * 5)
        network.members[1].store.save_received_voucher(
            SignedVoucher(account(GATEWAY), account(1), spent.voucher, spent.signature)
        )
        lost = Books(Database(":memory:"), member.chain.account)
        desk = network.gateway._trade.desk
        forgetful = PayerBook(member.chain, lost, channel_deposit=DEPOSIT, budget=PLENTY)
        network.gateway._trade = replace(network.gateway._trade, desk=replace(desk, payer=forgetful, store=lost))
        price = await read(network)
        await trio.sleep(5)
        assert network.paid_to(1) == spent.voucher.cumulative + price
