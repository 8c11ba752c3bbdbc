"""What this node locks in payment channels: one deposit at a time per payee, all of them within one budget.

A deposit on its way is in the store before the chain hears of it, under a number that stays until the chain has
decided. So neither a crash nor a user who leaves meanwhile makes it twice, or hides it from the budget. One that was
refused, for want of tokens say, is made anew later, ever less often: each try may cost gas.
"""

from dataclasses import dataclass, replace

import structlog
import trio

from node.ports import ActionStatus, Chain, Store
from node.protocol.actions import FundChannel
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.eip712 import channel_id
from node.protocol.identifiers import Address, Hash32, TokenAmount
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

DOCUMENT = "payments/deposits"
NOTHING = TokenAmount(0)
ROUNDS_MAX = 3
"""Deposits for one need: one that was on its way already and may be too small, one that suffices, one to spare. Without
it, a channel that does not grow would swallow the whole budget."""
RETRY_SECONDS_MIN = 5.0
"""Until a refused deposit is tried again; doubles with each refusal."""
RETRY_SECONDS_MAX = 600.0
"""A gateway whose account was filled up pays again after at most this."""


class DepositRefusedError(PaymentError):
    """The chain refused a deposit; it may take it later."""


@dataclass(frozen=True, slots=True)
class DepositRecord:
    """Where the deposits for one payee stand."""

    payee: Address
    ended: int
    """Deposits that were made or refused: the number of the next one, and part of its intent's key."""
    amount: TokenAmount
    """What is on its way; 0 if nothing is."""
    held_before: TokenAmount
    """What the channel held when it was sent: while it still does, `amount` is in no balance the chain shows."""


