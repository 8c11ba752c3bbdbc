"""The noise is what the vectors say, spread as it must be, and the same for all who compute it."""

import itertools
import math
import random

from hypothesis import example, given
from hypothesis import strategies as st

from node.protocol.noise import bits_at, bits_below, gumbel, noise, noise_bits, place_state
from tests.vectors import sampling


def test_the_rules_give_the_pinned_vectors() -> None:
    assert sampling.FILE.read_text(encoding="utf-8") == sampling.render()


def test_the_hash_is_murmur3_of_four_words() -> None:
    source = random.Random(2)
    for _ in range(200):
        data = source.randbytes(16)
        low, high, position, token = struct_words(data)
        assert noise_bits(low | high << 32, position, token) == murmur3_bytes(data)
    assert murmur3_bytes(bytes(4)) == 0x2362F9DE  # its author's own test vector


def struct_words(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def murmur3_bytes(data: bytes) -> int:
    """MurmurHash3 x86 32 as its author describes it, for whole words and seed 0."""
    state = 0
    for word in struct_words(data):
        key = word * 0xCC9E2D51 % 2**32
        key = (key * 2**15 + key // 2**17) % 2**32
        state ^= key * 0x1B873593 % 2**32
        state = (state * 2**13 + state // 2**19) % 2**32
        state = (state * 5 + 0xE6546B64) % 2**32
    state ^= len(data)
    state = (state ^ state // 2**16) * 0x85EBCA6B % 2**32
    state = (state ^ state // 2**13) * 0xC2B2AE35 % 2**32
    return state ^ state // 2**16


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=130))
def test_many_tokens_at_one_place_have_the_bits_that_each_has_alone(
    seed: int, position: int, tokens: list[int]
) -> None:
    assert list(bits_at(place_state(seed, position), tokens)) == [noise_bits(seed, position, token) for token in tokens]


@given(st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 32).map(lambda power: 2**power - 1)), st.floats(-4, 24))
@example(0, gumbel(0) - 1e-9)
@example(2**32 - 1, gumbel(2**32 - 1) - 1e-9)
def test_no_noise_above_a_distance_has_bits_beyond_the_bound(bits: int, distance: float) -> None:
    assert bits < bits_below(distance) or gumbel(bits) <= distance
    assert bits < bits_below(gumbel(bits) - 1e-9)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_noise_is_finite_and_within_its_bounds(seed: int, position: int, token: int) -> None:
    assert -2.82 < noise(seed, position, token) < 22.88


def test_the_extremes_of_the_hash_have_noise_too() -> None:
    assert math.isclose(gumbel(0), 33 * math.log(2), abs_tol=1e-6)
    assert math.isclose(gumbel(2**32 - 1), -math.log(24 * math.log(2)), abs_tol=1e-6)
    bits = sorted(random.Random(1).getrandbits(32) for _ in range(1000))
    assert all(gumbel(low) >= gumbel(high) for low, high in itertools.pairwise(bits))


def test_noise_is_gumbel_distributed_in_each_of_its_three_arguments() -> None:
    """Kolmogorov and Smirnov's distance from the distribution exp(-exp(-x))."""
    count = 4000
    for values in (
        [noise(seed, 5, 7) for seed in range(count)],
        [noise(3, position, 7) for position in range(count)],
        [noise(3, 5, token) for token in range(count)],
    ):
        values.sort()
        distance = max(abs(math.exp(-math.exp(-value)) - (index + 0.5) / count) for index, value in enumerate(values))
        assert distance < 2.5 / math.sqrt(count)  # exceeded by chance once in 100,000
