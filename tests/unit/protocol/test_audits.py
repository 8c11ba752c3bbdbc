"""Whether an answer is the model's: cheats are caught, honest noise passes, short answers count for what they are."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import audits
from node.protocol.audits import (
    BETS,
    DISTANCE_CLIP_MICRO,
    HALF_BET,
    LIMIT_MICRO_BITS,
    MARGIN_CLIP_MICRO,
    MARGIN_FLOOR_MICRO,
    MARGIN_SPAN_MICRO,
    MILLION,
    NO_EVIDENCE,
    NO_FIGURES,
    SURPRISE_BETS,
    TOKEN_BETS,
    WHOLE_BETS,
    ClaimedLogprobs,
    accumulate_evidence,
    add_figures,
    answer_figures,
    counted_margin_micro,
    gains,
    judge_figures,
    log2_micro,
    proven_by,
    token_distance_micro,
    token_surprise,
)
from node.protocol.audits import Test as AuditTest
from node.protocol.calibration import HonestBand
from node.protocol.draws import Prefill
from node.protocol.findings import AuditFigures
from node.protocol.sampling import SamplingParameters
from node.protocol.verdicts import Verdict
from tests.unit.protocol.synthetic_answers import CANDIDATES, PROMPT_LENGTH, SEED, Answer, answer

PLAIN = SamplingParameters()
BAND = HonestBand("vllm", "", 0, 1_000, 500, 10_000, 33_000, 4_000)
MEAN_BETS = 2 * len(TOKEN_BETS) + len(WHOLE_BETS)
HONEST_NOISE = 0.03
"""Of logits between two honest machines: their log-probabilities differ by 0.02 on average."""


def figures_of(given: Answer, *, claims: bool = True, parameters: SamplingParameters = PLAIN) -> AuditFigures:
    return answer_figures(
        PROMPT_LENGTH, given.token_ids, given.prefills, SEED, parameters, CANDIDATES, given.claimed if claims else ()
    )


def reason(given: Answer, *, claims: bool = True) -> str:
    return judge_figures(figures_of(given, claims=claims), BAND)[1]


def test_an_answer_of_the_model_itself_has_no_margin_and_no_distance() -> None:
    figures = figures_of(answer(64))
    assert (figures.tokens, figures.mismatches, figures.margin_micro, figures.distance_micro) == (64, 0, 0, 0)
    assert judge_figures(figures, BAND) == (Verdict.VALID, "")


@pytest.mark.parametrize("unknown", [-1, CANDIDATES, 1 << 22])
@pytest.mark.parametrize("claims", [True, False])
def test_a_token_that_the_model_does_not_have_is_as_far_off_as_can_be_and_changes_no_other(
    unknown: int, claims: bool
) -> None:
    """No engine gives or reads one, so one such token would hide an answer from all who have the model."""
    given, place = answer(64, other_model=True), 7
    marked = replace(
        given,
        token_ids=[unknown if at == place else token for at, token in enumerate(given.token_ids)],
        claimed=[replace(said, token_id=unknown) if at == place else said for at, said in enumerate(given.claimed)],
    )
    parts = [replace(given, token_ids=[], prefills=[], claimed=[]) for _ in range(2)]
    for at, token in enumerate(given.token_ids):
        if at != place:
            part = parts[at > place]
            part.token_ids.append(token)
            part.prefills.append(given.prefills[at])
            part.claimed.append(given.claimed[at])
    before, after = parts
    others = add_figures(
        figures_of(before, claims=claims),
        answer_figures(
            PROMPT_LENGTH + place + 1, after.token_ids, after.prefills, SEED, PLAIN, CANDIDATES,
            after.claimed if claims else (),
        ),
    )  # fmt: skip
    one = AuditFigures(1, 1, MARGIN_SPAN_MICRO, int(claims), DISTANCE_CLIP_MICRO * claims, 0, 0)
    assert figures_of(marked, claims=claims) == add_figures(others, one)
    assert reason(marked, claims=claims)
    honest = answer(128)
    assert not reason(replace(honest, token_ids=[unknown, *honest.token_ids[1:]]), claims=False)


@pytest.mark.parametrize("number", range(20))
def test_honest_noise_passes_at_the_band(number: int) -> None:
    assert judge_figures(figures_of(answer(256, number, noise=HONEST_NOISE)), BAND) == (Verdict.VALID, "")


def test_honest_noise_gathers_no_evidence_over_many_answers() -> None:
    evidence = NO_EVIDENCE
    for number in range(60):
        evidence = accumulate_evidence(evidence, gains(figures_of(answer(64, number, noise=HONEST_NOISE)), BAND))
        assert proven_by(evidence, LIMIT_MICRO_BITS // 2) is None


@pytest.mark.parametrize(
    ("cheat", "claims"),
    [
        ({"noise": 0.5}, True),  # as 4-bit weights
        ({"noise": 0.5, "forged": True}, True),
        ({"other_model": True}, True),
        ({"other_model": True, "forged": True}, True),  # a small model's text that the real one scored
        ({"other_model": True}, False),
        ({"seed": SEED + 1}, True),
    ],
)
def test_each_cheat_is_caught_within_128_tokens(cheat: dict[str, object], claims: bool) -> None:
    for number in range(10):
        assert reason(answer(128, number, **cheat), claims=claims)  # type: ignore[arg-type]


def test_fp8_like_noise_is_caught_by_honest_claims_and_accumulates_without() -> None:
    assert reason(answer(256, noise=0.12)) == AuditTest.DISTANCE.value
    evidence = NO_EVIDENCE
    for number in range(30):
        forged = answer(256, number, noise=0.12, forged=True)
        evidence = accumulate_evidence(evidence, gains(figures_of(forged), BAND))
    assert proven_by(evidence) in (AuditTest.MARGIN, AuditTest.MISMATCH)


@pytest.mark.parametrize(("flatness", "test"), [(2.0, AuditTest.TOO_LIKELY), (0.5, AuditTest.TOO_UNLIKELY)])
def test_text_of_another_temperature_is_told_by_its_entropy_alone(flatness: float, test: AuditTest) -> None:
    gained = gains(figures_of(answer(256, flatness=flatness)), BAND)
    assert max(gain for gain, which in zip(gained, BETS, strict=True) if which is test) > LIMIT_MICRO_BITS


def test_one_bad_token_convicts_nobody() -> None:
    assert reason(answer(1, other_model=True)) == ""


def test_short_answers_are_not_diluted_they_add_up() -> None:
    together = NO_FIGURES
    for number in range(24):
        together = add_figures(together, figures_of(answer(3, number, other_model=True), claims=False))
    assert together.tokens == 72
    assert proven_by(gains(together, BAND)) is not None
    # A fixed denominator would have made three bad tokens of three into three of many.
    assert gains(figures_of(answer(3, 1, other_model=True)), BAND)[0] > gains(figures_of(answer(3, 1)), BAND)[0]


def test_an_honest_past_buys_no_right_to_cheat() -> None:
    cheat = gains(figures_of(answer(128, other_model=True)), BAND)
    honest = gains(figures_of(answer(256)), BAND)
    evidence = NO_EVIDENCE
    for _ in range(100):
        evidence = accumulate_evidence(evidence, honest)
    assert proven_by(accumulate_evidence(evidence, cheat)) is proven_by(accumulate_evidence(NO_EVIDENCE, cheat))


@given(st.lists(st.integers(0, 400), min_size=1, max_size=6), st.randoms())
def test_figures_add_up_in_any_order(lengths: list[int], source: random.Random) -> None:
    parts = [AuditFigures(n, n // 2, 7 * n, n, 3 * n, -n, 5 * n) for n in lengths]
    shuffled = list(parts)
    source.shuffle(shuffled)
    one, other = NO_FIGURES, NO_FIGURES
    for part, again in zip(parts, shuffled, strict=True):
        one, other = add_figures(one, part), add_figures(other, again)
    assert one == other
    assert gains(one, BAND) == gains(other, BAND)


def test_more_evidence_against_never_counts_for() -> None:
    figures = AuditFigures(100, 5, 2 * MILLION, 100, 4 * MILLION, 0, 100 * MILLION)
    worse = AuditFigures(100, 6, 3 * MILLION, 100, 5 * MILLION, 0, 100 * MILLION)
    assert all(low <= high for low, high in zip(gains(figures, BAND), gains(worse, BAND), strict=True))


def test_no_bet_has_an_edge_over_honest_tokens() -> None:
    """What makes evidence evidence: 2^gain is at most 1 on average if tokens are as the band says, for every bet."""
    for rate in (500, 10_000, 200_000):
        means = [rate * cut // MILLION for cut in (MARGIN_SPAN_MICRO, MILLION, DISTANCE_CLIP_MICRO)]
        band = HonestBand("vllm", "", 0, 0, *means, 4_000)
        hit = gains(AuditFigures(1, 1, MARGIN_SPAN_MICRO, 1, DISTANCE_CLIP_MICRO, 0, 0), band)[:MEAN_BETS]
        miss = gains(AuditFigures(1, 0, 0, 1, 0, 0, 0), band)[:MEAN_BETS]
        for won, lost in zip(hit, miss, strict=True):
            assert rate / MILLION * 2 ** (won / MILLION) + (1 - rate / MILLION) * 2 ** (lost / MILLION) <= 1.0


def test_the_half_bet_grows_by_what_its_gain_is_worth_and_not_less() -> None:
    gain, growth = HALF_BET
    assert growth == math.ceil((2 ** (gain / MILLION) - 1) * MILLION)
    for gain, growth in WHOLE_BETS:
        assert growth == (2 ** (gain // MILLION) - 1) * MILLION


def test_a_margin_counts_up_to_its_cut_and_a_mismatch_as_one() -> None:
    far = answer(64, other_model=True)
    figures = figures_of(far)
    assert 0 < figures.margin_micro <= figures.mismatches * MARGIN_SPAN_MICRO


@given(st.integers(0, MILLION))
def test_near_ties_count_nothing_and_what_is_far_off_no_more_than_its_cut(margin: int) -> None:
    counted = counted_margin_micro(margin)
    assert 0 <= counted <= MARGIN_SPAN_MICRO
    assert (counted == 0) == (margin <= MARGIN_FLOOR_MICRO)
    assert counted == margin - MARGIN_FLOOR_MICRO or margin > MARGIN_CLIP_MICRO or margin < MARGIN_FLOOR_MICRO
    assert counted <= counted_margin_micro(margin + 1)


@pytest.mark.parametrize(("per_mille", "is_proven"), [(1000, False), (1150, False), (1250, True)])
def test_who_is_a_fifth_beyond_its_band_in_all_its_answers_is_proven_by_their_sum(
    per_mille: int, is_proven: bool
) -> None:
    """By figures that nobody can forge; as int8 weights are beyond that of the widest machine (docs/soundness.md)."""
    tokens, evidence = 256, NO_EVIDENCE
    margin = tokens * BAND.margin_micro_mean_max * per_mille // 1000
    for _ in range(2000):
        evidence = accumulate_evidence(evidence, gains(AuditFigures(tokens, 0, margin, 0, 0, 0, 0), BAND))
    assert (proven_by(evidence) is AuditTest.MARGIN) is is_proven


def test_no_bet_on_surprise_has_an_edge_over_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even without the room that is left for other machines."""
    monkeypatch.setattr(audits, "SURPRISE_DRIFT_MICRO", 0)
    source = random.Random(5)
    for _ in range(50):
        logits = [source.gauss(0.0, source.uniform(0.5, 4.0)) for _ in range(20)]
        total = math.log(math.fsum(math.exp(logit) for logit in logits))
        logprobs = dict(enumerate(logit - total for logit in logits))
        prefill = Prefill(logprobs, len(logprobs))
        expected = [0.0] * (2 * len(SURPRISE_BETS))
        for token, logprob in logprobs.items():
            surprise, variance = token_surprise(token, prefill, PLAIN)
            figures = AuditFigures(1, 0, 0, 0, 0, round(surprise * MILLION), round(variance * MILLION))
            for bet, gain in enumerate(gains(figures, BAND)[MEAN_BETS:]):
                expected[bet] += math.exp(logprob) * 2 ** (gain / MILLION)
        assert max(expected) <= 1.0 + 1e-6


