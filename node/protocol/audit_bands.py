"""Which honest band an executor's node is judged by: as the group in charge froze it, so all of its members agree."""

from collections.abc import Callable

from node.protocol.audit_majorities import BandOf
from node.protocol.bands import Calibration
from node.protocol.calibration import HonestBand, band_of, default_band, is_measured
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, ModelId, NodeId
from node.protocol.records import EpochGroup, ModelRecord
from node.protocol.tails import makes_vectors
from node.protocol.vector_audits import vector_band


def bands_of(state: ChainState, group: EpochGroup | None) -> BandOf:
    """Return what finds the band of a node that says it served a model: its class follows from what it registered.

    Without a group, from the registry as it is.
    """
    return _finder(state, group, band_of)


def fraud_bands_of(state: ChainState, group: EpochGroup | None) -> BandOf:
    """Return what finds the band by which a node's answers are proven to be fraud: the same, or the default for
    hardware that nobody measured.

    A guess at what such hardware gives may take its pay, and not its collateral: it may be an honest machine.
    """
    return _finder(state, group, _fraud_band_of)


def _fraud_band_of(calibration: Calibration | None, model: ModelRecord, hardware: str) -> HonestBand:
    if is_measured(calibration, model, hardware):
        return band_of(calibration, model, hardware)
    return default_band(model)


def _finder(
    state: ChainState,
    group: EpochGroup | None,
    choose: Callable[[Calibration | None, ModelRecord, str], HonestBand],
) -> BandOf:

    def found(account: Address, node_id: NodeId, model_id: ModelId) -> HonestBand:
        frozen = None if group is None else group.get_epoch_model(model_id)
        model = frozen or state.models.get(model_id)
        if model is None:
            return WIDEST_BAND
        calibration = state.calibrations.get(model_id) if group is None else group.get_epoch_calibration(model_id)
        participant = state.participants.get(account)
        nodes = () if participant is None else participant.ml_nodes
        hardware = next((node.hardware for node in nodes if node.node_id == node_id), "")
        band = choose(calibration, model, hardware)
        return vector_band(band) if makes_vectors(model) else band

    return found


WIDEST_BAND = HonestBand("vllm", "", 0, 1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000)
"""Of a model that was never registered: nothing can be proven against it."""
