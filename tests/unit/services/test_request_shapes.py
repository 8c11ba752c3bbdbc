"""Shapes of requests hold counts and no words, and say nothing of what no decoy can be like."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.scenario import MODEL_ID
from node.protocol.sampling import SamplingParameters
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest
from node.services.request_shapes import (
    CHARACTERS_MAX,
    EXACT_BELOW,
    HOUR_SECONDS,
    HOURS,
    MARKED_PART,
    SHAPES_KEPT,
    TURNS_MAX,
    USERS_KEPT,
    USUAL_LENGTHS,
    USUAL_LENGTHS_AT_THE_END,
    USUAL_LENGTHS_IN_TOKENS,
    USUAL_LENGTHS_OF_OTHERS,
    USUAL_LENGTHS_OF_TEXTS,
    USUAL_PART,
    RequestShape,
    ShapeBook,
    TurnShape,
    shape_of,
    step,
    usual_shape,
)

NOON = 12 * HOUR_SECONDS
CALL = '[{"id":"call_secret","type":"function","function":{"name":"secret","arguments":"{\\"function\\":1}"}}]'
TALK = ChatRequest(
    MODEL_ID,
    Prompt(
        (
            Turn("system", "the secret order"),
            Turn("user", "a secret question", name="secret"),
            Turn("assistant", "", tool_calls=CALL),
            Turn("tool", "a secret", tool_call_id="call_secret"),
        ),
        tools='[{"type":"function","function":{"name":"secret"}}]',
    ),
    max_tokens=77,
    sampling=SamplingParameters(temperature_milli=700),
    seed=123_456_789,
    stop=("\n\n", "a secret end"),
    logprobs=3,
    private=True,
    caller_id="secret",
)


@given(st.integers(0, 10**9))
def test_a_length_lies_in_its_step_and_steps_are_no_wider_than_a_quarter(count: int) -> None:
    least, beyond = step(count)
    assert least <= count < beyond
    assert step(least) == step(beyond - 1) == (least, beyond)
    assert beyond - least <= max(1, least // 4)
    assert (beyond - least == 1) is (count < EXACT_BELOW)


def test_a_shape_has_what_an_executor_sees_and_none_of_the_words() -> None:
    shape = shape_of(TALK)
    assert shape == RequestShape(
        turns=(
            TurnShape("system", 16),
            TurnShape("user", 16, is_named=True),
            TurnShape("assistant", 0, calls=1),
            TurnShape("tool", 8),
        ),
        text=None,
        token_ids=0,
        tools=1,
        max_tokens=77,
        sampling=SamplingParameters(temperature_milli=700),
        is_seeded=True,
        stop=("\n\n", ""),
        logprobs=3,
        private=True,
    )
    assert "secret" not in repr(shape)
    assert "123456789" not in repr(shape)


@pytest.mark.parametrize(
    ("prompt", "text", "token_ids"),
    [(Prompt(text="once upon a time"), 16, 0), (Prompt(token_ids=(1, 2, 3)), None, 3)],
)
def test_prompts_of_other_kinds_have_shapes_too(prompt: Prompt, text: int | None, token_ids: int) -> None:
    shape = shape_of(ChatRequest(MODEL_ID, prompt))
    assert shape is not None
    assert (shape.turns, shape.text, shape.token_ids) == ((), text, token_ids)


@pytest.mark.parametrize(
    "chat",
    [
        replace(TALK, response_format='{"type":"json_object"}'),
        replace(TALK, sampling=SamplingParameters(frequency_penalty_milli=1)),
        replace(TALK, prompt=Prompt((Turn("user", "x" * (CHARACTERS_MAX + 1)),))),
        replace(TALK, prompt=Prompt(token_ids=(1,) * (CHARACTERS_MAX + 1))),
        replace(TALK, prompt=Prompt((Turn("user", "x"),) * (TURNS_MAX + 1))),
        replace(TALK, prompt=Prompt((Turn("user", "x"),), tools="x" * 10_000)),
    ],
)
def test_what_cannot_be_judged_or_is_too_dear_has_no_shape(chat: ChatRequest) -> None:
    assert shape_of(chat) is None


def test_decoys_are_drawn_from_the_newest_shapes_and_all_are_usual_before_there_are_any() -> None:
    book, source = ShapeBook(usual_part=0.0), random.Random(1)
    usual = [book.draw(source) for _ in range(50)]
    assert len(set(usual)) > 25
    assert 0 < sum(shape.private for shape in usual) < 50
    for number in range(SHAPES_KEPT + 1):
        book.note(replace(TALK, max_tokens=number + 1), NOON)
    drawn = {book.draw(source).max_tokens for _ in range(20 * SHAPES_KEPT)}
    assert drawn == set(range(2, SHAPES_KEPT + 2))


def marked(number: int = 0) -> ChatRequest:
    """A request that no other user would send."""
    sampling = SamplingParameters(top_k=777)
    return replace(TALK, sampling=sampling, max_tokens=7_777, logprobs=17, user=f"executor {number}")


def marks(shape: RequestShape) -> int:
    return (shape.sampling.top_k == 777) + (shape.max_tokens == 7_777) + (shape.logprobs == 17)


def test_who_asks_a_lot_decides_the_shape_of_few_decoys() -> None:
    book, source = ShapeBook(), random.Random(1)
    for number in range(3):
        book.note(replace(TALK, user=f"user {number}"), NOON)
    for _ in range(10 * SHAPES_KEPT):
        book.note(marked(), NOON)
    drawn = [book.draw(source) for _ in range(4000)]
    part = (1 - USUAL_PART) * MARKED_PART / 4
    assert sum(marks(shape) > 0 for shape in drawn) / len(drawn) == pytest.approx(part, rel=0.2)
    assert {marks(shape) for shape in drawn} == {0, 3}
    honest = shape_of(TALK)
    assert honest is not None
    assert drawn.count(honest) / len(drawn) == pytest.approx(3 * (1 - USUAL_PART) / 4, rel=0.1)


def test_what_one_user_alone_sends_is_in_some_decoys_and_usual_in_others() -> None:
    book, source = ShapeBook(usual_part=0.0), random.Random(1)
    book.note(marked(1), NOON)
    assert marks(book.draw(source)) == 3
    book.note(replace(TALK, user="a user"), NOON)
    drawn = [book.draw(source) for _ in range(8000)]
    assert {marks(shape) for shape in drawn} == {0, 3}
    assert sum(marks(shape) == 3 for shape in drawn) / len(drawn) == pytest.approx(MARKED_PART / 2, rel=0.1)


def chat(*characters: int, **fields: Any) -> ChatRequest:
    """A talk with turns of so many characters, the user's first and last."""
    roles = ("user", "assistant") * len(characters)
    turns = (Turn(role, "x" * length) for role, length in zip(roles, characters, strict=False))
    return replace(ChatRequest(MODEL_ID, Prompt(tuple(turns)), max_tokens=96), **fields)


