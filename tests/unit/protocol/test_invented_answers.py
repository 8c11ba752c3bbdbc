"""A vote's receipt and length are believed: what auditors make up clears nobody, and takes nobody's pay.

Nobody can tell by an invented answer that it is one, but that it never was shown to anybody else.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.audit_majorities import WITHHELD
from node.protocol.audit_outcomes import ACCUSED, UNCONFIRMED, audit_outcomes
from node.protocol.audit_sampling import AuditSeeds, auditors_of, draws_of
from node.protocol.audit_votes import REJUDGED
from node.protocol.audits import BETS, CONFIRMED_MICRO_BITS, NO_FIGURES, gains
from node.protocol.findings import AUDIT_TOKENS_MAX, AuditFigures, AuditOutcome, AuditVote
from node.protocol.identifiers import Address, Hash32
from node.protocol.records import EpochGroup
from node.protocol.verdicts import Verdict
from tests.builders import TINY, account
from tests.unit.protocol.audited_group import (
    BAD,
    BAND,
    BOOK,
    EXECUTOR,
    GOOD,
    GROUP,
    MILD,
    SEED,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    digest_of,
    is_fraud,
    judged,
    missing,
    previous,
    votes_on_draws,
)
from tests.unit.protocol.test_receipt_books import BIG, group_of

HONEST = AuditFigures(200, 1, 0, 0, 0, 0, 100_000_000)
LIKE_INT8 = AuditFigures(200, 5, 5 * 48_000, 0, 0, 0, 100_000_000)
PRAISE = AuditFigures(AUDIT_TOKENS_MAX, 0, 0, 0, 0, 0, 100_000_000)
SLANDER = AuditFigures(2_000, 2_000, 2_000 * 50_000, 0, 0, 0, 100_000_000)


def weights_of(group: EpochGroup) -> dict[Address, int]:
    return {member.participant: member.weight for member in group.members}


def fates_of(
    group: EpochGroup, cartel: Collection[int], truth: AuditFigures, said: AuditFigures, epochs: int
) -> list[AuditOutcome]:
    """What becomes of an executor, epoch by epoch, if the cartel names an answer that never was in each draw that falls
    to it, and says so again when it is judged again; all others have been shown what was drawn, and say what is true.
    """
    judges = [member.participant for member in group.members if member.participant != EXECUTOR]
    liars, weights = {account(number) for number in cartel}, weights_of(group)
    known: tuple[AuditOutcome, ...] = ()
    fates = []
    given: set[Hash32] = set()
    for epoch in range(epochs):
        seed = Hash32(hashlib.sha256(b"%d" % epoch).digest())
        votes: dict[Address, list[AuditVote]] = {judge: [] for judge in judges}
        for digest in (digest for outcome in known for digest in outcome.accused):
            for judge in judges:
                unseen = replace(missing(REJUDGED), receipt_digest=digest)
                honest = judged(REJUDGED, truth, digest) if digest in given else unseen
                votes[judge].append(judged(REJUDGED, said, digest) if judge in liars else honest)
        given = set()
        for draw in range(draws_of(BOOK)):
            true, invented = (Hash32(hashlib.sha256(b"%c%d/%d" % (kind, epoch, draw)).digest()) for kind in b"tf")
            given.add(true)
            last = Hash32(b"\xff\xff" + invented[2:])  # as late in the order of digests as can be
            for auditor in auditors_of(seed, EXECUTOR, draw, group):
                votes[auditor].append(judged(draw, said, last) if auditor in liars else judged(draw, truth, true))
        before = replace(previous(*known), group=group)
        known = audit_outcomes(before, AuditSeeds(seed, seed), bundles_of(votes), weights, band_of)
        fates += known
        if any(map(is_fraud, known)):
            break
    return fates


@pytest.mark.parametrize(
    ("friends", "others"),
    [({2: 5}, 95), ({2: 20}, 80), (dict.fromkeys(range(2, 12), 1), 21)],
    ids=["one with 5 %", "one with 20 %", "ten light ones, a third"],
)
def test_friends_below_a_third_protect_no_mild_cheat_by_answers_that_never_were(
    friends: Mapping[int, int], others: int
) -> None:
    honest = ((n, 1, (TINY,)) for n in range(20, 20 + others))
    group = group_of((1, 1, (TINY,)), *((n, weight, (TINY,)) for n, weight in friends.items()), *honest)
    fates = fates_of(group, friends, LIKE_INT8, PRAISE, 8)
    assert is_fraud(fates[-1])


def test_a_third_of_those_with_a_model_take_no_honest_pay_by_answers_that_never_were() -> None:
    group = group_of(*((n, 10, (TINY,)) for n in range(1, 11)), *((n, 10, (BIG,)) for n in range(11, 31)))
    fates = fates_of(group, (2, 3, 4), HONEST, SLANDER, 20)
    assert ACCUSED in {outcome.reason for outcome in fates}  # it wins draws
    assert all(outcome.fate is not Verdict.INVALID for outcome in fates)


SUSPECTED = tuple(20_000_000 for _ in BETS)


def evidence_after(votes: Mapping[Address, list[AuditVote]]) -> tuple[int, ...]:
    known = AuditOutcome(EXECUTOR, TINY, Verdict.VALID, 0, 0, 0, "", evidence=SUSPECTED)
    (found,) = audit_outcomes(previous(known), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    return found.evidence


def drawn_votes(*said: AuditVote | None) -> dict[Address, list[AuditVote]]:
    """What the five of the first draw say, best first; None of who says nothing."""
    auditors = auditors_of(SEED, EXECUTOR, 0, GROUP)
    return {auditor: [vote] for auditor, vote in zip(auditors, said, strict=True) if vote is not None}


TRUE, FALSE = judged(0, GOOD), judged(0, PRAISE, Hash32(b"\xff" * 32))
LATE = replace(missing(0, "no-time"), receipt_digest=digest_of(0))
NO_MODEL = missing(0, "no-model")
UNABLE = replace(TRUE, verdict=Verdict.ABSTAIN, figures=NO_FIGURES, reason="no-model")
"""It was shown the answer that was drawn, and has not its model."""


@pytest.mark.parametrize(
    "votes",
    [
        (FALSE, FALSE, FALSE, TRUE, TRUE),
        (FALSE, FALSE, FALSE, FALSE, TRUE),
        (judged(0, PRAISE), judged(0, PRAISE), judged(0, PRAISE), TRUE, TRUE),
        (FALSE, FALSE, FALSE, missing(0), missing(0)),
        (FALSE, FALSE, FALSE, missing(0, "private"), missing(0, "drawn-again")),
        (FALSE, FALSE, FALSE, LATE, LATE),
        (judged(0, PRAISE), judged(0, PRAISE), judged(0, PRAISE), LATE, None),
        (FALSE, FALSE, FALSE, replace(LATE, reason="no-model"), None),
        (FALSE, FALSE, missing(0, "no-time"), missing(0, "no-time"), missing(0, "engine-failed")),
        (FALSE, FALSE, None, None, None),
        (TRUE, NO_MODEL, NO_MODEL, NO_MODEL, NO_MODEL),
        (FALSE, UNABLE, UNABLE, UNABLE, UNABLE),
    ],
    ids=[
        "another answer",
        "one knows it",
        "another length",
        "hidden",
        "nothing there",
        "late",
        "late for its length",
        "told by who lacks it",
        "no time",
        "silence",
        "one has the model",
        "one has the model of which others were shown another answer",
    ],
)
def test_what_one_auditor_contradicts_or_few_say_clears_nobody(votes: tuple[AuditVote | None, ...]) -> None:
    assert evidence_after(drawn_votes(*votes)) == SUSPECTED


@pytest.mark.parametrize(
    "votes",
    [
        (TRUE,) * 5,
        (TRUE, TRUE, TRUE, None, missing(0, "no-time")),
        (TRUE, TRUE, UNABLE, UNABLE, UNABLE),
        (TRUE, TRUE, NO_MODEL, NO_MODEL, missing(0, "no-time")),
    ],
    ids=["all", "two had no time", "two have the model", "one of those who have it had no time"],
)
def test_what_nobody_contradicts_speaks_for_the_executor(votes: tuple[AuditVote | None, ...]) -> None:
    assert evidence_after(drawn_votes(*votes)) != SUSPECTED


def test_a_heavy_auditor_alone_is_not_heard_where_the_others_were_shown_nothing() -> None:
    known = AuditOutcome(EXECUTOR, TINY, Verdict.VALID, 0, 0, 0, "", evidence=SUSPECTED)
    weights = WEIGHTS | {auditors_of(SEED, EXECUTOR, 0, GROUP)[0]: 1_000}
    votes = bundles_of(drawn_votes(FALSE, *(replace(missing(0), model_id=TINY),) * 4))
    (found,) = audit_outcomes(previous(known), SEEDS, votes, weights, band_of)
    assert (found.answers, found.withheld, found.evidence) == (0, 1, SUSPECTED)


@pytest.mark.parametrize("friends", [1, 2, 3, 4])
def test_friends_who_read_the_true_answer_without_a_fault_clear_nobody(friends: int) -> None:
    """They name it rightly, with its length: the figures of one who does not lie keep bets from falling."""
    perfect = AuditFigures(MILD.tokens, 0, 0, 0, 0, 0, 1 << 43)
    said = (judged(0, perfect),) * friends + (judged(0, MILD),) * (5 - friends)
    evidence, alone = evidence_after(drawn_votes(*said)), gains(MILD, BAND)
    expected = tuple(
        max(0, bits + (gain if friends < 3 else min(0, gain))) for bits, gain in zip(SUSPECTED, alone, strict=True)
    )
    assert evidence == expected


def test_what_is_disputed_accuses_as_it_did() -> None:
    three = (judged(0, MILD), judged(0, MILD), judged(0, MILD), FALSE, missing(0))
    gained = tuple(max(0, bits) for bits in gains(MILD, BAND))
    assert max(gained) > 0
    assert evidence_after(drawn_votes(*three)) == tuple(map(sum, zip(SUSPECTED, gained, strict=True)))


def test_one_auditor_does_not_choose_which_answer_a_draw_fell_on() -> None:
    """It would name the unluckiest of all that it knows, truly; nor does a half, and nothing is withheld."""
    unlucky = judged(0, MILD, Hash32(b"\xff" * 32))
    for votes in ((unlucky, TRUE, TRUE, TRUE, TRUE), (unlucky, TRUE, TRUE, missing(0), missing(0))):
        (found,) = audit_outcomes(previous(), SEEDS, bundles_of(drawn_votes(*votes)), WEIGHTS, band_of)
        assert (found.answers, found.tokens, found.evidence) == (1, GOOD.tokens, ())
    half = drawn_votes(unlucky, TRUE, None, None, None)
    assert audit_outcomes(previous(), SEEDS, bundles_of(half), WEIGHTS, band_of) == ()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=9, max_size=9), st.data())
def test_what_auditors_weigh_is_not_asked_again_once_seats_are_drawn(weights: list[int], data: st.DataObject) -> None:
    """Seats were drawn by weight: a heavy one has many, and no more say in each draw than they are."""
    words = st.sampled_from([TRUE, FALSE, judged(0, MILD), judged(0, BAD), UNABLE, LATE, missing(0), NO_MODEL])
    votes = bundles_of(votes_on_draws(lambda _, draw: replace(data.draw(words), draw=draw)))
    otherwise = dict(zip(WEIGHTS, weights, strict=True))
    assert audit_outcomes(previous(), SEEDS, votes, WEIGHTS, band_of) == audit_outcomes(
        previous(), SEEDS, votes, otherwise, band_of
    )


def test_a_receipt_of_another_model_is_not_judged_as_one_of_this() -> None:
    """Whoever has the other model sees it, and can say no more: a friend would be the only one that was asked."""
    seen = replace(missing(0, "no-model"), receipt_digest=digest_of(0), model_id=BIG, node_id=TRUE.node_id)
    assert evidence_after(drawn_votes(TRUE, seen, seen, seen, seen)) == SUSPECTED


def test_an_undisputed_draw_of_an_answer_counts_instead_of_a_disputed_one() -> None:
    """Friends who name the answer of a draw that they are not in neither hide what it finds nor have it count twice."""
    auditors = [auditors_of(SEED, EXECUTOR, draw, GROUP) for draw in (0, 1)]
    votes: dict[Address, list[AuditVote]] = {auditor: [] for drawn in auditors for auditor in drawn}
    for number, auditor in enumerate(auditors[0]):
        named = digest_of(1) if number < 3 else digest_of(0)
        votes[auditor].append(judged(0, PRAISE if number < 3 else MILD, named))
    for auditor in auditors[1]:
        votes[auditor].append(judged(1, MILD, digest_of(1)))
    gained = tuple(max(0, bits) for bits in gains(MILD, BAND))
    assert max(gained) > 0
    (found,) = audit_outcomes(previous(), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert (found.answers, found.tokens, found.evidence) == (1, MILD.tokens, gained)


def test_no_answer_comes_last_by_its_digest() -> None:
    """All five of the first draw are friends: what was found before is gone, and not what the other draws find."""
    votes = votes_on_draws(lambda _, draw: judged(draw, MILD) if draw else FALSE)
    expected = (draws_of(BOOK) - 1) * max(gains(MILD, BAND))
    assert max(evidence_after(votes)) == expected > 0


Said = Mapping[Hash32, AuditFigures | str]
"""Of each accused answer what is found, or why nothing is."""


def alike(numbers: Iterable[int], said: Said) -> dict[int, Said]:
    return dict.fromkeys(numbers, said)


def judged_again(known: AuditOutcome, group: EpochGroup, said: Mapping[int, Said]) -> AuditOutcome:
    votes: dict[Address, list[AuditVote]] = {}
    for number, by_digest in said.items():
        for digest, word in by_digest.items():
            unseen = replace(missing(REJUDGED, str(word)), receipt_digest=digest)
            vote = judged(REJUDGED, word, digest) if isinstance(word, AuditFigures) else unseen
            votes.setdefault(account(number), []).append(vote)
    before = replace(previous(known, books=()), group=group)
    (found,) = audit_outcomes(before, SEEDS, bundles_of(votes), weights_of(group), band_of)
    return found


REAL, INVENTED = digest_of(0), digest_of(1)
NEARLY = tuple(CONFIRMED_MICRO_BITS - 1_000_000 for _ in BETS)
OPEN = AuditOutcome(
    EXECUTOR, TINY, Verdict.ABSTAIN, 2, 0, 300, ACCUSED, tuple(3 * bits for bits in SUSPECTED), NEARLY,
    (REAL, INVENTED), convicting=NEARLY,
)  # fmt: skip
THIRDS = group_of((1, 1, (TINY,)), (2, 17, (TINY,)), (3, 17, (TINY,)), (4, 33, (TINY,)), (5, 33, (TINY,)))
"""2 and 3 are friends, and a third of those with the model."""


def test_who_has_not_the_model_of_an_accused_answer_speaks_against_judging_it_as_another() -> None:
    """A true receipt of another model that its executor has, which friends slander as one of this."""
    votes: dict[Address, list[AuditVote]] = {account(n): [judged(REJUDGED, SLANDER, REAL)] for n in (2, 3)}
    for number, reason in ((4, "no-model"), (5, "no-time")):
        seen = replace(missing(REJUDGED, reason), receipt_digest=REAL, model_id=BIG, node_id=TRUE.node_id)
        votes[account(number)] = [seen]
    suspected = replace(OPEN, accused=(REAL,), confirmed=(), convicting=())
    before = replace(previous(suspected, books=()), group=THIRDS)
    (found,) = audit_outcomes(before, SEEDS, bundles_of(votes), weights_of(THIRDS), band_of)
    assert found.fate is not Verdict.INVALID


def test_no_third_of_those_with_a_model_end_a_proof_by_an_accused_answer_that_never_was() -> None:
    friends = alike((2, 3), {INVENTED: PRAISE})
    honest = alike((4, 5), {REAL: LIKE_INT8, INVENTED: WITHHELD})
    assert is_fraud(judged_again(OPEN, THIRDS, friends | honest))


@pytest.mark.parametrize("reason", ["no-time", "engine-failed", "no-model"])
def test_who_could_not_read_an_accused_answer_keeps_nobody_from_judging_it(reason: str) -> None:
    honest = {4: {REAL: LIKE_INT8}, 5: {REAL: LIKE_INT8}, 2: {REAL: reason}, 3: {REAL: reason}}
    assert is_fraud(judged_again(replace(OPEN, accused=(REAL,)), THIRDS, honest))


@pytest.mark.parametrize(
    ("unshown", "readers", "is_kept"),
    [
        ((4, 5), (2,), True),  # everything is hidden from honest judges but one answer that a friend knows
        ((4, 5), (), True),
        ((4,), (2,), False),  # 33 of 101 are less than a third, though they say so
        ((), (2,), False),
        ((), (), False),
    ],
)
def test_what_convicts_is_kept_if_a_third_was_shown_nothing(
    unshown: tuple[int, ...], readers: tuple[int, ...], is_kept: bool
) -> None:
    known = replace(OPEN, accused=(INVENTED,))
    said = alike(readers, {INVENTED: PRAISE})
    found = judged_again(known, THIRDS, said | alike(unshown, {INVENTED: WITHHELD}))
    assert (found.fate, found.reason, found.confirmed) == (Verdict.ABSTAIN, UNCONFIRMED, NEARLY)
    assert found.convicting == (NEARLY if is_kept else ())


def test_who_read_one_answer_chooses_no_epochs_by_what_it_says_it_was_not_shown() -> None:
    """32 of 101 with a cartel's word are a third only with 4, who read what there was."""
    group = group_of((1, 1, (TINY,)), (2, 16, (TINY,)), (3, 16, (TINY,)), (4, 10, (TINY,)), (5, 58, (BIG,)))
    cartel = alike((2, 3), {REAL: WITHHELD, INVENTED: WITHHELD})
    found = judged_again(OPEN, group, cartel | {4: {REAL: GOOD, INVENTED: WITHHELD}})
    assert found.convicting == ()
    hidden = judged_again(OPEN, group, cartel | {4: {REAL: WITHHELD, INVENTED: WITHHELD}})
    assert hidden.convicting == NEARLY


def test_few_who_judge_what_most_were_not_shown_prove_nothing() -> None:
    known = replace(OPEN, accused=(INVENTED,))
    said = alike((2, 3), {INVENTED: BAD}) | alike((4, 5), {INVENTED: WITHHELD})
    assert judged_again(known, THIRDS, said).fate is Verdict.ABSTAIN
