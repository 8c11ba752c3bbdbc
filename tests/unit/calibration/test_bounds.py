"""A rate that is said to be at most so much is nearly always at most so much."""

import pytest

from node.calibration.bounds import at_most, rate_at_most


@pytest.mark.parametrize(
    ("seen", "trials", "doubt", "bound"),
    [(0, 1000, 0.05, 0.002991), (0, 4096, 0.01, 0.001124), (1, 100, 0.05, 0.046560), (10, 10, 0.01, 1.0)],
)
def test_the_bound_is_clopper_s_and_pearson_s(seen: int, trials: int, doubt: float, bound: float) -> None:
    assert rate_at_most(seen, trials, doubt) == pytest.approx(bound, abs=2e-6)


def test_at_the_bound_so_few_are_seen_as_seldom_as_was_asked_for() -> None:
    assert at_most(7, 500, rate_at_most(7, 500, 0.02)) == pytest.approx(0.02, rel=1e-6)


def test_more_trials_without_a_mismatch_bound_the_rate_closer() -> None:
    bounds = [rate_at_most(0, trials, 0.01) for trials in (64, 256, 1024, 4096)]
    assert bounds == sorted(bounds, reverse=True)


@pytest.mark.parametrize(("seen", "trials", "doubt"), [(1, 0, 0.1), (5, 4, 0.1), (-1, 4, 0.1), (1, 4, 0.0)])
def test_what_is_no_count_is_refused(seen: int, trials: int, doubt: float) -> None:
    with pytest.raises(ValueError, match="a count lies"):
        rate_at_most(seen, trials, doubt)
