"""Which honest band an executor's node is judged by: as the group in charge froze it, so all of its members agree."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from node.protocol.audit_majorities import BandOf
from node.protocol.bands import Calibration
from node.protocol.calibration import HonestBand, any_band_of, band_of, default_band, is_measured
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, ModelId, NodeId
from node.protocol.records import EpochGroup, ModelRecord
from node.protocol.tails import makes_vectors
from node.protocol.vector_audits import far_line, vector_band

NODES_KEPT = 4096
"""Of which a finder keeps the band at hand: more than honest members have, and names in votes are free."""


def bands_of(state: ChainState, group: EpochGroup | None) -> BandOf:
    """Return what finds the band of a node that says it served a model: its class follows from what it registered.

    Without a group, from the registry as it is. What was found once stays: neither may change while it is in use.
    """

    return _finder(state, group, _judging_band_of)


def fraud_bands_of(state: ChainState, group: EpochGroup | None) -> BandOf:
    """Return what finds the band by which a node's answers are proven to be fraud: the same; the default for hardware
    that nobody measured; and one that holds all of them for a node whose hardware changed lately, or that is gone.

    A guess at what such hardware gives may take its pay, and not its collateral: it may be an honest machine. Nor may
    it be taken for answers that another machine gave under the same name. Figures of vectors have the line of the
    node's own band in them: where it is nearer than the other's, they prove no fraud at all.
    """
    return _finder(state, group, _fraud_band_of)


@dataclass(frozen=True, slots=True)
class _Node:
    """What the chain has of a node."""

    hardware: str | None
    """None for one that is not registered."""
    is_changed: bool
    """Whether its hardware may have been other when it answered."""


def _judging_band_of(calibration: Calibration | None, model: ModelRecord, node: _Node) -> HonestBand:
    band = band_of(calibration, model, node.hardware or "")
    return vector_band(band) if makes_vectors(model) else band


def _fraud_band_of(calibration: Calibration | None, model: ModelRecord, node: _Node) -> HonestBand:
    band = _holding_band_of(calibration, model, node)
    if not makes_vectors(model):
        return band
    judging = _judging_band_of(calibration, model, node)
    return vector_band(band) if far_line(band.poc_distance_max) <= far_line(judging.poc_distance_max) else WIDEST_BAND


def _holding_band_of(calibration: Calibration | None, model: ModelRecord, node: _Node) -> HonestBand:
    if node.hardware is None or node.is_changed:
        return any_band_of(calibration, model)
    if is_measured(calibration, model, node.hardware):
        return band_of(calibration, model, node.hardware)
    return default_band(model)


def _finder(
    state: ChainState,
    group: EpochGroup | None,
    choose: Callable[[Calibration | None, ModelRecord, _Node], HonestBand],
) -> BandOf:
    @lru_cache(maxsize=NODES_KEPT)  # every vote on an answer names the same node
    def found(account: Address, node_id: NodeId, model_id: ModelId) -> HonestBand:
        frozen = None if group is None else group.get_epoch_model(model_id)
        model = frozen or state.models.get(model_id)
        if model is None:
            return WIDEST_BAND
        calibration = state.calibrations.get(model_id) if group is None else group.get_epoch_calibration(model_id)
        participant = state.participants.get(account)
        nodes = () if participant is None else participant.ml_nodes
        hardware = next((node.hardware for node in nodes if node.node_id == node_id), None)
        return choose(calibration, model, _Node(hardware, (account, node_id) in state.hardware_changed))

    return found


WIDEST_BAND = HonestBand("vllm", "", 0, 1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000)
"""Of a model that was never registered, and of vectors that were held against too near a line: nothing can be proven
by it."""
