"""What this node pays: cumulative vouchers, in arrears and in small steps, from channels that are funded ahead of need.

The payer signs ever larger totals; the payee lets out tokens as long as what it is owed is at most an allowance above
the newest total. So a payer can steal the allowance at most, and a payee nothing: what was not given is not signed for.
"""

import structlog
import trio

from node.ports import Chain, SignedVoucher, Store
from node.protocol.eip712 import voucher_digest
from node.protocol.identifiers import ZERO_HASH, Address, Hash32, TokenAmount
from node.protocol.records import Voucher
from node.services.deposits import DepositRefusedError, Deposits
from node.services.frames import SignedVoucherFrame
from node.services.vouchers import PaymentError, check_voucher

log = structlog.get_logger(__name__)

TOP_UP_DIVISOR = 4
"""A channel is topped up when less than this part of a deposit is left: a deposit takes blocks, answers do not wait."""
PREPARATIONS_MAX = 64
"""Channels waiting to be funded ahead; more are dropped, for the request that needs one funds it itself."""
BUDGET_PAUSE_SECONDS = 60.0
"""How long nothing is funded ahead once the budget is used up: every voucher would ask, and be told the same."""
REFUSALS_MAX = 6
"""Refusals after which a channel is no longer tried in the background, until somebody wants it again."""


