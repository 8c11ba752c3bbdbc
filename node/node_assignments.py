"""What an ML node is to run in each stage of an epoch, from the epoch's frozen group and the registry (requirement B6).

*Detail.* The group of an epoch has a snapshot of each model: what is registered later takes effect with the next group.
So a node serves the snapshot until its epoch ends, fetches what comes as soon as the registry has it, and loads it in
LOAD: beside the old one where there is memory for both, else in its place. A model that the group does not have, as on
a new network or for a node that just joined, is taken from the registry.
"""

from dataclasses import dataclass

from node.engine.arguments import registry_arguments
from node.ports import Chain
from node.protocol.identifiers import Cid, ModelId, NodeId
from node.protocol.records import ModelRecord
from node.protocol.stages import Stage
from node.services.epochs import EpochBook
from node.services.timing import position


@dataclass(frozen=True, slots=True)
class NodeAssignment:
    """What one ML node does now."""

    model: ModelRecord | None
    """To serve now; None if the network does not know its model, or no longer serves it."""
    coming: ModelRecord | None = None
    """To have on the disk for the next epoch, if it is another version."""
    load_coming: bool = False
    """Whether to load it beside already."""
    mining: bool = False


def update_node_with_epoch_data(
    stage: Stage,
    *,
    epoch_model: ModelRecord | None,
    next_epoch_model: ModelRecord | None,
    registry_model: ModelRecord | None,
    loads_beside: bool,
    registered: bool,
) -> NodeAssignment:
    """Return what a node does in `stage`.

    `epoch_model` is the snapshot of its model in the group in charge, `next_epoch_model` that in the next group, if
    that is known yet; `registry_model` the active record, which stands in for either.
    """
    present = epoch_model or registry_model
    coming = next_epoch_model or registry_model
    mining = registered and stage is Stage.GENERATE
    if present is None or coming is None or server_key(coming) == server_key(present):
        return NodeAssignment(present, mining=mining)
    if stage is not Stage.LOAD:
        return NodeAssignment(present, coming, mining=mining)
    return on_next_epoch_ready(present, coming, loads_beside=loads_beside)


def on_next_epoch_ready(present: ModelRecord, coming: ModelRecord, *, loads_beside: bool) -> NodeAssignment:
    """Return what a node does once the next epoch's group is formed, which is from LOAD on (requirements B13).

    It loads what it is to serve then, beside what it serves if there is memory for both, else in its place.
    """
    return NodeAssignment(present, coming, load_coming=True) if loads_beside else NodeAssignment(coming)


def server_key(model: ModelRecord) -> tuple[Cid, tuple[str, ...], int]:
    """Return what a server depends on of a record: another name or price needs no other server."""
    return model.cid, registry_arguments(model), model.context_length


class EpochAssignments:
    """What one node does, by the chain and the groups as they are now."""

    def __init__(
        self, chain: Chain, epochs: EpochBook, node_id: NodeId, model_id: ModelId, *, loads_beside: bool
    ) -> None:
        self._chain = chain
        self._epochs = epochs
        self._node_id = node_id
        self._model_id = model_id
        self._loads_beside = loads_beside

    def __call__(self) -> NodeAssignment:
        """Return the assignment at the newest block."""
        where = position(self._chain)
        result = self._epochs.result(where.epoch)
        return update_node_with_epoch_data(
            where.stage,
            epoch_model=self._epochs.group().get_epoch_model(self._model_id),
            next_epoch_model=None if result is None else result.group.get_epoch_model(self._model_id),
            registry_model=self._chain.state.get_governance_model(self._model_id),
            loads_beside=self._loads_beside,
            registered=self._is_registered(),
        )

    def _is_registered(self) -> bool:
        participant = self._chain.state.participants.get(self._chain.account)
        return participant is not None and any(
            node.node_id == self._node_id and self._model_id in node.models for node in participant.ml_nodes
        )
