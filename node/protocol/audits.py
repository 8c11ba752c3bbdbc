"""Whether an answer is the model's: three tests of one prefill, and how sure a sum of their figures makes one.

Purpose: an executor may run something cheaper than the model. Whoever has the model reads prompt and answer once and
gets, for each token, (a) its margin: by how much it falls short of the rule's choice under the answer's own seed; (b)
how far the log-probabilities that the executor claimed lie from the model's; (c) its surprise: entropy plus
log-probability, 0 on average if tokens are drawn at the declared temperature. A small model's text that the real one
scored passes (b) and fails (a) and (c); mild quantisation with honest log-probabilities passes (a) for long and fails
(b).

Detail: the figures are sums over tokens, so they add up over answers, and a short answer counts for what it is: nothing
is divided by a length that was not there. Evidence against an executor is the logarithm of a bet at fair odds: whoever
bets on tokens being worse than honest ones starts with 1 and holds, after any number of honest tokens, at most 1 on
average. To reach 2^bits by luck has a chance of 2^-bits, at whatever moment one looks: that is what makes it safe to
look after every answer and to go on adding for epochs. So what differs from honest machines by a little more than these
do from each other, such as int8 weights, is proven in weeks. For sums of numbers between 0 and 1 with mean at most m, a
bet of strength k gains k bits for each whole unit and pays log2(1 + m (2^k - 1)) per token. For surprise it is
Bennett's inequality, with its exact variance. Several strengths are kept side by side, for gross cheats and for mild
ones. All of this is in integers, millionths of a bit: nodes must agree.

Goals: an honest node is accused falsely at most once in a million audits. Non-goals: to tell int8 weights from other
hardware in one answer: accumulated evidence over epochs decides, from all answers and not from a part of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import repeat
from math import exp, fsum, log
from operator import add, mul, neg, sub, truediv

from node.protocol.calibration import HonestBand
from node.protocol.draws import Prefill, survivor_count, temperature_of, token_margins
from node.protocol.findings import AuditFigures
from node.protocol.sampling import SamplingParameters
from node.protocol.verdicts import Verdict

MILLION = 1_000_000
MISMATCH_MICRO_MIN = 1_000
"""A token that falls short by less is a tie: engines compute in single precision, within 10^-5."""
MARGIN_FLOOR_MICRO = 25_000
MARGIN_CLIP_MICRO = 75_000
"""Of a token's margin counts what lies between these, in millionths of a logit. Measured (docs/soundness.md): where
honest machines differ they nearly tie, which says nothing; int8 weights differ half as often again, but four times as
often by so much. Beyond, single tokens that are far off would decide; another model is proven as fast."""
MARGIN_SPAN_MICRO = MARGIN_CLIP_MICRO - MARGIN_FLOOR_MICRO
"""The most that one token counts."""
CLAIMED_TOP = 5
"""Claimed alternatives that are looked at for each token, the likeliest."""
DISTANCE_CLIP_MICRO = 50_000
"""The distance of a token is cut here. Measured (docs/soundness.md): evidence against fp8 grows three times as fast as
with a cut at 0.2, because one token that is far off says less than many that are a little off. About three times the
mean of the widest honest machines; a band above the cut lets everything pass."""
SURPRISE_CUT_NATS = 4.8
"""Surprise is cut here below. Above there is nothing to cut: among up to 121 candidates entropy is below 4.8."""
SURPRISE_BOUND_NATS = 5.0
"""No surprise is farther from 0: what the cut takes from the unlikely tokens is 0.17 on average at most, over all
distributions on 121 candidates."""
SURPRISE_DRIFT_MICRO = 10_000
"""Nats that surprise may be off per token for honest reasons, which would add up over a hundred thousand tokens:
another machine shifts probabilities a little (docs/soundness.md)."""
Z_MILLI_USUAL = 4_000
"""Of a calibration whose surprise is as theory has it; a wider one counts as so much more variance."""
BAND_MICRO_MIN = 500
"""A calibration on one machine measures nothing at all between runs; the least mean that is believed."""

STAND_IN = 0
"""Is read in place of a token id that is none of the model's; every vocabulary has it."""

