"""Declarations of who takes part: what is read, what is refused, and who comes and goes."""

from collections import Counter

import pytest

from netsim.adversaries import STRATEGIES
from netsim.churn import ALWAYS, Fate, plan_churn
from netsim.population import POPULATIONS, PopulationError, parse_population, read_population
from netsim.scenario import PARAMETERS

EPOCHS = 6


def test_every_population_that_ships_can_be_run_with_200_nodes() -> None:
    for path in POPULATIONS.glob("*.toml"):
        strategies = Counter(read_population(path.stem).strategies(200))
        assert sum(strategies.values()) == 200
        assert 2 * strategies["honest"] > 200 - strategies["honest"]


def test_the_adversaries_are_all_there_and_the_cartel_stays_below_a_third() -> None:
    strategies = Counter(read_population("adversaries").strategies(200))
    assert set(STRATEGIES) - set(strategies) <= {"made-up-1000", "silent"}
    assert 2 * (strategies["cartel"] + strategies["cartel-faker"]) < 200
    assert 3 * strategies["cartel"] < strategies["cartel"] + strategies["honest"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nodes = [", "p: "),
        ("honest = 3", "nothing is known of honest"),
        ("nodes = 3", "nothing is known of such nodes"),
        ("[nodes]\nsaints = 1", "no strategy saints"),
        ("[nodes]\nlazy = -1", "whole numbers"),
        ("[nodes]\nlazy = 0.5", "whole numbers"),
        ("churning_per_mille = 1001", "whole numbers"),
        ('cartel = "a half"', "a third"),
    ],
)
def test_what_is_no_population_is_refused_with_the_reason(text: str, what: str) -> None:
    with pytest.raises(PopulationError, match=what):
        parse_population("p", text)


def test_too_few_honest_nodes_are_refused() -> None:
    with pytest.raises(PopulationError, match="1 of 9 nodes are honest"):
        parse_population("p", "[nodes]\nlazy = 8").strategies(9)


def test_a_population_that_is_nowhere_is_refused_with_those_there_are() -> None:
    with pytest.raises(PopulationError, match="adversaries, honest"):
        read_population("nobody")


def test_churn_follows_from_the_seed_and_has_every_fate() -> None:
    numbers = range(8)
    plan = plan_churn(numbers, EPOCHS, PARAMETERS, 1)
    assert plan == plan_churn(numbers, EPOCHS, PARAMETERS, 1) != plan_churn(numbers, EPOCHS, PARAMETERS, 2)
    assert Counter(attendance.fate for attendance in plan.values()) == dict.fromkeys(set(Fate) - {Fate.STAYS}, 2)


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_up_twice_at_once_and_the_first_epoch_is_left_alone(seed: int) -> None:
    for attendance in plan_churn(range(8), EPOCHS, PARAMETERS, seed).values():
        ends = [span.end for span in attendance.spans]
        firsts = [span.first for span in attendance.spans]
        for end, first in zip(ends, firsts[1:], strict=False):
            assert end is not None
            assert end < first
        assert all(end is None or end >= PARAMETERS.epoch_blocks for end in ends)
        assert attendance.fate is Fate.JOINS or firsts[0] == 0


def test_a_break_is_no_attendance() -> None:
    (attendance,) = plan_churn([3], EPOCHS, PARAMETERS, 1).values()
    assert attendance.fate is Fate.RESTARTS
    down = attendance.spans[0].end
    assert down is not None
    assert not attendance.is_up(down - 1, down + 1)
    assert attendance.is_up(0, down)
    assert ALWAYS.is_up(0, 10**9)
