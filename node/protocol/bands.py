"""Honest bands: how far honest nodes of one class of hardware may differ, as records (calibration.py uses them)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from node.protocol.identifiers import ModelId
from node.protocol.nonces import VECTOR_DIMENSIONS, VECTOR_SCALE

BANDS_MAX = 15
"""Classes of hardware a network tells apart, as many as the contract's bytes hold; the rest falls under the band of
ANY_HARDWARE."""
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

_ENGINE = re.compile(rf"[a-z][a-z0-9-]{{0,{ENGINE_CHARACTERS_MAX - 1}}}")
_MODEL_ID = re.compile(rf"[a-z0-9._/-]{{1,{MODEL_ID_CHARACTERS_MAX}}}")
_GPU_COUNT = re.compile("([0-9]{1,6})x")
_CORES = re.compile("[0-9]+ cores")


@dataclass(frozen=True, slots=True)
class HonestBand:
    """What honest nodes of one class of hardware stay within, against a reference that runs the same engine.

    Means are those of honest machines, without the room that chance needs in a small sample: the tests add it.
    """

    engine: str
    """Name of the engine, such as `vllm`; its versions are those of the model (engines.py)."""
    hardware: str
    """What `hardware_class` returns for it; ANY_HARDWARE for all the rest. One GPU's is also that of several of the
    kind, where no band is for their number."""
    poc_distance_max: int
    """Largest squared distance of two vectors that counts as equal (nonces.py)."""
    poc_mismatch_per_million: int
    """How many of a million honest vectors lie beyond it all the same: p0 of the test of a sample."""
    margin_micro_mean_max: int
    """Largest mean of what counts of margins (audits.py), in millionths of a logit."""
    token_mismatch_per_million: int
    """How many of a million honest tokens are not the choice of the rule."""
    distance_micro_mean_max: int
    """Largest mean of min(1, |difference|) over claimed log-probabilities, in millionths."""
    entropy_z_milli_max: int
    """Largest deviation of surprise from entropy, in thousandths of a standard deviation, to either side."""
    knows_winners: bool = False
    """Whether margins and mismatches were measured with the rule's winners known (draws.py). Honest ones are larger
    with them: by a band that was measured without, nobody is judged with them."""

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


def hardware_class(hardware: str) -> str:
    """Return the class of what a node registered: `nvidia h200` for `1x NVIDIA H200`, `2x nvidia h200` for two.

    How many GPUs there are counts, for a model spread over several is computed in another order; how many cores does
    not. GPUs of several kinds are all named, in order, as far as they fit.
    """
    return _named(_class_of(part) for part in hardware[:HARDWARE_TEXT_MAX].lower().split(","))


def hardware_kind(hardware: str) -> str:
    """Return the class without the numbers: `nvidia h200`, however many."""
    return _named(_without_count(part)[1] for part in hardware[:HARDWARE_TEXT_MAX].lower().split(","))


def _named(found: Iterable[str]) -> str:
    known = ""
    for name in sorted(set(found) - {""}):
        longer = f"{known}, {name}" if known else name
        known = longer if len(longer) <= HARDWARE_CHARACTERS_MAX else known
    return known


def _class_of(part: str) -> str:
    count, kind = _without_count(part)
    return f"{count}x {kind}"[:HARDWARE_CHARACTERS_MAX].strip() if kind and count > 1 else kind


def _without_count(part: str) -> tuple[int, str]:
    """Return how many of what kind; what says no number is one."""
    words, count = part.split(), 1
    while words and (found := _GPU_COUNT.fullmatch(words[0])):
        words, count = words[1:], int(found[1])
    kind = " ".join(words)[:HARDWARE_CHARACTERS_MAX].strip()
    return count, "" if _CORES.fullmatch(kind) else kind
