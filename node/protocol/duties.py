"""What a node must do in an epoch and by when, by what the chain holds. Pure.

Purpose: one rule for all who tell it (`quern epoch`, the dashboard): an operator sees what comes, what is done and what
was missed before it costs money. The services do not ask this; they follow stages (timing.py) and the same state.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum

from node.protocol.audit_majorities import WITHHELD
from node.protocol.audit_votes import REJUDGED
from node.protocol.chain_state import ChainState
from node.protocol.findings import AuditVote
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, ModelId, NodeId
from node.protocol.records import EpochGroup, MLNodeRegistration, ParticipantRecord
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of
from node.protocol.verdicts import Verdict

ML_NODES_SHOWN_MAX = 64
"""As many as a participant can have."""


class DutyKind(Enum):
    """What is to be done."""

    SERVE = "serve"
    """Answer requests of users, as the epoch's group has it."""
    KEEP_SERVING = "keep-serving"
    """The same through Proof of Compute: the node was drawn, mines nothing and keeps its weight."""
    MINE = "mine"
    """Compute nonces, and commit the batch."""
    AUDIT = "audit"
    """Read the answers that were drawn for this participant to judge. They are voted on with the batches."""
    JUDGE_AGAIN = "judge-again"
    """Likewise, answers that were accused or challenged, which everybody with the model judges."""
    CHECK = "check"
    """Recompute some of what validators say of the epoch before: likewise."""
    VOTE = "vote"
    """Recompute a sample of every batch, and commit the votes."""
    FORM = "form"
    """Form the result, sign it, post it if nobody did."""
    LOAD = "load"
    """Have the engine load what the next group asks of it."""


class DutyState(Enum):
    """How a duty stands."""

    AHEAD = "ahead"
    NOW = "now"
    DONE = "done"
    """The chain holds what was to be done, or the time for what leaves no trace on it is over."""
    MISSED = "missed"
    """Its time is over, and the chain holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Duty:
    """Something a node does in an epoch."""

    kind: DutyKind
    epoch: EpochNumber
    node_id: NodeId | None
    """The ML node that does it; None if it is the participant's."""
    model_id: ModelId | None
    first_block: BlockNumber
    end_block: BlockNumber
    """The first block that is too late."""
    state: DutyState
    left: int | None = None
    """Of a number of things to do, those not done yet; None where there is but one, or the number is not known."""

    def blocks_left(self, block: int) -> int:
        """Blocks until it ends, or until it begins if that is ahead; 0 once it is over."""
        return max(0, (self.first_block if block < self.first_block else self.end_block) - block)


def duties_of(
    account: Address,
    epoch: EpochNumber,
    block: BlockNumber,
    state: ChainState,
    schedule: ParameterSchedule,
    group: EpochGroup,
    selected: Collection[tuple[Address, NodeId]] = (),
    audits: Collection[AuditVote] = (),
) -> tuple[Duty, ...]:
    """Return the duties of `account` in `epoch`, seen from `block`, in the order in which they begin.

    `state` is the confirmed chain, `group` the one in charge in the epoch; `selected` are the nodes that keep serving
    through its Proof of Compute, as far as that is known. `audits` are the account's votes on answers as they are so
    far, which the chain does not hold: from the beginning of the epoch on there is one of everything that it is to
    judge, an abstention until that is done. A node that was away and has none is not told of audits.
    """
    found = (
        *_duties(account, epoch, block, state, schedule, group, frozenset(selected)),
        *_judgements(account, epoch, block, state, schedule, audits),
    )
    return tuple(sorted(found, key=lambda duty: (duty.first_block, duty.end_block, duty.node_id or "")))


def next_duty(duties: Collection[Duty]) -> Duty | None:
    """Return what is to be done first of all that is not done: of those that have begun, the one that ends first."""
    present = [duty for duty in duties if duty.state is DutyState.NOW and duty.kind not in _ALL_EPOCH_LONG]
    if present:
        return min(present, key=lambda duty: duty.end_block)
    ahead = [duty for duty in duties if duty.state is DutyState.AHEAD]
    return min(ahead, key=lambda duty: duty.first_block, default=None)


def why_idle(account: Address, state: ChainState, epoch: EpochNumber) -> str:
    """Say why a node has no duties in an epoch, for people."""
    participant = state.participants.get(account)
    if participant is None:
        return "the account is no participant: it neither mines nor votes"
    if not participant.ml_nodes:
        return "no ML node is registered: there is nothing to mine with"
    if not any(_active_model(node, state) for node in participant.ml_nodes):
        return "no model of its ML nodes is active"
    if not state.counts(account, epoch):
        return "proofs of this account do not count: it is barred, or has too little collateral"
    return "it registered after this epoch's mining had begun; it mines in the next one"