def test_surprise_is_nought_on_average_and_says_nothing_of_greedy_or_unknown_tokens() -> None:
    prefill = Prefill({1: math.log(0.5), 2: math.log(0.3), 3: math.log(0.2), 9: math.log(1e-9)}, 3)
    parameters = SamplingParameters(temperature_milli=700, top_k=3)
    weights = [0.5 ** (1 / 0.7), 0.3 ** (1 / 0.7), 0.2 ** (1 / 0.7)]
    mean = sum(
        weight / sum(weights) * token_surprise(token, prefill, parameters)[0]
        for token, weight in zip((1, 2, 3), weights, strict=True)
    )
    assert abs(mean) < 1e-12
    assert token_surprise(9, prefill, parameters) == (0.0, 0.0)
    assert token_surprise(2, prefill, SamplingParameters(temperature_milli=0)) == (0.0, 0.0)


@given(st.lists(st.floats(0.0, 25.0), min_size=1, max_size=121), st.sampled_from((300, 1000, 1700)))
def test_whatever_the_cut_takes_surprise_is_nought_on_average_and_within_its_bound(
    below: list[float], temperature_milli: int
) -> None:
    """Unlikely tokens are cut and likely ones are not: an honest answer of a flat model drifted so."""
    total = math.log(math.fsum(math.exp(-value) for value in below))
    prefill = Prefill({token: -value - total for token, value in enumerate(below)}, len(below))
    parameters = SamplingParameters(temperature_milli=temperature_milli)
    heats = [math.exp(logprob * 1000 / temperature_milli) for logprob in prefill.logprobs.values()]
    found = [token_surprise(token, prefill, parameters) for token in prefill.logprobs]
    mean = math.fsum(heat * surprise for heat, (surprise, _) in zip(heats, found, strict=True)) / math.fsum(heats)
    assert abs(mean) < 1e-9
    square = math.fsum(heat * surprise**2 for heat, (surprise, _) in zip(heats, found, strict=True)) / math.fsum(heats)
    assert abs(square - found[0][1]) < 1e-9
    assert all(abs(surprise) <= audits.SURPRISE_BOUND_NATS for surprise, _ in found)


