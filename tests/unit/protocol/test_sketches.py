"""Sketches of vectors: the same bytes on both sides, every number counts, and nothing hostile is ever near."""

import math
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.bands import POC_DISTANCE_LIMIT
from node.protocol.identifiers import Hash32
from node.protocol.nonces import VECTOR_BYTES, VECTOR_DIMENSIONS, VECTOR_SCALE, quantise
from node.protocol.sketches import (
    INPUTS_JUDGED_MAX,
    SKETCH_BYTES,
    folded,
    inputs_commitment,
    judged_inputs,
    numbers_of,
    sketch_distance,
    sketch_of,
    sketches_of,
    split_sketches,
    vectors_commitment,
)

DIMENSIONS = 256
DIGEST, SEED, OTHER_SEED = (Hash32(bytes([n]) * 32) for n in (1, 2, 3))


def vector(seed: int, *, dimensions: int = DIMENSIONS, times: float = 1.0, noise: float = 0.0) -> bytes:
    """A unit vector of a seed; with `noise`, as another machine would make it."""
    source, machine = random.Random(seed), random.Random(-seed - 1)
    numbers = [source.gauss(0, 1) + machine.gauss(0, noise) for _ in range(dimensions)]
    length = math.sqrt(sum(number * number for number in numbers))
    return struct.pack(f"<{dimensions}f", *(times * number / length for number in numbers))


seeds = st.integers(0, 1_000_000)


@given(seeds, st.integers(1, 300))
def test_a_sketch_has_its_size_whatever_the_dimensions_and_is_at_no_distance_from_itself(
    seed: int, dimensions: int
) -> None:
    sketch = sketch_of(vector(seed, dimensions=dimensions))
    assert len(sketch) == SKETCH_BYTES
    assert sketch_distance(sketch, sketch) == 0


@given(seeds, seeds)
def test_a_distance_is_the_same_from_both_sides(one: int, other: int) -> None:
    first, second = sketch_of(vector(one)), sketch_of(vector(other, times=2))
    assert sketch_distance(first, second) == sketch_distance(second, first)


@given(seeds)
def test_noise_of_a_thousandth_is_near_and_another_text_s_vector_is_far(seed: int) -> None:
    own = sketch_of(vector(seed))
    near = sketch_distance(own, sketch_of(vector(seed, noise=0.001)))
    assert near <= 4 * (VECTOR_SCALE * 0.001) ** 2
    assert sketch_distance(own, sketch_of(vector(seed + 1))) > 10_000 * near


@given(seeds, st.integers(0, DIMENSIONS - 1))
def test_every_number_of_a_vector_counts(seed: int, place: int) -> None:
    numbers = list(numbers_of(vector(seed)))
    numbers[place] += 0.5
    assert sketch_distance(sketch_of(vector(seed)), sketch_of(struct.pack(f"<{DIMENSIONS}f", *numbers))) > 10_000_000


@given(seeds)
def test_a_vector_of_another_length_is_as_far_off_as_one_of_another_direction(seed: int) -> None:
    own = sketch_of(vector(seed))
    assert sketch_distance(own, sketch_of(vector(seed, times=0.999))) <= (VECTOR_SCALE * 0.0012) ** 2
    assert sketch_distance(own, sketch_of(vector(seed, times=0.5))) == pytest.approx((VECTOR_SCALE / 2) ** 2, rel=0.01)
    nothing = sketch_of(bytes(4 * DIMENSIONS))
    assert sketch_distance(own, nothing) >= VECTOR_SCALE**2
    assert sketch_distance(nothing, nothing) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_has_no_sketch(bad: float) -> None:
    with pytest.raises(ValueError):
        sketch_of(struct.pack("<4f", 1, bad, 3, 4))


def test_a_length_beyond_its_numbers_range_has_no_sketch() -> None:
    with pytest.raises(ValueError, match="length"):
        sketch_of(struct.pack("<100f", *[3e38, -3e38] * 50))


@given(st.binary(min_size=SKETCH_BYTES, max_size=SKETCH_BYTES), seeds)
def test_whatever_bytes_somebody_commits_to_have_a_distance_and_no_made_up_ones_are_near(
    data: bytes, seed: int
) -> None:
    assert sketch_distance(data, sketch_of(vector(seed))) > 100_000_000


@pytest.mark.parametrize("length", [math.nan, math.inf, -1.0])
def test_a_length_that_is_none_is_as_far_off_as_can_be(length: float) -> None:
    own = sketch_of(vector(1))
    assert sketch_distance(own[:VECTOR_BYTES] + struct.pack(">f", length), own) == POC_DISTANCE_LIMIT


def test_nonces_and_answers_are_made_of_the_same_numbers() -> None:
    made = vector(5)
    assert len(folded(numbers_of(made))) == VECTOR_DIMENSIONS
    assert sketch_of(made)[:VECTOR_BYTES] == quantise(folded(numbers_of(made)))


def test_vectors_come_apart_and_commitments_bind_all_of_them() -> None:
    made = [vector(number) for number in range(3)]
    sketches = sketches_of(b"".join(made), DIMENSIONS)
    assert split_sketches(sketches) == [sketch_of(one) for one in made]
    found = {
        vectors_commitment(DIMENSIONS, sketches),
        vectors_commitment(DIMENSIONS + 1, sketches),
        vectors_commitment(DIMENSIONS, sketches[:-1] + b"\x01"),
        vectors_commitment(DIMENSIONS, sketches[:SKETCH_BYTES]),
        inputs_commitment([[1, 2], [3]]),
        inputs_commitment([[1], [2, 3]]),
        inputs_commitment([[1, 2, 3]]),
    }
    assert len(found) == 7


inputs_strategy = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=100)


@given(inputs_strategy)
def test_one_text_is_judged_once_however_often_it_was_sent(inputs: list[tuple[int, ...]]) -> None:
    """Else whoever finds one text at which honest machines differ convicts one by sending it a thousand times."""
    every = judged_inputs(inputs, DIGEST, None)
    some = judged_inputs(inputs, DIGEST, SEED)
    assert [inputs[place] for place in every] == list(dict.fromkeys(inputs))
    assert len(some) == min(INPUTS_JUDGED_MAX, len(every))
    assert set(some) <= set(every)
    assert list(some) == sorted(some)


def test_which_inputs_are_judged_follows_from_the_draw_and_the_receipt() -> None:
    inputs = [(number,) for number in range(1000)]
    drawn = judged_inputs(inputs, DIGEST, SEED)
    assert drawn == judged_inputs(inputs, DIGEST, SEED)
    assert drawn != judged_inputs(inputs, DIGEST, OTHER_SEED)
    assert drawn != judged_inputs(inputs, OTHER_SEED, SEED)
