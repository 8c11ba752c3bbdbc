"""Proof-of-Compute nonces: prompts and samples follow from the seed, vectors compare by integers."""

import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.protocol.identifiers import Hash32, NodeId
from node.protocol.nonces import (
    PROMPT_TOKENS,
    VECTOR_BYTES,
    VECTOR_DIMENSIONS,
    VECTOR_SCALE,
    VectorsRoot,
    draw_sample,
    nonce_prompt,
    quantise,
    split_vectors,
    squared_distance,
    vectors_root,
)
from tests.builders import NODE, account

SEED = Hash32(b"\x01" * 32)
LOGPROBS = st.lists(st.floats(-30, 0), min_size=VECTOR_DIMENSIONS, max_size=VECTOR_DIMENSIONS)
VECTORS = st.lists(st.binary(min_size=VECTOR_BYTES, max_size=VECTOR_BYTES), min_size=1, max_size=9)


@given(st.integers(0, 2**40), st.integers(1, 300_000))
def test_a_prompt_is_token_ids_of_the_vocabulary(nonce: int, vocabulary_size: int) -> None:
    prompt = nonce_prompt(SEED, account(1), NODE, nonce, vocabulary_size)
    assert len(prompt) == PROMPT_TOKENS
    assert all(0 <= token < vocabulary_size for token in prompt)


def test_no_two_of_seed_participant_node_and_nonce_share_a_prompt() -> None:
    prompts = {
        nonce_prompt(seed, account(number), node_id, nonce, 50_000)
        for seed in (SEED, Hash32(bytes(32)))
        for number in (1, 2)
        for node_id in (NODE, NodeId("node-2"))
        for nonce in range(20)
    }
    assert len(prompts) == 2 * 2 * 2 * 20


@given(LOGPROBS)
@example([0.0] * (VECTOR_DIMENSIONS - 1) + [1e-162])
def test_a_quantised_vector_is_its_own_equal_and_has_unit_length_within_rounding(logprobs: list[float]) -> None:
    vector = quantise(logprobs)
    assert squared_distance(vector, vector) == 0
    length = math.sqrt(squared_distance(vector, bytes(VECTOR_BYTES)))
    assert length == 0 or abs(length - VECTOR_SCALE) <= math.sqrt(VECTOR_DIMENSIONS) / 2


@given(LOGPROBS, st.floats(0.5, 2), st.floats(-3, 3))
def test_scale_and_offset_do_not_matter_beyond_rounding(logprobs: list[float], scale: float, offset: float) -> None:
    if max(logprobs) - min(logprobs) < 1e-3:
        return
    moved = quantise([value * scale + offset for value in logprobs])
    assert squared_distance(quantise(logprobs), moved) <= VECTOR_DIMENSIONS


def test_little_noise_is_a_small_distance_and_another_model_a_large_one() -> None:
    source = random.Random(1)
    honest = [-10 * source.random() for _ in range(VECTOR_DIMENSIONS)]
    noisy = [value + source.gauss(0, 0.01) for value in honest]
    other = [-10 * source.random() for _ in range(VECTOR_DIMENSIONS)]
    assert squared_distance(quantise(honest), quantise(noisy)) < VECTOR_SCALE**2 // 1000
    assert squared_distance(quantise(honest), quantise(other)) > VECTOR_SCALE**2 // 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        quantise([bad, bad] + [-1.0] * (VECTOR_DIMENSIONS - 2))


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 63"):
        quantise([-1.0] * (VECTOR_DIMENSIONS - 1))
    with pytest.raises(ValueError, match="126 bytes"):
        squared_distance(bytes(VECTOR_BYTES), bytes(VECTOR_BYTES - 1))


def test_a_constant_input_has_no_direction() -> None:
    assert quantise([-2.5] * VECTOR_DIMENSIONS) == bytes(VECTOR_BYTES)


@given(VECTORS, st.data())
def test_the_root_commits_to_every_vector_and_its_place(vectors: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(vectors) - 1))
    changed = list(vectors)
    changed[index] = bytes([vectors[index][0] ^ 1]) + vectors[index][1:]
    assert vectors_root(changed) != vectors_root(vectors)
    assert vectors_root([*vectors, vectors[-1]]) != vectors_root(vectors)
    assert split_vectors(b"".join(vectors), len(vectors)) == vectors


def test_a_file_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 vectors"):
        split_vectors(bytes(VECTOR_BYTES * 2 + 1), 2)


@settings(max_examples=50)
@given(st.integers(0, 2**64 - 1), st.integers(0, 100))
def test_a_sample_is_ascending_distinct_and_as_large_as_it_can_be(count: int, sample_size: int) -> None:
    sample = draw_sample(SEED, account(1), NODE, count, sample_size)
    assert len(sample) == min(count, sample_size)
    assert list(sample) == sorted(set(sample))
    assert all(0 <= nonce < count for nonce in sample)


def test_every_nonce_is_drawn_about_equally_often() -> None:
    drawn = [0] * 20
    for index in range(2000):
        for nonce in draw_sample(Hash32(index.to_bytes(32)), account(1), NODE, 20, 5):
            drawn[nonce] += 1
    assert all(400 < times < 600 for times in drawn)  # 500 expected, standard deviation 19


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 1000])
def test_a_root_built_vector_by_vector_is_the_root_over_all(count: int) -> None:
    vectors = [bytes([index % 256]) * VECTOR_BYTES for index in range(count)]
    growing = VectorsRoot()
    for vector in vectors:
        growing.add(vector)
    assert growing.root() == vectors_root(vectors)
