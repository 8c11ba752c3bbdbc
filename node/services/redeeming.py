"""Redeems the vouchers this node was paid with, when the policy says so (redeem_policy.py)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from node.ports import Chain, SignedVoucher, Store
from node.protocol.actions import RedeemVoucher, RedeemVouchers
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.stages import Stage, StagePosition
from node.services.redeem_policy import REDEEMED, GasPrices, Moment, OpenVoucher, Reason, RedeemPolicy, decide
from node.services.settlements import Settlements
from node.services.timing import position

log = structlog.get_logger(__name__)

VOUCHERS_PER_TRANSACTION_MAX = 100
"""About 20,000 gas each: a transaction must stay far below a block's limit."""
GAS_SECONDS = 15.0
"""How often the gas price is asked for, while there is something to redeem."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What will become of one payer's newest voucher."""

    payer: Address
    outstanding: int
    is_safe: bool
    """The deposit suffices, and its payer has not announced that it takes it back."""
    reason: Reason


class RedeemingService:
    """Looks at every new block at what is due."""

    def __init__(self, chain: Chain, store: Store, policy: RedeemPolicy) -> None:
        self._chain = chain
        self._store = store
        self._policy = policy
        self._settlements = Settlements(chain)
        self._redeemed_in: dict[Hash32, tuple[EpochNumber, bool]] = {}
        """By channel, the epoch of its newest redemption, and whether at its end: one transaction there, however long
        LOAD lasts, and at most one before."""
        self._open_since: dict[Hash32, EpochNumber] = {}
        """Epoch in which something was outstanding first, by channel. Both are bounded by the funded channels."""
        self._gas_prices = GasPrices()
        self._gas_price = 0
        self._gas_asked_at = float("-inf")

    async def run(self) -> None:
        """Redeem what is due, block after block."""
        async for _ in self._chain.heads():
            await self._redeem()

    def plan(self) -> tuple[Planned, ...]:
        """What will become of each voucher that is not redeemed in full."""
        where = position(self._chain)
        moment = self._moment(where)
        planned = []
        for signed in self._store.received_vouchers():
            voucher = self._open(signed, where)
            if voucher.outstanding > 0:
                reason = decide(voucher, moment, self._policy)
                is_safe = voucher.is_backed and not voucher.is_unlocking
                planned.append(Planned(signed.payer, voucher.outstanding, is_safe, reason))
        return tuple(planned)

    async def _redeem(self) -> None:
        """Redeem what is due together: one transaction with many vouchers costs a fraction of many."""
        where = position(self._chain)
        held = [(signed, self._open(signed, where)) for signed in self._store.received_vouchers()]
        held = [(signed, voucher) for signed, voucher in held if voucher.outstanding > 0]
        if not held:
            return
        await self._ask_gas_price()
        moment = self._moment(where)
        due: list[RedeemVoucher] = []
        for signed, voucher in held:
            reason = decide(voucher, moment, self._policy)
            if reason in REDEEMED:
                log.info("a voucher is redeemed", payer=signed.payer, amount=voucher.outstanding, why=reason.value)
                self._redeemed_in[signed.voucher.channel_id] = _part(where)
                self._open_since.pop(signed.voucher.channel_id, None)
                due.append(RedeemVoucher(signed.payer, signed.payee, signed.voucher, signed.signature))
        for start in range(0, len(due), VOUCHERS_PER_TRANSACTION_MAX):
            await self._redeem_together(due[start : start + VOUCHERS_PER_TRANSACTION_MAX])

    def _open(self, signed: SignedVoucher, where: StagePosition) -> OpenVoucher:
        identity = signed.voucher.channel_id
        channel = self._chain.state.channels.get(identity)
        outstanding = signed.voucher.cumulative - (channel.redeemed if channel else 0)
        since = self._open_since.setdefault(identity, where.epoch) if outstanding > 0 else where.epoch
        return OpenVoucher(
            outstanding=outstanding,
            is_backed=channel is not None and signed.voucher.cumulative <= channel.deposited,
            is_unlocking=channel is not None and channel.unlock_time is not None,
            epochs_waiting=where.epoch - since,
            was_redeemed_lately=self._redeemed_in.get(identity) == _part(where),
        )

    def _moment(self, where: StagePosition) -> Moment:
        return Moment(where.stage is Stage.LOAD, self._gas_price, self._gas_prices.usual)

    async def _ask_gas_price(self) -> None:
        now = trio.current_time()
        if now - self._gas_asked_at < GAS_SECONDS:
            return
        self._gas_asked_at = now
        self._gas_price = await self._chain.gas_price()
        self._gas_prices.note(self._gas_price, now)

    async def _redeem_together(self, vouchers: Sequence[RedeemVoucher]) -> None:
        """Redeem in one transaction; if one voucher spoils it, one by one."""
        keys = [f"redeem/{entry.voucher.channel_id.hex()}/{entry.voucher.cumulative}" for entry in vouchers]
        if len(vouchers) > 1:
            key = f"redeem/{hashlib.sha256('+'.join(keys).encode()).hexdigest()}"
            if await self._settlements.settle(key, RedeemVouchers(tuple(vouchers))):
                return
        for key, voucher in zip(keys, vouchers, strict=True):
            await self._settlements.settle(key, voucher)


def _part(where: StagePosition) -> tuple[EpochNumber, bool]:
    return where.epoch, where.stage is Stage.LOAD
