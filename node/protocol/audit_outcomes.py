"""What an epoch's audits come to: from the votes of auditors to the fate of each executor's answers with a model, the
same on every node.

Purpose: few auditors judge each drawn answer. They can be of one mind by bribery or bad luck, so they only accuse: the
answers they accuse an executor of are judged again in the next epoch by everybody who has the model, from the same
evidence, and only that can prove anything. This is the appeal, and nobody has to ask for it: the accused and the
auditors hand the evidence to whoever judges again, and a majority by weight of those able to overturns the accusation
or confirms it. It is fraud if those who find it proven weigh a third of the whole group. Fewer take the pay and the
points, and no more: who serves a model with little weight would be judge over all that somebody has.

Detail: of the votes on a draw, those on the receipt that most of its seats name count; of these, the vote in the
middle, so that no single auditor moves a figure beyond what others found. It speaks for the executor only if
no auditor says anything else: friends could invent an answer, or figures. What bets gain from its figures, by
the band of the node that the receipt names, goes into the evidence against the executor with the model (audits.py),
which is kept from epoch to epoch: one sum, whichever nodes are named, for names are free. Where there is nothing to
judge, by the book or by the receipt, honest auditors say so: else the first who judges there, or finds something
missing, would be the only one. An answer that most of those who could judge never got counts as withheld: it proves
nothing, and is never forgotten either, for the score has it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from node.protocol.appeals import NARROWLY_PROVEN, NO_APPEAL, QUIET_EPOCHS_MAX, Appeal, is_heard, judge_again
from node.protocol.audit_majorities import (
    JUDGES_MIN,
    NO_MODEL,
    UNDONE,
    WITHHELD,
    BandOf,
    Votes,
    as_many_failed,
    digest_of_most,
    gains_of_draw,
    is_judged,
    is_undisputed,
    is_unshown,
    middle_of,
    weight_of_voters,
)
from node.protocol.audit_sampling import DRAWS_MAX, AuditorLots, AuditSeeds, draws_of, judges_of
from node.protocol.audit_votes import AUDIT_VOTES_MAX, CHALLENGE_EPOCHS_MAX, NO_DIGEST, REJUDGED
from node.protocol.audits import (
    NO_EVIDENCE,
    Gains,
    accumulate_evidence,
    proven_by,
)
from node.protocol.due_books import book_of
from node.protocol.findings import AuditOutcome, AuditVote, CommittedBook, ModelWeight
from node.protocol.identifiers import Address, Hash32, ModelId
from node.protocol.lots import lot
from node.protocol.omissions import EMPTY_BOOK, proven_omissions
from node.protocol.participation import Duties
from node.protocol.pricing import receipt_digest
from node.protocol.receipts import is_signed_by_executor, is_signed_by_payer
from node.protocol.records import EpochGroup, EpochResult, SignedReceipt, VoteBundle
from node.protocol.slices import Pace, Slices, finish
from node.protocol.tails import makes_vectors
from node.protocol.vector_audits import VECTORS
from node.protocol.verdicts import Verdict
from node.protocol.weights import weights_by_model

ACCUSED_MAX = DRAWS_MAX
"""Answers of one executor that everybody judges again: all that were audited, not the worst, which would be a sample of
bad luck. While an accusation is open, those of the epochs after as well, so that a cartel cannot choose which ones
count."""
CHALLENGED_MAX = 8
"""Of one executor with one model in one epoch: what everybody has to read is bounded. One of each payer comes before
the second of any, so that no payer crowds the others out."""
FORMER_MAX = 4_096
"""Of accounts that are no members any more so many are remembered, each with a model: results have a bound, and so many
that are worse cost collateral each."""
OMITTED = "omitted-receipt"
"""A payer proved that it left a receipt out of its books; counted as withheld."""
NO_BOOK = "no-book"
"""A payer has a receipt of it, and two results running have no book of it; counted likewise."""
ACCUSED = "accused"
UNCONFIRMED = "unconfirmed"
NOT_AUDITED = "not-audited"
DRAW_AS_ITEMS, OUTCOME_AS_ITEMS, CHALLENGE_AS_ITEMS, REMEMBERED_AS_ITEMS = 64, 64, 256, 4
"""What they cost, against an item of a slice."""

Served = tuple[Address, ModelId]
"""An executor and a model that it answers with."""


@dataclass(frozen=True, slots=True)
class AuditFindings:
    """What an epoch's audits come to."""

    outcomes: tuple[AuditOutcome, ...]
    """Ascending by (executor, model id)."""
    duties: Mapping[Address, Duties]
    """By auditor: answers that it was drawn to audit, or had to judge again."""


