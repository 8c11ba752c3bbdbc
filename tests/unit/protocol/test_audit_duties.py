"""What members owe to audits: a judgement of what was drawn for them, and of what is judged again, if it can be."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from node.protocol.audit_majorities import NOTHING_TO_JUDGE, WITHHELD
from node.protocol.audit_outcomes import NOT_AUDITED, audit_outcomes, audit_outcomes_in_slices
from node.protocol.audit_sampling import auditors_of, draws_of
from node.protocol.audit_votes import REJUDGED
from node.protocol.findings import AuditOutcome, AuditVote
from node.protocol.identifiers import Address, Hash32, ModelId
from node.protocol.participation import Duties
from node.protocol.records import EpochResult, VoteBundle
from node.protocol.slices import finish
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account
from tests.unit.protocol.audited_group import (
    BAD,
    BOOK,
    DRAWS,
    EXECUTOR,
    GOOD,
    GROUP,
    MEMBERS,
    SEED,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    by_auditors,
    digest_of,
    judged,
    judged_again,
    missing,
    outcome,
    previous,
    with_judges,
)
from tests.unit.protocol.test_receipt_books import BIG, group_of


def duties_of(bundles: Mapping[Address, VoteBundle], known: EpochResult | None = None) -> Mapping[Address, Duties]:
    return finish(audit_outcomes_in_slices(known or previous(), SEEDS, bundles, WEIGHTS, band_of)).duties


def drawn_for(auditor: Address) -> int:
    return sum(auditor in auditors_of(SEED, EXECUTOR, draw, GROUP) for draw in range(draws_of(BOOK)))


def test_what_auditors_owe_is_what_was_drawn_for_them_whatever_they_say() -> None:
    expected = {account(number): drawn_for(account(number)) for number in MEMBERS if drawn_for(account(number))}
    done = duties_of(by_auditors(GOOD))
    assert done == {auditor: Duties(drawn, 0) for auditor, drawn in expected.items()}
    assert EXECUTOR not in done
    nobody = duties_of({})  # an executor can book what nobody can judge
    assert nobody == {auditor: Duties(drawn, 0) for auditor, drawn in expected.items()}
    diligent = max(expected, key=lambda auditor: expected[auditor])
    alone = duties_of({diligent: by_auditors(GOOD)[diligent]})
    assert alone[diligent] == Duties(expected[diligent], 0)
    assert sum(found.undone for found in alone.values()) > 0


@pytest.mark.parametrize(
    ("reason", "is_done"),
    [("no-time", False), ("engine-failed", False), ("no-model", False), (WITHHELD, True), ("private", True)],
)
def test_an_auditor_that_has_the_model_owes_a_judgement_and_nobody_owes_what_was_not_shown(
    reason: str, is_done: bool
) -> None:
    idle = next(account(number) for number in MEMBERS if drawn_for(account(number)))
    found = duties_of(by_auditors(GOOD, {idle: missing(0, reason)}))[idle]
    assert found == Duties(drawn_for(idle), 0 if is_done else drawn_for(idle))


def test_who_lacks_the_model_that_an_answer_is_of_owes_nothing() -> None:
    """The executor has two models; auditors are drawn that have either."""
    nodes = {1: (TINY, BIG), 2: (TINY,), 3: (BIG,), 4: (BIG,)}
    known = replace(previous(), group=group_of(*((number, 10, models) for number, models in nodes.items())))
    draw = next(draw for draw in range(DRAWS) if len(auditors_of(SEED, EXECUTOR, draw, known.group)) == 3)
    votes = {account(number): [missing(draw, "no-model")] for number in (2, 4)}
    votes[account(3)] = [replace(judged(draw, GOOD), model_id=BIG)]
    found = duties_of(bundles_of(votes), known)
    undone = {number: found[account(number)].undone for number in (2, 3, 4)}
    assert undone == {2: 0, 3: 0, 4: 1}
    nobody_has_it = {account(2): [replace(missing(draw, "no-model"), model_id=ModelId("rare"))]}
    assert duties_of(bundles_of(nobody_has_it), known)[account(2)].undone == 0


def again_with(digest: Hash32, reason: str) -> AuditVote:
    return replace(missing(REJUDGED, reason), node_id=NODE, model_id=TINY, receipt_digest=digest)


CHALLENGED_ONES = tuple(digest_of(number) for number in range(4))


def challenged_outcome() -> AuditOutcome:
    return AuditOutcome(EXECUTOR, TINY, Verdict.ABSTAIN, 0, 0, 0, NOT_AUDITED, challenged=CHALLENGED_ONES)


@pytest.mark.parametrize("reason", ["no-time", "engine-failed", "no-model", *sorted(NOTHING_TO_JUDGE)])
@pytest.mark.parametrize("friends", [(), (2,), (2, 3), (2, 3, 4)])
def test_what_too_few_judged_again_nobody_owes(reason: str, friends: tuple[int, ...]) -> None:
    """A payer and an executor who are one person can challenge, for nothing, what no engine reads."""
    others = [number for number in range(2, 10) if number not in friends]
    votes = {account(number): [again_with(digest, reason) for digest in CHALLENGED_ONES] for number in others}
    votes |= {account(number): [judged(REJUDGED, GOOD, digest) for digest in CHALLENGED_ONES] for number in friends}
    found = duties_of(bundles_of(votes), previous(challenged_outcome(), books=()))
    is_owed = len(friends) == 3 and reason in ("no-time", "no-model")  # a third of those who have the model
    assert {found[account(number)] for number in others} == {Duties(4, 4 if is_owed else 0)}


def test_members_without_the_model_excuse_nobody_who_has_it() -> None:
    known = replace(previous(challenged_outcome(), books=()), group=with_judges(2, 3, 4))
    votes = {account(n): [again_with(digest, "engine-failed") for digest in CHALLENGED_ONES] for n in range(5, 10)}
    votes |= {account(n): [judged(REJUDGED, GOOD, digest) for digest in CHALLENGED_ONES] for n in (2, 3)}
    found = duties_of(bundles_of(votes), known)
    assert [found[account(n)] for n in (2, 3, 4)] == [Duties(4, 0), Duties(4, 0), Duties(4, 4)]


@pytest.mark.parametrize("reason", ["engine-failed", *sorted(NOTHING_TO_JUDGE)])
def test_one_auditor_who_judges_what_nobody_reads_makes_it_nobody_s_duty(reason: str) -> None:
    liar = account(2)
    said = {account(number): missing(0, reason) for number in MEMBERS if account(number) != liar}
    found = duties_of(by_auditors(GOOD, said))
    assert {duties.undone for duties in found.values()} == {0}
    assert found[liar].due == drawn_for(liar) > 0


@pytest.mark.parametrize("reason", sorted(NOTHING_TO_JUDGE))
def test_a_third_convicts_nobody_of_what_all_others_see_that_nobody_can_judge(reason: str) -> None:
    known = challenged_outcome()
    votes = {account(number): [again_with(digest, reason) for digest in CHALLENGED_ONES] for number in range(5, 10)}
    votes |= {account(number): [judged(REJUDGED, BAD, digest) for digest in CHALLENGED_ONES] for number in (2, 3, 4)}
    assert audit_outcomes(previous(known, books=()), SEEDS, bundles_of(votes), WEIGHTS, band_of) == ()


def test_everybody_with_the_model_owes_a_judgement_of_what_is_judged_again() -> None:
    accused = outcome(by_auditors(BAD))
    assert accused.accused
    known = previous(accused, books=())
    again = judged_again(accused, {number: GOOD for number in MEMBERS if number not in (1, 2)})
    found = duties_of(again, known)
    assert EXECUTOR not in found
    assert found[account(2)] == Duties(len(accused.accused), len(accused.accused))
    assert found[account(3)] == Duties(len(accused.accused), 0)
