"""What a trial shows: whether all honest nodes agree, who was paid, which cheats were found; and what failed.

The promises that a run is held to:

- Every epoch has a result, and every honest node that was up while it was formed computed the very same one by itself.
- No honest node is blamed for anything, and one that was there all the time is paid in full. One that was away loses
  pay only for reasons that follow from its absence.
- A cartel of a third may once in a while have two thirds of those who are drawn to check a validator, and takes from it
  what voting adds to its score (node/protocol/tails.py): from few, and nothing else.
- The cartel stays below half of the weight that judges: what is asked of a population, not of the rules.
- A cheat that the rules find is found as soon as they say (docs/soundness.md). Beside a cartel, an accusation finds
  nobody, and a validator that did not compute is found once it was said more often than of honest ones.
- What is minted is what the results grant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from netsim.adversaries import CARTEL, SLANDERS, STRATEGIES, Strategy
from netsim.trial import BAND_MISMATCH_PER_MILLION, Outcome, Participant
from node.protocol.audit_outcomes import NO_BOOK
from node.protocol.binomial import MILLION, detection_per_million, reject_from
from node.protocol.findings import NodeFate
from node.protocol.history import PARTS, POOLED_NONCES_MAX, WINDOWS_EPOCHS
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.outcomes import FILE_WITHHELD
from node.protocol.records import EpochGroup, EpochResult
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import NOT_COMPUTED
from node.protocol.unpaid import Explanation, explain
from node.protocol.verdicts import Verdict

ABSENCE_EPOCHS = 4
"""An absence costs pay in its own epoch and in those after: a member that was down for an epoch is barred for two."""
SURE_PER_MILLION = 999_000
"""A cheat has to be found where the test finds it so often."""
TOKENS_ROOM = 6
"""It has to be proven by so many times the audited tokens that prove it on average."""

BY_SLANDER_PER_MILLION_MAX = 1_000
"""A validator is found beside a cartel if so few honest ones would be named as often by chance."""

SLANDERED_PER_MILLE_MAX = 40
"""Of honest validators in all epochs; one is expected with a cartel of a third, 15 with one as heavy as a population
may have (below), and none of models that 25 members or fewer have."""

CARTEL_PER_MILLE_LIMIT = 420
"""A participant does not judge itself, and a few cheats vote wrongly as well: from here on a cartel may outvote the
honest on one of their batches."""


@dataclass(frozen=True, slots=True)
class Found:
    """A cheat that was found."""

    participant: Participant
    epoch: EpochNumber
    """In whose result it was first."""
    reasons: tuple[str, ...]
    """Codes of that result."""


@dataclass(frozen=True, slots=True)
class EpochFindings:
    """What one epoch shows."""

    epoch: EpochNumber
    digest: str
    """Of the accepted result, in hex; empty if there is none."""
    agreeing: int
    """Honest nodes that formed this very result."""
    differing: tuple[Participant, ...]
    """Honest nodes that formed another one, or none though they were up."""
    away: int
    """Honest nodes that were not up throughout FORM."""
    paid: int
    """Honest nodes that were paid."""
    paid_less: tuple[tuple[Participant, Explanation], ...]
    """Honest nodes that were paid less than the most, or nothing, and why."""
    cheats_paid: int
    group: int
    """Members of the next group."""
    cartel_per_mille: int
    """Of the weight in charge that was up throughout VALIDATE, what the cartel had."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a trial shows."""

    epochs: tuple[EpochFindings, ...]
    found: tuple[Found, ...]
    """By strategy."""
    unfound: tuple[Participant, ...]
    """Cheats that were not found, whether or not they had to be."""
    slandered: int
    """Times that a cartel took an honest validator's points for voting."""
    failures: tuple[str, ...]
    """Promises that did not hold."""