class _AuditDuties:
    """Counts what auditors had to judge."""

    def __init__(self, group: EpochGroup) -> None:
        self._served = {
            member.participant: frozenset(node.model_id for node in member.ml_nodes) for member in group.members
        }
        self._counts: dict[Address, list[int]] = {}

    def add(self, auditors: Collection[Address], votes: Mapping[Address, AuditVote], judged: ModelId | None) -> None:
        """Add one answer: who had to judge it, who voted what, and which model's it was, if anybody judged it."""
        for auditor in auditors:
            counts = self._counts.setdefault(auditor, [0, 0])
            counts[0] += 1
            counts[1] += not self._is_done(auditor, votes.get(auditor), judged)

    def all(self) -> dict[Address, Duties]:
        # Of more than a bundle has room for, what does not fit is not due.
        return {
            auditor: Duties(min(due, AUDIT_VOTES_MAX), max(0, undone - max(0, due - AUDIT_VOTES_MAX)))
            for auditor, (due, undone) in self._counts.items()
        }

    def _is_done(self, auditor: Address, vote: AuditVote | None, judged: ModelId | None) -> bool:
        """Auditors are drawn who have one of the executor's models, so that some lack the one that is asked for.

        What nobody judged is nobody's fault.
        """
        if judged is None:  # an executor can book what no engine reads, or what no version of a model gave
            return True
        if vote is None or (vote.verdict is Verdict.ABSTAIN and vote.reason in UNDONE):
            return False
        return vote.reason != NO_MODEL or judged not in self._served.get(auditor, frozenset())


@dataclass(slots=True)
class _Found:
    """What is found out about an executor's answers with one model, while it is."""

    tokens: dict[Hash32, int] = field(default_factory=dict)
    """How many each answer that was judged has, by the receipt's digest."""
    answers: dict[Hash32, Gains] = field(default_factory=dict)
    """What each answer that was judged gains, by the receipt's digest, in the order of draws."""
    withheld: int = 0
    challenged: list[tuple[Address, Hash32]] = field(default_factory=list)
    """(payer, receipt's digest)."""
    omitted: int = 0
    """Receipts that it left out of its books."""
    is_bookless: bool = False
    """Whether it left them out by having no book at all."""


_FoundOut = defaultdict[Served, _Found]


def committed_books(
    bundles: Mapping[Address, VoteBundle], weights: Mapping[Address, int], frozen: EpochGroup
) -> tuple[CommittedBook, ...]:
    """Return the books of all members whose bundles count, ascending by executor; empty ones where none was named.

    `frozen` is the group in charge of the epoch, whose members gave the answers.
    """
    served: dict[Address, list[ModelWeight]] = {}
    for (executor, model_id), weight in sorted(weights_by_model(frozen).items()):
        served.setdefault(executor, []).append(ModelWeight(model_id, weight))
    books = []
    for executor, bundle in bundles.items():
        if weights.get(executor, 0) > 0:
            book = bundle.receipts or EMPTY_BOOK
            books.append(CommittedBook(executor, book, tuple(served.get(executor, ())) if book.count else ()))
    return tuple(sorted(books, key=lambda committed: committed.executor.lower()))


def _weights_since_answers(previous: EpochResult) -> dict[tuple[Address, ModelId], int]:
    """Return what nodes weighed when they gave the answers that this epoch audits, or weigh in the group in charge."""
    weights = weights_by_model(previous.group)
    for committed in previous.books:
        for served in committed.weights:
            key = committed.executor, served.model_id
            weights[key] = max(weights.get(key, 0), served.weight)
    return weights


