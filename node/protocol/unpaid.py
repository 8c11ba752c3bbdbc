"""Why a participant was not paid more for an epoch: every unit between the most it could have earned and what it got.

Purpose: whoever goes unpaid is told why, from the evidence in the epoch's result alone, to the unit.

Detail: the most is what the participant would have been paid had each of its nodes counted in full (a batch with all
its nonces, a node that did nothing with the weight it had), with the coverage bonus, a full score and no offence,
everything else being as it was. From there one fault after the other is taken into account, in a fixed order; what the
amount falls by is what that fault cost. The last amount is what was paid, so the parts always add up.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from node.protocol.appeals import NARROWLY_PROVEN, narrowly_proven
from node.protocol.findings import SCORE_FULL, NodeFate, PointLoss
from node.protocol.identifiers import Address, EpochNumber, ModelId, NodeId, TokenAmount
from node.protocol.penalties import fraudulent
from node.protocol.records import EpochGroup, EpochResult, PocCommit
from node.protocol.rewards import counted_weight, get_settle_amount
from node.protocol.scores import AVAILABILITY_TENTHS, PARTICIPATION_TENTHS, QUALITY_TENTHS, SPEED_TENTHS
from node.protocol.weights import unproven_weights

NO_RESULT = "no-result"
RESULT_VOID = "result-void"
NO_BATCH = "no-batch"
THROUGHPUT = "throughput"
COVERAGE = "coverage"
FRAUD = "fraud"
UNPROVEN = NARROWLY_PROVEN
NOT_COUNTED = "not-counted"

REASONS = {
    NO_RESULT: "no result of the epoch was accepted by its end, so nobody was paid",
    RESULT_VOID: "the accepted result was false, members with a third of the weight voided it, and no other took its "
    "place in time, so nobody was paid",
    NO_BATCH: "the node neither was present to serve by allotment nor committed a batch of nonces in time",
    THROUGHPUT: "the node served less through Proof of Compute than its weight stands for",
    COVERAGE: "no coverage bonus: it does not serve every model with a node that counts",
    FRAUD: "fraud was proven; nothing of the epoch is paid",
    UNPROVEN: "audits proved that answers of these models are not theirs, as members with less than a third of all "
    "weight found: its nodes with them are not paid, and it is no fraud",
    NOT_COUNTED: "the participant is barred, or has too little collateral deposited",
    "rejected": "the batch was rejected",
    "undecided": "the batch found no majority of those able to judge it",
    "too-many-nonces": "the batch has more nonces than one may have",
    "mismatches": "more of the sample differs than honest machines ever show",
    "copied": "the sample differs, and the batch is somebody else's",
    "too-small": "too much of a very small sample differs",
    "cumulated-mismatches": "over several epochs more nonces differ than chance explains",
    "model-not-registered": "its model or its node was not registered when mining began",
    "no-nonces": "the batch has no nonces",
    "nobody-could-judge": "nobody who has the model judged the batch",
    "judges-split": "half of the weight of the judges stood against the other half",
    "narrowly-rejected": "more of the sample differs than honest machines ever show, as few of the group found",
    "too-few-to-reject": "those who judged the batch found it wrong, and are too few to reject it",
    "file-withheld": "too many of those able to judge the batch could not get its file of vectors",
    "nonces-differ": "some of the sample differ, within what honest machines show; each takes twice its share off",
    "few-judges": "too little weight judged the batch for all of it to count",
    "wrong-size": "the file of vectors does not have the size that was committed",
    "root-mismatch": "the file of vectors is not what was committed",
}
"""What each code means, in words for operators. Those of scores are in scores.py."""


@dataclass(frozen=True, slots=True)
class UnpaidPart:
    """What one fault cost."""

    reason: str
    """A code of REASONS, or one of scores.REASONS."""
    subject: str
    """The ML node, models, part of the score or evidence that it is about; empty for the participant as a whole."""
    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a participant could have earned, what it was paid, and what each fault cost: these add up."""

    epoch: EpochNumber
    participant: Address
    most: TokenAmount
    paid: TokenAmount
    parts: tuple[UnpaidPart, ...]


@dataclass(frozen=True, slots=True)
class _LostWeight:
    node_id: NodeId
    reason: str
    weight: int