BET = tuple[int, int]
"""(gain per unit, in millionths of a bit; what the stake grows by where a whole unit comes, in millionths)."""
WHOLE_BETS: tuple[BET, ...] = tuple((bits * 1_000_000, (2**bits - 1) * 1_000_000) for bits in (1, 2, 4, 6, 8, 10))
"""Of 1 to 10 bits per whole unit; a bet is best where the odds are 2^bits times the honest ones."""
HALF_BET: BET = (500_000, 414_214)
"""Of half a bit, for what an executor cannot forge: it proves who is a fifth beyond its band. Of claimed
log-probabilities, whose band is a large part of the way to their cut, a bet of one bit proves as much."""
TOKEN_BETS: tuple[BET, ...] = (HALF_BET, *WHOLE_BETS)
SURPRISE_BETS = ((90_168, 3_136), (180_336, 14_038), (360_673, 71_578), (721_347, 501_048))
"""(gain per nat, price per nat² of variance), in millionths of a bit, at theta of 1/16, 1/8, 1/4 and 1/2: theta / ln 2
and (e^(5 theta) - 1 - 5 theta) / 25 / ln 2, the first rounded down and the second up."""

FALSE_VERDICTS_PER_AUDIT = 1e-6
LIMIT_MICRO_BITS = 26 * MILLION
"""Evidence that proves. 28 bets are watched, each in one answer and in the sum of all: 56 / 10^-6 is below 2^26."""
CONFIRMED_MICRO_BITS = 20 * MILLION
"""Evidence that confirms an accusation, of answers that the whole group judged again. Less than the limit, for it comes
on top of that; not much less, for a cartel may accuse an honest node when it likes, after its unluckiest epoch."""
OVERTURNED_MICRO_BITS = 2 * MILLION
"""Evidence below which an accusation is overturned, if what was judged again speaks for the executor (PULLED_DOWN). In
between, the group goes on judging all of its answers."""
PULLED_DOWN_MICRO_BITS = 2 * MILLION
"""So far the bet that accuses most has to fall, by answers judged again, to overturn; and no bet falls farther. It is
its own measure of how much is enough: a few tokens that gain nothing are no acquittal."""
EVIDENCE_MICRO_BITS_MAX = 1 << 40
"""More adds nothing."""


class Test(Enum):
    """What a bet looks at; the values are the reasons of verdicts."""

    __test__ = False  # not a test case of pytest's

    MARGIN = "margin"
    MISMATCH = "tokens"
    DISTANCE = "logprobs"
    TOO_LIKELY = "too-likely"
    TOO_UNLIKELY = "too-unlikely"


BETS: tuple[Test, ...] = (
    *(test for test in (Test.MARGIN, Test.MISMATCH) for _ in TOKEN_BETS),
    *(Test.DISTANCE for _ in WHOLE_BETS),
    *(test for test in (Test.TOO_LIKELY, Test.TOO_UNLIKELY) for _ in SURPRISE_BETS),
)
"""The test of each bet, in the order in which evidence is kept."""

Gains = tuple[int, ...]
"""Of each bet, in millionths of a bit; or a sum of these."""
NO_FIGURES = AuditFigures(0, 0, 0, 0, 0, 0, 0)
NO_EVIDENCE: Gains = ()


@dataclass(frozen=True, slots=True)
class ClaimedLogprobs:
    """What an executor said of one token: natural-log probabilities at temperature 1, in millionths."""

    token_id: int
    logprob_micro: int
    alternatives: tuple[tuple[int, int], ...]
    """(token id, log-probability) of the likeliest tokens, likeliest first."""