def judge_trial(outcome: Outcome) -> Findings:
    """Hold the outcome of a trial to the promises."""
    epochs = tuple(_epoch_findings(outcome, EpochNumber(epoch)) for epoch in range(outcome.trial.epochs))
    cheats = [participant for participant in outcome.participants if not participant.is_honest]
    found = [entry for cheat in cheats if (entry := _first_found(outcome, cheat)) is not None]
    known = {entry.participant.account for entry in found}
    unfound = [cheat for cheat in cheats if cheat.account not in known]
    failures = [
        *(failure for epoch in epochs for failure in _disagreements(epoch)),
        *(failure for epoch in epochs for failure in _unpaid(outcome, epoch)),
        *_blamed(outcome),
        *_too_much_slander(outcome, epochs),
        *(f"{_name(cheat)} was not found, and had to be" for cheat in unfound if _is_overdue(outcome, cheat)),
        *_unbalanced(outcome),
    ]
    ordered = sorted(found, key=lambda entry: (entry.participant.strategy, entry.participant.plan.number))
    return Findings(epochs, tuple(ordered), tuple(unfound), _slandered(outcome), tuple(failures))


def _epoch_findings(outcome: Outcome, epoch: EpochNumber) -> EpochFindings:
    result, digest = outcome.results.get(epoch), outcome.digests.get(epoch)
    honest = [participant for participant in outcome.participants if participant.is_honest]
    begin = first_block_of(epoch, Stage.FORM, outcome.parameters)
    end = first_block_of(epoch, Stage.LOAD, outcome.parameters)
    up = [participant for participant in honest if participant.attendance.is_up(begin, end)]
    agreeing = [
        participant
        for participant in up
        if digest is not None
        and (formed := outcome.formed[participant.account].get(epoch)) is not None
        and formed.digest == digest
    ]
    agreed = {participant.account for participant in agreeing}
    paid = {} if result is None else {share.participant: share.amount for share in result.settled if share.amount}
    explained = [] if result is None else [(one, _explanation(outcome, result, one)) for one in honest]
    return EpochFindings(
        epoch=epoch,
        digest="" if digest is None else digest.hex(),
        agreeing=len(agreeing),
        differing=tuple(participant for participant in up if participant.account not in agreed),
        away=len(honest) - len(up),
        paid=sum(participant.account in paid for participant in honest),
        paid_less=tuple((one, told) for one, told in explained if told.parts or not told.paid),
        cheats_paid=sum(one.account in paid for one in outcome.participants if not one.is_honest),
        group=0 if result is None else len(result.group.members),
        cartel_per_mille=_cartel_per_mille(outcome, epoch),
    )


def _cartel_per_mille(outcome: Outcome, epoch: EpochNumber) -> int:
    before = max((number for number in outcome.results if number < epoch), default=None)
    weights = None if before is None else {one.participant: one.weight for one in outcome.results[before].group.members}
    begin = first_block_of(epoch, Stage.VALIDATE, outcome.parameters)
    end = first_block_of(epoch, Stage.VOTE_EXCHANGE, outcome.parameters)
    total = cartel = 0
    for participant in outcome.participants:
        if participant.attendance.is_up(begin, end):
            weight = 1 if weights is None else weights.get(participant.account, 0)
            total += weight
            cartel += weight if participant.strategy in CARTEL else 0
    return 1000 * cartel // total if total else 0


def _explanation(outcome: Outcome, result: EpochResult, participant: Participant) -> Explanation:
    before = max((epoch for epoch in outcome.results if epoch < result.epoch), default=None)
    frozen: EpochGroup | None = None if before is None else outcome.results[before].group
    return explain(result, frozen, participant.account)


def _first_found(outcome: Outcome, cheat: Participant) -> Found | None:
    wanted, has_cartel = STRATEGIES[cheat.strategy].reasons, _has_cartel(outcome)
    named = checked = 0
    for epoch, result in sorted(outcome.results.items()):
        reasons = wanted & set(_reasons_against(result, cheat.account))
        said = [check.reason for check in result.validators if check.validator == cheat.account]
        named, checked = named + said.count(NOT_COMPUTED), checked + len(said)
        found = reasons - SLANDERS if has_cartel else reasons
        if has_cartel and NOT_COMPUTED in wanted & set(said) and _is_beyond_slander(outcome, named, checked):
            found |= {NOT_COMPUTED}
        if found:
            return Found(cheat, epoch, tuple(sorted(found)))
    return None


