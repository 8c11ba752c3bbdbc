"""How far honest nodes may differ: what was measured for a model, by engine and class of hardware.

Purpose: each check of a proof or an answer compares numbers of two machines. What tells a cheat from another kind of
machine is how far honest machines of that kind were seen to differ, and that has to be measured, not guessed.

Detail: a calibration belongs to one version of a model; its canonical bytes are in the registry, set by whoever may
update the model, and each epoch freezes what it found. Until a version has one, `default_band` stands in for it.
A class follows from what a participant registers as its hardware, which nobody proves: a dishonest one names the class
with the widest band. So a network is as sharp as its widest band, and docs/calibration.md says what that costs. To name
hardware that no band is for gains nothing: unless the owner wrote a band for the rest, no figure of it is wider than in
the record, nor than the default.
"""

from collections.abc import Collection

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
    hardware_kind,
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
    "hardware_kind",
    "is_measured",
    "parse_calibration",
    "widest_of",
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

    Its class's own; else its kind's, whatever the number; else that of ANY_HARDWARE; else, of each figure, the narrower
    of the widest there is and of the default. Without a band for the model's engine the default. A calibration of
    another model or version is none.
    """
    bands = _bands_of(calibration, model)
    if not bands:
        return default_band(model)
    own = bands.get(hardware_class(hardware)) or bands.get(hardware_kind(hardware)) or bands.get(ANY_HARDWARE)
    return own or _narrower(widest_of(bands.values()), default_band(model))


def is_measured(calibration: Calibration | None, model: ModelRecord, hardware: str) -> bool:
    """Whether nothing narrower judges `hardware` than its own band, one for the rest, or the default without any."""
    bands = _bands_of(calibration, model)
    return not bands or not bands.keys().isdisjoint((hardware_class(hardware), hardware_kind(hardware), ANY_HARDWARE))


def any_band_of(calibration: Calibration | None, model: ModelRecord) -> HonestBand:
    """Return a band that holds whatever judges a node with `model`, of any hardware: all bands and the default."""
    return widest_of((*_bands_of(calibration, model).values(), default_band(model)))


def widest_of(bands: Collection[HonestBand]) -> HonestBand:
    """Return one band that holds all `bands` of one engine, under no class of hardware.

    Raises ValueError for none, or if they are of several engines.
    """
    engines = {band.engine for band in bands}
    if len(engines) != 1:
        raise ValueError(f"bands of one engine are needed, these are of {len(engines)}")
    return HonestBand(
        engine=engines.pop(),
        hardware=ANY_HARDWARE,
        poc_distance_max=max(band.poc_distance_max for band in bands),
        poc_mismatch_per_million=max(band.poc_mismatch_per_million for band in bands),
        margin_micro_mean_max=max(band.margin_micro_mean_max for band in bands),
        token_mismatch_per_million=max(band.token_mismatch_per_million for band in bands),
        distance_micro_mean_max=max(band.distance_micro_mean_max for band in bands),
        entropy_z_milli_max=max(band.entropy_z_milli_max for band in bands),
        knows_winners=all(band.knows_winners for band in bands),  # one without may be too narrow for it
    )


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


def _bands_of(calibration: Calibration | None, model: ModelRecord) -> dict[str, HonestBand]:
    if calibration is None or (calibration.model_id, calibration.model_version) != (model.model_id, model.version):
        return {}
    engine = _engine_of(model)
    return {band.hardware: band for band in calibration.bands if band.engine == engine}


def _narrower(one: HonestBand, other: HonestBand) -> HonestBand:
    return HonestBand(
        engine=one.engine,
        hardware=one.hardware,
        poc_distance_max=min(one.poc_distance_max, other.poc_distance_max),
        poc_mismatch_per_million=min(one.poc_mismatch_per_million, other.poc_mismatch_per_million),
        margin_micro_mean_max=min(one.margin_micro_mean_max, other.margin_micro_mean_max),
        token_mismatch_per_million=min(one.token_mismatch_per_million, other.token_mismatch_per_million),
        distance_micro_mean_max=min(one.distance_micro_mean_max, other.distance_micro_mean_max),
        entropy_z_milli_max=min(one.entropy_z_milli_max, other.entropy_z_milli_max),
        knows_winners=one.knows_winners and other.knows_winners,  # as of figures that were measured without
    )


def _engine_of(model: ModelRecord) -> str:
    try:
        return engine_range_of(model.model_args).name[:ENGINE_CHARACTERS_MAX]
    except EngineRangeError:
        return ENGINE_RANGE_DEFAULT.name  # such a model starts nowhere; a record of it must still be readable
