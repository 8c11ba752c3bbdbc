"""What this node is paid: one tab per request, all tabs of a payer covered by its newest voucher.

A voucher is a total over all answers of a payer, and vouchers of several answers overtake each other. So each payment
says how much of the total is for its request, and all shares together must fit under the total. What one request owes
holds up no other, and an answer ends when its own last voucher is here, whatever the others do.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import structlog
import trio

from node.ports import Chain, SignedVoucher, Store
from node.protocol.eip712 import channel_id
from node.protocol.identifiers import Address, Hash32
from node.protocol.receipts import countersigned, is_signed_by_payer
from node.protocol.records import SignedReceipt
from node.services.frames import Payment, SignedVoucherFrame
from node.services.vouchers import PaymentError, check_voucher

log = structlog.get_logger(__name__)

CONFIRM_SECONDS_MAX = 20.0
"""How long a payee waits for a deposit that the payer has seen confirmed and it has not."""
BAD_DEBT_ALLOWANCES_MAX = 8
"""Allowances that a payer may leave unpaid before it is refused: connections break, but not that often."""
BAD_DEBT_SECONDS = 600.0
"""How long what was left unpaid is held against a payer; what was on its way when a call broke is nobody's fault."""
FORGIVEN_PART = 20
"""One part in so many of an answer that was paid in full is forgiven of older debts: users leave while tokens are on
their way, so whoever asks a lot leaves a little unpaid every time, and is no thief after hours of it."""
BAD_DEBTORS_MAX = 4096
"""Payers remembered for it; the longest quiet is forgotten first. Each of them had to fund a channel."""


@dataclass(slots=True)
class Account:
    """All running requests of one payer."""

    base: int
    """Total of its vouchers when the first of them began: that paid for answers before."""
    covered: int
    """Total of its newest voucher."""
    claimed: int = 0
    """What payments since then said was for their requests, those that are over included."""
    running: int = 0


@dataclass(slots=True)
class BadDebt:
    """What a payer has not paid of answers that are over."""

    amount: int
    at: float
    """When it last grew, by trio's clock."""


@dataclass(slots=True)
class Tab:
    """What one request was charged, and what of it is paid."""

    payer: Address
    is_free: bool = False
    """No vouchers are taken for it: an executor in free mode never charges."""
    charged: int = 0
    credited: int = 0
    receipt: SignedReceipt | None = None
    """Set when the answer is complete; countersigned once the payer's signature is here."""
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def owed(self) -> int:
        """Charged and not paid."""
        return max(0, self.charged - self.credited)

    @property
    def settled(self) -> SignedReceipt | None:
        """The receipt, once the answer is paid in full and both have signed it."""
        signed = self.receipt is not None and self.receipt.payer_signature != b""
        return self.receipt if signed and self.owed == 0 else None

    async def charge(self, amount: int, *, allowance: int) -> None:
        """Wait until something worth `amount` can be given with at most `allowance` owed; then it counts as given."""
        while not self.charge_now(amount, allowance=allowance):
            await self.changed.wait()

    def charge_now(self, amount: int, *, allowance: int) -> bool:
        """Count something worth `amount` as given if that leaves at most `allowance` owed; return whether it does."""
        within = self.charged + amount - self.credited <= allowance
        if within:
            self.charged += amount
        return within

    def close(self, receipt: SignedReceipt) -> None:
        """The answer is complete, with this receipt: what is still to come is the last voucher and a signature."""
        self.receipt = receipt

    async def until_settled(self) -> SignedReceipt:
        """Wait until the answer is paid in full and its receipt signed by the payer; return the receipt."""
        while (settled := self.settled) is None:
            await self.changed.wait()
        return settled

    def notify(self) -> None:
        """Wake who waits for a change."""
        self.changed.set()
        self.changed = trio.Event()


