"""Shapes of requests hold counts and no words, and say nothing of what no decoy can be like."""

import random
from dataclasses import replace

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
    book.note(replace(marked(2), sampling=SamplingParameters(), private=False), NOON)
    drawn = [shape for shape in (book.draw(source) for _ in range(2000)) if shape.private]
    assert {(shape.logprobs, shape.max_tokens) for shape in drawn} == {(17, 7_777)}
    assert {shape.sampling.top_k for shape in drawn} == {0, 777}
    assert sum(shape.sampling.top_k == 777 for shape in drawn) / len(drawn) == pytest.approx(MARKED_PART, rel=0.1)


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
