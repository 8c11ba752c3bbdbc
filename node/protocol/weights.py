"""From accepted batches to weights: `compute_new_weights` of requirements B8, and the per-node figures of B7."""

from collections.abc import Iterable, Mapping, Set

from node.protocol.findings import NodeFate, NodeOutcome
from node.protocol.identifiers import Address, ModelId, NodeId
from node.protocol.records import EpochGroup

NodeKey = tuple[Address, NodeId]


def calculate_node_weight(outcome: NodeOutcome) -> int:
    """Return a node's `poc_weight`: one per nonce of an accepted batch, or what it kept; nothing otherwise.

    Less than one per nonce where too few could judge the batch (outcomes.py).
    """
    return outcome.weight if outcome.fate in (NodeFate.ACCEPTED, NodeFate.PRESERVED) else 0


def compute_new_weights(outcomes: Iterable[NodeOutcome]) -> dict[NodeKey, int]:
    """Return the weight of every node that earned or kept one."""
    weights = {(outcome.participant, outcome.node_id): calculate_node_weight(outcome) for outcome in outcomes}
    return {key: weight for key, weight in weights.items() if weight > 0}


def calculate_model_power(group: EpochGroup, model_id: ModelId) -> int:
    """Return the sum of the weights of all nodes of the group that serve the model, mined and preserved."""
    return sum(node.poc_weight for member in group.members for node in member.ml_nodes if node.model_id == model_id)


def participant_weights(node_weights: Mapping[NodeKey, int]) -> dict[Address, int]:
    """Return each participant's weight, the sum over its nodes, ascending by account."""
    totals: dict[Address, int] = {}
    for (participant, _), weight in sorted(node_weights.items(), key=lambda item: item[0][0].lower()):
        totals[participant] = totals.get(participant, 0) + weight
    return totals


def get_participant_model_coverage(participant: Address, outcomes: Iterable[NodeOutcome], models: Set[ModelId]) -> bool:
    """Whether `participant` has weight of at least one node of every one of `models`: those that the epoch judged
    (`validation.judged_models`), so that nobody lacks what nobody could prove (requirements B9).
    """
    own = {
        outcome.model_id
        for outcome in outcomes
        if outcome.participant == participant and calculate_node_weight(outcome) > 0
    }
    return bool(models) and models <= own