USERS = 8
USUAL_USERS = [chat(20), chat(40, 200, 20), chat(10, seed=5), chat(10, max_tokens=512, stop=("END",))]
"""What others send, each of them some of it."""
NAMED = Turn("user", "x" * 10, name="x")


@pytest.mark.parametrize(
    "mark",
    [
        replace(chat(1), prompt=Prompt(tuple(Turn("user", "a", name="x") for _ in range(31))), seed=5, stop=("q",) * 4),
        chat(20, 20, 20, 20, 20, 20, 20),
        chat(10, seed=5, max_tokens=512, stop=("END",)),
        chat(10, stop=("q1", "q2")),
        chat(10, private=True),
        replace(chat(10), prompt=Prompt((NAMED,))),
        replace(chat(10), prompt=Prompt((Turn("user", "x" * 10),), tools="x" * 1000)),
        chat(7),
        chat(5, 1, 6),
        chat(16_384),
        replace(chat(10), prompt=Prompt(token_ids=(1,) * 17)),
    ],
    ids=[
        "turns names and stops", "number of turns", "values that others each send", "number of stops", "privacy",
        "a name", "functions", "one length", "lengths", "a great length", "token ids",
    ],
)  # fmt: skip
def test_of_n_users_one_knows_three_in_eight_n_of_the_decoys_by_whatever_it_alone_sends(mark: ChatRequest) -> None:
    book, source = ShapeBook(), random.Random(1)
    for number in range(USERS - 1):
        for usual in USUAL_USERS:
            book.note(replace(usual, user=f"user {number}"), NOON)
    book.note(replace(mark, user="executor"), NOON)
    shape = shape_of(mark)
    known = sum(book.draw(source) == shape for _ in range(8000)) / 8000
    assert known == pytest.approx((1 - USUAL_PART) * MARKED_PART / USERS, rel=0.2)