def audit_outcomes(
    previous: EpochResult | None,
    seeds: AuditSeeds | None,
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    band_of: BandOf,
    fraud_band_of: BandOf | None = None,
) -> tuple[AuditOutcome, ...]:
    """Return the outcomes of this epoch's audits: see `audit_outcomes_in_slices`."""
    computation = audit_outcomes_in_slices(previous, seeds, bundles, weights, band_of, fraud_band_of)
    return finish(computation).outcomes


def audit_outcomes_in_slices(
    previous: EpochResult | None,
    seeds: AuditSeeds | None,
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    band_of: BandOf,
    fraud_band_of: BandOf | None = None,
) -> Slices[AuditFindings]:
    """Return the outcomes of this epoch's audits, and who had to audit how much.

    `previous` is the newest result before this epoch: its books are what was drawn from; its group audits; its
    accusations are what was judged again. `bundles` were checked (bundles.py); `weights` are those of this epoch's
    group. `band_of` says which band an answer of a node is held against, `fraud_band_of` by which fraud is found, by
    default the same. Votes of others than those drawn do not count.
    """
    if previous is None or seeds is None:
        return AuditFindings((), {})
    found, pace, duties = _FoundOut(_Found), Pace(), _AuditDuties(previous.group)
    by_draw, lots = _by_draw(bundles), AuditorLots(seeds.draw, previous.group)
    for committed in previous.books:
        undisputed: set[Hash32] = set()
        for draw in range(draws_of(committed.book)):
            cast = by_draw.get((committed.executor, draw, NO_DIGEST), {})
            auditors = lots.seats(committed.executor, draw)
            seats = {auditor: count for auditor, count in auditors.items() if weights.get(auditor, 0) > 0}
            votes = {auditor: cast[auditor] for auditor in seats if auditor in cast}
            judged = _take_draw(committed.executor, votes, seats, band_of, found, undisputed)
            duties.add(seats, votes, None if as_many_failed(votes, seats) else judged)
            if pace.is_over(DRAW_AS_ITEMS):
                yield
    for signed in proven_omissions(previous, bundles).values():
        receipt = signed.receipt
        of_served = found[receipt.executor, receipt.model_id]
        of_served.omitted += 1
        of_served.is_bookless = book_of(previous.books, receipt.executor) is None
    challenges = yield from _challenges(previous, bundles, weights)
    for digest, signed in challenges.items():
        receipt = signed.receipt
        found[receipt.executor, receipt.model_id].challenged.append((receipt.payer, digest))
    before, weighed = (yield from _remembered(previous)), _weights_since_answers(previous)
    outcomes = []
    for served in sorted(found.keys() | before.keys(), key=lambda served: (served[0].lower(), served[1])):
        known = before.get(served)
        again = NO_APPEAL if known is None else replace(NO_APPEAL, quiet_epochs=known.quiet_epochs)
        if known is not None and (known.accused or known.challenged or known.confirmed):
            again = judge_again(known, previous.group, by_draw, weights, band_of, fraud_band_of or band_of)
            able = judges_of(known, previous.group)
            for digest in {*known.accused, *known.challenged}:
                cast = by_draw.get((known.executor, REJUDGED, digest), {})
                cast = {voter: vote for voter, vote in cast.items() if voter in able}
                is_due = is_heard(cast, known.model_id, able, weights) and not as_many_failed(cast, weights)
                duties.add(able, cast, known.model_id if is_due else None)
            model = previous.group.get_epoch_model(known.model_id)
            is_proven = again.outcome is Verdict.INVALID and again.reason != NARROWLY_PROVEN
            if is_proven and model is not None and makes_vectors(model):
                again = replace(again, reason=VECTORS)  # the bets are those on tokens, in their place
        of_served = found[served]
        chosen = _chosen(of_served.challenged, weights, seeds.lot)
        weight = max(0 if known is None else known.weight, weighed.get(served, 0))
        outcome = _outcome(served, of_served, known, again, chosen, weight)
        if outcome is not None:
            outcomes.append(outcome)
        if pace.is_over(OUTCOME_AS_ITEMS):
            yield
    return AuditFindings(tuple(outcomes), duties.all())


