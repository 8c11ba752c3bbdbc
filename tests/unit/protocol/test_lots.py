"""Draws by lots come out as the plain definition says, whatever estimates spare them."""

import hashlib
from decimal import Decimal, localcontext

from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.protocol.lots import ESTIMATE_ERROR, UNIFORM_BITS, candidates_of, first_of, is_among_first, lot

SEED = b"a draw\x00"
weights_strategy = st.dictionaries(
    st.binary(min_size=1, max_size=3),
    st.one_of(st.integers(0, 3), st.integers(0, 10**6), st.integers(0, 10**30)),
    max_size=40,
)
ALIKE = {bytes([number]): 1 for number in range(40)}
A_GIANT = {**ALIKE, b"giant": 10**40}


def plain(seed: bytes, weights: dict[bytes, int], count: int) -> list[bytes]:
    scored = sorted((lot(seed, identity, weight), identity) for identity, weight in weights.items() if weight > 0)
    return [identity for _, identity in scored[:count]]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=4), weights_strategy, st.integers(1, 7))
@example(b"", ALIKE, 5)
@example(b"", A_GIANT, 5)
@example(b"", {}, 5)
def test_the_first_of_many_are_those_with_the_smallest_lots(seed: bytes, weights: dict[bytes, int], count: int) -> None:
    candidates = candidates_of(weights.items())
    expected = plain(seed, weights, count)
    assert list(first_of(seed, candidates, count)) == expected
    for identity in weights:
        assert is_among_first(seed, candidates, count, identity) == (identity in expected)
    for left_out in list(weights)[:3]:
        staying = {identity: weight for identity, weight in weights.items() if identity != left_out}
        expected = plain(seed, staying, count)
        for identity in weights:
            assert is_among_first(seed, candidates, count, identity, left_out) == (identity in expected)


def test_lots_that_no_estimate_tells_apart_are_told_apart_by_exact_scores() -> None:
    """Of weights as large as these most scores are nought, or one of a few numbers: a score is a whole number."""
    enormous = {number.to_bytes(2): 10**60 + number for number in range(200)}
    mixed = {number.to_bytes(2): 10**9 * (2**64 - 1 if number % 2 else 1) for number in range(200)}
    large = {number.to_bytes(2): 2**96 + number for number in range(200)}
    for many in (enormous, mixed, large):
        candidates = candidates_of(many.items())
        for turn in range(5):
            seed = SEED + bytes([turn])
            expected = plain(seed, many, 5)
            assert list(first_of(seed, candidates, 5)) == expected
            assert {who for who in many if is_among_first(seed, candidates, 5, who)} == set(expected)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=8), st.sampled_from([1, 3, 10**6, 10**18, 10**36]))
def test_an_exact_score_is_within_the_error_of_its_estimate(identity: bytes, weight: int) -> None:
    """What the draws among many rely on; the estimate is built anew here, by other means."""
    uniform = int.from_bytes(hashlib.sha256(SEED + identity).digest()[: UNIFORM_BITS // 8])
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(UNIFORM_BITS) - Decimal(uniform + 1).ln() / Decimal(2).ln()
        scored = Decimal(lot(SEED, identity, weight)) * weight / Decimal(2 ** (UNIFORM_BITS + 32))
    assert abs(scored - exact) < Decimal(ESTIMATE_ERROR) / 4 + Decimal(weight) / Decimal(2**96)
