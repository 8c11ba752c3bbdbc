"""Draws by the rule have the model's distribution; margins never accuse the rule's choice and find what is not it."""

import math
import random
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.protocol.draws import MARGIN_MAX, Drawn, Prefill, draw, survivors, token_margins
from node.protocol.noise import noise
from node.protocol.sampling import SamplingParameters
from tests.statistics import chi_square, chi_square_limit

SIZE = 60
LOGITS = st.lists(st.integers(-640, 640).map(lambda number: number / 64), min_size=SIZE, max_size=SIZE)
SEEDS = st.integers(0, 2**63 - 1)
PARAMETERS = st.builds(
    SamplingParameters,
    temperature_milli=st.integers(0, 2000),
    top_p_milli=st.integers(1, 1000),
    top_k=st.integers(0, SIZE + 5),
    min_p_milli=st.integers(0, 1000),
)


def logprobs(logits: list[float]) -> dict[int, float]:
    top = max(logits)
    total = top + math.log(math.fsum(math.exp(logit - top) for logit in logits))
    return {token: logit - total for token, logit in enumerate(logits)}


def prefill(logits: list[float], claimed: int, count: int = SIZE) -> Prefill:
    known = logprobs(logits)
    likeliest = sorted(known, key=lambda token: (-known[token], token))[:count]
    return Prefill({token: known[token] for token in {*likeliest, claimed}}, count)


def margin(logits: list[float], claimed: int, seed: int, parameters: SamplingParameters, count: int = SIZE) -> float:
    (found,) = token_margins(10, [claimed], [prefill(logits, claimed, count)], seed, parameters, SIZE)
    return found


@given(LOGITS, SEEDS, PARAMETERS, st.integers(1, SIZE))
@example([0.0] * SIZE, 5, SamplingParameters(top_k=3, top_p_milli=500), 10)
def test_the_rule_s_choice_is_never_accused(
    logits: list[float], seed: int, parameters: SamplingParameters, count: int
) -> None:
    chosen = draw(logits, seed, 9, parameters)
    assert margin(logits, chosen, seed, parameters, count) < 1e-6


@given(LOGITS, SEEDS, PARAMETERS, st.integers(1, SIZE), st.integers(0, SIZE - 1))
@example([0.0] * SIZE, 5, SamplingParameters(top_k=30), 10, 3)
def test_knowing_fewer_candidates_accuses_less(
    logits: list[float], seed: int, parameters: SamplingParameters, count: int, claimed: int
) -> None:
    with_all = margin(logits, claimed, seed, parameters)
    assert margin(logits, claimed, seed, parameters, count) <= with_all + 1e-6
    assert 0 <= with_all <= MARGIN_MAX


def margin_with_winner(
    logits: list[float], claimed: int, seed: int, parameters: SamplingParameters, count: int
) -> float:
    """As an engine tells that knows winners: whatever the parameters, for it must never accuse too much."""
    winner = draw(logits, seed, 9, parameters)
    told = prefill(logits, claimed, count)
    told = Prefill({**told.logprobs, winner: logprobs(logits)[winner]}, count, winner)
    (found,) = token_margins(10, [claimed], [told], seed, parameters, SIZE)
    return found


@given(LOGITS, SEEDS, PARAMETERS, st.integers(1, SIZE), st.integers(0, SIZE - 1))
@example([0.0] * SIZE, 5, SamplingParameters(top_k=30), 10, 3)
def test_a_winner_that_is_told_accuses_no_more_than_all_logits_and_no_less_than_none(
    logits: list[float], seed: int, parameters: SamplingParameters, count: int, claimed: int
) -> None:
    with_all, without = (margin(logits, claimed, seed, parameters, known) for known in (SIZE, count))
    with_winner = margin_with_winner(logits, claimed, seed, parameters, count)
    assert without <= with_winner <= with_all + 1e-6


@given(LOGITS, SEEDS, st.integers(1, 2000), st.integers(1, SIZE), st.integers(0, SIZE - 1))
def test_where_nothing_is_cut_the_winner_tells_as_much_as_all_logits(
    logits: list[float], seed: int, temperature: int, count: int, claimed: int
) -> None:
    parameters = SamplingParameters(temperature_milli=temperature)
    assert Drawn(seed, parameters).has_unlikely_winners
    with_winner = margin_with_winner(logits, claimed, seed, parameters, count)
    assert with_winner == pytest.approx(margin(logits, claimed, seed, parameters), abs=1e-6)


@given(LOGITS, SEEDS, PARAMETERS, st.integers(1, SIZE), st.integers(0, SIZE - 1))
def test_winners_that_are_not_asked_for_would_not_count(
    logits: list[float], seed: int, parameters: SamplingParameters, count: int, claimed: int
) -> None:
    if not Drawn(seed, parameters).has_unlikely_winners:
        with_winner = margin_with_winner(logits, claimed, seed, parameters, count)
        assert with_winner == margin(logits, claimed, seed, parameters, count)


