"""How much background work goes on beside users: what adds PORTION_SECONDS, on machines of any speed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.services.portions import PORTION_SECONDS, PROMPTS_MAX, PROMPTS_MIN, Portion
from node.services.reading_ahead import QUESTION_PROMPTS

LATENCIES = [0.0, 0.005, 0.02, 0.05, 0.3]
"""What an answer takes whatever was asked."""


def settled(latency: float, each: float, noise: float = 0.0, portions: int = 400) -> list[int]:
    """Whole portions of an engine that takes so long, one after the other."""
    source, portion, sizes = random.Random(f"{latency} {each} {noise}"), Portion(), []
    for _ in range(portions):
        asked = portion.next_prompts
        portion.took(asked, latency + each * asked + source.uniform(0, noise))
        sizes.append(portion.prompts)
    return sizes


@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize(
    ("each", "expected"),
    [(1.0, PROMPTS_MIN), (0.005, PROMPTS_MIN), (0.002, 10), (0.0015, 13), (0.0005, PROMPTS_MAX), (0.0001, PROMPTS_MAX)],
)
def test_it_settles_at_what_adds_the_time_of_a_portion_whatever_every_answer_takes(
    latency: float, each: float, expected: int
) -> None:
    assert abs(settled(latency, each)[-1] - expected) <= 1


@pytest.mark.parametrize("latency", LATENCIES)
def test_steps_of_users_of_different_lengths_do_not_make_it_small(latency: float) -> None:
    sizes = settled(latency, 0.0015, noise=0.02)[100:]
    assert 10 <= sum(sizes) / len(sizes) <= PROMPTS_MAX  # thirteen on average where nothing disturbs it


def test_one_slow_answer_changes_little_and_a_slow_engine_much() -> None:
    portion = Portion()
    for _ in range(100):
        portion.took(portion.next_prompts, 0.01 + 0.0005 * portion.next_prompts)
    before = portion.prompts
    portion.took(portion.next_prompts, 0.01 + 0.0005 * portion.next_prompts)
    portion.took(portion.next_prompts, 5.0)  # somebody's long prompt was in the same step
    assert portion.prompts >= before * 0.6
    for _ in range(100):
        portion.took(portion.next_prompts, 0.01 + 0.01 * portion.next_prompts)
    assert portion.prompts == PROMPTS_MIN


@given(st.lists(st.tuples(st.integers(1, PROMPTS_MAX), st.floats(0, 1e6)), max_size=60))
def test_whatever_it_is_told_it_stays_within_bounds(told: list[tuple[int, float]]) -> None:
    portion = Portion()
    for prompts, seconds in told:
        portion.took(prompts, seconds)
        assert PROMPTS_MIN <= portion.prompts <= PROMPTS_MAX
        assert PROMPTS_MIN // 2 <= portion.next_prompts <= portion.prompts


def test_all_of_it_is_about_the_time_of_one_token() -> None:
    assert PROMPTS_MIN * 0.0025 <= PORTION_SECONDS <= 0.05


def asked(portion: Portion, each: float, questions: int) -> None:
    """Have questions answered as BrokeredEngine asks them: a portion is never more than what is left of one."""
    for _ in range(questions):
        left = QUESTION_PROMPTS
        while left:
            prompts = min(left, portion.next_prompts)
            portion.took(prompts, 0.01 + each * prompts)
            left -= prompts


def test_it_goes_on_learning_from_questions_as_long_as_they_are() -> None:
    portion = Portion()
    asked(portion, 0.0003, 30)
    assert portion.prompts == PROMPTS_MAX
    asked(portion, 0.02, 100)
    assert portion.prompts == PROMPTS_MIN
