"""The rule by which tokens are drawn, and how far a token that somebody claims falls short of it.

Purpose: `draw` is the reference for engines; it wants all logits and is slow. `token_margins` needs only what a prefill
tells, log-probabilities of the likeliest tokens and of the claimed ones: whoever has the model checks an answer of any
length in one pass, without generating anything.

Detail: the logits are divided by the temperature; tokens less likely than min_p times the likeliest fall away; of the
rest the top_k likeliest stay; of these the shortest sequence, likeliest first, whose probabilities sum to top_p. Equal
logits: the lower id counts as likelier. To what is left the noise is added; the largest sum wins. At temperature 0 the
largest logit wins and nothing else counts. The position of a draw is the index of the token that was read last.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import neg

from node.protocol.noise import bits_at, bits_below, gumbel, noise, noise_at, place_state
from node.protocol.sampling import PER_MILLE, SamplingParameters

TEMPERATURE_MILLI_LEAST = 10
"""Lower ones above 0 count as this."""
MARGIN_MAX = 1.0
"""Margins are cut here: one impossible token must not hide how the others are."""
MASS_TOLERANCE = 0.05
"""By how much honest machines may disagree on a sum of probabilities at the edge of top_p. Log-probabilities of other
instruction sets differ by up to 0.033 on average; a token in between is neither counted for nor against."""
EDGE_TOLERANCE = 0.05
"""By how much they may disagree, in logits, on what min_p still keeps. With few tokens left, one more or fewer makes a
large part of what top_p takes its share of."""

SCORE_LEAST = -600.0
"""Of scores below, what noise they may have is not reckoned with, for it would leave the range of numbers."""


def draw(logits: Sequence[float], seed: int, position: int, parameters: SamplingParameters) -> int:
    """Return the token that the rule gives."""
    if parameters.temperature_milli == 0:
        return max(range(len(logits)), key=lambda token: (logits[token], -token))
    temperature = temperature_of(parameters)
    scaled = [logit / temperature for logit in logits]
    left = survivors(scaled, parameters)
    return max(left, key=lambda token: (scaled[token] + noise(seed, position, token), -token))


def temperature_of(parameters: SamplingParameters) -> float:
    """Return the temperature of a draw that is not greedy. vLLM knows none lower than TEMPERATURE_MILLI_LEAST."""
    return max(parameters.temperature_milli, TEMPERATURE_MILLI_LEAST) / PER_MILLE


def survivors(scaled: Sequence[float], parameters: SamplingParameters) -> list[int]:
    """Return the tokens that may be drawn, likeliest first. `scaled` are logits divided by the temperature."""
    order = sorted(range(len(scaled)), key=lambda token: (-scaled[token], token))
    return order[: survivor_count([scaled[token] for token in order], parameters)]


def survivor_count(ranked: Sequence[float], parameters: SamplingParameters) -> int:
    """Return how many of the tokens may be drawn. `ranked` are logits divided by the temperature, likeliest first."""
    kept = len(ranked)
    if parameters.min_p_milli:
        least = ranked[0] + math.log(parameters.min_p_milli / PER_MILLE)
        kept = bisect_right(ranked, -least, key=neg)
    if parameters.top_k:
        kept = min(kept, parameters.top_k)
    if parameters.top_p_milli < PER_MILLE:
        weights = [math.exp(value - ranked[0]) for value in ranked[:kept]]
        wanted, mass = math.fsum(weights) * parameters.top_p_milli / PER_MILLE, 0.0
        for count, weight in enumerate(weights, 1):
            mass += weight
            if mass >= wanted:
                return count
    return kept


@dataclass(frozen=True, slots=True)
class Drawn:
    """How an answer's tokens are said to be drawn."""

    seed: int
    parameters: SamplingParameters

    @property
    def has_unlikely_winners(self) -> bool:
        """Whether a token that is not among the likeliest may win, and be counted as a rival.

        Not with top_k or top_p: the winner is among the likeliest that are known, or nobody knows how far from the edge
        it is; nor at temperature 0.
        """
        drawn = self.parameters
        return drawn.temperature_milli > 0 and drawn.top_k == 0 and drawn.top_p_milli == PER_MILLE


@dataclass(frozen=True, slots=True)
class Prefill:
    """What a prefill tells of one place: natural-log probabilities at temperature 1, by token id."""

    logprobs: Mapping[int, float]
    """The `top_count` likeliest tokens, the claimed one, and any others, such as the winner."""
    top_count: int
    """How many of the likeliest are certainly among them; at least 1."""
    winner: int | None = None
    """The token that the rule draws here out of all, on the machine that read it; None: not told. It is believed:
    whoever has an engine read finds out first whether that tells the rule's (node/engine/winners.py)."""


def token_margins(
    prompt_length: int,
    token_ids: Sequence[int],
    prefills: Sequence[Prefill],
    seed: int,
    parameters: SamplingParameters,
    vocabulary_size: int,
) -> list[float]:
    """Return, for each claimed token, by how much logits would have to differ for it to be the rule's choice.

    0: it is the choice, as far as the known candidates tell. A missing candidate makes a margin smaller, never larger.
    Honest machines of other kinds give small margins now and then, in units of logits (not divided by the temperature);
    other models, seeds and parameters give large ones often. `token_ids` are the whole answer, or its beginning.
    Raises ValueError if parameters are outside the rule, or a claimed token's log-probability is missing.
    """
    if not parameters.is_verifiable:
        raise ValueError("there is no rule for penalties and logit biases")
    return [
        _margin(token, prefill, seed, prompt_length - 1 + index, parameters, vocabulary_size)
        for index, (token, prefill) in enumerate(zip(token_ids, prefills, strict=True))
    ]