def test_keys_that_mark_differently_know_as_much_each_as_one() -> None:
    book, source = ShapeBook(), random.Random(1)
    for number in range(USERS):
        book.note(chat(*(20,) * (1 + 2 * number), user=f"executor {number}"), NOON)
    own = {shape_of(chat(*(20,) * (1 + 2 * number))) for number in range(1, USERS)}
    known = sum(book.draw(source) in own for _ in range(4000)) / 4000
    assert known == pytest.approx((1 - USUAL_PART) * MARKED_PART * (USERS - 1) / USERS, rel=0.1)


def test_where_no_user_sends_what_another_does_five_in_eight_decoys_are_usual() -> None:
    book, source = ShapeBook(), random.Random(1)
    for number in range(USERS):
        book.note(chat(20, user=f"user {number}", max_tokens=100 + number), NOON)
    own = {shape_of(chat(20, max_tokens=100 + number)) for number in range(USERS)}
    usual = sum(book.draw(source) not in own for _ in range(4000)) / 4000
    assert usual == pytest.approx(USUAL_PART + (1 - USUAL_PART) * (1 - MARKED_PART), rel=0.1)


def test_what_others_send_in_other_lengths_is_in_half_of_the_decoys_with_usual_ones() -> None:
    book, source = ShapeBook(usual_part=0.0), random.Random(1)
    empty = replace(chat(1), prompt=Prompt((Turn("user", "xx"), Turn("assistant", "", tool_calls=CALL), NAMED)))
    longer = replace(empty, prompt=Prompt((Turn("user", "x" * 9), Turn("assistant", "", tool_calls=CALL), NAMED)))
    book.note(replace(empty, user="a user"), NOON)
    book.note(replace(longer, user="another user"), NOON)
    drawn = [book.draw(source) for _ in range(1000)]
    kept = sum(shape in (shape_of(empty), shape_of(longer)) for shape in drawn)
    assert kept / len(drawn) == pytest.approx(MARKED_PART, rel=0.2)
    assert {(len(shape.turns), shape.turns[1].characters, shape.turns[1].calls) for shape in drawn} == {(3, 0, 1)}
    assert {shape.turns[0].characters for shape in drawn} == {2, 8, 24, 56, 128}
    assert len({shape.turns[-1].characters for shape in drawn}) > 5


def test_usual_lengths_are_steps_and_not_too_dear() -> None:
    lengths = [length for some in (*USUAL_LENGTHS.values(), USUAL_LENGTHS_OF_OTHERS) for length in some]
    last = USUAL_LENGTHS_AT_THE_END[0]
    for length in (*lengths, *last, *USUAL_LENGTHS_OF_TEXTS, *USUAL_LENGTHS_IN_TOKENS):
        assert step(length)[0] == length
    assert (TURNS_MAX - 1) * (step(max(lengths))[1] - 1) + step(max(last))[1] <= CHARACTERS_MAX


def test_of_users_those_that_were_answered_last_are_known_and_decoys_are_also_like_nobodys_request() -> None:
    book, source = ShapeBook(), random.Random(1)
    book.note(replace(TALK, user="a user"), NOON)
    for number in range(USERS_KEPT):
        book.note(marked(number), NOON)
        if number % 5 == 0:
            book.note(replace(TALK, user="a user"), NOON)
    assert len(book._shapes) == USERS_KEPT
    assert "a user" in book._shapes
    assert sum(marks(book.draw(source)) == 0 for _ in range(1000)) >= 1000 * USUAL_PART * 0.8


def test_usual_shapes_can_be_asked_and_judged() -> None:
    source = random.Random(2)
    for shape in (usual_shape(source) for _ in range(500)):
        assert bool(shape.turns) is (shape.text is None)
        assert shape.sampling.is_verifiable
        assert all(turn.characters == step(turn.characters)[0] for turn in shape.turns)
        assert sum(turn.characters for turn in shape.turns) < CHARACTERS_MAX


def test_hours_have_the_share_of_the_requests_that_came_in_them() -> None:
    book = ShapeBook()
    assert book.share(NOON) == book.largest_share() == 1 / HOURS
    for _ in range(HOURS):
        book.note(TALK, NOON + 5)
    assert book.share(NOON) == book.largest_share() == 25 / 48
    assert book.share(NOON + HOUR_SECONDS) == 1 / 48
    assert sum(book.share(hour * HOUR_SECONDS) for hour in range(HOURS)) == pytest.approx(1)


def test_old_habits_fade() -> None:
    book = ShapeBook()
    book._hours = [0] * 12 + [100_000] + [0] * 11
    for _ in range(50_000):
        book.note(replace(TALK, response_format="{}"), 0)
    assert book.share(0) > book.share(NOON) * 0.9
