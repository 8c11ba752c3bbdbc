"""Which honest band an executor's node is judged by: from the chain, as it was when the votes were closed."""

from node.protocol.audit_outcomes import BandOf
from node.protocol.calibration import HonestBand, band_of
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, ModelId, NodeId


def bands_of(state: ChainState) -> BandOf:
    """Return what finds the band of a node that says it served a model."""

    def found(account: Address, node_id: NodeId, model_id: ModelId) -> HonestBand:
        model = state.models.get(model_id)
        if model is None:
            return WIDEST_BAND
        participant = state.participants.get(account)
        nodes = () if participant is None else participant.ml_nodes
        hardware = next((node.hardware for node in nodes if node.node_id == node_id), "")
        return band_of(state.calibrations.get(model_id), model, hardware)

    return found


WIDEST_BAND = HonestBand("vllm", "", 0, 1_000_000, 1_000_000, 1_000_000, 1_000_000, 1_000_000)
"""Of a model that was never registered: nothing can be proven against it."""
