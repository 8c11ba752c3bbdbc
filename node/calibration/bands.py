"""From measurements to the honest band of a class of hardware: the widest that was seen, and room beyond it.

A band that is too narrow rejects honest machines; one that is too wide lets mild quantisation pass. What was seen is a
sample, and machines will come that were not measured: so each figure is first bounded from above by what its sample
allows, and then widened by ROOM_PERCENT.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from node.calibration.bounds import rate_at_most
from node.calibration.measurement import Measurement, surprise_z_milli
from node.protocol.calibration import Calibration, HonestBand, widest_of
from node.protocol.findings import AuditFigures
from node.protocol.identifiers import ModelId
from node.protocol.nonces import VECTOR_DIMENSIONS

ROOM_PERCENT = 130
"""Of the widest seen, for machines that nobody measured. Measured (docs/soundness.md): with 1.3 an answer of 256 tokens
proves fp8 weights, with 1.4 three of a hundred do not."""
DOUBT = 0.01
"""Chance that a bound of a rate is too low."""
DEVIATIONS = 3
"""Standard errors of a mean over answers that are added to it."""
MILLION = 1_000_000
POC_DISTANCE_LEAST = 100 * VECTOR_DIMENSIONS
"""Ten steps of quantisation in every component: machines of one kind are equal, until a driver changes."""
MARGIN_MICRO_LEAST = 25
TOKEN_MISMATCH_LEAST = 2_000
DISTANCE_MICRO_LEAST = 5_000
"""As above: about what another instruction set was measured to give."""
ENTROPY_Z_MILLI_LEAST = 4_000
"""As audits take surprise to be where it is as theory has it."""
ENTROPY_Z_MILLI_MOST = 20_000


def band_of_measurement(measured: Measurement, engine: str) -> HonestBand:
    """Return the band of the machine that measured, for the class of its hardware."""
    answers = [answer for answer in measured.answers if answer.tokens]
    tokens = sum(answer.tokens for answer in answers)
    differing = sum(answer.mismatches for answer in answers)
    distance = max(POC_DISTANCE_LEAST, _wider(_wider(max(measured.distances))))  # squared: room counts twice
    beyond = sum(found > distance for found in measured.distances)
    return HonestBand(
        engine=engine,
        hardware=measured.hardware,
        poc_distance_max=distance,
        poc_mismatch_per_million=_per_million(rate_at_most(beyond, len(measured.distances), DOUBT)),
        margin_micro_mean_max=_mean(answers, "margin_micro", MARGIN_MICRO_LEAST),
        token_mismatch_per_million=(
            max(TOKEN_MISMATCH_LEAST, min(MILLION, _wider(_per_million(rate_at_most(differing, tokens, DOUBT)))))
            if tokens
            else TOKEN_MISMATCH_LEAST
        ),
        distance_micro_mean_max=_mean(answers, "distance_micro", DISTANCE_MICRO_LEAST),
        entropy_z_milli_max=min(
            ENTROPY_Z_MILLI_MOST,
            max(ENTROPY_Z_MILLI_LEAST, *(_wider(abs(surprise_z_milli(answer))) for answer in answers), 0),
        ),
        knows_winners=measured.knows_winners,
    )


def wider_band(one: HonestBand, other: HonestBand) -> HonestBand:
    """Return the band that holds both: of one class, measured against several references."""
    if (one.engine, one.hardware) != (other.engine, other.hardware):
        raise ValueError("bands of different classes are kept apart")
    return replace(widest_of((one, other)), hardware=one.hardware)


def with_band(record: Calibration | None, model_id: ModelId, version: int, band: HonestBand) -> Calibration:
    """Return a record with `band` in it, beside what it has; raise ValueError if it is of another model or version."""
    if record is None:
        return Calibration(model_id, version, (band,))
    if (record.model_id, record.model_version) != (model_id, version):
        raise ValueError(
            f"the record is of {record.model_id} version {record.model_version}, this is {model_id} version {version}"
        )
    bands = {(known.engine, known.hardware): known for known in record.bands}
    key = (band.engine, band.hardware)
    bands[key] = wider_band(bands[key], band) if key in bands else band
    return Calibration(model_id, version, tuple(bands[key] for key in sorted(bands)))


def _mean(answers: Sequence[AuditFigures], name: str, least: int) -> int:
    """Bound of the mean per token of a sum that answers have, with room."""
    tokens = sum(answer.tokens for answer in answers)
    if not tokens:
        return least
    mean = Fraction(sum(getattr(answer, name) for answer in answers), tokens)
    # Tokens of one answer hang together; answers do not. So the error of the mean is that of a ratio over answers.
    residues = (float(getattr(answer, name) - mean * answer.tokens) for answer in answers)
    error = math.sqrt(math.fsum(residue * residue for residue in residues)) / tokens
    return max(least, min(MILLION, _wider(math.ceil(float(mean) + DEVIATIONS * error))))


def _wider(value: int) -> int:
    return -(-value * ROOM_PERCENT // 100)


def _per_million(rate: float) -> int:
    return min(MILLION, math.ceil(rate * MILLION))


def widest(bands: Iterable[HonestBand]) -> HonestBand | None:
    """Return one band that holds all, under no class: what judges hardware that nobody measured. None for none."""
    known = tuple(bands)
    return widest_of(known) if known else None