@pytest.mark.parametrize("candidates", [20, 50, 121])
def test_what_the_cut_adds_on_average_leaves_the_bound_where_it_is(candidates: int) -> None:
    """Over distributions with one likely token and many that are equally unlikely, the worst that a search finds."""
    most = 0.0
    for share in range(5, 300, 5):
        unlikely = share / 1000 / (candidates - 1)
        probabilities = [1 - share / 1000] + [unlikely] * (candidates - 1)
        prefill = Prefill({token: math.log(value) for token, value in enumerate(probabilities)}, candidates)
        most = max(most, -token_surprise(1, prefill, PLAIN)[0])
    assert most < audits.SURPRISE_BOUND_NATS
    assert most > audits.SURPRISE_CUT_NATS


def test_the_prices_of_bets_on_surprise_are_bennett_s() -> None:
    clip = audits.SURPRISE_BOUND_NATS
    for theta, (gain, price) in zip((1 / 16, 1 / 8, 1 / 4, 1 / 2), SURPRISE_BETS, strict=True):
        assert gain == math.floor(theta / math.log(2) * MILLION)
        assert price == math.ceil((math.exp(clip * theta) - 1 - clip * theta) / clip**2 / math.log(2) * MILLION)


def test_the_limit_leaves_an_honest_node_one_false_verdict_in_a_million_audits() -> None:
    assert 2 * len(BETS) * 2.0 ** (-LIMIT_MICRO_BITS / MILLION) <= audits.FALSE_VERDICTS_PER_AUDIT


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_the_integer_logarithm_is_never_too_low_and_hardly_too_high(numerator: int, denominator: int) -> None:
    exact = max(0.0, math.log2(numerator / denominator)) * MILLION
    assert exact - 1e-3 <= log2_micro(numerator, denominator) <= exact + 2


