"""How far honest nodes may differ: what was measured for a model, by engine and class of hardware.

Purpose: each check of a proof or an answer compares numbers of two machines. What tells a cheat from another kind of
machine is how far honest machines of that kind were seen to differ, and that has to be measured, not guessed.

Detail: a calibration belongs to one version of a model; its canonical bytes are in the registry, set by whoever may
update the model, and each epoch freezes what it found. Until a version has one, `default_band` stands in for it.
A class follows from what a participant registers as its hardware, which nobody proves: a dishonest one names the class
with the widest band. So a network is as sharp as its widest band, and docs/calibration.md says what that costs.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.engines import ENGINE_RANGE_DEFAULT, EngineRangeError, engine_range_of
from node.protocol.identifiers import ModelId
from node.protocol.nonces import VECTOR_DIMENSIONS, VECTOR_SCALE
from node.protocol.records import ModelRecord

CALIBRATION_BYTES_MAX = 4096
"""As the contract has it. The largest calibration within the limits below takes less."""
BANDS_MAX = 16
"""Classes of hardware a network tells apart; the rest falls under the band of ANY_HARDWARE."""
ENGINE_CHARACTERS_MAX = 12
HARDWARE_CHARACTERS_MAX = 48
HARDWARE_TEXT_MAX = 256
"""The chain takes hardware of any length: the rest is not looked at."""
MODEL_ID_CHARACTERS_MAX = 64
ANY_HARDWARE = ""
"""The class of a band for all hardware that no other band of its engine names."""

MILLION = 1_000_000
POC_DISTANCE_LIMIT = (2 * VECTOR_SCALE + VECTOR_DIMENSIONS) ** 2
"""No two quantised vectors are farther apart, roundings included."""
ENTROPY_Z_MILLI_LIMIT = 1_000_000
UINT32_MAX = 2**32 - 1

POC_MISMATCH_PER_MILLION_DEFAULT = 1_000
"""A distance is chosen at the 99.9th percentile of honest ones."""
MARGIN_MICRO_MEAN_DEFAULT = 10_000
"""Under 1 % of the tokens of other honest hardware differ, each by 1 at most."""
TOKEN_MISMATCH_PER_MILLION_DEFAULT = 10_000
"""Measured: 0.96 % between the widest honest variants, fp32 and bf16."""
DISTANCE_MICRO_MEAN_DEFAULT = 33_000
"""Measured: 0.033 for another instruction set on a model with sharp logits."""
ENTROPY_Z_MILLI_DEFAULT = 4_000
"""Measured: no honest answer of 256 beyond 4 standard deviations."""

_ENGINE = re.compile(rf"[a-z][a-z0-9-]{{0,{ENGINE_CHARACTERS_MAX - 1}}}")
_MODEL_ID = re.compile(rf"[a-z0-9._/-]{{1,{MODEL_ID_CHARACTERS_MAX}}}")
_GPU_COUNT = re.compile("[0-9]+x")
_CORES = re.compile("[0-9]+ cores")


class CalibrationError(ValueError):
    """Bytes that are no calibration, or one that is not of the model it is set for."""


@dataclass(frozen=True, slots=True)
class HonestBand:
    """What honest nodes of one class of hardware stay within, against a reference that runs the same engine.

    Means are those of honest machines, without the room that chance needs in a small sample: the tests add it.
    """

    engine: str
    """Name of the engine, such as `vllm`; its versions are those of the model (engines.py)."""
    hardware: str
    """What `hardware_class` returns for it; ANY_HARDWARE for all the rest."""
    poc_distance_max: int
    """Largest squared distance of two vectors that counts as equal (nonces.py)."""
    poc_mismatch_per_million: int
    """How many of a million honest vectors lie beyond it all the same: p0 of the test of a sample."""
    margin_micro_mean_max: int
    """Largest mean of clipped margins (draws.py), in millionths."""
    token_mismatch_per_million: int
    """How many of a million honest tokens are not the choice of the rule."""
    distance_micro_mean_max: int
    """Largest mean of min(1, |difference|) over claimed log-probabilities, in millionths."""
    entropy_z_milli_max: int
    """Largest deviation of surprise from entropy, in thousandths of a standard deviation, to either side."""

    def __post_init__(self) -> None:
        if not _ENGINE.fullmatch(self.engine):
            raise ValueError(f"engine {self.engine[:ENGINE_CHARACTERS_MAX]!r} is no name such as vllm")
        if self.hardware != hardware_class(self.hardware):
            raise ValueError(f"hardware {self.hardware[:HARDWARE_CHARACTERS_MAX]!r} is no class such as nvidia h200")
        for name, limit in _LIMITS.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be in 0..{limit}, got {getattr(self, name)}")


_LIMITS = {
    "poc_distance_max": POC_DISTANCE_LIMIT,
    "poc_mismatch_per_million": MILLION,
    "margin_micro_mean_max": MILLION,
    "token_mismatch_per_million": MILLION,
    "distance_micro_mean_max": MILLION,
    "entropy_z_milli_max": ENTROPY_Z_MILLI_LIMIT,
}


@dataclass(frozen=True, slots=True)
class Calibration:
    """The honest bands of one version of a model."""

    model_id: ModelId
    model_version: int
    """The version it was measured with. A newer version has none until one is set."""
    bands: tuple[HonestBand, ...]
    """Ascending by (engine, hardware), each pair once."""

    def __post_init__(self) -> None:
        if not _MODEL_ID.fullmatch(self.model_id):
            raise ValueError(f"{self.model_id[:MODEL_ID_CHARACTERS_MAX]!r} is no model id")
        if not 1 <= self.model_version <= UINT32_MAX:
            raise ValueError(f"versions count from 1, got {self.model_version}")
        if not 1 <= len(self.bands) <= BANDS_MAX:
            raise ValueError(f"a calibration has 1 to {BANDS_MAX} bands, got {len(self.bands)}")
        order = [(band.engine, band.hardware) for band in self.bands]
        if any(before >= after for before, after in pairwise(order)):
            raise ValueError("bands must ascend by engine and hardware, each once")


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


def hardware_class(hardware: str) -> str:
    """Return the class of what a node registered: `nvidia h200` for `2x NVIDIA H200`.

    How many GPUs or cores there are does not count; GPUs of several kinds are all named, in order, as far as they fit.
    """
    kinds = {_kind(part) for part in hardware[:HARDWARE_TEXT_MAX].lower().split(",")} - {""}
    known = ""
    for kind in sorted(kinds):
        longer = f"{known}, {kind}" if known else kind
        known = longer if len(longer) <= HARDWARE_CHARACTERS_MAX else known
    return known


def band_of(calibration: Calibration | None, model: ModelRecord, hardware: str) -> HonestBand:
    """Return the band that judges a node which registered `hardware` for `model`.

    Its class's own; else that of ANY_HARDWARE; else the default. A calibration of another model or version is none.
    """
    if calibration is None or (calibration.model_id, calibration.model_version) != (model.model_id, model.version):
        return default_band(model)
    engine = _engine_of(model)
    bands = {band.hardware: band for band in calibration.bands if band.engine == engine}
    return bands.get(hardware_class(hardware)) or bands.get(ANY_HARDWARE) or default_band(model)


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
    )


def _engine_of(model: ModelRecord) -> str:
    try:
        return engine_range_of(model.model_args).name[:ENGINE_CHARACTERS_MAX]
    except EngineRangeError:
        return ENGINE_RANGE_DEFAULT.name  # such a model starts nowhere; a record of it must still be readable


def _kind(part: str) -> str:
    words = part.split()
    while words and _GPU_COUNT.fullmatch(words[0]):
        words = words[1:]
    kind = " ".join(words)
    return "" if _CORES.fullmatch(kind) else kind[:HARDWARE_CHARACTERS_MAX].strip()
