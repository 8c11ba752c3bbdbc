"""Why an epoch forms no group or has no result, in words for operators: the group carries on, and nothing is paid."""

from collections.abc import Mapping, Set

from node.protocol.agreement import has_enough_votes
from node.protocol.chain_state import FIRST_EPOCH, ChainState
from node.protocol.identifiers import Address, EpochNumber

NAMED_MAX = 8
"""Models or members named in one line."""


def why_no_group(epoch: EpochNumber, state: ChainState, counted: Set[Address]) -> str:
    """Say why nothing follows for `epoch` from the votes of `counted`; `state` is the chain up to before FORM."""
    commits = state.poc_commits.get(epoch, {})
    if not commits:
        return "nobody committed a batch"
    weights = dict(state.group_weights(epoch))
    if not has_enough_votes(counted, weights):
        heard, total = sum(weights.get(member, 0) for member in counted), sum(weights.values())
        missing = {member: weight for member, weight in weights.items() if weight > 0 and member not in counted}
        return (
            f"the votes that are here have {heard} of {total} weight, and a result counts those of more than two "
            f"thirds; missing: {_named(missing)}"
        )
    counting = [commit for commit in commits.values() if state.counts(commit.participant, epoch)]
    if not counting:
        return "no batch counts: their participants are barred or have too little collateral"
    in_service = (
        state.counts(commit.participant, epoch)
        for model in state.get_governance_models()
        for commit in state.get_poc_batches_for_model(epoch, model.model_id)
    )
    if not any(in_service):
        models = sorted({commit.model_id for commit in counting})
        named = ", ".join(models[:NAMED_MAX]) + (", …" if len(models) > NAMED_MAX else "")
        return f"the models of all batches were taken out of service: {named}"
    return "no batch was accepted, or no node of an accepted one is still registered for its model"


def why_no_result(epoch: EpochNumber, state: ChainState) -> str:
    """Say why `epoch`, which is over, has no accepted result, as far as the chain tells."""
    if not state.poc_commits.get(epoch):
        return "nobody committed a batch"
    bundles = state.vote_bundles.get(epoch, {})
    weights = dict(state.group_weights(epoch))
    silent = {member: weight for member, weight in weights.items() if weight > 0 and member not in bundles}
    total, missing = sum(weights.values()), sum(silent.values())
    if missing == 0:
        return "everybody voted, but more than two thirds of the weight did not sign one result in time"
    voted = f"members with {missing} of {total} weight committed no votes: {_named(silent)}"
    if has_enough_votes(bundles.keys(), weights):
        return f"more than two thirds of the weight did not sign one result in time; {voted}"
    return f"{voted}; without them there are not the more than two thirds that have to vote and to sign a result"


def why_nothing_to_earn(epoch: EpochNumber, state: ChainState, account: Address) -> str:
    """Say why `account`, without weight in the group of `epoch` and without a batch in its result, had nothing to earn.

    Registration, collateral and models are told as they are in `state`: of long ago they may have been otherwise.
    """
    nodes = [node for prover, node in state.poc_commits.get(epoch, {}) if prover == account]
    if nodes and epoch in state.results:
        return f"its batches ({', '.join(nodes[:NAMED_MAX])}) came too late or from nodes that the result does not know"
    if nodes:
        return "it had no weight before, and the epoch has no result that could count its first batches"
    participant = state.participants.get(account)
    if participant is None:
        return "the account is no participant; `quern chain participants` lists them"
    if not participant.ml_nodes:
        return "no ML node is registered for it, so there was nothing to mine with"
    if not any(state.is_valid_governance_model(model_id) for node in participant.ml_nodes for model_id in node.models):
        return "no model of its ML nodes is active"
    if not state.counts(account, epoch):
        return "its proofs do not count: it is barred, or has too little collateral (`quern chain collateral`)"
    return (
        "no batch of its got into a block in time: its engines were not ready during GENERATE, it registered after "
        "that had begun, or the transaction failed (`quern nodes`, `quern chain intents --all`, and its log)"
    )


def _named(members: Mapping[Address, int]) -> str:
    heaviest = sorted(members.items(), key=lambda entry: (-entry[1], entry[0].lower()))
    named = ", ".join(f"{member} ({weight})" for member, weight in heaviest[:NAMED_MAX])
    return named + (", …" if len(members) > NAMED_MAX else "")


def unpaid_epochs(now: EpochNumber, state: ChainState, account: Address) -> str:
    """Say which epochs up to `now` went without a result, and why. Empty if none is missing since the newest result, or
    `account` had no weight.
    """
    last = EpochNumber(now - 1)
    if last < FIRST_EPOCH or {last, now} & state.results.keys() or not dict(state.group_weights(last)).get(account, 0):
        return ""
    first = max((epoch for epoch in state.results if epoch < last), default=FIRST_EPOCH - 1) + 1
    which = f"epoch {last} has" if first == last else f"epochs {first} to {last} have"
    return f"{which} no accepted result, so nobody was paid; in epoch {last}, {why_no_result(last, state)}"
