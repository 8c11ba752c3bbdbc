"""When a voucher is turned into tokens: weighs what is at risk against what gas costs. Pure; effects are elsewhere.

Waiting is cheap, for a voucher is a total: one redemption later brings as much as many before. What speaks against it
is a payer that takes its deposit back, and a lot in one pair of hands. Nothing is ever redeemed at a known loss.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from statistics import median_low

REDEEM_GAS = 50_000
"""Gas of one redemption on its own (benchmarks/README.md); together with others it costs a third."""
AT_RISK_MAX_DEFAULT = 100 * 10**18
"""The default budget of a gateway: an honest one with the defaults never reaches it."""
COIN_WEI = 10**18
PERCENT = 100
GAS_CHEAP_PERCENT = 50
"""At half of what is usual, gas is cheap enough not to wait for the epoch's end."""
SAMPLES_MAX = 360
SAMPLE_SECONDS = 60.0
"""One price a minute, for six hours: a day's tides are followed, a spike is not taken for the usual price."""


@dataclass(frozen=True, slots=True)
class RedeemPolicy:
    """What the operator wants; amounts in base units of the token.

    The defaults redeem every epoch's vouchers at its end, unless gas is dear just then.
    """

    at_risk_max: int = AT_RISK_MAX_DEFAULT
    """What one payer may owe in vouchers before they are redeemed at once."""
    at_least: int = 0
    """Smaller amounts wait for more."""
    gas_high_percent: int = 150
    """Gas above this part of its usual price is waited out."""
    wait_epochs_max: int = 4
    """After so many epochs nothing is waited for any more, but a loss."""
    coin_worth: int = 0
    """What 10^18 wei of the gas coin are worth in tokens; 0: not known, and costs are not compared with amounts."""
    cost_percent_max: int = 10
    """Of an amount, what its redemption may cost; only with `coin_worth`."""


@dataclass(frozen=True, slots=True)
class OpenVoucher:
    """What one payer's newest voucher promises beyond what was redeemed."""

    outstanding: int
    is_backed: bool
    """The deposit suffices for it."""
    is_unlocking: bool
    """The payer has announced that it takes its deposit back."""
    epochs_waiting: int
    """Epochs since it could first have been redeemed."""
    was_redeemed_lately: bool
    """One redemption of its channel was sent in this part of the epoch already: at its end, or before that."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is the same for all vouchers."""

    is_epoch_end: bool
    gas_price: int
    """Wei per gas now; 0 if nobody knows."""
    usual_gas_price: int


class Reason(Enum):
    """Why a voucher is redeemed now, or waits."""

    PAYER_LEAVES = "the payer takes its deposit back"
    AT_RISK = "more is owed than one payer may owe"
    GAS_CHEAP = "gas is cheap now"
    LONG_WAIT = "it has waited long enough"
    EPOCH_END = "the epoch ends"
    NOTHING = "nothing is outstanding"
    NOT_BACKED = "the deposit does not suffice for it"
    LOSS = "gas would cost more than it brings"
    LITTLE = "it is too little yet"
    NOT_DUE = "it waits for the epoch's end"
    TOO_DEAR = "gas would cost too large a part of it"
    GAS_HIGH = "gas costs more than usual now"


REDEEMED = frozenset({Reason.PAYER_LEAVES, Reason.AT_RISK, Reason.GAS_CHEAP, Reason.LONG_WAIT, Reason.EPOCH_END})
"""The reasons to redeem now; all others are reasons to wait."""


def decide(voucher: OpenVoucher, moment: Moment, policy: RedeemPolicy) -> Reason:
    """Return the most important reason to redeem `voucher` now (one of REDEEMED) or to wait."""
    cost = moment.gas_price * REDEEM_GAS * policy.coin_worth // COIN_WEI
    urgent = _urgent(voucher, policy)
    match voucher:
        case OpenVoucher(outstanding=amount) if amount <= 0:
            return Reason.NOTHING
        case OpenVoucher(is_backed=False):
            return Reason.NOT_BACKED
        case OpenVoucher(outstanding=amount) if cost >= amount:
            return Reason.LOSS
    if urgent is not None:
        return urgent
    if voucher.outstanding < policy.at_least:
        return Reason.LITTLE
    return _at_leisure(voucher, moment, policy, cost)


def _urgent(voucher: OpenVoucher, policy: RedeemPolicy) -> Reason | None:
    if voucher.is_unlocking:
        return Reason.PAYER_LEAVES
    return Reason.AT_RISK if voucher.outstanding >= policy.at_risk_max else None


def _at_leisure(voucher: OpenVoucher, moment: Moment, policy: RedeemPolicy, cost: int) -> Reason:
    gas_percent = moment.gas_price * PERCENT // max(1, moment.usual_gas_price)
    if voucher.was_redeemed_lately:
        return Reason.NOT_DUE
    if gas_percent <= GAS_CHEAP_PERCENT and moment.gas_price:
        return Reason.GAS_CHEAP
    if not moment.is_epoch_end:
        return Reason.NOT_DUE
    if voucher.epochs_waiting >= policy.wait_epochs_max:
        return Reason.LONG_WAIT
    if cost * PERCENT > voucher.outstanding * policy.cost_percent_max:
        return Reason.TOO_DEAR
    return Reason.GAS_HIGH if gas_percent > policy.gas_high_percent else Reason.EPOCH_END


class GasPrices:
    """What gas usually costs: the median of the last hours, one sample a minute."""

    def __init__(self) -> None:
        self._samples: deque[int] = deque(maxlen=SAMPLES_MAX)
        self._sampled_at = float("-inf")

    def note(self, price: int, now: float) -> None:
        """Take a price into account, if the last one is a minute old. A price of 0 is one that nobody knows."""
        if price > 0 and now - self._sampled_at >= SAMPLE_SECONDS:
            self._samples.append(price)
            self._sampled_at = now

    @property
    def usual(self) -> int:
        """The median, in wei per gas; 0 before the first sample."""
        return median_low(self._samples) if self._samples else 0
