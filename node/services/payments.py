"""Payment by cumulative vouchers, in arrears and in small steps: the books of both ends of a channel.

The payer signs ever larger totals; the payee lets out tokens as long as what it is owed is at most an allowance above
the newest total. So a payer can steal the allowance at most, and a payee nothing: what was not given is not signed for.
"""

import structlog
import trio

from node.ports import ActionStatus, Chain, SignedVoucher, Store
from node.protocol.actions import FundChannel
from node.protocol.eip712 import channel_id, voucher_digest
from node.protocol.identifiers import ZERO_HASH, Address, Hash32, TokenAmount
from node.protocol.records import Voucher
from node.services.frames import SignedVoucherFrame
from node.services.vouchers import PaymentError, check_voucher

log = structlog.get_logger(__name__)


class PayerBook:
    """What this node pays. Vouchers are in the store before they leave."""

    def __init__(self, chain: Chain, store: Store, *, channel_deposit: TokenAmount, budget: TokenAmount) -> None:
        self._chain = chain
        self._store = store
        self._channel_deposit = channel_deposit
        self._budget = budget
        self._locks: dict[Address, trio.Lock] = {}
        self._pending = 0
        """Deposits on their way: they count against the budget before the chain shows them."""
        self._refusals: dict[Address, int] = {}
        """Deposits the chain refused since the start, by payee."""
        self._reserved: dict[Address, int] = {}
        """Amounts that running requests may still cost, by payee."""

    def channel_of(self, payee: Address) -> Hash32:
        """Id of the channel to `payee`."""
        return channel_id(self._chain.chain_id, self._chain.payment_channels, self._chain.account, payee)

    async def reserve(self, payee: Address, amount: TokenAmount) -> None:
        """Make sure that the channel can pay `amount` more, depositing if needed. Undo with `release`.

        Raises PaymentError if the budget or the chain refuses.
        """
        async with self._locks.setdefault(payee, trio.Lock()):
            needed = self._issued_total(payee) + self._reserved.get(payee, 0) + amount
            deposited = self._deposited(payee)
            if needed > deposited:
                await self._deposit(payee, TokenAmount(max(self._channel_deposit, needed - deposited)))
            self._reserved[payee] = self._reserved.get(payee, 0) + amount

    def release(self, payee: Address, amount: TokenAmount) -> None:
        """A request that had reserved `amount` is over."""
        self._reserved[payee] -= amount

    def adopt(self, payee: Address, frame: SignedVoucherFrame | None) -> None:
        """Take over the payee's newest voucher if it is ours and newer than what our own books have.

        Raises PaymentError for a voucher that this account never signed.
        """
        if frame is None:
            return
        check_voucher(self._chain, frame, channel=self.channel_of(payee), payer=self._chain.account)
        known = self._store.issued_voucher(frame.voucher.channel_id)
        if known is None or frame.voucher.cumulative > known.voucher.cumulative:
            log.warning("our books of a channel were behind; taken over from the payee", payee=payee)
            self._store.save_issued_voucher(SignedVoucher(self._chain.account, payee, frame.voucher, frame.signature))

    def pay(self, payee: Address, amount: int, receipts_root: Hash32 | None = None) -> SignedVoucherFrame:
        """Sign a voucher for `amount` more than the newest; keep it, then return it.

        `receipts_root` replaces the channel's running hash when a receipt is paid in full.
        """
        identity = self.channel_of(payee)
        known = self._store.issued_voucher(identity)
        root = known.voucher.receipts_root if known else ZERO_HASH
        voucher = Voucher(identity, TokenAmount(self._issued_total(payee) + amount), receipts_root or root)
        if voucher.cumulative > self._deposited(payee):
            raise PaymentError(f"the channel to {payee} does not hold {voucher.cumulative}")
        digest = voucher_digest(voucher, self._chain.chain_id, self._chain.payment_channels)
        signature = self._chain.sign(digest)
        self._store.save_issued_voucher(SignedVoucher(self._chain.account, payee, voucher, signature))
        return SignedVoucherFrame(voucher, signature)

    def receipts_root(self, payee: Address) -> Hash32:
        """Running hash of the receipts paid for in the channel to `payee`."""
        known = self._store.issued_voucher(self.channel_of(payee))
        return known.voucher.receipts_root if known else ZERO_HASH

    def _issued_total(self, payee: Address) -> int:
        known = self._store.issued_voucher(self.channel_of(payee))
        return known.voucher.cumulative if known else 0

    def _deposited(self, payee: Address) -> int:
        channel = self._chain.state.channels.get(self.channel_of(payee))
        return channel.deposited if channel else 0

    async def _deposit(self, payee: Address, amount: TokenAmount) -> None:
        account = self._chain.account
        own = [channel for channel in self._chain.state.channels.values() if channel.payer == account]
        locked = sum(channel.deposited - channel.redeemed for channel in own) + self._pending
        if locked + amount > self._budget:
            raise PaymentError(
                f"a deposit of {amount} would exceed the budget of {self._budget} ([payments] budget); "
                f"{locked} is in channels already"
            )
        # The key has what is deposited now: the same need asked twice is one deposit, a later need another.
        # A refused deposit (no tokens, say) is another intent when it is tried again.
        refusals = self._refusals.get(payee, 0)
        key = f"fund/{self.channel_of(payee).hex()}/{self._deposited(payee)}/{amount}/{refusals}"
        self._pending += amount
        try:
            await self._chain.submit(key, FundChannel(payee, amount))
            outcome = await self._chain.outcome(key)
        finally:
            self._pending -= amount
        if outcome.status is not ActionStatus.DONE:
            self._refusals[payee] = refusals + 1
            raise PaymentError(f"the deposit for {payee} was refused: {outcome.reason}")
        log.info("a payment channel is funded", payee=payee, amount=amount)
