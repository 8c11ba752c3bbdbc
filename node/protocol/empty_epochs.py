"""Why an epoch forms no group or has no result, in words for operators: the group carries on, and nothing is paid."""

from node.protocol.chain_state import FIRST_EPOCH, ChainState
from node.protocol.identifiers import Address, EpochNumber

NAMED_MAX = 8
"""Models or members named in one line."""


def why_no_group(epoch: EpochNumber, state: ChainState) -> str:
    """Say why the result of `epoch` has no member for the next group; `state` is the chain up to before FORM."""
    commits = state.poc_commits.get(epoch, {})
    if not commits:
        return "nobody committed a batch"
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
    silent = silent_members(epoch, state)
    total = sum(weight for _, weight in state.group_weights(epoch))
    missing = sum(silent.values())
    if missing == 0:
        return "everybody voted, but more than two thirds of the weight did not sign one result in time"
    named = ", ".join(f"{member} ({weight})" for member, weight in list(silent.items())[:NAMED_MAX])
    named += ", …" if len(silent) > NAMED_MAX else ""
    voted = f"members with {missing} of {total} weight committed no votes: {named}"
    if 3 * (total - missing) > 2 * total:
        return f"more than two thirds of the weight did not sign one result in time; {voted}"
    return f"{voted}; without them there are not the more than two thirds that have to sign a result"


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


def silent_members(epoch: EpochNumber, state: ChainState) -> dict[Address, int]:
    """Return the members of the group in charge that had batches to judge and committed no votes; heaviest first."""
    bundles = state.vote_bundles.get(epoch, {})
    provers = {prover for prover, _ in state.poc_commits.get(epoch, {})}
    silent = {
        member: weight
        for member, weight in state.group_weights(epoch)
        if weight > 0 and member not in bundles and provers - {member}
    }
    return dict(sorted(silent.items(), key=lambda entry: (-entry[1], entry[0].lower())))


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
