"""Amounts of the token as people write them: decimal numbers of tokens, exact in both directions."""

from decimal import Context, Decimal, InvalidOperation

from node.protocol.identifiers import TokenAmount

TOKEN_DECIMALS = 18
TOKENS_MAX = 10**12
"""More tokens than any network will have: an amount above it is a slip of the keyboard, such as one in base units."""
_EXACT = Context(prec=100)
"""Python's default of 28 digits would round large amounts in silence."""


def tokens_to_amount(text: str) -> TokenAmount:
    """Return the amount in base units of a decimal number of tokens such as `2.5`; raise ValueError for other text."""
    try:
        tokens = Decimal(text)
        scaled = tokens.scaleb(TOKEN_DECIMALS, context=_EXACT)
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a number of tokens") from error
    if not tokens.is_finite() or tokens < 0 or tokens > TOKENS_MAX:
        raise ValueError(f"expected 0 to {TOKENS_MAX} tokens, got {text}")
    if scaled != int(scaled):
        raise ValueError(f"tokens have {TOKEN_DECIMALS} decimals at most")
    return TokenAmount(int(scaled))


def amount_to_tokens(amount: int) -> str:
    """Return an amount of base units as a decimal number of tokens, exactly and without trailing zeros."""
    whole, rest = divmod(abs(amount), 10**TOKEN_DECIMALS)
    decimals = f"{rest:0{TOKEN_DECIMALS}d}".rstrip("0")
    return ("-" if amount < 0 else "") + (f"{whole}.{decimals}" if decimals else str(whole))
