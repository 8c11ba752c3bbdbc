"""The payment books hold their promises whatever is paid, lost, repeated, overtaken, refused or interrupted."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from node.ports import ActionOutcome, ActionStatus, Chain, Head
from node.protocol.actions import FundChannel
from node.protocol.chain_state import ChannelState
from node.protocol.eip712 import channel_id, voucher_digest
from node.protocol.identifiers import Address, BlockNumber, Hash32, TokenAmount
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.protocol.signatures import sign
from node.services.deposits import RETRY_SECONDS_MAX, Deposits
from node.services.frames import Payment, SignedVoucherFrame
from node.services.payments import PayerBook
from node.services.tabs import BAD_DEBT_ALLOWANCES_MAX, BAD_DEBT_SECONDS, PayeeBook, Tab
from node.services.vouchers import PaymentError
from node.store.books import Books
from node.store.database import Database
from tests.builders import account, key_of
from tests.unit.protocol.test_pricing import RECEIPT

PAYER, PAYEE = 1, 2
DEPOSIT = TokenAmount(1_000)
CHAIN_ID = 31337
CHANNELS = Address("0x" + "11" * 20)
DAY = 86_400.0


class ChannelChain:
    """As much of a chain as channels need. `refuses` decides each deposit; `gate` may never let an outcome through."""

    def __init__(self, number: int, channels: dict[Hash32, ChannelState]) -> None:
        self.account = account(number)
        self.chain_id = CHAIN_ID
        self.payment_channels = CHANNELS
        self._key = key_of(number)
        self.state = self
        self.channels = channels
        self.refuses: Callable[[], bool] = lambda: False
        self.gate: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.intents: dict[str, FundChannel] = {}
        self.outcomes: dict[str, ActionOutcome] = {}

    def sign(self, digest: Hash32) -> bytes:
        return sign(self._key, digest)

    async def heads(self) -> AsyncIterator[Head]:
        yield Head(BlockNumber(1), BlockNumber(1))

    async def submit(self, key: str, action: FundChannel) -> None:
        self.intents.setdefault(key, action)
        await trio.lowlevel.checkpoint()

    async def outcome(self, key: str) -> ActionOutcome:
        await self.gate()
        self.settle(key)
        return self.outcomes[key]

    def settle(self, key: str) -> None:
        """Take an intent to its end, once, whether or not anybody still waits for it."""
        if key in self.outcomes:
            return
        if self.refuses():
            self.outcomes[key] = ActionOutcome(ActionStatus.FAILED, None, 0, "refused")
            return
        action = self.intents[key]
        identity = channel_id(CHAIN_ID, CHANNELS, self.account, action.payee)
        channel = self.channels.get(identity, ChannelState(identity, self.account, action.payee))
        self.channels[identity] = replace(channel, deposited=TokenAmount(channel.deposited + action.amount))
        self.outcomes[key] = ActionOutcome(ActionStatus.DONE, None, 0, "")

    @property
    def port(self) -> Chain:
        return cast(Chain, self)


def books(number: int) -> Books:
    return Books(Database(":memory:"), account(number))


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(DAY):
            await test()

    trio.run(limited, clock=trio.testing.MockClock(autojump_threshold=0))


@dataclass
class Ends:
    """Both ends of one channel, each with its own store and chain, and what is between them."""

    channels: dict[Hash32, ChannelState]
    payer_chain: ChannelChain
    payee_chain: ChannelChain
    payer_store: Books
    payee_store: Books
    payer: PayerBook
    payee: PayeeBook
    tabs: dict[int, Tab] = field(default_factory=dict)
    claims: dict[int, int] = field(default_factory=dict)
    """What the payer paid in each running request."""
    given: int = 0
    """Worth of all that was let out."""

    def pay(self, request: int, amount: int) -> Payment:
        self.claims[request] += amount
        return Payment(self.payer.pay(account(PAYEE), amount), TokenAmount(self.claims[request]), b"")

    def promised(self) -> int:
        return self.payer.issued(account(PAYEE))

    def held(self) -> int:
        return self.payee.covered(account(PAYER))


def ends() -> Ends:
    channels: dict[Hash32, ChannelState] = {}
    payer_chain, payee_chain = ChannelChain(PAYER, channels), ChannelChain(PAYEE, channels)
    payer_store, payee_store = books(PAYER), books(PAYEE)
    payer = PayerBook(payer_chain.port, payer_store, channel_deposit=DEPOSIT, budget=DEPOSIT)
    payee = PayeeBook(payee_chain.port, payee_store)
    return Ends(channels, payer_chain, payee_chain, payer_store, payee_store, payer, payee)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin", "give", "pay", "pay", "pay, lost", "pay, late", "deliver late", "end", "payer dies", "payee dies"]
        ),
        st.integers(0, 3),
        st.integers(1, 40),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_books_of_both_ends_keep_their_promises_whatever_happens(operations: list[tuple[str, int, int]]) -> None:
    """Never signed beyond the deposit, nor beyond what was given and one step; nothing lost or doubled by a crash."""
    allowance = 20

    async def test() -> None:
        both = ends()
        await both.payer.reserve(account(PAYEE), DEPOSIT)
        late: list[tuple[int, Payment]] = []

        for operation, request, amount in operations:
            running = request in both.tabs
            if operation.startswith("pay"):
                amount *= 8  # noqa: PLW2901 - so that the deposit's end is reached
            if operation == "begin" and not running:
                both.payer.adopt(account(PAYEE), both.payee.newest_voucher(account(PAYER)))
                try:
                    both.tabs[request] = both.payee.begin(account(PAYER), allowance=allowance)
                except PaymentError:
                    assert both.payee.bad_debt(account(PAYER)) > 0
                else:
                    both.claims[request] = 0
            elif operation == "give" and running:
                tab = both.tabs[request]
                with trio.move_on_after(0):
                    await tab.charge(amount, allowance=allowance)
                    both.given += amount
                assert tab.owed <= allowance
            elif operation.startswith("pay,") or (operation == "pay" and running):
                if not running or both.promised() + amount > both.payer.deposits.held(account(PAYEE)):
                    if running:
                        with pytest.raises(PaymentError):
                            both.payer.pay(account(PAYEE), amount)
                    continue
                payment = both.pay(request, amount)
                if operation == "pay":
                    await both.payee.accept(both.tabs[request], payment)
                    assert both.tabs[request].credited == both.claims[request]
                elif operation == "pay, late":
                    late.append((request, payment))
                else:
                    pass  # the next total has it
            elif operation == "deliver late" and late:
                index, payment = late.pop(0)
                tab = both.tabs.get(index, Tab(account(PAYER)))
                if index in both.tabs and tab.credited <= payment.paid:
                    await both.payee.accept(tab, payment)
                    assert tab.credited == payment.paid
                elif index in both.tabs:
                    with pytest.raises(PaymentError):
                        await both.payee.accept(tab, payment)
            elif operation == "end" and running:
                both.payee.end(both.tabs.pop(request))
                late = [entry for entry in late if entry[0] != request]
            elif operation == "payer dies":
                both.payer_store = Books(both.payer_store.database, account(PAYER))
                both.payer = PayerBook(both.payer_chain.port, both.payer_store, channel_deposit=DEPOSIT, budget=DEPOSIT)
            elif operation == "payee dies":
                both.payee_store = Books(both.payee_store.database, account(PAYEE))
                both.payee = PayeeBook(both.payee_chain.port, both.payee_store)
                both.tabs, late = {}, []
            assert both.held() <= both.promised() <= both.payer.deposits.held(account(PAYEE))
            assert sum(tab.credited for tab in both.tabs.values()) <= both.held()
            on_chain = sum(channel.deposited for channel in both.channels.values())
            assert on_chain == DEPOSIT
        # Whatever went before, one more honest payment makes the books of both ends agree.
        if both.promised() < DEPOSIT:
            await trio.sleep(BAD_DEBT_SECONDS + 1)
            tab = both.payee.begin(account(PAYER), allowance=allowance)
            both.claims[9] = 0
            await both.payee.accept(tab, both.pay(9, 1))
            assert both.held() == both.promised()

    run(test)


def test_nothing_is_signed_beyond_what_the_channel_holds() -> None:
    async def test() -> None:
        both = ends()
        await both.payer.reserve(account(PAYEE), DEPOSIT)
        both.payer.pay(account(PAYEE), DEPOSIT)
        with pytest.raises(PaymentError, match="does not hold"):
            both.payer.pay(account(PAYEE), 1)
        with pytest.raises(PaymentError, match="take back"):
            both.payer.pay(account(PAYEE), -1)
        with pytest.raises(PaymentError, match="budget"):
            await both.payer.reserve(account(PAYEE), TokenAmount(1))
        assert both.promised() == DEPOSIT

    run(test)


def test_a_spent_budget_is_said_so_until_payees_have_redeemed() -> None:
    async def test() -> None:
        both = ends()
        deposits = both.payer.deposits
        await both.payer.reserve(account(PAYEE), DEPOSIT)
        assert deposits.out_of_budget() == ""  # all of it is in a channel, and nobody wants more
        with pytest.raises(PaymentError, match="budget"):
            await both.payer.reserve(account(PAYEE), TokenAmount(1))
        assert f"{DEPOSIT} of {DEPOSIT} are in payment channels" in deposits.out_of_budget()
        identity, channels = deposits.channel_of(account(PAYEE)), both.payer_chain.state.channels
        channels[identity] = replace(channels[identity], redeemed=DEPOSIT)
        assert deposits.out_of_budget() == ""

    run(test)


class SlowDisk(Books):
    """Is done when it is told."""

    written = trio.Event()

    async def durable(self) -> None:
        await self.written.wait()


def test_an_answer_that_is_closed_while_a_payment_is_written_keeps_its_receipt() -> None:
    async def test() -> None:
        both = ends()
        disk = both.payee_store = SlowDisk(Database(":memory:"), account(PAYEE))
        disk.written = trio.Event()
        both.payee = PayeeBook(both.payee_chain.port, both.payee_store)
        await both.payer.reserve(account(PAYEE), DEPOSIT)
        tab = both.payee.begin(account(PAYER), allowance=10)
        await tab.charge(10, allowance=10)
        both.claims = {1: 0}
        receipt = replace(RECEIPT, payer=account(PAYER), executor=account(PAYEE))
        signature = sign(key_of(PAYER), receipt_digest(receipt))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both.payee.accept, tab, both.pay(1, 5))
            await trio.testing.wait_all_tasks_blocked()
            tab.close(SignedReceipt(receipt, b"e" * 65))
            disk.written.set()
        await both.payee.accept(tab, replace(both.pay(1, 5), receipt_signature=signature))
        assert tab.settled == SignedReceipt(receipt, b"e" * 65, signature)

    run(test)


def test_an_allowance_is_all_that_is_given_for_nothing() -> None:
    async def test() -> None:
        both = ends()
        await both.payer.reserve(account(PAYEE), DEPOSIT)
        one, other = (both.payee.begin(account(PAYER), allowance=10) for _ in range(2))
        await one.charge(10, allowance=10)
        with trio.move_on_after(0) as waits:
            await one.charge(1, allowance=10)
        assert waits.cancelled_caught
        # What one request owes holds up no other, and what one was paid lets nothing out in another.
        both.claims = {1: 0, 2: 0}
        await both.payee.accept(other, both.pay(2, 5))
        with trio.move_on_after(0) as waits:
            await one.charge(1, allowance=10)
        assert waits.cancelled_caught
        await other.charge(15, allowance=10)
        both.payee.end(one)
        assert both.payee.bad_debt(account(PAYER)) == 10

    run(test)


def test_a_payer_that_leaves_debts_is_refused_until_it_makes_them_good_or_they_are_old() -> None:
    async def test() -> None:
        both = ends()
        await both.payer.reserve(account(PAYEE), DEPOSIT)
        for _ in range(BAD_DEBT_ALLOWANCES_MAX + 1):
            tab = both.payee.begin(account(PAYER), allowance=10)
            await tab.charge(10, allowance=10)
            both.payee.end(tab)
        with pytest.raises(PaymentError, match="unpaid"):
            both.payee.begin(account(PAYER), allowance=10)
        await trio.sleep(BAD_DEBT_SECONDS + 1)
        tab = both.payee.begin(account(PAYER), allowance=10)
        await tab.charge(10, allowance=10)
        both.payee.end(tab)
        # A voucher that was on its way when the call broke is part of the next one's total.
        both.claims = {1: 0, 2: 0}
        both.pay(1, 10)
        tab = both.payee.begin(account(PAYER), allowance=10)
        await both.payee.accept(tab, both.pay(2, 1))
        assert both.payee.bad_debt(account(PAYER)) == 10
        both.payee.end(tab)
        assert both.payee.bad_debt(account(PAYER)) == 0

    run(test)


CHANGES = ["claims more", "claims less", "signature", "cumulative", "root", "channel", "payer", "overdrawn", "early"]


@pytest.mark.parametrize("part", CHANGES)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 64), st.integers(0, 7))
def test_a_payment_changed_in_any_way_is_refused_and_changes_nothing(part: str, index: int, bit: int) -> None:
    async def test() -> None:
        both = ends()
        await both.payer.reserve(account(PAYEE), DEPOSIT)
        tab = both.payee.begin(account(PAYER), allowance=10)
        both.claims = {1: 0}
        await both.payee.accept(tab, both.pay(1, 50))
        good = both.pay(1, 100)
        assert good.voucher is not None
        frame, voucher = good.voucher, good.voucher.voucher
        flipped = bytearray(frame.signature)
        flipped[index] ^= 1 << bit
        root = bytearray(voucher.receipts_root)
        root[index % 32] ^= 1 << bit
        beyond = replace(voucher, cumulative=TokenAmount(DEPOSIT + 1))
        digest = voucher_digest(beyond, CHAIN_ID, CHANNELS)
        changed = {
            "claims more": replace(good, paid=TokenAmount(151)),
            "claims less": replace(good, paid=TokenAmount(49)),
            "signature": replace(good, voucher=replace(frame, signature=bytes(flipped))),
            "cumulative": replace(
                good, voucher=replace(frame, voucher=replace(voucher, cumulative=TokenAmount(151 + index)))
            ),
            "root": replace(good, voucher=replace(frame, voucher=replace(voucher, receipts_root=Hash32(bytes(root))))),
            "channel": replace(good, voucher=replace(frame, voucher=replace(voucher, channel_id=Hash32(bytes(root))))),
            "payer": replace(good, voucher=replace(frame, signature=sign(key_of(3), voucher_digest_of(frame)))),
            "overdrawn": replace(good, voucher=SignedVoucherFrame(beyond, sign(key_of(PAYER), digest))),
            "early": replace(good, receipt_signature=bytes(65)),
        }[part]
        with pytest.raises(PaymentError):
            await both.payee.accept(tab, changed)
        assert (both.held(), tab.credited) == (50, 50)
        # The same voucher twice is no more money, and an older one no less.
        await both.payee.accept(tab, good)
        await both.payee.accept(tab, good)
        assert (both.held(), tab.credited) == (150, 150)

    run(test)


def voucher_digest_of(frame: SignedVoucherFrame) -> Hash32:
    return voucher_digest(frame.voucher, CHAIN_ID, CHANNELS)


STEPS = st.lists(
    st.tuples(
        st.integers(2, 5),
        st.integers(1, 600),
        st.sampled_from(["works", "works", "refused", "user leaves", "daemon dies", "withdrawn"]),
    ),
    max_size=14,
)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.integers(500, 4_000))
def test_deposits_stay_within_the_budget_and_suffice_where_they_were_promised(
    steps: list[tuple[int, int, str]], budget: int
) -> None:
    async def test() -> None:
        channels: dict[Hash32, ChannelState] = {}
        chain, store = ChannelChain(PAYER, channels), books(PAYER)

        def restarted() -> Deposits:
            return Deposits(chain.port, store, channel_deposit=TokenAmount(300), budget=TokenAmount(budget))

        deposits = restarted()
        for number, needed, fate in steps:
            payee = account(number)
            identity = channel_id(CHAIN_ID, CHANNELS, account(PAYER), payee)
            if fate == "withdrawn" and identity in channels:
                channels[identity] = replace(channels[identity], deposited=channels[identity].redeemed)
            refused = fate == "refused"
            chain.refuses = lambda refused=refused: refused  # type: ignore[misc]
            leaves = fate in ("user leaves", "daemon dies")
            chain.gate = trio.sleep_forever if leaves else trio.lowlevel.checkpoint
            try:
                with trio.move_on_after(0.0) if leaves else trio.CancelScope():
                    await deposits.reach(payee, needed)
                    assert deposits.held(payee) >= needed
            except PaymentError:
                assert refused or deposits.held(payee) < needed
            if fate == "daemon dies":
                deposits = restarted()
            await trio.sleep(RETRY_SECONDS_MAX)
            on_chain = sum(channel.deposited for channel in channels.values())
            assert on_chain <= deposits.locked() <= budget
        # Whatever is still on its way arrives, and the budget holds.
        chain.refuses = lambda: False
        for key in chain.intents:
            chain.settle(key)
        assert sum(channel.deposited for channel in channels.values()) <= budget

    run(test)


def test_a_channel_that_is_being_emptied_is_not_filled_again_behind_its_owners_back() -> None:
    async def test() -> None:
        identity = channel_id(CHAIN_ID, CHANNELS, account(PAYER), account(PAYEE))
        leaving = ChannelState(identity, account(PAYER), account(PAYEE))
        channels = {identity: replace(leaving, deposited=DEPOSIT, unlock_time=1_800_000_000)}
        chain = ChannelChain(PAYER, channels)
        payer = PayerBook(chain.port, books(PAYER), channel_deposit=DEPOSIT, budget=TokenAmount(DEPOSIT * 9))
        try:
            await payer.reserve(account(PAYEE), TokenAmount(1))
        except PaymentError as error:
            assert "being emptied" in str(error)
        else:
            raise AssertionError("the channel was used")
        assert chain.intents == {}

    run(test)