def _is_beyond_slander(outcome: Outcome, named: int, checked: int) -> bool:
    """Whether honest validators are said too seldom not to have computed for this to be slander as well."""
    honest = {participant.account for participant in outcome.participants if participant.is_honest}
    checks = sum(found.validator in honest for result in outcome.results.values() for found in result.validators)
    rate = MILLION * (_slandered(outcome) + 1) // (checks + 1)  # one more: that none was seen does not mean never
    return detection_per_million(checked, named, rate, 0) < BY_SLANDER_PER_MILLION_MAX


def _reasons_against(result: EpochResult, account: Address) -> Iterator[str]:
    """Yield the codes of all that a result holds against somebody."""
    for node in result.nodes:
        if node.participant == account and (node.fate is NodeFate.REJECTED or node.reason == FILE_WITHHELD):
            yield node.reason
    for validator in result.validators:
        if validator.validator == account and validator.fate is Verdict.INVALID:
            yield validator.reason
    for audit in result.audits:
        if audit.executor == account and (audit.accused or audit.reason == NO_BOOK):
            yield audit.reason
    for decision in result.penalties:
        if decision.participant == account:
            yield decision.reason
    for score in result.scores:
        if score.participant == account:
            for part in (score.quality, score.speed, score.availability, score.participation):
                yield from (loss.reason for loss in part.losses)


def _is_overdue(outcome: Outcome, cheat: Participant) -> bool:
    """Whether a cheat that was not found had to be."""
    strategy = STRATEGIES[cheat.strategy]
    if strategy.found_within_epochs and len(outcome.results) >= strategy.found_within_epochs:
        if NOT_COMPUTED not in strategy.reasons or not _has_cartel(outcome):
            return True
        checked = sum(
            check.validator == cheat.account for result in outcome.results.values() for check in result.validators
        )
        return _is_beyond_slander(outcome, checked, checked)
    audited = sum(
        audit.tokens
        for epoch, result in outcome.results.items()
        if epoch < outcome.trial.epochs - 1
        for audit in result.audits
        if audit.executor == cheat.account
    )
    if strategy.tokens_to_proof and audited >= TOKENS_ROOM * strategy.tokens_to_proof:
        return True
    return bool(strategy.differing_per_mille) and _drew_enough(outcome, cheat, strategy)


def _drew_enough(outcome: Outcome, cheat: Participant, strategy: Strategy) -> bool:
    """Whether so many of its nonces were drawn, within a window that is tested, that the test finds it."""
    drawn = [
        (epoch, node.sampled)
        for epoch, result in sorted(outcome.results.items())
        for node in result.nodes
        if node.participant == cheat.account and node.sampled
    ][strategy.honest_batches :]
    return has_to_be_found(drawn, strategy)


def has_to_be_found(drawn: Sequence[tuple[int, int]], strategy: Strategy) -> bool:
    """Whether a cheat of whose nonces so many were drawn (epoch, nonces) is found 999 times of 1,000.

    By the tests of node/protocol/history.py: each window has its own part of the false alarms, and a size.
    """
    return any(
        0 < (sampled := sum(count for epoch, count in drawn if newest - window < epoch <= newest)) <= POOLED_NONCES_MAX
        and _finds(sampled, parts, strategy)
        for newest, _ in drawn
        for window, parts in zip(WINDOWS_EPOCHS, PARTS, strict=True)
    )


def _finds(sampled: int, parts: int, strategy: Strategy) -> bool:
    fakes = strategy.differing_per_mille * MILLION // 1000
    rejected_from = max(PARAMETERS_MISMATCHES, reject_from(sampled, BAND_MISMATCH_PER_MILLION, parts))
    found = detection_per_million(sampled, rejected_from, fakes, BAND_MISMATCH_PER_MILLION)
    return found >= SURE_PER_MILLION