def answer_figures(
    prompt_length: int,
    token_ids: Sequence[int],
    prefills: Sequence[Prefill],
    seed: int,
    parameters: SamplingParameters,
    vocabulary_size: int,
    claimed: Sequence[ClaimedLogprobs] = (),
) -> AuditFigures:
    """Return the figures of an answer, or of its beginning, from a prefill by the auditor's own engine.

    `claimed` has one entry for each token or is empty. Tokens that are none of the model's are as far off as can be;
    the prefill is of `known_tokens`. Raises ValueError if parameters are outside the rule, a claimed token is missing
    in its prefill, or `claimed` is about other tokens.
    """
    known = known_tokens(token_ids, vocabulary_size)
    are_known = [token == read for token, read in zip(token_ids, known, strict=True)]
    margins = token_margins(prompt_length, known, prefills, seed, parameters, vocabulary_size)
    margins_micro = [
        _micro(margin) if is_known else MARGIN_CLIP_MICRO for margin, is_known in zip(margins, are_known, strict=True)
    ]
    if claimed and [entry.token_id for entry in claimed] != list(token_ids):
        raise ValueError("log-probabilities are claimed for other tokens")
    distances = [
        token_distance_micro(entry, prefill) if is_known else DISTANCE_CLIP_MICRO
        for entry, prefill, is_known in zip(claimed, prefills, are_known, strict=False)
    ]
    surprises = [
        token_surprise(token, prefill, parameters) if is_known else (0.0, 0.0)
        for token, prefill, is_known in zip(token_ids, prefills, are_known, strict=True)
    ]
    return AuditFigures(
        tokens=len(margins),
        mismatches=sum(margin >= MISMATCH_MICRO_MIN for margin in margins_micro),
        margin_micro=sum(map(counted_margin_micro, margins_micro)),
        claimed=len(distances),
        distance_micro=sum(distances),
        surprise_micro=sum(_micro(surprise) for surprise, _ in surprises),
        variance_micro=sum(_micro(variance) for _, variance in surprises),
    )


def known_tokens(token_ids: Sequence[int], vocabulary_size: int) -> tuple[int, ...]:
    """Return token ids as an engine can read them: STAND_IN in place of those that are none of the model's."""
    return tuple(token if 0 <= token < vocabulary_size else STAND_IN for token in token_ids)


def counted_margin_micro(margin_micro: int) -> int:
    """Return what counts of a token's margin: nothing of a near tie, MARGIN_SPAN_MICRO at most."""
    return max(0, min(MARGIN_CLIP_MICRO, margin_micro) - MARGIN_FLOOR_MICRO)


def token_distance_micro(claimed: ClaimedLogprobs, prefill: Prefill) -> int:
    """Return the mean of min(1, |difference|) over the claimed alternatives that the prefill tells of as well, cut at
    DISTANCE_CLIP_MICRO, in millionths.

    Of the token itself where no alternatives were claimed. An alternative that the prefill does not have among its
    likeliest counts as far off if it is claimed to be likelier than the last of these.
    """
    entries = claimed.alternatives[:CLAIMED_TOP] or ((claimed.token_id, claimed.logprob_micro),)
    total = 0.0
    for token, logprob_micro in entries:
        known = prefill.logprobs.get(token)
        said = logprob_micro / MILLION
        difference = abs(said - known) if known is not None else max(0.0, said - _last_of_likeliest(prefill))
        total += min(1.0, difference)
    return min(DISTANCE_CLIP_MICRO, _micro(total / len(entries)))


def _last_of_likeliest(prefill: Prefill) -> float:
    return sorted(prefill.logprobs.values(), reverse=True)[prefill.top_count - 1]


