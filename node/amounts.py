"""Amounts of tokens as people write them: decimal numbers of tokens, exact in both directions."""

from decimal import Context, Decimal, InvalidOperation

from node.protocol.identifiers import TokenAmount

TOKEN_DECIMALS = 18
TOKENS_MAX = 10**12
"""More tokens than any network will have: an amount above it is a slip of the keyboard, such as one in base units."""
_EXACT = Context(prec=100)
"""Python's default of 28 digits would round large amounts in silence."""


def tokens_to_amount(text: str) -> TokenAmount:
    """Return the amount in base units of a decimal number of tokens such as `2.5`; raise ValueError for other text."""
    return TokenAmount(decimal_to_units(text, TOKEN_DECIMALS))


def amount_to_tokens(amount: int) -> str:
    """Return an amount of base units as a decimal number of tokens, exactly and without trailing zeros."""
    return units_to_decimal(amount, TOKEN_DECIMALS)


def decimal_to_units(text: str, decimals: int) -> int:
    """Return the base units of a decimal number of any token with `decimals`; raise ValueError for other text."""
    try:
        tokens = Decimal(text)
        scaled = tokens.scaleb(decimals, context=_EXACT)
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a number of tokens") from error
    if not tokens.is_finite() or tokens < 0 or tokens > TOKENS_MAX:
        raise ValueError(f"expected 0 to {TOKENS_MAX} tokens, got {text}")
    if scaled != int(scaled):
        raise ValueError(f"tokens have {decimals} decimals at most")
    return int(scaled)


def units_to_decimal(units: int, decimals: int) -> str:
    """Return base units of any token with `decimals` as a decimal number, exactly and without trailing zeros."""
    whole, rest = divmod(abs(units), 10**decimals)
    fraction = f"{rest:0{decimals}d}".rstrip("0") if decimals else ""
    return ("-" if units < 0 else "") + (f"{whole}.{fraction}" if fraction else str(whole))