PARAMETERS_MISMATCHES = 3
"""Fewer never reject (netsim.scenario.PARAMETERS)."""


def _disagreements(epoch: EpochFindings) -> Iterator[str]:
    if epoch.cartel_per_mille >= CARTEL_PER_MILLE_LIMIT:
        share = f"{epoch.cartel_per_mille} of 1,000 of the weight that was there"
        yield f"epoch {epoch.epoch}: the cartel had {share}; no rule holds against that, so change the population"
    if not epoch.digest:
        yield f"epoch {epoch.epoch} has no result"
    for participant in epoch.differing:
        yield f"epoch {epoch.epoch}: {_name(participant)} did not compute the result that was accepted"


def _unpaid(outcome: Outcome, epoch: EpochFindings) -> Iterator[str]:
    for participant, told in epoch.paid_less:
        if not _was_away(outcome, participant, epoch.epoch):
            lost = [part.reason for part in told.parts if not (_has_cartel(outcome) and part.reason == NOT_COMPUTED)]
            if told.paid and not lost:
                continue
            reasons = ", ".join(lost) or "no reason at all"
            yield f"epoch {epoch.epoch}: {_name(participant)} was there and lost pay for {reasons}"


def _was_away(outcome: Outcome, participant: Participant, epoch: EpochNumber) -> bool:
    """Whether it was not up all the time from some epochs before to the end of `epoch`."""
    first = first_block_of(max(0, epoch - ABSENCE_EPOCHS), Stage.SERVE, outcome.parameters)
    return not participant.attendance.is_up(first, first_block_of(epoch + 1, Stage.SERVE, outcome.parameters))


def _blamed(outcome: Outcome) -> Iterator[str]:
    """Honest nodes must not be punished for fraud, rejected, or said not to have computed, even after an absence."""
    excused = frozenset({"absent", "no-batch", "no-votes", "unjudged", "unaudited", "withheld", "evidence-withheld"})
    excused |= {NOT_COMPUTED} if _has_cartel(outcome) else frozenset()
    excused |= {"accused", "omitted-receipt"}  # an accusation that the group does not confirm costs nothing
    # Who left before its file was fetched is undecided and unpaid; who was there and is would be in `_unpaid`.
    excused |= {FILE_WITHHELD}
    for epoch, result in sorted(outcome.results.items()):
        for participant in outcome.participants:
            if participant.is_honest:
                for reason in sorted(set(_reasons_against(result, participant.account)) - excused):
                    yield f"epoch {epoch}: {_name(participant)} is blamed for {reason}"


def _has_cartel(outcome: Outcome) -> bool:
    return any(participant.strategy in CARTEL for participant in outcome.participants)


def _slandered(outcome: Outcome) -> int:
    honest = {participant.account for participant in outcome.participants if participant.is_honest}
    return sum(
        found.validator in honest and found.reason == NOT_COMPUTED
        for result in outcome.results.values()
        for found in result.validators
    )


def _too_much_slander(outcome: Outcome, epochs: Sequence[EpochFindings]) -> Iterator[str]:
    slandered, voting = _slandered(outcome), sum(epoch.agreeing for epoch in epochs)
    if 1000 * slandered > SLANDERED_PER_MILLE_MAX * voting:
        yield f"honest validators were said {slandered} times of {voting} not to have computed their votes"


def _unbalanced(outcome: Outcome) -> Iterator[str]:
    granted = sum(result.reward_total for result in outcome.results.values())
    if outcome.minted != sum(outcome.claimed.values()):
        yield f"{outcome.minted} was minted, and {sum(outcome.claimed.values())} claimed"
    if outcome.minted > granted:
        yield f"{outcome.minted} was minted, and {granted} granted"


def _name(participant: Participant) -> str:
    fate = participant.attendance.fate.value
    return f"node {participant.plan.number} ({participant.strategy}, {fate})"


def names(participants: Sequence[Participant]) -> str:
    """Return the numbers of nodes, for a line of the report."""
    return ", ".join(str(participant.plan.number) for participant in participants)