def _remembered(previous: EpochResult) -> Slices[dict[Served, AuditOutcome]]:
    """Return what the result before says of executors, as far as it still matters: what is judged again; and evidence
    and open accusations, with models that the group has. So results have a bound, though a friendly auditor may say
    that it read answers by models that nobody has. Who is no member is forgotten after QUIET_EPOCHS_MAX epochs, and not
    before: else accounts could cheat in turns, each until it is about to be accused. Of more than FORMER_MAX of these,
    those stay against whom most was found.
    """
    members = {member.participant for member in previous.group.members}
    models = {model.model_id for model in previous.group.models}
    kept: dict[Served, AuditOutcome] = {}
    former: list[tuple[int, str, Served]] = []
    pace = Pace()
    for outcome in previous.audits:
        is_evidence = bool(outcome.evidence or outcome.confirmed) and outcome.model_id in models
        if outcome.accused or outcome.challenged or (is_evidence and outcome.quiet_epochs < QUIET_EPOCHS_MAX):
            away = outcome.quiet_epochs + 1 if outcome.executor not in members else 0
            known = outcome if outcome.confirmed else replace(outcome, quiet_epochs=away)
            served = outcome.executor, outcome.model_id
            kept[served] = known
            if away and not (outcome.accused or outcome.challenged):
                found = max((*outcome.confirmed, *outcome.evidence))
                former.append((-found, outcome.executor.lower(), served))
        if pace.is_over(REMEMBERED_AS_ITEMS):
            yield
    for _, _, served in sorted(former)[FORMER_MAX:]:
        del kept[served]
    return kept


def _challenges(
    previous: EpochResult, bundles: Mapping[Address, VoteBundle], weights: Mapping[Address, int]
) -> Slices[dict[Hash32, SignedReceipt]]:
    """Return the answers that members challenge, by receipt: only what both sides signed.

    And only of executors that are members or have a book: anybody makes up a key that signs whatever it is told to. And
    nothing that is old.
    """
    first = previous.epoch - CHALLENGE_EPOCHS_MAX
    found, pace = dict[Hash32, SignedReceipt](), Pace()
    for validator, bundle in bundles.items():
        if weights.get(validator, 0) <= 0:
            continue
        for signed in bundle.challenges:
            executor, is_old = signed.receipt.executor, signed.receipt.epoch < first
            is_known = weights.get(executor, 0) > 0 or book_of(previous.books, executor) is not None
            if is_known and not is_old and is_signed_by_executor(signed) and is_signed_by_payer(signed):
                found[receipt_digest(signed.receipt)] = signed
            if pace.is_over(CHALLENGE_AS_ITEMS):
                yield
    return dict(sorted(found.items()))


def _by_draw(bundles: Mapping[Address, VoteBundle]) -> Votes:
    found: dict[tuple[Address, int, Hash32], dict[Address, AuditVote]] = {}
    for validator, bundle in bundles.items():
        for vote in bundle.audits:
            digest = vote.receipt_digest if vote.draw == REJUDGED else NO_DIGEST
            found.setdefault((vote.executor, vote.draw, digest), {})[validator] = vote
    return found


def _take_draw(
    executor: Address,
    votes: Mapping[Address, AuditVote],
    seats: Mapping[Address, int],
    band_of: BandOf,
    found: _FoundOut,
    undisputed: set[Hash32],
) -> ModelId | None:
    """Add what the votes on one draw come to; return the model whose answer was judged, None if none was.

    `undisputed` are answers that other draws fell on as well and that nobody disputed there.
    """
    digest = digest_of_most(votes, seats)
    if digest is None:
        missed = {voter: vote for voter, vote in votes.items() if is_unshown(vote)}
        is_most = 2 * weight_of_voters(missed, seats) > weight_of_voters(votes, seats)
        if is_most and len(seats) >= JUDGES_MIN:
            vote = middle_of(list(missed.items()), seats, lambda vote: (vote.model_id,))
            found[executor, vote.model_id].withheld += 1
        return None
    judged = {voter: vote for voter, vote in votes.items() if is_judged(vote) and vote.receipt_digest == digest}
    vote, gained = gains_of_draw(judged, seats, band_of)
    if digest in undisputed:
        return vote.model_id
    of_served = found[executor, vote.model_id]
    before = of_served.answers.get(digest)
    if is_undisputed(votes, seats):
        undisputed.add(digest)  # in place of what another draw, in which somebody named it too, made of it
    else:  # it accuses as it did, and clears of nothing
        gained = tuple(map(max, gained, before or (0,) * len(gained)))
    of_served.tokens[digest] = vote.figures.tokens
    of_served.answers[digest] = gained
    return vote.model_id