def token_surprise(token: int, prefill: Prefill, parameters: SamplingParameters) -> tuple[float, float]:
    """Return (entropy plus log-probability of `token`, its variance) of a draw at the declared temperature, in nats.

    Of the draw among the known likeliest tokens that may be drawn, given that it is one of them: so it is exact
    whatever the rest of the vocabulary weighs. Cut at -SURPRISE_CUT_NATS, and less what the cut adds on average: an
    honest draw gives 0 on average to the last digit. (0, 0), which says nothing, for any other token and at temperature
    0.
    """
    if parameters.temperature_milli == 0:
        return 0.0, 0.0
    listed = sorted(zip(map(neg, prefill.logprobs.values()), prefill.logprobs, strict=True))
    improbable, names = zip(*listed[: prefill.top_count], strict=True)
    scaled = list(map(truediv, map(neg, improbable), repeat(temperature_of(parameters))))
    if parameters.limits_tokens:
        del scaled[survivor_count(scaled, parameters) :]
    if token not in names or (place := names.index(token)) >= len(scaled):
        return 0.0, 0.0
    beyond = list(map(sub, scaled, repeat(scaled[0])))
    weights = list(map(exp, beyond))
    total = fsum(weights)
    logs = list(map(sub, beyond, repeat(log(total))))
    shares = list(map(truediv, weights, repeat(total)))
    entropy = -fsum(map(mul, shares, logs))
    cut = list(map(add, logs, repeat(entropy)))
    if cut[-1] < -SURPRISE_CUT_NATS or cut[0] > SURPRISE_CUT_NATS:
        low, high = -SURPRISE_CUT_NATS, SURPRISE_CUT_NATS
        cut = [low if value < low else high if value > high else value for value in cut]
    mean = fsum(map(mul, shares, cut))
    off = list(map(sub, cut, repeat(mean)))
    variance = fsum(map(mul, shares, map(mul, off, off)))
    surprise = cut[place] - mean
    return max(-SURPRISE_BOUND_NATS, min(SURPRISE_BOUND_NATS, surprise)), variance


def add_figures(one: AuditFigures, other: AuditFigures) -> AuditFigures:
    """Return the figures of both together."""
    return AuditFigures(
        one.tokens + other.tokens,
        one.mismatches + other.mismatches,
        one.margin_micro + other.margin_micro,
        one.claimed + other.claimed,
        one.distance_micro + other.distance_micro,
        one.surprise_micro + other.surprise_micro,
        one.variance_micro + other.variance_micro,
    )


def gains(figures: AuditFigures, band: HonestBand) -> tuple[int, ...]:
    """Return what each bet gains from these figures, in millionths of a bit; most lose where tokens are honest."""
    return (
        *_mean_gains(
            TOKEN_BETS,
            figures.margin_micro * MILLION // MARGIN_SPAN_MICRO,
            figures.tokens,
            band.margin_micro_mean_max * MILLION // MARGIN_SPAN_MICRO,
        ),
        *_mean_gains(TOKEN_BETS, figures.mismatches * MILLION, figures.tokens, band.token_mismatch_per_million),
        *_mean_gains(
            WHOLE_BETS,
            figures.distance_micro * MILLION // DISTANCE_CLIP_MICRO,
            figures.claimed,
            band.distance_micro_mean_max * MILLION // DISTANCE_CLIP_MICRO,
        ),
        *_surprise_gains(figures.surprise_micro, figures, band.entropy_z_milli_max),
        *_surprise_gains(-figures.surprise_micro, figures, band.entropy_z_milli_max),
    )


def total_of(gained: Iterable[Gains]) -> Gains:
    """Return what each bet gains in all of one or more answers, whichever band each is held against."""
    return tuple(map(sum, zip(*gained, strict=True)))


def accumulate_evidence(evidence: tuple[int, ...], gained: tuple[int, ...]) -> tuple[int, ...]:
    """Return the evidence after more was gained: never below 0, as a bet that has lost all is begun anew.

    So an honest past buys no right to cheat, and each audit begins at most one new run of luck.
    """
    before = evidence or (0,) * len(BETS)
    after = (max(0, min(EVIDENCE_MICRO_BITS_MAX, old + new)) for old, new in zip(before, gained, strict=True))
    kept = tuple(after)
    return kept if any(kept) else NO_EVIDENCE


def accumulate_confirmed(confirmed: tuple[int, ...], gained: tuple[int, ...]) -> tuple[int, ...]:
    """Return what answers judged again come to after more was gained: it falls below 0, by PULLED_DOWN_MICRO_BITS at
    most, so that what speaks for an executor counts, and is soon used up if it goes on cheating.
    """
    before = confirmed or (0,) * len(BETS)
    least, most = -PULLED_DOWN_MICRO_BITS, EVIDENCE_MICRO_BITS_MAX
    kept = tuple(max(least, min(most, old + new)) for old, new in zip(before, gained, strict=True))
    return kept if any(kept) else NO_EVIDENCE