def _margin(
    claimed: int, prefill: Prefill, seed: int, position: int, parameters: SamplingParameters, vocabulary_size: int
) -> float:
    if claimed not in prefill.logprobs or not 1 <= prefill.top_count <= len(prefill.logprobs):
        raise ValueError("the claimed token or the likeliest ones are missing")
    if parameters.temperature_milli == 0:
        return min(MARGIN_MAX, max(prefill.logprobs.values()) - prefill.logprobs[claimed])
    if claimed == prefill.winner and Drawn(seed, parameters).has_unlikely_winners:
        return 0.0
    temperature = temperature_of(parameters)
    scaled = [logprob / temperature for logprob in prefill.logprobs.values()]
    claimed_scaled = prefill.logprobs[claimed] / temperature
    edges = _NO_EDGES
    if parameters.limits_tokens:
        edges = _edges(sorted(scaled, reverse=True), prefill.top_count, parameters, vocabulary_size)
    state = place_state(seed, position)
    score = claimed_scaled + noise_at(state, claimed)
    shortfalls = [0.0, edges.kept_from - claimed_scaled]
    for token, value, bits in _contenders(prefill.logprobs, scaled, state, score):
        # A rival counts only as far as it would not fall out of the draw itself.
        if token != claimed and value > edges.cut_at:
            shortfalls.append(min(value + gumbel(bits) - score, value - edges.cut_at))
    return min(MARGIN_MAX, max(shortfalls) * temperature)


def _contenders(
    tokens: Collection[int], scaled: Sequence[float], state: int, score: float
) -> list[tuple[int, float, int]]:
    """Return (token, scaled log-probability, bits of its noise) of all that can have more than `score`, and of few
    others: logarithms of noise are dear, and nearly all tokens are out of the race without them."""
    bits = bits_at(state, tokens)
    if score < SCORE_LEAST:
        return list(zip(tokens, scaled, bits, strict=True))
    reach = bits_below(score)
    weights = map(math.exp, scaled)
    return [
        (token, value, found)
        for token, value, found, weight in zip(tokens, scaled, bits, weights, strict=True)
        if found < weight * reach
    ]


@dataclass(frozen=True, slots=True)
class _Edges:
    """Where tokens fall away, in scaled log-probabilities."""

    kept_from: float
    """A claimed token from here on may have been kept by an honest machine."""
    cut_at: float
    """A token above this was kept by every honest machine."""


_NO_EDGES = _Edges(-math.inf, -math.inf)


def _edges(ranked: list[float], top_count: int, parameters: SamplingParameters, vocabulary_size: int) -> _Edges:
    """`ranked`: scaled log-probabilities, descending; the first `top_count` are the model's likeliest tokens."""
    top = ranked[:top_count]
    kept_from = cut_at = -math.inf
    if parameters.min_p_milli:
        kept_from = cut_at = top[0] + math.log(parameters.min_p_milli / PER_MILLE)
    if 0 < parameters.top_k <= top_count:
        kept_from = max(kept_from, top[parameters.top_k - 1])
        cut_at = max(cut_at, top[min(parameters.top_k, top_count - 1)])
    elif top_count < min(parameters.top_k, vocabulary_size):  # the edge lies below all that is known
        cut_at = max(cut_at, top[-1])
    if parameters.top_p_milli == PER_MILLE:
        return _Edges(kept_from, cut_at)
    inside = [value for value in top if value >= kept_from]
    weights = [math.exp(value - top[0]) for value in inside]
    # Where min_p cuts, another machine may keep some tokens more, or fewer, and takes its share of these.
    near = EDGE_TOLERANCE / temperature_of(parameters)
    room = (parameters.top_k or vocabulary_size) - len(inside)
    beyond = [value for value in top[len(inside) :] if value >= kept_from - near][: max(0, room)]
    least = math.fsum(weight for value, weight in zip(inside, weights, strict=True) if value >= kept_from + near)
    most = math.fsum(weights) + math.fsum(math.exp(value - top[0]) for value in beyond)
    if kept_from - near < top[-1] and room > len(beyond):
        most += _rest(top, parameters, vocabulary_size)
    share = parameters.top_p_milli / PER_MILLE
    above, strict, generous = 0.0, top[0], top[0]
    for value, weight in zip(inside, weights, strict=True):
        if above < (share - MASS_TOLERANCE) * least:
            strict = value
        if above <= (share + MASS_TOLERANCE) * most:
            generous = value
        above += weight
    if above <= (share + MASS_TOLERANCE) * most:
        generous = kept_from  # the edge lies below all that is known
    return _Edges(max(kept_from, generous), max(cut_at, strict))


def _rest(top: list[float], parameters: SamplingParameters, vocabulary_size: int) -> float:
    """The most that tokens beyond the known ones can weigh, in units of the likeliest one's weight."""
    temperature = temperature_of(parameters)
    mass = max(0.0, 1.0 - math.fsum(math.exp(value * temperature) for value in top))
    count = max(0, vocabulary_size - len(top))
    if temperature <= 1.0:  # none is likelier than the last known one
        return mass * math.exp(top[-1] * (1.0 - temperature) - top[0])
    return math.pow(count, 1.0 - 1.0 / temperature) * math.pow(mass, 1.0 / temperature) * math.exp(-top[0])
