"""From accepted batches to weights: `compute_new_weights` of requirements B8, and the per-node figures of B7."""

from collections.abc import Iterable, Mapping

from node.protocol.findings import NodeFate, NodeOutcome
from node.protocol.identifiers import Address, ModelId, NodeId
from node.protocol.records import ModelRecord, PocCommit

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


def calculate_model_power(
    model_id: ModelId, commits: Mapping[NodeKey, PocCommit], node_weights: Mapping[NodeKey, int]
) -> int:
    """Return the sum of the weights of all nodes that serve `model_id`."""
    return sum(weight for key, weight in node_weights.items() if commits[key].model_id == model_id)


def participant_weights(node_weights: Mapping[NodeKey, int]) -> dict[Address, int]:
    """Return each participant's weight, the sum over its nodes, ascending by account."""
    totals: dict[Address, int] = {}
    for (participant, _), weight in sorted(node_weights.items(), key=lambda item: item[0][0].lower()):
        totals[participant] = totals.get(participant, 0) + weight
    return totals


def get_participant_model_coverage(
    participant: Address, served: Iterable[tuple[Address, ModelId]], models: Iterable[ModelRecord]
) -> bool:
    """Whether `participant` serves every model of the epoch with at least one node (requirements B9)."""
    own = {model_id for account, model_id in served if account == participant}
    supported = {model.model_id for model in models if model.active}
    return bool(supported) and supported <= own
