"""Payment by cumulative vouchers, in arrears and in small steps: the books of both ends of a channel.

The payer signs ever larger totals; the payee lets out tokens as long as what it is owed is at most an allowance above
the newest total. So a payer can steal the allowance at most, and a payee nothing: what was not given is not signed for.
"""

from dataclasses import dataclass, field

import structlog
import trio

from node.ports import ActionStatus, Chain, SignedVoucher, Store
from node.protocol.actions import FundChannel
from node.protocol.eip712 import channel_id, voucher_digest
from node.protocol.identifiers import ZERO_HASH, Address, Hash32, TokenAmount
from node.protocol.records import Voucher
from node.protocol.signatures import SignatureError, recover
from node.services.frames import SignedVoucherFrame

log = structlog.get_logger(__name__)

CONFIRM_SECONDS_MAX = 20.0
"""How long a payee waits for a deposit that the payer has seen confirmed and it has not."""


class PaymentError(Exception):
    """A payment cannot be made or is not accepted; the message says why."""


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
        self._check(payee, frame, signer=self._chain.account)
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

    def _check(self, payee: Address, frame: SignedVoucherFrame, *, signer: Address) -> None:
        if frame.voucher.channel_id != self.channel_of(payee):
            raise PaymentError("the voucher is for another channel")
        digest = voucher_digest(frame.voucher, self._chain.chain_id, self._chain.payment_channels)
        try:
            if recover(digest, frame.signature) != signer:
                raise PaymentError("the voucher was signed by another account")
        except SignatureError as error:
            raise PaymentError(f"the voucher's signature is malformed: {error}") from error


@dataclass(slots=True)
class Account:
    """What one payer owes this node, since this program started, and how far it is covered."""

    owed: int
    covered: int
    running: int = 0
    changed: trio.Event = field(default_factory=trio.Event)


class PayeeBook:
    """What this node is paid. Vouchers are in the store before tokens leave for them."""

    def __init__(self, chain: Chain, store: Store) -> None:
        self._chain = chain
        self._store = store
        self._accounts: dict[Address, Account] = {}
        """Bounded by the payers with a funded channel and those with a request running."""

    def newest_voucher(self, payer: Address) -> SignedVoucherFrame | None:
        """The newest voucher of `payer`."""
        known = self._store.received_voucher(self._channel_of(payer))
        return None if known is None else SignedVoucherFrame(known.voucher, known.signature)

    def begin(self, payer: Address) -> None:
        """A request of `payer` begins."""
        if payer not in self._accounts:
            covered = self._covered(payer)
            # Everything before is settled: what a voucher paid was given, what was given and not paid is lost.
            self._accounts[payer] = Account(owed=covered, covered=covered)
        self._accounts[payer].running += 1

    def charge(self, payer: Address, amount: int) -> None:
        """Something worth `amount` is about to be given to `payer`."""
        self._accounts[payer].owed += amount

    async def until_covered(self, payer: Address, allowance: int) -> None:
        """Wait until what `payer` owes is at most `allowance` per running request above its vouchers."""
        account = self._accounts[payer]
        while account.owed - account.covered > allowance * account.running:
            await account.changed.wait()

    async def until_paid(self, payer: Address, allowance: int) -> None:
        """As `until_covered`, but with no allowance for one request: the one that is complete."""
        account = self._accounts[payer]
        while account.owed - account.covered > allowance * (account.running - 1):
            await account.changed.wait()

    def end(self, payer: Address, *, given_up: int) -> None:
        """A request of `payer` is over. Of one that was not completed, `given_up` was charged: what of it is not
        covered is written off.
        """
        account = self._accounts[payer]
        account.running -= 1
        unpaid = min(given_up, account.owed - account.covered)
        if unpaid > 0:
            log.warning("a request ended without being paid in full", payer=payer, amount=unpaid)
            account.owed -= unpaid
            account.changed.set()
            account.changed = trio.Event()
        if account.running == 0:
            del self._accounts[payer]

    async def accept(self, payer: Address, frame: SignedVoucherFrame) -> None:
        """Check a voucher, keep it, count it. Raises PaymentError, and nothing has changed."""
        voucher = frame.voucher
        if voucher.channel_id != self._channel_of(payer):
            raise PaymentError("the voucher is for another channel")
        digest = voucher_digest(voucher, self._chain.chain_id, self._chain.payment_channels)
        try:
            signer = recover(digest, frame.signature)
        except SignatureError as error:
            raise PaymentError(f"the voucher's signature is malformed: {error}") from error
        if signer != payer:
            raise PaymentError("the voucher was signed by another account")
        await self._require_deposit(voucher)
        if voucher.cumulative < self._covered(payer):
            return  # one of another request of the same payer overtook it: nothing is lost
        self._store.save_received_voucher(SignedVoucher(payer, self._chain.account, voucher, frame.signature))
        account = self._accounts.get(payer)
        if account is not None:
            account.covered = voucher.cumulative
            account.changed.set()
            account.changed = trio.Event()

    async def _require_deposit(self, voucher: Voucher) -> None:
        """Wait until the chain shows that the voucher can be redeemed."""
        with trio.move_on_after(CONFIRM_SECONDS_MAX):
            async for _ in self._chain.heads():
                channel = self._chain.state.channels.get(voucher.channel_id)
                if channel is not None and channel.unlock_time is not None:
                    raise PaymentError("the payer has announced that it empties the channel")
                if channel is not None and channel.deposited >= voucher.cumulative:
                    return
        raise PaymentError(f"the channel does not hold {voucher.cumulative}")

    def _covered(self, payer: Address) -> int:
        known = self._store.received_voucher(self._channel_of(payer))
        return known.voucher.cumulative if known else 0

    def _channel_of(self, payer: Address) -> Hash32:
        return channel_id(self._chain.chain_id, self._chain.payment_channels, payer, self._chain.account)