def is_overturned(evidence: tuple[int, ...], confirmed: tuple[int, ...]) -> bool:
    """Whether answers judged again overturn an accusation by `evidence`: they prove next to nothing, and pull down the
    bet that accuses most. That one knows best what such a cheat looks like."""
    if proven_by(confirmed, OVERTURNED_MICRO_BITS) is not None:
        return False
    if proven_by(evidence) is None:
        return True
    return bool(confirmed) and confirmed[evidence.index(max(evidence))] <= -PULLED_DOWN_MICRO_BITS


def without_unsaid(evidence: Gains, confirmed: Gains, gained: Gains) -> Gains:
    """Return evidence without the bets on log-probabilities, if answers judged again tell of none: these `gained`
    nothing there, and what is `confirmed`, with answers of before, does not accuse.

    Else a lie about an answer that claims nothing accuses for as long as nobody asks for any. Who told wrong ones is
    accused again as soon as somebody does.
    """
    told = [(test, new or max(0, kept)) for test, new, kept in zip(BETS, gained, confirmed, strict=False)]
    if any(bits for test, bits in told if test is Test.DISTANCE):
        return evidence
    return tuple(0 if test is Test.DISTANCE else bits for test, bits in zip(BETS, evidence, strict=False))


def proven_by(evidence: tuple[int, ...], limit_micro_bits: int = LIMIT_MICRO_BITS) -> Test | None:
    """Return the test whose evidence is strongest, if that is enough."""
    if not evidence or max(evidence) < limit_micro_bits:
        return None
    return BETS[evidence.index(max(evidence))]


def judge_figures(figures: AuditFigures, band: HonestBand) -> tuple[Verdict, str]:
    """Return the verdict on one answer by itself, and its reason: VALID says only that nothing is proven yet."""
    if figures.tokens == 0 and figures.claimed == 0:
        return Verdict.ABSTAIN, "nothing-to-judge"
    proof = proven_by(gains(figures, band))
    return (Verdict.VALID, "") if proof is None else (Verdict.INVALID, proof.value)


@lru_cache(maxsize=1024)  # one band asks for the same few numbers at every answer
def log2_micro(numerator: int, denominator: int) -> int:
    """Return log2(numerator / denominator) in millionths, rounded up, by integers alone; at least 0."""
    if numerator <= denominator:
        return 0
    whole = numerator.bit_length() - denominator.bit_length()
    if denominator << whole > numerator:
        whole -= 1
    bits = 64
    mantissa = -(-(numerator << bits) // (denominator << whole))  # in [2^64, 2^65], rounded up
    fraction = 0
    for _ in range(40):
        mantissa = -(-(mantissa * mantissa) >> bits)
        fraction <<= 1
        if mantissa >> (bits + 1):
            mantissa = -(-mantissa >> 1)
            fraction |= 1
    return whole * MILLION + -(-(fraction + 1) * MILLION >> 40)


def _mean_gains(bets: tuple[BET, ...], total_micro: int, count: int, mean_micro: int) -> tuple[int, ...]:
    mean = min(MILLION, max(BAND_MICRO_MIN, mean_micro))
    return tuple(
        gain * total_micro // MILLION - count * log2_micro(MILLION**2 + mean * growth, MILLION**2)
        for gain, growth in bets
    )


def _surprise_gains(surprise_micro: int, figures: AuditFigures, z_milli_max: int) -> tuple[int, ...]:
    """`surprise_micro` is positive in the direction that is bet on."""
    z_milli = max(Z_MILLI_USUAL, z_milli_max)
    variance_micro = figures.variance_micro * z_milli**2 // Z_MILLI_USUAL**2
    beyond = surprise_micro - figures.tokens * SURPRISE_DRIFT_MICRO
    return tuple((gain * beyond - price * variance_micro) // MILLION for gain, price in SURPRISE_BETS)


def _micro(value: float) -> int:
    return round(value * MILLION)
