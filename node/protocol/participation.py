"""What a member had to judge, and how much of it it left undone: counted from what was frozen and drawn.

Purpose: what a bundle says of itself would let whoever does nothing say that there was nothing to do. So what is due
follows from the batches that were committed and the models that the group has a member with, and from the answers that
were drawn for it to audit.

Detail: a batch is judged by whoever recomputes it, or refuses its file where the group does not find otherwise: all who
fetch a file see what is wrong with it, so a refusal of one that was recomputed after all was none. That its file was
not to be had is an excuse unless more than half of the weight able to judge had it, for these hand it on to everybody.
Lacking a model is none where the group has the member with it, and want of time never is. Of a participant whose proofs
did not count before mining began nothing need be said unless its file was to be had: who deposits after the votes are
cast was in nobody's bundle.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from node.protocol.bundles import REFUSALS
from node.protocol.findings import NodeFate, NodeOutcome
from node.protocol.identifiers import Address, ModelId
from node.protocol.outcomes import EMPTY, TOO_MANY, UNREGISTERED
from node.protocol.records import EpochGroup, PocVote, VoteBundle
from node.protocol.slices import Pace, Slices
from node.protocol.tallies import NO_DATA
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

NOT_COUNTED = "not-counted"
"""The batch of a participant that is barred, or has too little collateral deposited."""
NOT_TO_JUDGE = frozenset({EMPTY, NOT_COUNTED, TOO_MANY, UNREGISTERED})
"""Reasons of outcomes of which no vote decides."""
MEMBER_AS_ITEMS = 16
"""What a member costs, against an item of a slice."""


@dataclass(frozen=True, slots=True)
class Duties:
    """Of one kind, of one member, in one epoch."""

    due: int = 0
    undone: int = 0
    """At most `due`."""


NO_DUTIES = Duties()


def vote_duties_in_slices(
    group: EpochGroup,
    nodes: Sequence[NodeOutcome],
    counted: Set[Address],
    handed_out: Set[NodeKey],
    bundles: Mapping[Address, VoteBundle],
) -> Slices[dict[Address, Duties]]:
    """Return, by member of `group`, how many batches it had to judge, and how many it did not.

    `group` is what was frozen for the epoch, `nodes` are the epoch's outcomes, `counted` whose proofs counted before
    mining began (judges.py), and `handed_out` are the batches whose file was to be had (outcomes.py).
    """
    judged = [node for node in nodes if node.fate is not NodeFate.PRESERVED and node.reason not in NOT_TO_JUDGE]
    models = {(node.participant, node.node_id): node.model_id for node in judged}
    refusable = {
        (node.participant, node.node_id)
        for node in judged
        if node.fate is NodeFate.UNDECIDED or node.reason in REFUSALS
    }
    # What is due from everybody who has the model; of other batches only what is said of them.
    expected = {key for key in models if key in handed_out or key[0] in counted}
    batches: dict[ModelId, int] = {}
    own_batches: dict[tuple[Address, ModelId], int] = {}
    for key in expected:
        model_id = models[key]
        batches[model_id] = batches.get(model_id, 0) + 1
        own_batches[key[0], model_id] = own_batches.get((key[0], model_id), 0) + 1
    duties, pace = dict[Address, Duties](), Pace()
    for member in group.members:
        account = member.participant
        own = {node.model_id for node in member.ml_nodes}
        due = sum(batches.get(model_id, 0) - own_batches.get((account, model_id), 0) for model_id in own)
        bundle = bundles.get(account)
        votes = () if bundle is None else bundle.votes
        on_own_models = [
            vote
            for vote in votes
            if vote.participant != account and models.get((vote.participant, vote.node_id)) in own
        ]
        due += sum((vote.participant, vote.node_id) not in expected for vote in on_own_models)
        duties[account] = Duties(due, due - sum(_is_done(vote, handed_out, refusable) for vote in on_own_models))
        if pace.is_over(MEMBER_AS_ITEMS + len(votes)):
            yield
    return duties


def _is_done(vote: PocVote, handed_out: Set[NodeKey], refusable: Set[NodeKey]) -> bool:
    key = (vote.participant, vote.node_id)
    if vote.verdict is Verdict.ABSTAIN:
        return vote.reason == NO_DATA and key not in handed_out
    return vote.sampled > 0 or key in refusable  # to refuse a file costs nothing, and nobody checks it