def explain(
    result: EpochResult, frozen: EpochGroup | None, participant: Address, committed: Iterable[PocCommit] = ()
) -> Explanation:
    """Explain what `participant` was paid for the epoch of `result`.

    `frozen` is the group that was in charge in it, as the result before made it: who had to mine. None where there
    was no result before: then nobody had to. `committed` are the batches that the chain has of the epoch: a result
    does not name all that do not count.
    """
    others = sum(
        counted_weight(share.weight, covers_models=share.covers_models)
        for share in result.settled
        if share.participant != participant
    )
    own = next((share for share in result.settled if share.participant == participant), None)
    lost = _lost_weights(result, frozen, participant, committed)
    weight = (0 if own is None else own.weight) + sum(entry.weight for entry in lost)

    def amount(weight: int, *, covers_models: bool = True, score: int = SCORE_FULL, unproven: int = 0) -> TokenAmount:
        counted = counted_weight(weight, covers_models=covers_models)
        if counted == 0:
            return TokenAmount(0)
        paid = counted_weight(weight - unproven, covers_models=covers_models)
        return get_settle_amount(paid, others + counted, result.available, score)

    most = left = amount(weight)
    parts = []

    def fall_to(lower: TokenAmount, reason: str, subject: str = "") -> None:
        nonlocal left
        if lower < left:
            parts.append(UnpaidPart(reason, subject, TokenAmount(left - lower)))
        left = lower

    for entry in lost:
        weight -= entry.weight
        fall_to(amount(weight), entry.reason, entry.node_id)
    covers = own is not None and own.covers_models
    fall_to(amount(weight, covers_models=covers), COVERAGE)
    models = {key: weight for key, weight in narrowly_proven(result.audits).items() if key[0] == participant}
    without = 0
    if frozen is not None:
        without = unproven_weights(models, frozen, result.nodes).get(participant, 0)
    fall_to(amount(weight, covers_models=covers, unproven=without), UNPROVEN, ", ".join(sorted(m for _, m in models)))
    tenths = 0
    for name, of_ten, loss in _lost_points(result, participant):
        tenths += of_ten * loss.per_mille
        score = (10 * SCORE_FULL - tenths) // 10
        fall_to(amount(weight, covers_models=covers, score=score, unproven=without), loss.reason, name)
    if participant in fraudulent(result.penalties):
        reasons = (decision.reason for decision in result.penalties if decision.participant == participant)
        fall_to(TokenAmount(0), FRAUD, next(reasons))
    if left != (TokenAmount(0) if own is None else own.amount):
        raise ValueError(f"the result of epoch {result.epoch} does not pay {participant} by the rules")
    return Explanation(result.epoch, participant, most, left, tuple(parts))


def explain_no_result(
    epoch: EpochNumber,
    weights: Iterable[tuple[Address, int]],
    available: TokenAmount,
    participant: Address,
    *,
    is_voided: bool = False,
) -> Explanation:
    """Explain an epoch without a result, or whose result `is_voided`: the weight in charge would have had its share."""
    known = dict(weights)
    total, own = sum(known.values()), known.get(participant, 0)
    most = TokenAmount(available * own // total if total else 0)
    reason = RESULT_VOID if is_voided else NO_RESULT
    parts = (UnpaidPart(reason, "", most),) if most else ()
    return Explanation(epoch, participant, most, TokenAmount(0), parts)


def _lost_weights(
    result: EpochResult, frozen: EpochGroup | None, participant: Address, committed: Iterable[PocCommit]
) -> list[_LostWeight]:
    """What its nodes lack, in the order of their names."""
    had: dict[NodeId, int] = {}
    if frozen is not None:
        had = {
            node.node_id: node.poc_weight
            for member in frozen.members
            if member.participant == participant
            for node in member.ml_nodes
        }
    lost = []
    for outcome in result.nodes:
        if outcome.participant != participant:
            continue
        before = had.pop(outcome.node_id, 0)
        if outcome.fate is NodeFate.PRESERVED:
            lost.append(_LostWeight(outcome.node_id, THROUGHPUT, before - outcome.weight))
        else:
            reason = outcome.reason or outcome.fate.value
            lost.append(_LostWeight(outcome.node_id, reason, outcome.count - outcome.weight))
    named = {outcome.node_id for outcome in result.nodes if outcome.participant == participant}
    for commit in committed:
        if commit.participant == participant and commit.node_id not in named:
            lost.append(_LostWeight(commit.node_id, NOT_COUNTED, commit.count))
            had.pop(commit.node_id, None)
    lost += [_LostWeight(node_id, NO_BATCH, weight) for node_id, weight in had.items()]
    return sorted((entry for entry in lost if entry.weight > 0), key=lambda entry: entry.node_id)


def _lost_points(result: EpochResult, participant: Address) -> list[tuple[str, int, PointLoss]]:
    """(part of the score, tenths that the part weighs, what it lost), in the order of the parts."""
    score = next((score for score in result.scores if score.participant == participant), None)
    if score is None:
        return []
    parts = (
        ("quality", QUALITY_TENTHS, score.quality),
        ("speed", SPEED_TENTHS, score.speed),
        ("availability", AVAILABILITY_TENTHS, score.availability),
        ("participation", PARTICIPATION_TENTHS, score.participation),
    )
    return [(name, tenths, loss) for name, tenths, part in parts for loss in part.losses]


def models_lacking(result: EpochResult, participant: Address) -> tuple[ModelId, ...]:
    """Return the models of the epoch of `result` that no node of the participant that counts serves: why it has no
    coverage bonus."""
    served = {node.model_id for node in result.nodes if node.participant == participant and node.weight > 0}
    return tuple(model_id for model_id in result.judged_models if model_id not in served)