@dataclass(frozen=True, slots=True)
class DepositRecords:
    """The document in the store. One record per executor that was ever paid."""

    records: tuple[DepositRecord, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the chain said last about a payee's deposits, since this program started."""

    count: int
    retry_at: float
    """By trio's clock."""
    reason: str


class Deposits:
    """The deposits of this node's account."""

    def __init__(self, chain: Chain, store: Store, *, channel_deposit: TokenAmount, budget: TokenAmount) -> None:
        """`channel_deposit` is the smallest deposit, `budget` the most that lies in all channels at once."""
        self._chain = chain
        self._store = store
        self._channel_deposit = channel_deposit
        self._budget = budget
        known = store.get_document(DOCUMENT)
        records = () if known is None else from_bytes(DepositRecords, known).records
        self._records = {record.payee: record for record in records}
        self._locks: dict[Address, trio.Lock] = {}
        self._refusals: dict[Address, Refusal] = {}
        self._unfitting = 0
        """The newest deposit that the budget did not hold; 0 while none was wanted that it does not."""

    @property
    def budget(self) -> TokenAmount:
        """The most that may lie in all channels at once."""
        return self._budget

    def channel_of(self, payee: Address) -> Hash32:
        """Id of the channel to `payee`."""
        return channel_id(self._chain.chain_id, self._chain.payment_channels, self._chain.account, payee)

    def held(self, payee: Address) -> int:
        """Deposits in the channel to `payee` over its life, less what was withdrawn, as the chain shows them."""
        channel = self._chain.state.channels.get(self.channel_of(payee))
        return channel.deposited if channel else 0

    def locked(self) -> int:
        """What lies in all channels of this account, deposits on their way included."""
        account = self._chain.account
        own = [channel for channel in self._chain.state.channels.values() if channel.payer == account]
        unseen = [record.amount for record in self._records.values() if self.held(record.payee) <= record.held_before]
        return sum(channel.deposited - channel.redeemed for channel in own) + sum(unseen)

    def out_of_budget(self) -> str:
        """Say that the budget is spent: a deposit was wanted that it still does not hold. Empty if it is not."""
        locked = self.locked()
        if not self._unfitting or locked + self._unfitting <= self._budget:
            return ""
        return f"a deposit of {self._unfitting} does not fit: {locked} of {self._budget} are in payment channels"

    def in_flight(self) -> tuple[Address, ...]:
        """Payees to whom a deposit is on its way."""
        return tuple(payee for payee, record in self._records.items() if record.amount)

    def retry_at(self, payee: Address) -> float:
        """When a deposit that was refused may be tried again, by trio's clock."""
        refusal = self._refusals.get(payee)
        return refusal.retry_at if refusal else float("-inf")

    async def reach(self, payee: Address, needed: int) -> None:
        """Deposit until the channel to `payee` holds `needed`.

        Raises PaymentError if the budget forbids it or the channel is being emptied, DepositRefusedError if the chain
        refuses. Leaving early leaves the deposit on its way: the next call, in this life or another, takes it up.
        """
        if self.held(payee) >= needed:
            return
        async with self._locks.setdefault(payee, trio.Lock()):
            for _ in range(ROUNDS_MAX):
                missing = needed - self.held(payee)
                if missing <= 0:
                    return
                self.require_open(payee)
                await self._deposit(payee, TokenAmount(max(self._channel_deposit, missing)))
        if self.held(payee) < needed:
            raise PaymentError(f"the channel to {payee} holds {self.held(payee)} after {ROUNDS_MAX} deposits")

    async def finish(self, payee: Address) -> None:
        """See the deposit that is on its way to `payee`, if one is, to its end. Raises DepositRefusedError."""
        async with self._locks.setdefault(payee, trio.Lock()):
            record = self._records.get(payee)
            if record is not None and record.amount:
                await self._complete(record)

    def require_open(self, payee: Address) -> None:
        """Raise PaymentError if the channel to `payee` is being emptied: its payee takes no more vouchers."""
        channel = self._chain.state.channels.get(self.channel_of(payee))
        if channel is not None and channel.unlock_time is not None:
            raise PaymentError(f"the channel to {payee} is being emptied: a withdrawal was announced for this account")

    async def _deposit(self, payee: Address, amount: TokenAmount) -> None:
        record = self._records.get(payee, DepositRecord(payee, 0, NOTHING, NOTHING))
        if not record.amount:
            self._require_patience(payee)
            locked = self.locked()
            if locked + amount > self._budget:
                self._unfitting = amount
                raise PaymentError(
                    f"a deposit of {amount} would exceed the budget of {self._budget} ([payments] budget); "
                    f"{locked} is in channels already"
                )
            self._unfitting = 0
            record = replace(record, amount=amount, held_before=TokenAmount(self.held(payee)))
            self._write(record)
        await self._complete(record)

    def _require_patience(self, payee: Address) -> None:
        refusal = self._refusals.get(payee)
        if refusal is not None and trio.current_time() < refusal.retry_at:
            wait = refusal.retry_at - trio.current_time()
            raise DepositRefusedError(
                f"the deposit for {payee} was refused ({refusal.reason}); it is tried again in {wait:.0f} s"
            )

    async def _complete(self, record: DepositRecord) -> None:
        payee = record.payee
        # The number stays until the intent has ended: asked again, by whomever and after whatever, it is this deposit.
        key = f"fund/{self.channel_of(payee).hex()}/{record.ended}"
        await self._chain.submit(key, FundChannel(payee, record.amount))
        outcome = await self._chain.outcome(key)
        self._write(replace(record, ended=record.ended + 1, amount=NOTHING, held_before=NOTHING))
        if outcome.status is not ActionStatus.DONE:
            count = self._refusals[payee].count + 1 if payee in self._refusals else 1
            wait = min(RETRY_SECONDS_MIN * 2 ** min(count - 1, 30), RETRY_SECONDS_MAX)
            self._refusals[payee] = Refusal(count, trio.current_time() + wait, outcome.reason)
            raise DepositRefusedError(f"the deposit for {payee} was refused: {outcome.reason}")
        self._refusals.pop(payee, None)
        log.info("a payment channel is funded", payee=payee, amount=record.amount)

    def _write(self, record: DepositRecord) -> None:
        self._records[record.payee] = record
        self._store.put_document(DOCUMENT, to_bytes(DepositRecords(tuple(self._records.values()))))
