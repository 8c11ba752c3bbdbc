"""Compares what another machine said of a model with what the engine here says: pure figures, no verdict.

Each figure is the one that validators and auditors look at: distances of nonces (nonces.py), margins (draws.py), the
distance of claimed log-probabilities, and how surprising the tokens are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.calibration.reference import ReferenceAnswer
from node.protocol.draws import Prefill, temperature_of, token_margins
from node.protocol.nonces import squared_distance

MICRO = 1_000_000
MILLI = 1_000
LOGPROB_FLOOR = -60.0
"""What is less likely adds nothing to an entropy."""


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """Of one answer."""

    tokens: int
    differing: int
    """Tokens that are not the rule's choice here."""
    margin_micro: int
    """Sum of clipped margins, in millionths."""
    distance_micro: int
    """Sum over tokens of the mean of min(1, |difference|) over the claimed likeliest tokens, in millionths."""
    surprise_z_milli: int
    """By how many thousandths of a standard deviation its surprise differs from what was to be expected."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one machine found of a reference."""

    reference_hardware: str
    hardware: str
    distances: tuple[int, ...]
    """Squared, of every nonce."""
    answers: tuple[AnswerFigures, ...]


def compare_vectors(theirs: Sequence[bytes], ours: Sequence[bytes]) -> tuple[int, ...]:
    """Return the squared distance of each nonce's two vectors."""
    return tuple(squared_distance(one, other) for one, other in zip(theirs, ours, strict=True))


def compare_answer(answer: ReferenceAnswer, prefills: Sequence[Prefill], vocabulary_size: int) -> AnswerFigures:
    """Return what a prefill here tells of another machine's answer."""
    margins = token_margins(
        len(answer.prompt_ids), answer.output_ids, prefills, answer.seed, answer.sampling, vocabulary_size
    )
    distances = [
        logprob_distance({token: micro / MICRO for token, micro in top}, prefill)
        for top, prefill in zip(answer.tops, prefills, strict=True)
    ]
    return AnswerFigures(
        tokens=len(answer.output_ids),
        differing=sum(margin > 0 for margin in margins),
        margin_micro=round(math.fsum(margins) * MICRO),
        distance_micro=round(math.fsum(distances) * MICRO),
        surprise_z_milli=round(_surprise_z(answer, prefills, vocabulary_size) * MILLI),
    )


def logprob_distance(claimed: Mapping[int, float], prefill: Prefill) -> float:
    """Return the mean of min(1, |difference|); of a token that the engine did not tell, the least it can be."""
    edge = min(prefill.logprobs.values())
    total = 0.0
    for token, value in claimed.items():
        own = prefill.logprobs.get(token)
        total += min(1.0, max(0.0, value - edge) if own is None else abs(value - own))
    return total / len(claimed)


def _surprise_z(answer: ReferenceAnswer, prefills: Sequence[Prefill], vocabulary_size: int) -> float:
    """Return the sum of (-ln p less entropy) in standard deviations; 0 where nothing is drawn or little was open."""
    if answer.sampling.temperature_milli == 0:
        return 0.0
    excess = spread = 0.0
    for token, prefill in zip(answer.output_ids, prefills, strict=True):
        scaled = _tempered(prefill, temperature_of(answer.sampling), vocabulary_size)
        known = [(math.exp(value), value) for value in scaled.values()]
        rest = max(0.0, 1.0 - math.fsum(weight for weight, _ in known))
        if rest > 0 and vocabulary_size > len(known):
            known.append((rest, math.log(rest / (vocabulary_size - len(known)))))
        entropy = -math.fsum(weight * value for weight, value in known)
        square = math.fsum(weight * value * value for weight, value in known)
        excess += -scaled[token] - entropy
        spread += max(0.0, square - entropy * entropy)
    return excess / math.sqrt(spread) if spread >= 1.0 else 0.0


def _tempered(prefill: Prefill, temperature: float, vocabulary_size: int) -> dict[int, float]:
    """Return log-probabilities at a temperature. What is not known is taken to be spread evenly."""
    logprobs = {token: max(value, LOGPROB_FLOOR) for token, value in prefill.logprobs.items()}
    if temperature == 1.0:
        return logprobs
    weights = [math.exp(value / temperature) for value in logprobs.values()]
    rest = max(0.0, 1.0 - math.fsum(math.exp(value) for value in logprobs.values()))
    others = max(0, vocabulary_size - len(logprobs))
    tail = others * math.exp(math.log(rest / others) / temperature) if rest > 0 and others else 0.0
    whole = math.log(math.fsum(weights) + tail)
    return {token: value / temperature - whole for token, value in logprobs.items()}
