"""A lot's score is what its definition says, to the last digit that counts."""

import hashlib
from decimal import Decimal, localcontext

from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.lots import LOGARITHM_FRACTION_BITS, UNIFORM_BITS, lot

SEED = b"a draw\x00"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=8), st.sampled_from([1, 3, 10**6, 10**18, 10**36]))
def test_a_score_is_the_logarithm_of_a_uniform_number_by_weight(identity: bytes, weight: int) -> None:
    """The logarithm is built anew here, by other means."""
    uniform = int.from_bytes(hashlib.sha256(SEED + identity).digest()[: UNIFORM_BITS // 8])
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(UNIFORM_BITS) - Decimal(uniform + 1).ln() / Decimal(2).ln()
        scored = Decimal(lot(SEED, identity, weight)) * weight / Decimal(2 ** (UNIFORM_BITS + LOGARITHM_FRACTION_BITS))
    assert abs(scored - exact) < Decimal(2) ** -30 + Decimal(weight) / Decimal(2**96)
