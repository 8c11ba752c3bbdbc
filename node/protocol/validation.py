"""From recomputed nonces to a verdict: by which rule a sample is judged, and what it says.

The rule of a batch is that of the model as the epoch's group froze it, else of the registry when mining began
(`rules_of`): who changes a model's record or a node's hardware while batches are under way changes nothing for them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from node.protocol.binomial import is_beyond_chance
from node.protocol.calibration import HonestBand, band_of
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import ModelId
from node.protocol.nonces import VECTOR_SCALE
from node.protocol.records import EpochGroup, EpochParameters, PocCommit
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

UNRELATED_DISTANCE = VECTOR_SCALE**2 // 16
"""Squared distance of two vectors beyond which they are *unrelated*: a quarter of a vector's own length, 67,104,768.

Collateral burns on this line and never on an owner's band, which may be too narrow for honest hardware. Of the measured
vectors (docs/soundness.md; benchmarks/soundness/data/nonces.json and embeddings.json) the farthest of an honest machine
is at 122,343, of 4-bit weights at 43,937,926; those of half a prompt, of another prompt and of another model begin at
117,016,618. What only rounds otherwise does not get there; if the line were too low, honest machines would lose tokens,
if too high, whoever makes up everything would only go unpaid."""
SMALL_SAMPLE = 4
"""A smaller one says too little for any test; see `judge`."""


@dataclass(frozen=True, slots=True)
class SampleRule:
    """How one node's batch is judged."""

    distance_max: int
    """Largest squared distance of two vectors that counts as equal (nonces.py)."""
    mismatch_per_million: int
    """How many of a million honest vectors lie beyond it all the same: p0 of the test."""
    reject_mismatches: int
    """Fewer never reject, however good the model's calibration looks, unless they are more than half of the sample."""
    sample_size: int
    """Nonces drawn of the batch; all of a smaller one."""

    def sampled(self, count: int) -> int:
        """How many nonces of a batch of `count` are drawn."""
        return min(count, self.sample_size)


def rules_of(
    commits: Mapping[NodeKey, PocCommit],
    state: ChainState,
    parameters: EpochParameters,
    frozen: EpochGroup | None = None,
) -> dict[NodeKey, SampleRule]:
    """Return the rule of every batch whose ML node was registered in `state`, and whose model is in `frozen`, or was
    registered and active in `state`.

    `state` is the chain before the first block of GENERATE, whose hash is the seed; `frozen` is the group in charge, as
    a result made it. The others have no rule: nobody can judge them. So nobody chooses a name or a class of hardware
    when the seed is known.
    """
    rules = {}
    for key, commit in commits.items():
        band = _band(key, commit, state, frozen)
        if band is not None:
            rules[key] = SampleRule(
                band.poc_distance_max,
                band.poc_mismatch_per_million,
                parameters.poc_reject_mismatches,
                parameters.poc_sample_size,
            )
    return rules


def judged_models(state: ChainState, frozen: EpochGroup | None) -> frozenset[ModelId]:
    """Return the models whose batches `rules_of` has a rule for, by the same `state` and `frozen` as there.

    So a model that is taken out of service while an epoch mines is judged and paid for that epoch, and as long as a
    group has it frozen; one that was out before is not.
    """
    models = () if frozen is None else frozen.models
    active = (model.model_id for model in state.models.values() if model.active)
    return frozenset([*active, *(model.model_id for model in models)])


def mismatches_of(sampled: Sequence[int], distances: Sequence[int], rule: SampleRule) -> tuple[int, ...]:
    """Return which of the nonces `sampled` differ: those whose distance is above the rule's."""
    return tuple(n for n, distance in zip(sampled, distances, strict=True) if distance > rule.distance_max)


def unrelated_among(distances: Iterable[int], rule: SampleRule) -> int:
    """Return how many of the mismatches are farther off than any honest machine's; none that the rule lets pass."""
    line = max(UNRELATED_DISTANCE, rule.distance_max)
    return sum(distance > line for distance in distances)


def judge(sampled: int, mismatches: int, rule: SampleRule) -> Verdict:
    """Return what a sample with so many mismatches says: INVALID where no honest machine would show as many.

    A sample below SMALL_SAMPLE nonces is judged by its majority, so that a batch of a few nonces cannot be all wrong
    and still pass. Such a batch is worth next to nothing, and its rejection is no proof of fraud (outcomes.py).
    """
    if sampled <= 0:
        return Verdict.ABSTAIN
    if sampled < SMALL_SAMPLE:
        return Verdict.INVALID if 2 * mismatches > sampled else Verdict.VALID
    if mismatches < min(rule.reject_mismatches, sampled // 2 + 1):
        return Verdict.VALID
    return Verdict.INVALID if is_beyond_chance(sampled, mismatches, rule.mismatch_per_million) else Verdict.VALID


def _band(key: NodeKey, commit: PocCommit, state: ChainState, frozen: EpochGroup | None) -> HonestBand | None:
    model = None if frozen is None else frozen.get_epoch_model(commit.model_id)
    if frozen is not None and model is not None:
        calibration = frozen.get_epoch_calibration(commit.model_id)
    else:
        model = state.get_governance_model(commit.model_id)
        calibration = state.calibrations.get(commit.model_id)
    participant = state.participants.get(key[0])
    nodes = () if participant is None else participant.ml_nodes
    hardware = next((node.hardware for node in nodes if node.node_id == key[1]), None)
    return None if model is None or hardware is None else band_of(calibration, model, hardware)