class PayeeBook:
    """What this node is paid. Vouchers are in the store before tokens leave for them."""

    def __init__(self, chain: Chain, store: Store) -> None:
        self._chain = chain
        self._store = store
        self._accounts: dict[Address, Account] = {}
        """Bounded by the requests that run."""
        self._bad_debts: OrderedDict[Address, BadDebt] = OrderedDict()

    def newest_voucher(self, payer: Address) -> SignedVoucherFrame | None:
        """The newest voucher of `payer`."""
        known = self._store.received_voucher(self._channel_of(payer))
        return None if known is None else SignedVoucherFrame(known.voucher, known.signature)

    def covered(self, payer: Address) -> int:
        """What the newest voucher of `payer` promises in all."""
        known = self._store.received_voucher(self._channel_of(payer))
        return known.voucher.cumulative if known else 0

    def bad_debt(self, payer: Address) -> int:
        """What `payer` left unpaid lately."""
        debt = self._bad_debts.get(payer)
        if debt is not None and trio.current_time() - debt.at > BAD_DEBT_SECONDS:
            del self._bad_debts[payer]
            return 0
        return debt.amount if debt else 0

    def is_bad_debtor(self, payer: Address, *, allowance: int) -> bool:
        """Whether `payer` left so much unpaid lately that the usual `allowance` is too much for it."""
        return self.bad_debt(payer) > BAD_DEBT_ALLOWANCES_MAX * allowance

    def begin(self, payer: Address, *, allowance: int, is_free: bool = False) -> Tab:
        """A request of `payer` begins, of which `allowance` may be owed. Raises PaymentError for a bad debtor."""
        if not is_free and self.is_bad_debtor(payer, allowance=allowance):
            raise PaymentError(
                f"{payer} left {self.bad_debt(payer)} unpaid in the last {BAD_DEBT_SECONDS:.0f} s; "
                "a voucher that covers it, or waiting, opens the door again"
            )
        return self.begin_anyway(payer, is_free=is_free)

    def begin_anyway(self, payer: Address, *, is_free: bool = False) -> Tab:
        """A request of `payer` begins, whatever it left unpaid: for who lets out next to nothing before it is paid."""
        if payer not in self._accounts:
            covered = self.covered(payer)
            self._accounts[payer] = Account(base=covered, covered=covered)
        self._accounts[payer].running += 1
        return Tab(payer, is_free)

    def end(self, tab: Tab) -> None:
        """A request is over, however it ended. What it still owes is written off, and remembered for a while."""
        account = self._accounts[tab.payer]
        account.running -= 1
        if tab.owed:
            log.warning("a request ended without being paid in full", payer=tab.payer, amount=tab.owed)
            self._remember(tab.payer, tab.owed)
        elif tab.settled is not None:
            self._make_good(tab.payer, tab.credited // FORGIVEN_PART)
        if account.running == 0:
            # What came beyond all shares was for calls that broke before their last voucher arrived.
            self._make_good(tab.payer, account.covered - account.base - account.claimed)
            del self._accounts[tab.payer]

    async def require_deposit(self, payer: Address, cumulative: int) -> None:
        """Wait until the chain shows that a voucher of `cumulative` can be redeemed. Raises PaymentError."""
        identity = self._channel_of(payer)
        known = self._chain.state.channels.get(identity)
        if known is not None and known.unlock_time is None and known.deposited >= cumulative:
            return
        with trio.move_on_after(CONFIRM_SECONDS_MAX):
            async for _ in self._chain.heads():
                channel = self._chain.state.channels.get(identity)
                if channel is not None and channel.unlock_time is not None:
                    raise PaymentError("the payer has announced that it empties the channel")
                if channel is not None and channel.deposited >= cumulative:
                    return
        raise PaymentError(f"the channel does not hold {cumulative}")

    async def accept(self, tab: Tab, payment: Payment) -> None:
        """Check a payment, keep its voucher, credit its request. Raises PaymentError, and nothing has changed."""
        account = self._accounts[tab.payer]
        if tab.is_free and (payment.voucher is not None or payment.paid):
            raise PaymentError("answers are free here: no vouchers are taken")
        signed = self._check_receipt_signature(tab, payment)
        if payment.voucher is not None:
            await self._check(tab.payer, payment.voucher)
        total = payment.voucher.voucher.cumulative if payment.voucher else account.covered
        increase = payment.paid - tab.credited
        room = max(total, self.covered(tab.payer)) - account.base - account.claimed
        if increase < 0:
            raise PaymentError(f"the request was paid {tab.credited} before, and {payment.paid} now")
        if increase > room:
            raise PaymentError(f"the vouchers cover {room} more, not the {increase} that are said to be paid")
        if payment.voucher is not None and total > self.covered(tab.payer):  # else another request's overtook it
            voucher = payment.voucher
            self._store.save_received_voucher(
                SignedVoucher(tab.payer, self._chain.account, voucher.voucher, voucher.signature)
            )
        account.claimed += increase  # before anything is waited for: it can be claimed once
        try:
            await self._store.durable()
        except BaseException:
            account.claimed -= increase
            raise
        account.covered = max(account.covered, total)
        tab.credited = payment.paid
        if signed is not None:  # else the answer may have been closed meanwhile, and its receipt stays
            tab.receipt = signed
        tab.notify()

    async def _check(self, payer: Address, frame: SignedVoucherFrame) -> None:
        known = self._store.received_voucher(self._channel_of(payer))
        if known is None or known.voucher != frame.voucher or known.signature != frame.signature:
            # A voucher may pay for many answers: it is checked once, for to find its signer takes the most of all this.
            check_voucher(self._chain, frame, channel=self._channel_of(payer), payer=payer)
        await self.require_deposit(payer, frame.voucher.cumulative)

    def _check_receipt_signature(self, tab: Tab, payment: Payment) -> SignedReceipt | None:
        """Return the tab's receipt with the payer's signature, if `payment` has it."""
        if not payment.receipt_signature:
            return None
        if tab.receipt is None:
            raise PaymentError("a signature for a receipt that was not given yet")
        signed = countersigned(tab.receipt, payment.receipt_signature)
        if not is_signed_by_payer(signed):
            raise PaymentError("the receipt was signed by another account")
        return signed

    def _remember(self, payer: Address, amount: int) -> None:
        known = self.bad_debt(payer)
        self._bad_debts[payer] = BadDebt(known + amount, trio.current_time())
        self._bad_debts.move_to_end(payer)
        if len(self._bad_debts) > BAD_DEBTORS_MAX:
            self._bad_debts.popitem(last=False)

    def _make_good(self, payer: Address, amount: int) -> None:
        debt = self._bad_debts.get(payer)
        if debt is None or amount <= 0:
            return
        debt.amount -= amount
        if debt.amount <= 0:
            del self._bad_debts[payer]

    def _channel_of(self, payer: Address) -> Hash32:
        return channel_id(self._chain.chain_id, self._chain.payment_channels, payer, self._chain.account)
