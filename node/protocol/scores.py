"""What a participant is worth beyond its weight: requirements C3, in thousandths, from signed evidence alone.

score = 0.4 quality + 0.3 speed + 0.2 availability + 0.1 participation

*Goals.* Every lost point has a reason and evidence that the result's bundles hold; the same integers on every node; few
liars change little. *Non-goals.* To find cheats: that is what samples, audits and penalties do. A score only steers.

*A point is lost only by evidence.* Who was not measured, or is new, loses nothing: lacking evidence is not a no. So a
participant can dodge the speed part only by answering none of the gateways that are members, and their fees with it.

- *quality*: batches judged, answers audited, of which one that is not shown is not known to be good. To take it from a
  rival needs the majority of the weight able to judge; with a third of the weight one has the majority of five seats
  in a fifth of the draws, and takes a fifth.
- *speed*: medians that gateways measured, each against the other executors it asked. To take all of it needs gateways
  with a third of the weight; those with less take as much in proportion: three times their share at most.
- *availability*: the weighted median of what others saw, batches due, answers handed over to audits. Whoever says
  nothing counts as having seen all, so to take it needs more than half of the weight of all others, and a third of all.
- *participation*: the bundle of votes, what was due and is not in it (participation.py), and whether votes of the
  epoch before were computed at all (tails.py). To take it needs two thirds of the weight of those drawn to check them
  who can tell.

To gain points for oneself is harder still: nobody is its own witness. And points lost by one are paid to nobody
(rewards.py), so there is nothing to win by a rival's loss but requests.
"""

from collections.abc import Iterable, Mapping, Sequence

from node.protocol.appeals import NARROWLY_PROVEN, narrowly_proven
from node.protocol.findings import (
    SCORE_FULL,
    AuditOutcome,
    NodeFate,
    NodeOutcome,
    ParticipantScore,
    PointLoss,
    ScorePart,
    SpeedMeasure,
    ValidatorOutcome,
)
from node.protocol.identifiers import Address, ModelId
from node.protocol.medians import weighted_median
from node.protocol.participation import NO_DUTIES, Duties
from node.protocol.records import EpochGroup, VoteBundle
from node.protocol.slices import Pace, Slices, finish
from node.protocol.verdicts import Verdict
from node.protocol.weights import calculate_node_weight, unproven_weights

QUALITY_TENTHS, SPEED_TENTHS, AVAILABILITY_TENTHS, PARTICIPATION_TENTHS = 4, 3, 2, 1
ANSWERS_MEASURED_MIN = 4
"""A gateway's measurement of fewer answers is luck."""
COMPARED_TOKENS = 64
"""Executors are compared by the time to so many tokens: an answer of usual length."""
SLOW_FROM_PER_MILLE = 1500
"""Up to one and a half times the median of its peers nobody is slow: hardware and distance differ."""
SLOW_POINTS_PER_MILLE = 3
"""Beyond it a point is lost for every so many thousandths: all are lost at four and a half times the median."""
ABSENCE_FORGIVEN = 20
"""Thousandths of an epoch: a restart for an update is no absence."""
UNJUDGED_POINTS = 500
"""Points at most for batches that were left unjudged."""
UNAUDITED_POINTS = 500
"""Points at most for answers that were drawn for audit and left unjudged."""

NO_DUTIES_OF_ANYBODY: Mapping[Address, Duties] = {}
MEASURED_AS_ITEMS, SCORED_AS_ITEMS = 4, 16
"""What they cost, against an item of a slice."""

REASONS = {
    "audit-failed": "audits proved that its answers are not the model's",
    "batch-rejected": "batches of nonces were rejected",
    "slow": "its answers came slower than those of others with the same model",
    "absent": "others did not see it present",
    "no-batch": "nodes of its neither kept serving by allotment nor had a batch that counts",
    "withheld": "it did not hand over answers that were drawn for audit, or booked receipts too late or not at all",
    "no-votes": "it committed no valid bundle of votes",
    "not-computed": "others found that it did not compute what its votes of the epoch before say",
    "evidence-withheld": "it did not hand over the evidence for its votes of the epoch before",
    "evidence-differs": "its evidence does not carry its votes of the epoch before",
    "unjudged": "it left batches unjudged of models that the group has it with",
    "unaudited": "it left answers unaudited that were drawn for it",
}
"""What each code means, in words for operators."""


