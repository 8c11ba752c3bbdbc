"""Which models ML nodes of this daemon may have ready yet: after a restart of daemon or engine that takes minutes."""

from collections.abc import Iterable

from node.ports import Chain
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.records import EpochGroup


def expected_models(chain: Chain, nodes: Iterable[NodeId], group: EpochGroup | None = None) -> set[ModelId]:
    """Return the models that this account has one of its `nodes` here registered for, or frozen with in `group`."""
    here, participant = set(nodes), chain.state.participants.get(chain.account)
    found: set[ModelId] = set()
    for node in () if participant is None else participant.ml_nodes:
        if node.node_id in here:
            found.update(node.models)
    for member in () if group is None else group.members:
        if member.participant == chain.account:
            found.update(frozen.model_id for frozen in member.ml_nodes if frozen.node_id in here)
    return found
