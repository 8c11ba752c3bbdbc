"""Which ML nodes go on serving through Proof of Compute instead of mining (requirements B10, B11).

Purpose: a network that stops answering whenever it proves its compute is no use. So some nodes of each model keep
serving (POC_SLOT) and keep the weight they have.

Detail: at the end of SERVE, by the hash of the stage's last block, which nobody knows before all that decides is
frozen, the participants of each model are drawn one after the other, weighted by their total weight. Of each, its nodes
of the model are taken in the order added, as long as what is taken stays within half of the model's throughput: a node
that would exceed it is passed over. So **at least half of every model proves itself anew in every epoch**, and a model
of one node always does.

A node is eligible only if it was mined for in the epoch whose result made the group: weight that was preserved once
must be earned again before it can be preserved once more, and nobody lives off an old proof. A node whose model
changes, by its own registration or by the registry's next version, is not eligible either: what it serves next is
unproven.

Every node computes the selection by itself. A batch of a selected node does not count: it cannot choose the better of
two weights.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from node.protocol.chain_state import ChainState
from node.protocol.findings import NodeFate, NodeOutcome
from node.protocol.identifiers import Address, Hash32, ModelId
from node.protocol.lots import lot
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot, ModelRecord, ParticipantRecord, Timeslot
from node.protocol.weights import NodeKey

SERVING_PER_MILLE_MAX = 500
"""Of a model's throughput, what may keep serving. More, and a majority could stay in a group without new proofs."""


def select_poc_slots(
    group: EpochGroup, outcomes: Sequence[NodeOutcome], state: ChainState, seed: Hash32
) -> frozenset[NodeKey]:
    """Return the nodes that keep serving through the Proof of Compute of `group.epoch`.

    `group` is in charge in that epoch and `outcomes` are those of the result that made it; `state` is the chain up to
    the last block of SERVE, whose hash is `seed`. Without outcomes, as in a group made of the registry, nobody has
    proved anything yet, and everyone mines.
    """
    mined = {(outcome.participant, outcome.node_id) for outcome in outcomes if outcome.fate is NodeFate.ACCEPTED}
    selected: set[NodeKey] = set()
    for model in group.models:
        if state.models.get(model.model_id) == model:  # else a change is pending
            selected |= _select_of_model(group, model, mined, state.participants, seed)
    return frozenset(selected)


def with_poc_slots(group: EpochGroup, selected: Set[NodeKey]) -> EpochGroup:
    """Return `group` as it is from GENERATE on: POC_SLOT is set for the nodes that keep serving."""
    return replace(group, members=tuple(_with_slots(member, selected) for member in group.members))


def preserved_weights(group: EpochGroup, selected: Set[NodeKey]) -> dict[NodeKey, int]:
    """Return the weights that selected nodes keep: those they have in `group`."""
    return {
        (member.participant, node.node_id): node.poc_weight
        for member in group.members
        for node in member.ml_nodes
        if (member.participant, node.node_id) in selected
    }


def _select_of_model(
    group: EpochGroup,
    model: ModelRecord,
    mined: Set[NodeKey],
    participants: Mapping[Address, ParticipantRecord],
    seed: Hash32,
) -> set[NodeKey]:
    total, drawn = 0, []
    for member in group.members:
        nodes = [node for node in member.ml_nodes if node.model_id == model.model_id]
        total += sum(node.throughput for node in nodes)
        eligible = [
            node
            for node in _in_order_added(nodes, participants.get(member.participant))
            if (member.participant, node.node_id) in mined and node.throughput > 0
        ]
        if eligible and member.weight > 0:
            identity = _identity(model.model_id, member.participant)
            drawn.append((lot(seed, identity, member.weight), identity, member.participant, eligible))
    selected: set[NodeKey] = set()
    taken = 0
    for _, _, participant, eligible in sorted(drawn, key=lambda entry: entry[:2]):
        for node in eligible:
            if 1000 * (taken + node.throughput) <= SERVING_PER_MILLE_MAX * total:
                taken += node.throughput
                selected.add((participant, node.node_id))
    return selected


def _identity(model_id: ModelId, participant: Address) -> bytes:
    return f"poc-slot/{model_id}/{participant.lower()}".encode()


def _in_order_added(nodes: Sequence[MLNodeSnapshot], participant: ParticipantRecord | None) -> list[MLNodeSnapshot]:
    """Return those of `nodes` that are still registered for the model they serve, in the order of the registry."""
    if participant is None:
        return []
    serving = {node.node_id: node for node in nodes}
    return [
        serving[registered.node_id]
        for registered in participant.ml_nodes
        if registered.node_id in serving and serving[registered.node_id].model_id in registered.models
    ]


def _with_slots(member: GroupMember, selected: Set[NodeKey]) -> GroupMember:
    nodes = tuple(
        replace(
            node,
            timeslot_allocation=(
                node.timeslot_allocation[Timeslot.PRE_POC_SLOT.value],
                (member.participant, node.node_id) in selected,
            ),
        )
        for node in member.ml_nodes
    )
    return replace(member, ml_nodes=nodes)
