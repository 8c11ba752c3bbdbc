"""How far honest nodes may differ: what was measured for a model, by engine and class of hardware.

Purpose: each check of a proof or an answer compares numbers of two machines. What tells a cheat from another kind of
machine is how far honest machines of that kind were seen to differ, and that has to be measured, not guessed.

Detail: a calibration belongs to one version of a model; its canonical bytes are in the registry, set by whoever may
update the model, and each epoch freezes what it found. Until a version has one, `default_band` stands in for it.
A class follows from what a participant registers as its hardware, which nobody proves: a dishonest one names the class
with the widest band. So a network is as sharp as its widest band, and docs/calibration.md says what that costs.
"""

from node.protocol.bands import (
    ANY_HARDWARE,
    BANDS_MAX,
    ENGINE_CHARACTERS_MAX,
    ENTROPY_Z_MILLI_LIMIT,
    HARDWARE_CHARACTERS_MAX,
    MILLION,
    POC_DISTANCE_LIMIT,
    Calibration,
    HonestBand,
    hardware_class,
)
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.engines import ENGINE_RANGE_DEFAULT, EngineRangeError, engine_range_of
from node.protocol.records import ModelRecord

__all__ = [
    "ANY_HARDWARE",
    "BANDS_MAX",
    "CALIBRATION_BYTES_MAX",
    "ENGINE_CHARACTERS_MAX",
    "ENTROPY_Z_MILLI_LIMIT",
    "HARDWARE_CHARACTERS_MAX",
    "MILLION",
    "POC_DISTANCE_LIMIT",
    "Calibration",
    "CalibrationError",
    "HonestBand",
    "band_of",
    "bands_in_words",
    "calibration_bytes",
    "default_band",
    "hardware_class",
    "parse_calibration",
]

CALIBRATION_BYTES_MAX = 4096
"""As the contract has it. The largest calibration within the limits of bands.py takes less."""

POC_MISMATCH_PER_MILLION_DEFAULT = 1_000
"""A distance is chosen at the 99.9th percentile of honest ones."""
MARGIN_MICRO_MEAN_DEFAULT = 500
"""Under 1 % of the tokens of other honest hardware differ, and each counts 0.05 at most."""
TOKEN_MISMATCH_PER_MILLION_DEFAULT = 10_000
"""Measured: 0.96 % between the widest honest variants, fp32 and bf16."""
DISTANCE_MICRO_MEAN_DEFAULT = 21_000
"""Measured: 0.0208 with its room, between fp32 and bf16, where each token is cut at 0.05 (docs/soundness.md)."""
ENTROPY_Z_MILLI_DEFAULT = 4_000
"""Measured: no honest answer of 256 beyond 4 standard deviations."""


class CalibrationError(ValueError):
    """Bytes that are no calibration, or one that is not of the model it is set for."""


def calibration_bytes(calibration: Calibration) -> bytes:
    """Return what goes into the registry."""
    return to_bytes(calibration)


def parse_calibration(data: bytes) -> Calibration:
    """Read what the registry holds. Raises CalibrationError: whoever may set it may set anything."""
    if len(data) > CALIBRATION_BYTES_MAX:
        raise CalibrationError(f"a calibration has at most {CALIBRATION_BYTES_MAX} bytes, got {len(data)}")
    try:
        return from_bytes(Calibration, data)
    except SchemaError as error:
        raise CalibrationError(f"no calibration: {error}") from error


def band_of(calibration: Calibration | None, model: ModelRecord, hardware: str) -> HonestBand:
    """Return the band that judges a node which registered `hardware` for `model`.

    Its class's own; else that of ANY_HARDWARE; else the default. A calibration of another model or version is none.
    """
    if calibration is None or (calibration.model_id, calibration.model_version) != (model.model_id, model.version):
        return default_band(model)
    engine = _engine_of(model)
    bands = {band.hardware: band for band in calibration.bands if band.engine == engine}
    return bands.get(hardware_class(hardware)) or bands.get(ANY_HARDWARE) or default_band(model)


def bands_in_words(calibration: Calibration | None) -> list[str]:
    """Return for people what a calibration covers, as `vllm on nvidia h200`; nothing for none."""
    bands = () if calibration is None else calibration.bands
    return [f"{band.engine} on {band.hardware or 'all other hardware'}" for band in bands]


def default_band(model: ModelRecord) -> HonestBand:
    """Return the band of a model that nobody calibrated: its registered distance, the rest as measured elsewhere."""
    return HonestBand(
        engine=_engine_of(model),
        hardware=ANY_HARDWARE,
        poc_distance_max=min(model.poc_distance_max, POC_DISTANCE_LIMIT),
        poc_mismatch_per_million=POC_MISMATCH_PER_MILLION_DEFAULT,
        margin_micro_mean_max=MARGIN_MICRO_MEAN_DEFAULT,
        token_mismatch_per_million=TOKEN_MISMATCH_PER_MILLION_DEFAULT,
        distance_micro_mean_max=DISTANCE_MICRO_MEAN_DEFAULT,
        entropy_z_milli_max=ENTROPY_Z_MILLI_DEFAULT,
        knows_winners=True,
    )


def _engine_of(model: ModelRecord) -> str:
    try:
        return engine_range_of(model.model_args).name[:ENGINE_CHARACTERS_MAX]
    except EngineRangeError:
        return ENGINE_RANGE_DEFAULT.name  # such a model starts nowhere; a record of it must still be readable
