"""Redeeming: vouchers go together, at the right time, and one that spoils the rest keeps nobody from being paid."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from netsim.chain import SimulatedChain
from netsim.ledger import CHAIN_ID, DEFAULT_BALANCE, PAYMENT_CHANNELS, Ledger
from netsim.trace import Trace
from node.ports import SignedVoucher
from node.protocol.actions import ChainAction, FundChannel, RedeemVoucher, RedeemVouchers
from node.protocol.eip712 import channel_id, voucher_digest
from node.protocol.events import WithdrawRequested
from node.protocol.identifiers import Hash32, TokenAmount
from node.protocol.records import Voucher
from node.services.redeem_policy import Reason, RedeemPolicy
from node.services.redeeming import RedeemingService
from node.store.books import Books
from node.store.database import Database
from tests.builders import PARAMETERS, account, key_of

PAYEE = 9
POLICY = RedeemPolicy()
DEPOSIT = 1000


class NotingChain(SimulatedChain):
    """Notes what is submitted."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        super().__init__(ledger, key_of(number), confirmations=0)
        self.noted: list[ChainAction] = []

    async def submit(self, key: str, action: ChainAction) -> None:
        self.noted.append(action)
        await super().submit(key, action)


@dataclass
class Payee:
    ledger: Ledger
    chain: NotingChain
    store: Books
    service: RedeemingService
    payers: dict[int, SimulatedChain] = field(default_factory=dict)

    async def fund(self, number: int) -> None:
        payer = self.payers[number] = SimulatedChain(self.ledger, key_of(number), confirmations=0)
        await payer.submit("fund", FundChannel(account(PAYEE), TokenAmount(DEPOSIT)))
        await payer.outcome("fund")

    def hold_voucher(self, number: int, cumulative: int, *, signer: int | None = None) -> None:
        identifier = channel_id(CHAIN_ID, PAYMENT_CHANNELS, account(number), account(PAYEE))
        voucher = Voucher(identifier, TokenAmount(cumulative), Hash32(bytes(32)))
        digest = voucher_digest(voucher, CHAIN_ID, PAYMENT_CHANNELS)
        signature = self.payers[number if signer is None else signer].sign(digest)
        self.store.save_received_voucher(SignedVoucher(account(number), account(PAYEE), voucher, signature))

    @property
    def earned(self) -> int:
        return self.ledger.balance(account(PAYEE)) - DEFAULT_BALANCE


@asynccontextmanager
async def payee(policy: RedeemPolicy = POLICY) -> AsyncIterator[Payee]:
    trace = Trace()
    ledger = Ledger(PARAMETERS, 1.0, 1, trace, ((account(1), 1),))
    store = Books(Database(":memory:"), account(PAYEE))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.produce_blocks)
        chain = NotingChain(ledger, PAYEE)
        service = RedeemingService(chain, store, policy)
        nursery.start_soon(service.run)
        yield Payee(ledger, chain, store, service)
        nursery.cancel_scope.cancel()


async def until_redeemed(found: Payee, amount: int) -> None:
    await until_redeemed_within(found, amount, PARAMETERS.epoch_blocks * 3)


async def until_redeemed_within(found: Payee, amount: int, seconds: float) -> None:
    with trio.fail_after(seconds):
        while found.earned < amount:
            await trio.sleep(0.5)


async def test_vouchers_of_several_payers_are_redeemed_in_one_transaction(autojump_clock: object) -> None:
    async with payee() as found:
        for number in (1, 2, 3):
            await found.fund(number)
            found.hold_voucher(number, 100 * number)
        await until_redeemed(found, 600)
        (together,) = found.chain.noted
        assert isinstance(together, RedeemVouchers)
        assert len(together.vouchers) == 3


async def test_a_voucher_that_spoils_the_rest_keeps_nobody_from_being_paid(autojump_clock: object) -> None:
    async with payee() as found:
        for number in (1, 2, 3):
            await found.fund(number)
            found.hold_voucher(number, 100 * number, signer=1 if number == 2 else None)
        await until_redeemed(found, 400)
        kinds = [type(action) for action in found.chain.noted]
        assert kinds == [RedeemVouchers, RedeemVoucher, RedeemVoucher, RedeemVoucher]


async def test_a_voucher_above_the_deposit_waits_for_the_next_one(autojump_clock: object) -> None:
    async with payee() as found:
        await found.fund(1)
        found.hold_voucher(1, DEPOSIT + 1)
        await trio.sleep(2 * PARAMETERS.epoch_blocks)
        assert found.chain.noted == []
        await found.payers[1].submit("more", FundChannel(account(PAYEE), TokenAmount(1)))
        await until_redeemed(found, DEPOSIT + 1)


async def test_a_payer_that_leaves_is_redeemed_at_once(autojump_clock: object) -> None:
    async with payee(RedeemPolicy(at_least=10**30)) as found:
        await found.fund(1)
        found.hold_voucher(1, 100)
        await trio.sleep(3 * PARAMETERS.epoch_blocks)
        (planned,) = found.service.plan()
        assert (planned.outstanding, planned.reason) == (100, Reason.LITTLE)
        identity = channel_id(CHAIN_ID, PAYMENT_CHANNELS, account(1), account(PAYEE))
        found.ledger._seal_block([WithdrawRequested(identity, account(1), account(PAYEE), 1_900_000_000)])
        await until_redeemed(found, 100)


async def test_dear_gas_is_waited_out_and_no_longer_than_asked_for(autojump_clock: object) -> None:
    epoch = PARAMETERS.epoch_blocks
    async with payee(RedeemPolicy(wait_epochs_max=20)) as found:
        await found.fund(1)
        for _ in range(10):  # what is usual is learnt
            found.hold_voucher(1, 1 + found.ledger.height)
            await trio.sleep(60)
        found.ledger.gas_price *= 3
        await trio.sleep(2 * epoch)
        earned = found.earned
        found.hold_voucher(1, DEPOSIT)
        await trio.sleep(3 * epoch)
        assert found.earned == earned
        assert found.service.plan()[0].reason in (Reason.GAS_HIGH, Reason.NOT_DUE)
        await until_redeemed_within(found, DEPOSIT, 30 * epoch)


async def test_too_much_in_one_hand_is_redeemed_before_the_epoch_ends(autojump_clock: object) -> None:
    async with payee(RedeemPolicy(at_risk_max=500)) as found:
        await found.fund(1)
        found.hold_voucher(1, 499)
        assert found.service.plan()[0].reason is not Reason.AT_RISK
        found.hold_voucher(1, 500)
        await until_redeemed_within(found, 500, 5)
