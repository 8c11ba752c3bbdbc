"""Whether vectors are the model's: how far each is from what the auditor's own engine makes of the same input.

Purpose: vectors carry no noise, and the nonces of an embedding model are vectors too (sketches.py). So what honest
machines differ by is calibrated, and a vector that is far beyond it is somebody else's.

Detail: nonces are made of random tokens, but inputs are chosen by whoever asks, who may look for texts at which honest
machines differ most. So nothing is decided at the calibrated distance itself, but at FAR_TIMES it, as squared distances
go, and evidence is a bet of audits.py on sums, in the place of those on margins and mismatches: how near vectors come
to that line on average, and how many are beyond it. So evidence adds up over answers and epochs, and accusation,
appeal and verdict are those of answers in tokens; what counts there as a token is here a vector.
"""

from collections.abc import Sequence
from dataclasses import replace

from node.protocol.audits import MARGIN_SPAN_MICRO
from node.protocol.bands import POC_DISTANCE_LIMIT, HonestBand
from node.protocol.findings import AuditFigures
from node.protocol.sketches import sketch_distance

FAR_TIMES = 256
"""Times the calibrated squared distance: sixteen times as far as the farthest honest nonce but for p0. Measured
(docs/soundness.md): a search of a minute finds texts at which an honest machine is at fifteen times that square, other
models and other texts' vectors are beyond a thousand times."""
FAR_DISTANCE_MAX = 1 << 28
"""The line is no farther, however wide a calibration, so POC_DISTANCE_LIMIT is always beyond it. Measured: another
text's vector is at 277 million at least, 2.0e9 in the median (docs/soundness.md)."""
NEAR_MEAN_MICRO = MARGIN_SPAN_MICRO // 2
"""Honest vectors' mean, where a vector beyond the line counts MARGIN_SPAN_MICRO: eight times what that search found."""
FAR_PER_MILLION = 1_000
"""How many of a million honest vectors are counted on beyond the line."""
VECTORS = "vectors"
"""The reason of verdicts."""


def vector_band(band: HonestBand) -> HonestBand:
    """Return the band that figures of vectors are judged by: the distance is the calibrated one, the means are not
    those of tokens."""
    return replace(band, margin_micro_mean_max=NEAR_MEAN_MICRO, token_mismatch_per_million=FAR_PER_MILLION)


def far_line(poc_distance_max: int) -> int:
    """Return the squared distance beyond which a vector is somebody else's, where honest nonces end at
    `poc_distance_max`."""
    return min(FAR_DISTANCE_MAX, FAR_TIMES * max(1, poc_distance_max))


def vector_figures(
    given: Sequence[bytes], own: Sequence[bytes], *, is_as_long: bool, poc_distance_max: int
) -> AuditFigures:
    """Return the figures of sketches `given`, where an auditor's engine made `own` of the same inputs.

    Without `is_as_long` the vectors have another number of dimensions than the auditor's, and all are far off.
    """
    pairs = zip(given, own, strict=True)
    distances = [sketch_distance(*pair) if is_as_long else POC_DISTANCE_LIMIT for pair in pairs]
    return figures_of(distances, poc_distance_max)


def figures_of(distances: Sequence[int], poc_distance_max: int) -> AuditFigures:
    """Return the figures of vectors that are so far from the auditor's."""
    line = far_line(poc_distance_max)
    nearness = [min(MARGIN_SPAN_MICRO, distance * MARGIN_SPAN_MICRO // line) for distance in distances]
    return AuditFigures(len(nearness), nearness.count(MARGIN_SPAN_MICRO), sum(nearness), 0, 0, 0, 0)