def test_the_integer_logarithm_is_exact_at_powers_of_two() -> None:
    assert [log2_micro(1 << n, 1) // MILLION for n in range(20)] == list(range(20))


def test_claims_of_tokens_that_a_prefill_does_not_have_count_only_if_they_would_be_likely() -> None:
    known = Prefill({1: -0.5, 2: -2.0}, 2)
    likely = ClaimedLogprobs(1, -500_000, ((1, -500_000), (7, -100_000)))
    unlikely = ClaimedLogprobs(1, -500_000, ((1, -500_000), (7, -9_000_000)))
    assert token_distance_micro(likely, known) == DISTANCE_CLIP_MICRO  # cut
    assert token_distance_micro(unlikely, known) == 0
    assert token_distance_micro(ClaimedLogprobs(1, -530_000, ()), known) == 30_000
    # "Likely" is what the likeliest are: neither an unlikely winner nor the token itself makes it another thing.
    between = ClaimedLogprobs(1, -500_000, ((1, -500_000), (7, -2_500_000)))
    assert token_distance_micro(between, Prefill({1: -0.5, 2: -2.0, 9: -12.0}, 2, winner=9)) == 0


def test_claims_for_other_tokens_and_parameters_outside_the_rule_are_refused() -> None:
    honest = answer(4)
    wrong = [ClaimedLogprobs(entry.token_id + 1, 0, ()) for entry in honest.claimed]
    with pytest.raises(ValueError, match="other tokens"):
        figures_of(Answer(honest.token_ids, honest.prefills, wrong))
    with pytest.raises(ValueError, match="no rule"):
        figures_of(honest, parameters=SamplingParameters(frequency_penalty_milli=5))


def test_an_answer_without_tokens_is_judged_by_nobody() -> None:
    assert judge_figures(NO_FIGURES, BAND) == (Verdict.ABSTAIN, "nothing-to-judge")


@pytest.mark.parametrize(
    "broken",
    [
        (-1, 0, 0, 0, 0, 0, 0),
        (1, 2, 0, 0, 0, 0, 0),
        (1 << 29, 0, 0, 0, 0, 0, 0),
        (1, 0, 1 << 60, 0, 0, 0, 0),
        (1, 0, 0, 0, 0, -(1 << 60), 0),
    ],
)
def test_impossible_figures_are_no_record(broken: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"out of range|more tokens"):
        AuditFigures(*broken)