@given(LOGITS, SEEDS, st.integers(0, 2000), st.integers(0, SIZE - 1))
def test_a_token_that_is_not_the_rule_s_choice_has_its_shortfall_as_margin(
    logits: list[float], seed: int, temperature: int, claimed: int
) -> None:
    parameters = SamplingParameters(temperature_milli=temperature)
    found = margin(logits, claimed, seed, parameters)
    chosen = draw(logits, seed, 9, parameters)
    if logits[claimed] == logits[chosen] or claimed == chosen:
        return
    raised = list(logits)
    raised[claimed] += min(found, MARGIN_MAX) + 1e-6
    if found < MARGIN_MAX:
        assert draw(raised, seed, 9, parameters) == claimed
        raised[claimed] -= 2e-6
        assert found < 1e-6 or draw(raised, seed, 9, parameters) != claimed


@given(LOGITS, SEEDS, st.integers(1, 2000), st.integers(0, SIZE - 1), st.sampled_from((0.01, 1, 100)))
@example([640.0, *([-640.0] * (SIZE - 1))], 5, 10, 3, 1)
def test_no_rival_is_passed_over(
    logits: list[float], seed: int, temperature_milli: int, claimed: int, spread: float
) -> None:
    """Most are left out by a bound, before their noise is computed: the margin is that of all to the last digit."""
    known = logprobs([logit * spread for logit in logits])
    temperature = max(temperature_milli, 10) / 1000
    values = {token: logprob / temperature for token, logprob in known.items()}
    score = values[claimed] + noise(seed, 9, claimed)
    best = max([0.0, *(value + noise(seed, 9, token) - score for token, value in values.items() if token != claimed)])
    parameters = SamplingParameters(temperature_milli=temperature_milli)
    (found,) = token_margins(10, [claimed], [Prefill(known, SIZE)], seed, parameters, SIZE)
    assert found == min(MARGIN_MAX, best * temperature)


@given(LOGITS, SEEDS, PARAMETERS, st.integers(-20, 20))
@example([2.5, 1.735, *([-3.0] * (SIZE - 2))], 0, SamplingParameters(top_p_milli=900, min_p_milli=469), -20)
def test_small_differences_of_logits_give_small_margins(
    logits: list[float], seed: int, parameters: SamplingParameters, step: int
) -> None:
    """An honest machine of another kind: its logits differ by up to 0.01, here by as much in random directions."""
    source = random.Random(step)
    theirs = [logit + 0.01 * source.choice((-1, 1)) for logit in logits]
    chosen = draw(theirs, seed, 9, parameters)
    assert margin(logits, chosen, seed, parameters) <= 0.05
    assert all(margin_with_winner(logits, chosen, seed, parameters, count) <= 0.05 for count in (1, 5, 30))


@given(LOGITS, PARAMETERS)
def test_survivors_are_the_likeliest_and_never_none(logits: list[float], parameters: SamplingParameters) -> None:
    kept = survivors(logits, parameters)
    assert kept
    assert not parameters.top_k or len(kept) <= parameters.top_k
    left = sorted(set(range(SIZE)) - set(kept), key=lambda token: (-logits[token], token))
    if left:
        assert (-logits[kept[-1]], kept[-1]) < (-logits[left[0]], left[0])


@pytest.mark.parametrize("parameters", [SamplingParameters(), SamplingParameters(temperature_milli=600)])
@pytest.mark.parametrize("vary", ["seed", "position"])
def test_draws_have_the_model_s_distribution(parameters: SamplingParameters, vary: str) -> None:
    source = random.Random(7)
    logits = [source.gauss(0, 1.5) for _ in range(40)]
    draws = 6000
    if vary == "seed":
        counts = Counter(draw(logits, source.getrandbits(63), 5, parameters) for _ in range(draws))
    else:
        counts = Counter(draw(logits, 99, position, parameters) for position in range(draws))
    statistic, freedom = chi_square(counts, logprobs(logits), parameters.temperature_milli / 1000, draws)
    assert freedom > 10
    assert statistic < chi_square_limit(freedom)


def test_the_statistic_finds_a_distribution_that_is_slightly_off() -> None:
    """So that the test above can fail: temperature 0.8 instead of 1."""
    source = random.Random(7)
    logits = [source.gauss(0, 1.5) for _ in range(40)]
    cold = SamplingParameters(temperature_milli=800)
    counts = Counter(draw(logits, source.getrandbits(63), 5, cold) for _ in range(6000))
    statistic, freedom = chi_square(counts, logprobs(logits), 1.0, 6000)
    assert statistic > chi_square_limit(freedom)


def test_margins_want_what_they_need() -> None:
    known = Prefill({1: -0.5, 2: -1.0}, 2)
    with pytest.raises(ValueError, match="missing"):
        token_margins(10, [3], [known], 1, SamplingParameters(), SIZE)
    with pytest.raises(ValueError, match="missing"):
        token_margins(10, [1], [Prefill({1: -0.5}, 2)], 1, SamplingParameters(), SIZE)
    with pytest.raises(ValueError, match="no rule"):
        token_margins(10, [1], [known], 1, SamplingParameters(presence_penalty_milli=1), SIZE)
    with pytest.raises(ValueError, match="zip"):
        token_margins(10, [1, 2], [known], 1, SamplingParameters(), SIZE)