def participant_scores(
    group: EpochGroup,
    weights: Mapping[Address, int],
    nodes: Sequence[NodeOutcome],
    audits: Sequence[AuditOutcome],
    bundles: Mapping[Address, VoteBundle],
    validators: Sequence[ValidatorOutcome] = (),
    *,
    vote_duties: Mapping[Address, Duties] = NO_DUTIES_OF_ANYBODY,
    audit_duties: Mapping[Address, Duties] = NO_DUTIES_OF_ANYBODY,
) -> tuple[ParticipantScore, ...]:
    """Return the scores: see `participant_scores_in_slices`."""
    computation = participant_scores_in_slices(
        group, weights, nodes, audits, bundles, validators, vote_duties=vote_duties, audit_duties=audit_duties
    )
    return finish(computation)


def participant_scores_in_slices(
    group: EpochGroup,
    weights: Mapping[Address, int],
    nodes: Sequence[NodeOutcome],
    audits: Sequence[AuditOutcome],
    bundles: Mapping[Address, VoteBundle],
    validators: Sequence[ValidatorOutcome] = (),
    *,
    vote_duties: Mapping[Address, Duties] = NO_DUTIES_OF_ANYBODY,
    audit_duties: Mapping[Address, Duties] = NO_DUTIES_OF_ANYBODY,
) -> Slices[tuple[ParticipantScore, ...]]:
    """Return the scores of every member of the group in charge and of whoever else proved compute; by participant.

    `weights` are the weights in charge. `group` is what was frozen for the epoch: who had to be there is taken from it,
    so it must be one that a result made; an empty one asks nothing of anybody. `validators` are what the group made of
    the votes of the epoch before; `vote_duties` and `audit_duties` what members had to judge and did not.
    """
    accounts = sorted({*weights, *(outcome.participant for outcome in nodes)}, key=str.lower)
    nodes_of = _by_participant(nodes)
    audits_of: dict[Address, list[AuditOutcome]] = {}
    for audit in audits:
        audits_of.setdefault(audit.executor, []).append(audit)
    due_of = {member.participant: len(member.ml_nodes) for member in group.members}
    made_up = {found.validator: found.reason for found in validators if found.fate is Verdict.INVALID}
    unproven = unproven_weights(narrowly_proven(audits), group, nodes)
    ratios = yield from _speed_ratios(bundles)
    seen = (yield from presences_in_slices(accounts, weights, bundles)) if group.members else {}
    total, scores, pace = sum(weights.values()), list[ParticipantScore](), Pace()
    for account in accounts:
        own, audited = nodes_of.get(account, []), audits_of.get(account, [])
        quality = _quality(own, audited, unproven.get(account, 0))
        speed = _speed(account, ratios.get(account, {}), weights, total)
        availability = _availability(seen.get(account, SCORE_FULL), own, due_of.get(account, 0), audited)
        has_to_vote = weights.get(account, 0) > 0 and any(other != account for other in nodes_of)
        if account in made_up:
            participation = _part(0, [PointLoss(made_up[account], SCORE_FULL)])
        else:
            votes, answers = vote_duties.get(account, NO_DUTIES), audit_duties.get(account, NO_DUTIES)
            committed = account in bundles or not has_to_vote
            participation = _participation(votes, answers, has_votes=committed)
        points = (
            QUALITY_TENTHS * quality.per_mille
            + SPEED_TENTHS * speed.per_mille
            + AVAILABILITY_TENTHS * availability.per_mille
            + PARTICIPATION_TENTHS * participation.per_mille
        ) // 10
        scores.append(ParticipantScore(account, quality, speed, availability, participation, points))
        if pace.is_over(SCORED_AS_ITEMS):
            yield
    return tuple(scores)


def presences(
    accounts: Iterable[Address], weights: Mapping[Address, int], bundles: Mapping[Address, VoteBundle]
) -> dict[Address, int]:
    """Return what others saw of each account: see `presences_in_slices`."""
    return finish(presences_in_slices(accounts, weights, bundles))