class PayerBook:
    """What this node pays. Vouchers are in the store before they leave."""

    def __init__(self, chain: Chain, store: Store, *, channel_deposit: TokenAmount, budget: TokenAmount) -> None:
        self._chain = chain
        self._store = store
        self._channel_deposit = channel_deposit
        self.deposits = Deposits(chain, store, channel_deposit=channel_deposit, budget=budget)
        self._reserved: dict[Address, int] = {}
        """Amounts that running requests may still cost, by payee."""
        self._wanted: dict[Address, None] = {}
        """Payees whose channel is to be funded ahead, in order."""
        self._paused_until = float("-inf")
        self._wake = trio.Event()

    def channel_of(self, payee: Address) -> Hash32:
        """Id of the channel to `payee`."""
        return self.deposits.channel_of(payee)

    async def run(self) -> None:
        """Fund channels ahead of need; first see to their end the deposits that were on their way at a crash."""
        async with trio.open_nursery() as nursery:
            for payee in self.deposits.in_flight():
                nursery.start_soon(self._finish, payee)
            running: set[Address] = set()
            while True:
                for payee in [payee for payee in self._wanted if payee not in running]:
                    running.add(payee)
                    nursery.start_soon(self._fund_ahead, payee, running)
                self._wake = trio.Event()
                await self._wake.wait()

    def prepare(self, payee: Address) -> None:
        """Have the channel to `payee` funded in the background, if it holds little. Returns at once; never fails."""
        if payee in self._wanted or len(self._wanted) >= PREPARATIONS_MAX or self._missing(payee) <= 0:
            return
        if trio.current_time() < self._paused_until:
            return
        self._wanted[payee] = None
        self._wake.set()

    async def reserve(self, payee: Address, amount: TokenAmount) -> None:
        """Make sure that the channel can pay `amount` more, depositing if needed. Undo with `release`.

        Raises PaymentError if the budget or the chain refuses.
        """
        self.deposits.require_open(payee)
        while (needed := self._committed(payee) + amount) > self.deposits.held(payee):
            try:
                await self.deposits.reach(payee, needed)
            except trio.Cancelled:
                self._wanted.setdefault(payee)  # a user left: the deposit on its way is seen to its end without it
                self._wake.set()
                raise
            # Computed again: other requests may have reserved or released meanwhile.
        self._reserved[payee] = self._reserved.get(payee, 0) + amount

    def release(self, payee: Address, amount: TokenAmount) -> None:
        """A request that had reserved `amount` is over."""
        self._reserved[payee] -= amount
        if not self._reserved[payee]:
            del self._reserved[payee]

    def adopt(self, payee: Address, frame: SignedVoucherFrame | None) -> bool:
        """Take over the payee's newest voucher if it is ours and newer than what our own books have.

        Returns whether it was: then what was reserved may need a deposit after all. Raises PaymentError for a voucher
        that this account never signed.
        """
        if frame is None:
            return False
        known = self._store.issued_voucher(self.channel_of(payee))
        if known is not None and known.voucher == frame.voucher and known.signature == frame.signature:
            return False  # nearly always; saves recovering our own signature
        check_voucher(self._chain, frame, channel=self.channel_of(payee), payer=self._chain.account)
        if known is not None and frame.voucher.cumulative <= known.voucher.cumulative:
            return False
        log.warning("our books of a channel were behind; taken over from the payee", payee=payee)
        self._store.save_issued_voucher(SignedVoucher(self._chain.account, payee, frame.voucher, frame.signature))
        return True

    def pay(self, payee: Address, amount: int, receipts_root: Hash32 | None = None) -> SignedVoucherFrame:
        """Sign a voucher for `amount` more than the newest; keep it, then return it.

        `receipts_root` replaces the channel's running hash when a receipt is paid in full. Raises PaymentError for more
        than the channel holds.
        """
        if amount < 0:
            raise PaymentError(f"a payment of {amount} would take back what was promised")
        identity = self.channel_of(payee)
        known = self._store.issued_voucher(identity)
        root = known.voucher.receipts_root if known else ZERO_HASH
        promised = known.voucher.cumulative if known else 0
        voucher = Voucher(identity, TokenAmount(promised + amount), receipts_root or root)
        if voucher.cumulative > self.deposits.held(payee):
            raise PaymentError(f"the channel to {payee} does not hold {voucher.cumulative}")
        digest = voucher_digest(voucher, self._chain.chain_id, self._chain.payment_channels)
        signature = self._chain.sign(digest)
        self._store.save_issued_voucher(SignedVoucher(self._chain.account, payee, voucher, signature))
        self.prepare(payee)
        return SignedVoucherFrame(voucher, signature)

    def receipts_root(self, payee: Address) -> Hash32:
        """Running hash of the receipts paid for in the channel to `payee`."""
        known = self._store.issued_voucher(self.channel_of(payee))
        return known.voucher.receipts_root if known else ZERO_HASH

    def issued(self, payee: Address) -> int:
        """Total of the newest voucher for `payee`."""
        known = self._store.issued_voucher(self.channel_of(payee))
        return known.voucher.cumulative if known else 0

    def _committed(self, payee: Address) -> int:
        return self.issued(payee) + self._reserved.get(payee, 0)

    def _missing(self, payee: Address) -> int:
        """How much the channel holds too little for requests to come; at most 0 if it holds enough."""
        return self.issued(payee) + self._channel_deposit // TOP_UP_DIVISOR - self.deposits.held(payee)

    async def _fund_ahead(self, payee: Address, running: set[Address]) -> None:
        """Fund a channel, trying again after refusals."""
        try:
            for _ in range(REFUSALS_MAX):
                await trio.sleep_until(max(trio.current_time(), self.deposits.retry_at(payee)))
                if await self._fund(payee):
                    return
        finally:
            self._wanted.pop(payee, None)
            running.discard(payee)

    async def _fund(self, payee: Address) -> bool:
        """Fund a channel; return whether there is nothing to try again."""
        try:
            await self.deposits.finish(payee)
            if (missing := self._missing(payee)) > 0:
                await self.deposits.reach(payee, self.deposits.held(payee) + missing)
        except DepositRefusedError as error:
            log.warning("a payment channel is not funded yet", payee=payee, reason=str(error))
            return False
        except PaymentError as error:
            log.warning("a payment channel is not funded ahead", payee=payee, reason=str(error))
            self._paused_until = trio.current_time() + BUDGET_PAUSE_SECONDS
        return True

    async def _finish(self, payee: Address) -> None:
        try:
            await self.deposits.finish(payee)
        except DepositRefusedError as error:
            log.warning("a deposit from before the restart was refused", payee=payee, reason=str(error))
