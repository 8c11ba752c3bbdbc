"""The rule of draws over whole batches of logits, for engines whose own sampler has other noise (vLLM's V1 runner).

Purpose: the same choices as node/protocol/draws.py, as fast as vLLM's own sampler on one core.

Detail: logarithms of noise are dear and nearly all tokens are out of the race without them. As -ln(1 - u) is at least
u, a token's weight divided by u bounds its chance from above; only tokens whose bound reaches the exact score of the
one with the best bound are scored exactly. With top_k, top_p or min_p, tokens are put into buckets by their distance
from the likeliest one, which finds the few that can stay without sorting the vocabulary. Runs in the engine's
environment: only numpy, nothing of ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
"""A numpy array; the daemon's environment, which checks types, has no numpy."""
CHUNK_ELEMENTS = 1 << 16
"""Logits looked at together: their work arrays fit the processor's cache, where every pass is several times as fast."""
BUCKETS = 256
BUCKETS_PER_NAT = 16
"""Buckets reach 16 nats below the likeliest token; what is beyond shares the last one."""
REACH_FIRST = np.float32(4.0)
"""Nats below the likeliest token within which survivors are looked for first; then twice as far."""
REACH_MAX = np.float32(1024.0)
"""Beyond it, everything is looked at."""
SELECT_MAX = 1 << 13
"""Tokens of a vocabulary in which the one at the edge of top_k is sought at once: numpy selects among so few in less
time than it takes to look twice; among many more it is slower."""
EXPONENT_MAX = 60.0
"""Logits up to here need no shift before their exponential is taken: e^60 over the least u is far from overflowing."""
BROKEN = np.float32(-1e9)
"""Stands for a logit that is no number."""
NO_TOP_K = np.iinfo(np.int64).max
BOUND_SLACK = np.float32(1.0 - 1e-4)
"""Bounds are computed in single precision, to 1e-6; none may miss the best token by that."""
C1, C2, C3 = np.uint32(0xCC9E2D51), np.uint32(0x1B873593), np.uint32(0xE6546B64)
F1, F2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
FIVE, HASHED_BYTES = np.uint32(5), np.uint32(16)
WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Draw:
    """How the tokens of one request are drawn. Thousandths, so that all machines mean the same number."""

    seed: int
    temperature_milli: int
    """Above 0."""
    top_k: int
    """0: all tokens."""
    top_p_milli: int
    min_p_milli: int


