"""From accepted batches to weights: `compute_new_weights` of requirements B8, and the per-node figures of B7."""

from collections.abc import Iterable, Mapping

from node.protocol.identifiers import Address, ModelId, NodeId
from node.protocol.nonces import BATCH_NONCES_MAX
from node.protocol.records import ModelRecord, PocCommit, VoteBundle
from node.protocol.validation import BatchOutcome, tally
from node.protocol.verdicts import Verdict

NodeKey = tuple[Address, NodeId]


def batch_outcomes(
    commits: Mapping[NodeKey, PocCommit],
    bundles: Mapping[Address, VoteBundle],
    group_weights: Mapping[Address, int],
) -> dict[NodeKey, BatchOutcome]:
    """Return the outcome of every committed batch. A participant's vote on its own batch does not count.

    Two cases are settled without votes: a batch over BATCH_NONCES_MAX is rejected (the chain takes any count), and a
    batch of the only member there is counts as accepted. Nobody is left to judge that one, and whoever is the whole
    group can post any result anyway; without this rule a network could not begin with one node. Outside that case
    work that nobody could check earns nothing: a model only one participant has must not print weight.
    """
    votes: dict[NodeKey, dict[Address, Verdict]] = {key: {} for key in commits}
    for validator, bundle in bundles.items():
        for vote in bundle.votes:
            key = (vote.participant, vote.node_id)
            if key in votes and validator != vote.participant:
                votes[key][validator] = vote.verdict
    total = sum(group_weights.values())
    outcomes = {}
    for key, commit in commits.items():
        own = group_weights.get(key[0], 0)
        if commit.count > BATCH_NONCES_MAX:
            outcomes[key] = BatchOutcome.REJECTED
        elif own > 0 and own == total:
            outcomes[key] = BatchOutcome.ACCEPTED
        else:
            outcomes[key] = tally(votes[key], group_weights)
    return outcomes


def calculate_node_weight(commit: PocCommit, outcome: BatchOutcome) -> int:
    """Return a node's `poc_weight`: one per nonce of an accepted batch, nothing otherwise."""
    return commit.count if outcome is BatchOutcome.ACCEPTED else 0


def compute_new_weights(
    commits: Mapping[NodeKey, PocCommit], outcomes: Mapping[NodeKey, BatchOutcome]
) -> dict[NodeKey, int]:
    """Return the weight of every node that earned one."""
    weights = {key: calculate_node_weight(commit, outcomes[key]) for key, commit in commits.items()}
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