def presences_in_slices(
    accounts: Iterable[Address], weights: Mapping[Address, int], bundles: Mapping[Address, VoteBundle]
) -> Slices[dict[Address, int]]:
    """Return, in thousandths of the epoch, how much of it others saw of each account; full where they say nothing."""
    seen = yield from _sightings(bundles)
    total, found, pace = sum(weights.values()), dict[Address, int](), Pace()
    for account in accounts:
        of_account = seen.get(account, {})
        found[account] = _presence(account, of_account, weights, total)
        if pace.is_over(1 + len(of_account)):
            yield
    return found


def _quality(nodes: Sequence[NodeOutcome], audits: Sequence[AuditOutcome], unproven: int) -> ScorePart:
    """Nonces accepted of those judged × drawn answers handed over; nothing is left where an audit proved other answers
    than the model's, or the share that is left of the weight where too few proved it for fraud.

    `unproven` is the weight of the latter. Without the second factor it would pay to answer with anything and hand
    nothing over (docs/economics.md).
    """
    rejected = sum(node.count for node in nodes if node.fate is NodeFate.REJECTED)
    accepted = sum(node.count for node in nodes if node.fate is NodeFate.ACCEPTED)
    left, losses = SCORE_FULL, []
    if rejected:
        lost = _rounded_up(SCORE_FULL * rejected, accepted + rejected)
        losses.append(PointLoss("batch-rejected", lost))
        left -= lost
    missing, drawn = _withheld(audits)
    if missing:
        lost = left * missing // drawn
        losses.append(PointLoss("withheld", lost))
        left -= lost
    if any(audit.fate is Verdict.INVALID for audit in audits):
        weight = sum(map(calculate_node_weight, nodes))
        is_fraud = any(audit.fate is Verdict.INVALID and audit.reason != NARROWLY_PROVEN for audit in audits)
        lost = left if is_fraud or not weight else _rounded_up(left * unproven, weight)
        losses.append(PointLoss("audit-failed", lost))
        left -= lost
    return _part(left, losses)


