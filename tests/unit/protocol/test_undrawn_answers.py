"""An executor is accused of drawn answers; what judges say no draw fell on is not heard, and chooses no epochs."""

from dataclasses import replace

import pytest

from node.protocol.appeals import is_heard, judge_again
from node.protocol.audit_majorities import EXCUSED, NOT_DRAWN, WITHHELD
from node.protocol.audit_outcomes import audit_outcomes
from node.protocol.audit_tasks import accused_answers
from node.protocol.audit_votes import REJUDGED
from node.protocol.audits import BETS
from node.protocol.findings import AuditFigures, AuditOutcome, AuditVote
from node.protocol.identifiers import Hash32
from node.protocol.verdicts import Verdict
from tests.builders import TINY, account
from tests.unit.protocol.audited_group import (
    BAD,
    EXECUTOR,
    GOOD,
    GROUP,
    JUDGES,
    SEEDS,
    WEIGHTS,
    band_of,
    by_auditors,
    judged,
    missing,
    previous,
)

CHOSEN = Hash32(b"\xcc" * 32)
SOME = tuple(5_000_000 for _ in BETS)
ACCUSED = AuditOutcome(
    EXECUTOR, TINY, Verdict.ABSTAIN, 1, 0, 100, "accused", evidence=tuple(30_000_000 for _ in BETS), confirmed=SOME,
    accused=(CHOSEN,), convicting=SOME,
)  # fmt: skip


def on_chosen(said: AuditFigures | str) -> AuditVote:
    if isinstance(said, str):
        return replace(missing(REJUDGED, said), receipt_digest=CHOSEN)
    return judged(REJUDGED, said, CHOSEN)


def cast_by(cartel: int, reason: str) -> dict[str, AuditVote]:
    """So many of the eight judges read a chosen answer, and all others say why they did not."""
    return {account(n): on_chosen(BAD if n - JUDGES[0] < cartel else reason) for n in JUDGES}


@pytest.mark.parametrize(("cartel", "heard"), [(2, False), (4, False), (5, True), (8, True)])
def test_an_answer_is_unheard_if_no_fewer_say_that_no_draw_fell_on_it(cartel: int, heard: bool) -> None:
    able = [account(n) for n in JUDGES]
    assert is_heard(cast_by(cartel, NOT_DRAWN), TINY, able, WEIGHTS) is heard


@pytest.mark.parametrize(("reason", "kept"), [(NOT_DRAWN, SOME), (WITHHELD, SOME), ("private", ())])
def test_who_does_not_read_what_somebody_chose_chooses_no_epochs_by_it(reason: str, kept: tuple[int, ...]) -> None:
    """A cheat's friends that win all draws of an epoch could else wipe out what convicts it, by naming old answers."""
    votes = {(EXECUTOR, REJUDGED, CHOSEN): cast_by(2, reason)}
    again = judge_again(ACCUSED, GROUP, votes, WEIGHTS, band_of, band_of)
    assert (again.outcome, again.confirmed) == (Verdict.ABSTAIN, SOME)
    assert again.convicting == kept


def test_a_judgement_is_one_whatever_its_reason_says() -> None:
    """Reasons are free: a third of all that reads an answer has read it."""
    said = {voter: replace(vote, reason=NOT_DRAWN) for voter, vote in cast_by(8, "").items()}
    votes = {(EXECUTOR, REJUDGED, CHOSEN): said}
    assert judge_again(ACCUSED, GROUP, votes, WEIGHTS, band_of, band_of).outcome is Verdict.INVALID
    assert NOT_DRAWN not in EXCUSED


@pytest.mark.parametrize("figures", [GOOD, BAD])
def test_a_result_accuses_of_what_was_drawn_for_it_alone_however_long_it_goes_on(figures: AuditFigures) -> None:
    """So the book and the seed of one result say which accused answers were drawn."""
    bundles = by_auditors(figures)
    (found,) = audit_outcomes(previous(ACCUSED), SEEDS, bundles, WEIGHTS, band_of)
    named = {vote.receipt_digest for bundle in bundles.values() for vote in bundle.audits}
    assert found.accused
    assert set(found.accused) <= named
    assert CHOSEN not in found.accused


def test_what_is_challenged_too_is_held_against_the_draws_as_well() -> None:
    """Who pays for answers would else choose what is added up, the same ones in each of sixteen epochs."""
    other, third = Hash32(b"\xdd" * 32), Hash32(b"\xee" * 32)
    outcomes = (
        replace(ACCUSED, accused=(CHOSEN, other), challenged=(other,)),
        replace(ACCUSED, accused=(), challenged=(third,)),
        replace(ACCUSED, executor=account(5), accused=(third,)),
    )
    assert accused_answers(previous(*outcomes), EXECUTOR) == {CHOSEN, other}
