"""How much background work goes on beside users: what takes PORTION_SECONDS, on machines of any speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.services.portions import GROWTH_MAX, PORTION_SECONDS, PROMPTS_MAX, Portion


@pytest.mark.parametrize(
    ("seconds_each", "expected"), [(1.0, 1), (0.015, 1), (0.005, 4), (0.002, 10), (0.0005, 40), (0.0001, PROMPTS_MAX)]
)
def test_it_settles_at_what_takes_the_time_of_a_portion(seconds_each: float, expected: int) -> None:
    portion = Portion()
    for _ in range(10):
        portion.took(portion.prompts, portion.prompts * seconds_each)
    assert abs(portion.prompts - expected) <= 1


@given(st.lists(st.tuples(st.integers(1, PROMPTS_MAX), st.floats(0, 1e6)), max_size=30))
def test_whatever_it_is_told_it_stays_within_bounds_and_grows_slowly(told: list[tuple[int, float]]) -> None:
    portion = Portion()
    for prompts, seconds in told:
        before = portion.prompts
        portion.took(prompts, seconds)
        assert 1 <= portion.prompts <= min(PROMPTS_MAX, before * GROWTH_MAX)


def test_one_slow_answer_makes_it_small_at_once() -> None:
    portion = Portion(PROMPTS_MAX)
    portion.took(PROMPTS_MAX, 10 * PORTION_SECONDS)
    assert portion.prompts == PROMPTS_MAX // 10