def _speed(account: Address, ratios: Mapping[Address, int], weights: Mapping[Address, int], total: int) -> ScorePart:
    """The weighted median over gateways of how much slower than the median of its peers it was there."""
    witnesses = [(ratio, weights.get(gateway, 0)) for gateway, ratio in ratios.items() if gateway != account]
    others = total - weights.get(account, 0)
    behind = sum(weight for _, weight in witnesses)
    if behind <= 0 or others <= 0:
        return ScorePart(SCORE_FULL)
    ratio = weighted_median(entry for entry in witnesses if entry[1] > 0)
    lost = min(SCORE_FULL, max(0, ratio - SLOW_FROM_PER_MILLE) // SLOW_POINTS_PER_MILLE)
    lost = lost * min(3 * behind, others) // others
    return _part(SCORE_FULL - lost, [PointLoss("slow", lost)])


def _availability(presence: int, nodes: Sequence[NodeOutcome], due: int, audits: Sequence[AuditOutcome]) -> ScorePart:
    """Present × nodes that did what was due × drawn answers handed over; each takes its share of what is left."""
    left, losses = presence, [PointLoss("absent", SCORE_FULL - presence)]
    done = min(due, len(nodes))
    withheld, drawn = _withheld(audits)
    for reason, missing, of in (("no-batch", due - done, due), ("withheld", withheld, drawn)):
        lost = left * missing // of if of else 0
        losses.append(PointLoss(reason, lost))
        left -= lost
    return _part(left, losses)


def _withheld(audits: Sequence[AuditOutcome]) -> tuple[int, int]:
    """Return how many answers were not handed over, and of how many."""
    withheld = sum(audit.withheld for audit in audits)
    return withheld, withheld + sum(audit.answers for audit in audits)


def _participation(votes: Duties, answers: Duties, *, has_votes: bool) -> ScorePart:
    """A member judges and audits what it can, and says so in time."""
    if not has_votes:
        return _part(0, [PointLoss("no-votes", SCORE_FULL)])
    unjudged = UNJUDGED_POINTS * votes.undone // max(1, votes.due)
    unaudited = UNAUDITED_POINTS * answers.undone // max(1, answers.due)
    return _part(
        SCORE_FULL - unjudged - unaudited, [PointLoss("unjudged", unjudged), PointLoss("unaudited", unaudited)]
    )


def _presence(account: Address, seen: Mapping[Address, int], weights: Mapping[Address, int], total: int) -> int:
    """The weighted median of what all others saw; who says nothing counts as having seen it all the time.

    And nobody was away for longer than those say who have a third of all the weight together: of what is not its own,
    less than that may be most.
    """
    said = [(per_mille, weights.get(witness, 0)) for witness, per_mille in seen.items() if witness != account]
    behind = sum(weight for _, weight in said)
    silent = total - weights.get(account, 0) - behind
    if behind == 0:
        return SCORE_FULL
    missing = [(SCORE_FULL - value, weight) for value, weight in said]
    missed = min(weighted_median((*missing, (0, max(0, silent)))), _said_by_a_third(missing, total))
    return SCORE_FULL - max(0, missed - ABSENCE_FORGIVEN)


def _said_by_a_third(values: Iterable[tuple[int, int]], total: int) -> int:
    """Return the most that (value, weight) pairs with a third of `total` reach; 0 if all together have less."""
    passed = 0
    for value, weight in sorted(values, reverse=True):
        passed += weight
        if 3 * passed >= total:
            return value
    return 0


def _sightings(bundles: Mapping[Address, VoteBundle]) -> Slices[dict[Address, dict[Address, int]]]:
    """By participant: what each witness saw of it."""
    seen, pace = dict[Address, dict[Address, int]](), Pace()
    for witness, bundle in bundles.items():
        for sighting in bundle.observations.sightings:
            seen.setdefault(sighting.participant, {})[witness] = sighting.per_mille
        if pace.is_over(len(bundle.observations.sightings)):
            yield
    return seen


def _speed_ratios(bundles: Mapping[Address, VoteBundle]) -> Slices[dict[Address, dict[Address, int]]]:
    """By executor: for each gateway, its time against the median of the others it measured, in thousandths.

    Of several models that an executor serves, its best counts: a gateway measures each against its own peers.
    """
    ratios, pace = dict[Address, dict[Address, int]](), Pace()
    for gateway, bundle in bundles.items():
        by_model: dict[ModelId, list[SpeedMeasure]] = {}
        for measure in bundle.observations.measures:
            if measure.answers >= ANSWERS_MEASURED_MIN and measure.executor != gateway:
                by_model.setdefault(measure.model_id, []).append(measure)
        for measures in by_model.values():
            times = {measure.executor: _micro_seconds(measure) for measure in measures}
            for executor, median in _medians_of_others(times).items():
                ratio = SCORE_FULL * times[executor] // max(1, median)
                known = ratios.setdefault(executor, {})
                known[gateway] = min(ratio, known.get(gateway, ratio))
        if pace.is_over(MEASURED_AS_ITEMS * len(bundle.observations.measures)):
            yield
    return ratios


def _medians_of_others(times: Mapping[Address, int]) -> dict[Address, int]:
    """For each executor, the lower median of the times of all others; nothing for one that is alone."""
    ordered = sorted((time, executor) for executor, time in times.items())
    if len(ordered) == 1:
        return {}
    place = (len(ordered) - 2) // 2
    return {executor: ordered[place + (rank <= place)][0] for rank, (_, executor) in enumerate(ordered)}


def _micro_seconds(measure: SpeedMeasure) -> int:
    return 1000 * measure.first_ms + (COMPARED_TOKENS - 1) * measure.token_us


def _by_participant(nodes: Sequence[NodeOutcome]) -> dict[Address, list[NodeOutcome]]:
    by_participant: dict[Address, list[NodeOutcome]] = {}
    for node in nodes:
        by_participant.setdefault(node.participant, []).append(node)
    return by_participant


def _rounded_up(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _part(left: int, losses: Iterable[PointLoss]) -> ScorePart:
    kept = sorted((loss for loss in losses if loss.per_mille > 0), key=lambda loss: (-loss.per_mille, loss.reason))
    return ScorePart(left, tuple(kept))
