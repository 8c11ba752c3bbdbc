"""Why an epoch forms no group, in words for operators. Then the group carries on and nothing is paid (results.py)."""

from node.protocol.chain_state import ChainState
from node.protocol.identifiers import EpochNumber

NAMED_MAX = 8
"""Models named in one line."""


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