def _outcome(
    served: Served,
    found: _Found,
    known: AuditOutcome | None,
    again: Appeal,
    challenged: tuple[Hash32, ...],
    weight: int,
) -> AuditOutcome | None:
    """Return what becomes of an executor with a model, whose weight may have to go unpaid; None if there is nothing to
    say and nothing to remember."""
    executor, model_id = served
    evidence = NO_EVIDENCE if known is None or again.is_settled else known.evidence
    # In the order of draws, which have nothing to do with figures: sorted by these, luck would look like evidence. Nor
    # does anybody choose them: auditors who invent an answer invent its digest, too.
    for gained in found.answers.values():
        evidence = accumulate_evidence(evidence, gained)
    accused = _accused(found, evidence) if not again.confirmed else _all(found)
    fate, reason = Verdict.VALID, _missing_reason(found)
    if again.outcome is Verdict.INVALID:
        fate, reason = Verdict.INVALID, again.reason
    elif accused:
        fate, reason = Verdict.ABSTAIN, ACCUSED
    elif again.outcome is Verdict.ABSTAIN:
        fate, reason = Verdict.ABSTAIN, UNCONFIRMED
    elif not found.answers:
        fate, reason = Verdict.ABSTAIN, reason or NOT_AUDITED
    if reason == NOT_AUDITED and not evidence and not challenged:
        return None
    return AuditOutcome(
        executor=executor,
        model_id=model_id,
        fate=fate,
        answers=len(found.answers),
        withheld=found.withheld + found.omitted,
        tokens=sum(found.tokens.values()),
        reason=reason,
        evidence=evidence,
        confirmed=again.confirmed,
        accused=accused,
        challenged=challenged,
        convicting=again.convicting,
        quiet_epochs=again.quiet_epochs,
        weight=weight if accused or challenged or again.confirmed or again.outcome is Verdict.INVALID else 0,
    )


def _missing_reason(found: _Found) -> str:
    if found.is_bookless:
        return NO_BOOK
    return OMITTED if found.omitted else WITHHELD if found.withheld else ""


def _chosen(
    challenged: Sequence[tuple[Address, Hash32]], weights: Mapping[Address, int], seed: Hash32
) -> tuple[Hash32, ...]:
    """Return which challenged answers are judged again, ascending: payers take turns, in each by lots of their weight.

    `seed` was not known when the challenges were committed to, and a lot is of the payer, not of what it challenges: so
    neither a payer nor an executor that makes up receipts with friends of its own can choose who is left out.
    """
    turns: dict[Address, int] = {}
    ordered = []
    for payer, digest in sorted(challenged, key=lambda item: hashlib.sha256(seed + item[1]).digest()):
        turns[payer] = turn = turns.get(payer, 0) + 1
        drawn = lot(b"challenge\x00" + seed, f"{payer.lower()}/{turn}".encode(), weights[payer])
        ordered.append((turn, drawn, digest))
    return tuple(sorted(digest for _, _, digest in sorted(ordered)[:CHALLENGED_MAX]))


def _accused(found: _Found, evidence: tuple[int, ...]) -> tuple[Hash32, ...]:
    """Return which answers are to be judged again: all, if it is suspected by one of them or by their sum."""
    is_suspected = (
        any(proven_by(gained) is not None for gained in found.answers.values()) or proven_by(evidence) is not None
    )
    return _all(found) if is_suspected else ()


def _all(found: _Found) -> tuple[Hash32, ...]:
    return tuple(sorted(found.answers))[:ACCUSED_MAX]
