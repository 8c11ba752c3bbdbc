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


def weights_by_model(group: EpochGroup) -> dict[tuple[Address, ModelId], int]:
    """Return what the nodes of each member weigh together, by the model that they serve."""
    weights: dict[tuple[Address, ModelId], int] = {}
    for member in group.members:
        for node in member.ml_nodes:
            key = member.participant, node.model_id
            weights[key] = weights.get(key, 0) + node.poc_weight
    return weights


def unproven_weights(
    unproven: Mapping[tuple[Address, ModelId], int], frozen: EpochGroup, outcomes: Iterable[NodeOutcome]
) -> dict[Address, int]:
    """Return, of each participant in `unproven`, how much weight is not paid: that of its nodes with the models.

    What they have now, or had in the `frozen` group, or when they gave the answers (which `unproven` says), whichever
    is most: who turns to another model, once it is accused or before, leaves nothing behind. Never more than its whole
    weight.
    """
    now: dict[tuple[Address, ModelId], int] = {}
    whole: dict[Address, int] = {}
    for outcome in outcomes:
        weight, key = calculate_node_weight(outcome), (outcome.participant, outcome.model_id)
        now[key] = now.get(key, 0) + weight
        whole[outcome.participant] = whole.get(outcome.participant, 0) + weight
    had = weights_by_model(frozen)
    unpaid: dict[Address, int] = {}
    for key, weighed in unproven.items():
        unpaid[key[0]] = unpaid.get(key[0], 0) + max(now.get(key, 0), had.get(key, 0), weighed)
    return {account: min(weight, whole.get(account, 0)) for account, weight in sorted(unpaid.items())}


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