NO_TIME = "no-time"
"""What an audit says that was not done yet."""
_ALL_EPOCH_LONG = frozenset({DutyKind.SERVE, DutyKind.KEEP_SERVING})


def _duties(
    account: Address,
    epoch: EpochNumber,
    block: BlockNumber,
    state: ChainState,
    schedule: ParameterSchedule,
    group: EpochGroup,
    selected: frozenset[tuple[Address, NodeId]],
) -> Iterator[Duty]:
    begin = [first_block_of(epoch, stage, schedule) for stage in Stage]
    end = first_block_of(epoch + 1, Stage.SERVE, schedule)

    def duty(
        kind: DutyKind,
        first: BlockNumber,
        last: BlockNumber,
        node: tuple[NodeId, ModelId | None] | None = None,
        *,
        proof: bool | None = None,
    ) -> Duty:
        """`proof`: whether the chain holds it; None where nothing of it would be there."""
        node_id, model_id = node or (None, None)
        return Duty(kind, epoch, node_id, model_id, first, last, _state(block, first, last, proof=proof))

    for member in group.members:
        for node in member.ml_nodes if member.participant == account else ():
            serving = (node.node_id, node.model_id)
            if (account, node.node_id) in selected:
                yield duty(DutyKind.KEEP_SERVING, begin[Stage.SERVE], end, serving)
            else:
                yield duty(DutyKind.SERVE, begin[Stage.SERVE], begin[Stage.GENERATE], serving)
    participant = state.participants.get(account)
    if participant is not None and state.counts(account, epoch):
        for registered, model_id in _miners(participant, state, begin[Stage.GENERATE], selected):
            miner = (registered.node_id, model_id)
            done = bool(state.get_poc_batches_for_node(epoch, account, registered.node_id))
            yield duty(DutyKind.MINE, begin[Stage.GENERATE], begin[Stage.VALIDATE], miner, proof=done)
            yield duty(DutyKind.LOAD, begin[Stage.LOAD], end, miner)
    if dict(state.group_weights(epoch)).get(account, 0) > 0:
        voted = account in state.vote_bundles.get(epoch, {})
        others = any(prover != account for prover, _ in state.poc_commits.get(epoch, {}))
        if voted or others or block < begin[Stage.VALIDATE]:  # else there is nothing to judge
            yield duty(DutyKind.VOTE, begin[Stage.VALIDATE], begin[Stage.FORM], proof=voted)
        yield duty(DutyKind.FORM, begin[Stage.FORM], begin[Stage.LOAD], proof=epoch in state.results)


def _judgements(
    account: Address,
    epoch: EpochNumber,
    block: BlockNumber,
    state: ChainState,
    schedule: ParameterSchedule,
    audits: Collection[AuditVote],
) -> Iterator[Duty]:
    """What it judges of others beside batches."""
    begin, generate, validate = (
        first_block_of(epoch, stage, schedule) for stage in (Stage.SERVE, Stage.GENERATE, Stage.VALIDATE)
    )
    for kind, is_again in ((DutyKind.AUDIT, False), (DutyKind.JUDGE_AGAIN, True)):
        due = [vote for vote in audits if (vote.draw == REJUDGED) is is_again]
        # Who did not hand over an answer is asked until the end; then it is the other's fault, and no longer open.
        open_for = {NO_TIME, WITHHELD} if block < validate else {NO_TIME}
        left = sum(vote.verdict is Verdict.ABSTAIN and vote.reason in open_for for vote in due)
        if due:
            reached = _state(block, begin, validate, proof=left == 0)
            yield Duty(kind, epoch, None, None, begin, validate, reached, left)
    has_weight = dict(state.group_weights(epoch)).get(account, 0) > 0
    if has_weight and any(validator != account for validator in state.vote_bundles.get(EpochNumber(epoch - 1), {})):
        yield Duty(DutyKind.CHECK, epoch, None, None, begin, generate, _state(block, begin, generate, proof=None))


def _state(block: int, first: int, end: int, *, proof: bool | None) -> DutyState:
    if proof:
        return DutyState.DONE
    if block < first:
        return DutyState.AHEAD
    if block < end:
        return DutyState.NOW
    return DutyState.DONE if proof is None else DutyState.MISSED


def _miners(
    participant: ParticipantRecord,
    state: ChainState,
    generate: BlockNumber,
    selected: frozenset[tuple[Address, NodeId]],
) -> Iterator[tuple[MLNodeRegistration, ModelId]]:
    if participant.registered_at >= generate:
        return
    for node in participant.ml_nodes[:ML_NODES_SHOWN_MAX]:
        model_id = _active_model(node, state)
        if model_id is not None and (participant.participant, node.node_id) not in selected:
            yield node, model_id


def _active_model(node: MLNodeRegistration, state: ChainState) -> ModelId | None:
    return next((model_id for model_id in node.models if state.is_valid_governance_model(model_id)), None)
