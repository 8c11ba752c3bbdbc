"""What a request costs: the chain's price, or nothing in a private network's free mode. Never a mix of the two.

The gateway says in its signed request which of the two it asks for, having seen what the executor announces; an
executor that does otherwise refuses. So a free executor never charges, and who pays never pays one that is free.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from node.ports import CallFailedError
from node.protocol.identifiers import Address, TokenAmount

NOTHING = TokenAmount(0)
REFUSAL = "terms"
"""Word of an executor whose terms are not those of the request; another one may have them."""


@dataclass(frozen=True, slots=True)
class FreeMode:
    """An executor that serves free of charge."""

    accounts: frozenset[Address] | None = None
    """Whom it serves; None: everyone."""


def free_mode(*, free: bool, accounts: Sequence[str]) -> FreeMode | None:
    """Return the terms that the settings say; None: for the chain's price."""
    listed = frozenset(Address(account) for account in accounts)
    return FreeMode(listed or None) if free else None


def unit_price_for(payer: Address, *, asks_free: bool, free: FreeMode | None, unit_price: TokenAmount) -> TokenAmount:
    """Return what a unit of compute costs `payer`. Raises CallFailedError if the request has other terms than we."""
    if free is None:
        if asks_free:
            raise CallFailedError(REFUSAL, "answers are paid for here")
        return unit_price
    if not asks_free:
        raise CallFailedError(REFUSAL, "answers are free here, and no vouchers are taken: ask for a free one")
    if free.accounts is not None and payer not in free.accounts:
        raise CallFailedError(REFUSAL, f"{payer} is not on the list of those who are served free of charge")
    return NOTHING


def unit_price_of(unit_price: TokenAmount, *, is_free: bool) -> TokenAmount:
    """Return what a unit of compute costs in a request that asks for these terms."""
    return NOTHING if is_free else unit_price