class DrawTable:
    """The draws of a batch as arrays, one entry per row of logits."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        self.temperature = np.array([draw.temperature_milli / 1000 for draw in draws], np.float32)
        self.is_plain = bool((self.temperature == 1).all())
        self.top_k = np.array([draw.top_k or NO_TOP_K for draw in draws], np.int64)
        self.top_p = np.array([draw.top_p_milli / 1000 for draw in draws], np.float64)
        with np.errstate(divide="ignore"):
            self.min_p_distance = -np.log(np.array([draw.min_p_milli / 1000 for draw in draws]))
        """In nats below the likeliest token; infinite without min_p."""
        self.seed_state = _mix(
            _mix(np.zeros(len(draws), np.uint32), np.array([draw.seed & WORD for draw in draws], np.uint32)),
            np.array([draw.seed >> 32 & WORD for draw in draws], np.uint32),
        )
        limited = (self.top_k < NO_TOP_K) | (self.top_p < 1) | np.isfinite(self.min_p_distance)
        self.free_runs = _runs(np.nonzero(~limited)[0])
        self.limited_runs = _runs(np.nonzero(limited)[0])


class Chooser:
    """Chooses tokens by the rule. Keeps what depends on the vocabulary alone, and its work arrays."""

    def __init__(self) -> None:
        self._keys = np.zeros(0, np.uint32)

    def choose(self, logits: Array, table: DrawTable, positions: Array) -> Array:
        """Return the token for each row of `logits` (float32, rows by vocabulary). `positions`: index of last input."""
        rows, vocabulary = logits.shape
        step = max(1, CHUNK_ELEMENTS // vocabulary)
        if len(self._keys) != vocabulary:
            self._prepare(vocabulary, step)
        states = _mix(table.seed_state, positions.astype(np.uint32))
        found: list[tuple[Array, Array, Array]] = []
        for runs, look in ((table.free_runs, self._best_bounds), (table.limited_runs, self._survivors)):
            for begin, end in runs:
                for start in range(begin, end, step):
                    part = slice(start, min(end, start + step))
                    scaled = logits[part]
                    if not table.is_plain:
                        scaled = np.divide(scaled, table.temperature[part, None], out=self._scaled[: len(scaled)])
                    top = scaled.max(axis=1, keepdims=True)
                    if not np.isfinite(top).all():  # a broken model; whatever is drawn, the engine must live
                        scaled = np.nan_to_num(scaled, nan=BROKEN)
                        top = scaled.max(axis=1, keepdims=True)
                    lines, tokens = look(scaled, top, part, table, states)
                    found.append((lines + start, tokens, scaled[lines, tokens]))
        lines, tokens, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return self._exact(lines, tokens, values, states, rows)

    def _prepare(self, vocabulary: int, step: int) -> None:
        """Fresh arrays of this size cost more than what is done with them."""
        self._keys = _scrambled(np.arange(vocabulary, dtype=np.uint32))
        self._scaled, self._weights, self._bounds = (np.empty((step, vocabulary), np.float32) for _ in range(3))
        self._state, self._spare = (np.empty((step, vocabulary), np.uint32) for _ in range(2))
        self._mask = np.empty((step, vocabulary), np.bool_)

    def _best_bounds(self, scaled: Array, top: Array, part: slice, _: DrawTable, states: Array) -> tuple[Array, Array]:
        """Return (row in this chunk, token) of all that can have the best score."""
        rows, vocabulary = scaled.shape
        weights, bounds, mask = self._weights[:rows], self._bounds[:rows], self._mask[:rows]
        bits = np.bitwise_xor(states[part, None], self._keys, out=self._state[:rows])
        _finish(bits, self._spare[:rows])
        if top.min() > -EXPONENT_MAX and top.max() < EXPONENT_MAX:  # nothing that counts leaves single precision
            np.exp(scaled, out=weights)
        else:
            np.exp(np.subtract(scaled, top, out=weights), out=weights)
        np.copyto(bounds, bits, casting="unsafe")
        bounds += np.float32(0.5)
        np.divide(weights, bounds, out=bounds)
        lines = np.arange(rows)
        leaders = bounds.argmax(axis=1)
        exact = weights[lines, leaders] / (_exponential(bits[lines, leaders]) * np.float32(2.0**32))
        np.greater_equal(bounds, (exact * BOUND_SLACK)[:, None], out=mask)
        flat = self._few_in(mask)
        return flat // vocabulary, flat % vocabulary

    @staticmethod
    def _few_in(mask: Array) -> Array:
        """Return the flat indices of the few that are true: eight are looked at together."""
        flat = mask.reshape(-1)
        whole = len(flat) // 8 * 8
        eights = np.flatnonzero(flat[:whole].view(np.uint64))
        candidates = (eights[:, None] * 8 + np.arange(8)).reshape(-1)
        rest = np.arange(whole, len(flat))
        candidates = np.concatenate((candidates, rest)) if len(rest) else candidates
        return candidates[flat[candidates]]

    def _survivors(
        self, scaled: Array, top: Array, part: slice, table: DrawTable, states: Array
    ) -> tuple[Array, Array]:
        """Return (row in this chunk, token) of those left by top_k, top_p and min_p that can have the best score."""
        rows = len(scaled)
        distance = self._bounds[:rows]
        np.subtract(top, scaled, out=distance)
        top_k, top_p, least = table.top_k[part], table.top_p[part], table.min_p_distance[part]
        # Where neither top_k nor min_p cuts before it, top_p is a share of everything.
        by_mass = ~np.isfinite(least) & (top_k == NO_TOP_K)
        mass = np.full(rows, np.inf)
        if by_mass.any():
            weights = self._weights[:rows]
            np.exp(np.negative(distance, out=weights), out=weights)
            mass = np.where(by_mass, weights.sum(axis=1, dtype=np.float64) * top_p, np.inf)
        lines, tokens, far = self._nearest(distance, least, top_k, mass)
        again = ~by_mass & (top_p < 1)
        if again.any():
            keep = ~again[lines]
            keep[_nucleus(lines, far, again, top_p)] = True
            lines, tokens, far = lines[keep], tokens[keep], far[keep]
        keep = _can_win(lines, np.exp(-far), states[part][lines] ^ self._keys[tokens])
        return lines[keep], tokens[keep]

    def _nearest(self, distance: Array, least: Array, count: Array, mass: Array) -> tuple[Array, Array, Array]:
        """Return (row, token, distance) of the tokens within `least` nats, but of no more, nearest first, than `count`,
        and of no more than it takes to hold `mass`; infinite: no limit. In order of row and token.
        """
        rows, vocabulary = distance.shape
        flat, lines, far = self._within_reach(distance, least, count, mass)
        buckets = np.minimum(far * np.float32(BUCKETS_PER_NAT), np.float32(BUCKETS - 1)).astype(np.int64)
        slots = lines * BUCKETS + buckets
        by_mass = bool(np.isfinite(mass).any())
        counts = np.bincount(slots, minlength=rows * BUCKETS).reshape(rows, BUCKETS).cumsum(axis=1)
        enough = counts >= count[:, None]
        if by_mass:
            masses = np.bincount(slots, np.exp(-far), rows * BUCKETS).reshape(rows, BUCKETS).cumsum(axis=1)
            enough |= masses >= mass[:, None]
        enough[:, -1] = True
        edge = enough.argmax(axis=1)
        # Only tokens in the bucket at the edge must be told apart.
        keep = buckets < edge[lines]
        inside = np.flatnonzero(buckets == edge[lines])
        inside = inside[np.lexsort((far[inside], lines[inside]))]  # stable: of equal ones the lower id comes first
        row, place = lines[inside], np.arange(len(inside))
        starts = np.searchsorted(row, np.arange(rows))
        seen = np.where(edge > 0, counts[np.arange(rows), edge - 1], 0)
        fits = (seen - starts)[row] + place < count[row]
        if by_mass:
            weight = np.exp(-far[inside].astype(np.float64))
            before = np.append(np.cumsum(weight) - weight, 0.0)  # an edge without tokens begins after all others
            held = np.where(edge > 0, masses[np.arange(rows), edge - 1], 0)
            fits &= (held - before[starts])[row] + before[place] < mass[row]
        keep[inside[fits]] = True
        return lines[keep], (flat % vocabulary)[keep], far[keep]

    def _within_reach(self, distance: Array, least: Array, count: Array, mass: Array) -> tuple[Array, Array, Array]:
        """Return (flat index, row, distance) of tokens that contain all `_nearest` wants, and not too many others."""
        rows, vocabulary = distance.shape
        wanted = np.minimum(count, vocabulary)
        by_mass = bool(np.isfinite(mass).any())
        most = np.minimum(least, REACH_MAX).astype(np.float32)
        reach = np.minimum(self._first_reach(distance, count), least).astype(np.float32)
        mask = self._mask[:rows]
        while True:
            np.less_equal(distance, reach[:, None], out=mask)
            flat = np.flatnonzero(mask)
            lines, far = flat // vocabulary, distance.ravel()[flat]
            lacks = (np.bincount(lines, minlength=rows) < wanted) & (reach < most)
            if by_mass and lacks.any():
                lacks &= np.bincount(lines, np.exp(-far), rows) < mass * (1 + 1e-6)
            if not lacks.any():
                return flat, lines, far
            further = np.where(2 * reach < REACH_MAX, 2 * reach, np.inf)
            reach = np.where(lacks, np.minimum(further, least), reach).astype(np.float32)

    @staticmethod
    def _first_reach(distance: Array, count: Array) -> Array:
        """Return, per row, how far to look first."""
        rows, vocabulary = distance.shape
        reach = np.full(rows, REACH_FIRST)
        counted = np.flatnonzero(count < vocabulary)
        if vocabulary <= SELECT_MAX and len(counted):
            last = int(count[counted].max()) - 1
            reach[counted] = np.partition(distance, last, axis=1)[counted, last]
        return reach

    def _exact(self, lines: Array, tokens: Array, scaled: Array, states: Array, rows: int) -> Array:
        """Return, per row, the candidate whose exact score is best; of equal ones the lowest id."""
        bits = states[lines] ^ self._keys[tokens]
        _finish(bits, np.empty_like(bits))
        scores = scaled - np.log(_exponential(bits))
        order = np.lexsort((tokens, -scores, lines))
        return tokens[order][np.searchsorted(lines[order], np.arange(rows))]


def _nucleus(lines: Array, far: Array, rows: Array, top_p: Array) -> Array:
    """Return the indices of those entries of the marked rows that the share `top_p` of what is left keeps."""
    chosen = np.flatnonzero(rows[lines])
    chosen = chosen[np.lexsort((far[chosen], lines[chosen]))]
    row = lines[chosen]
    starts = np.searchsorted(row, np.arange(len(rows)))
    weight = np.exp(-far[chosen].astype(np.float64))
    before = np.cumsum(weight) - weight
    wanted = np.bincount(row, weight, len(rows)) * top_p
    return chosen[before - before[starts[row]] < wanted[row]]


def _can_win(lines: Array, weights: Array, bits: Array) -> Array:
    """Return the indices of entries that can have the best score of their row; every row has an entry."""
    _finish(bits, np.empty_like(bits))
    bounds = weights / (bits.astype(np.float32) + np.float32(0.5))
    starts = np.searchsorted(lines, np.arange(lines[-1] + 1))
    leaders = np.flatnonzero(bounds == np.maximum.reduceat(bounds, starts)[lines])
    exact = np.zeros(len(starts), np.float32)
    exact[lines[leaders]] = weights[leaders] / (_exponential(bits[leaders]) * np.float32(2.0**32))
    return np.flatnonzero(bounds >= exact[lines] * BOUND_SLACK)


def _runs(indices: Array) -> list[tuple[int, int]]:
    """Return the unbroken runs in ascending indices: slices need no copies."""
    if not len(indices):
        return []
    breaks = np.nonzero(np.diff(indices) > 1)[0]
    begins = [int(indices[0]), *(int(indices[at + 1]) for at in breaks)]
    ends = [*(int(indices[at]) + 1 for at in breaks), int(indices[-1]) + 1]
    return list(zip(begins, ends, strict=True))


def _finish(state: Array, spare: Array) -> None:
    """Complete the hash in place, after the last word was added."""
    np.left_shift(state, np.uint32(13), out=spare)
    np.right_shift(state, np.uint32(19), out=state)
    state |= spare
    state *= FIVE
    state += C3
    state ^= HASHED_BYTES
    for shift, factor in ((16, F1), (13, F2)):
        np.right_shift(state, np.uint32(shift), out=spare)
        state ^= spare
        state *= factor
    np.right_shift(state, np.uint32(16), out=spare)
    state ^= spare


def _scrambled(words: Array) -> Array:
    words = words * C1
    words = words << np.uint32(15) | words >> np.uint32(17)
    return words * C2


def _mix(states: Array, words: Array) -> Array:
    states = states ^ _scrambled(words)
    states = states << np.uint32(13) | states >> np.uint32(19)
    return states * FIVE + C3


def _exponential(bits: Array) -> Array:
    """Return -ln(1 - u) of u = (bits + 1/2) / 2^32, in single precision as vLLM's kernel has it."""
    high = (bits >> np.uint32(16)).astype(np.float32) * np.float32(2.0**-16)
    low = ((bits & np.uint32(0xFFFF)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    uniform = high + low
    rest = np.maximum(np.float32(1.0) - uniform, np.float32(2.0**-24))
    return np.where(uniform < np.float32(0.25), -np.log1p(-uniform), -np.log(rest))
