"""Compares what another machine said of a model with what the engine here says: pure figures, no verdict.

Each figure is the one that validators and auditors look at: distances of nonces (nonces.py), and what an auditor notes
of an answer (audits.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from node.calibration.reference import ReferenceAnswer
from node.protocol.audits import MILLION, ClaimedLogprobs, answer_figures
from node.protocol.draws import Prefill
from node.protocol.findings import AuditFigures
from node.protocol.nonces import squared_distance

MILLI = 1_000


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one machine found of a reference."""

    reference_hardware: str
    hardware: str
    distances: tuple[int, ...]
    """Squared, of every nonce."""
    answers: tuple[AuditFigures, ...]
    knows_winners: bool
    """Whether this machine's engine told of the rule's winner at every place."""


def compare_vectors(theirs: Sequence[bytes], ours: Sequence[bytes]) -> tuple[int, ...]:
    """Return the squared distance of each nonce's two vectors."""
    return tuple(squared_distance(one, other) for one, other in zip(theirs, ours, strict=True))


def compare_answer(answer: ReferenceAnswer, prefills: Sequence[Prefill], vocabulary_size: int) -> AuditFigures:
    """Return what a prefill here tells of another machine's answer."""
    claimed = [
        ClaimedLogprobs(token, dict(top).get(token, top[-1][1]), top)
        for token, top in zip(answer.output_ids, answer.tops, strict=True)
    ]
    return answer_figures(
        len(answer.prompt_ids),
        answer.output_ids,
        prefills,
        answer.seed,
        answer.sampling,
        vocabulary_size,
        claimed,
    )


def surprise_z_milli(figures: AuditFigures) -> int:
    """Return by how many thousandths of a standard deviation the surprise of tokens differs from none; 0 where hardly
    anything was left to chance.
    """
    variance = figures.variance_micro / MILLION
    return round(MILLI * figures.surprise_micro / MILLION / math.sqrt(variance)) if variance >= 1 else 0
