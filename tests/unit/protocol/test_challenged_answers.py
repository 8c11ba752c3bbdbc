"""What its payer challenges is judged by the whole group, and challenges cost an honest executor nothing."""

from dataclasses import replace

import pytest

from node.protocol.audit_outcomes import CHALLENGED_MAX, NOT_AUDITED, audit_outcomes
from node.protocol.audit_votes import CHALLENGE_EPOCHS_MAX, REJUDGED, AuditVoteError, check_audits
from node.protocol.findings import AuditOutcome, CommittedBook
from node.protocol.identifiers import EpochNumber, Hash32, ModelId, NodeId
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt, VoteBundle
from node.protocol.signatures import sign
from node.protocol.verdicts import Verdict
from tests.builders import account, key_of
from tests.unit.protocol.audited_group import (
    BAD,
    BOOK,
    EXECUTOR,
    GOOD,
    MILD,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    by_auditors,
    judged,
    previous,
)
from tests.unit.protocol.test_audit_evidence import evidence_of

CHALLENGE = evidence_of(executor=EXECUTOR, payer=account(3)).signed


def signed_by(signed: SignedReceipt, executor: int = 1, payer: int = 3) -> SignedReceipt:
    digest = receipt_digest(signed.receipt)
    return SignedReceipt(signed.receipt, sign(key_of(executor), digest), sign(key_of(payer), digest))


def challenged(signed: SignedReceipt, *before: AuditOutcome) -> tuple[AuditOutcome, ...]:
    bundle = VoteBundle(EpochNumber(1), account(3), (), challenges=(signed,))
    return audit_outcomes(previous(*before, books=()), SEEDS, {account(3): bundle}, WEIGHTS, band_of)


def test_what_its_payer_challenges_everybody_judges_and_only_one_answer_by_itself_proves() -> None:
    signed = signed_by(CHALLENGE)
    (found,) = challenged(signed)
    assert found.challenged == (receipt_digest(signed.receipt),)
    assert (found.fate, found.reason, found.accused) == (
        Verdict.ABSTAIN,
        NOT_AUDITED,
        (),
    )
    for figures, fate in ((BAD, Verdict.INVALID), (MILD, None), (GOOD, None)):
        votes = {account(n): [judged(REJUDGED, figures, found.challenged[0])] for n in range(2, 10)}
        after = audit_outcomes(previous(found, books=()), SEEDS, bundles_of(votes), WEIGHTS, band_of)
        assert [outcome.fate for outcome in after] == ([] if fate is None else [fate])


def test_a_challenge_of_a_good_answer_wipes_no_evidence_out() -> None:
    (mild,) = audit_outcomes(previous(), SEEDS, by_auditors(MILD), WEIGHTS, band_of)
    (found,) = challenged(signed_by(CHALLENGE), mild)
    votes = {account(n): [judged(REJUDGED, GOOD, found.challenged[0])] for n in range(2, 10)}
    (after,) = audit_outcomes(previous(found, books=()), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert after.evidence == mild.evidence


def test_a_challenge_without_both_signatures_counts_for_nothing() -> None:
    for wrong in (signed_by(CHALLENGE, executor=2), signed_by(CHALLENGE, payer=2)):
        assert challenged(wrong) == ()


def test_a_challenge_of_an_executor_that_is_no_member_and_has_no_book_counts_for_nothing() -> None:
    made_up = signed_by(evidence_of(executor=account(30), payer=account(3)).signed, executor=30)
    assert challenged(made_up) == ()
    bundle = VoteBundle(EpochNumber(1), account(3), (), challenges=(made_up,))
    known = previous(books=(CommittedBook(account(30), replace(BOOK, count=0, output_tokens=0)),))
    (found,) = audit_outcomes(known, SEEDS, {account(3): bundle}, WEIGHTS, band_of)
    assert found.executor == account(30)


@pytest.mark.parametrize("older", [0, 1])
def test_what_is_older_than_the_honest_wait_cannot_be_challenged(older: int) -> None:
    newest = EpochNumber(CHALLENGE.receipt.epoch + CHALLENGE_EPOCHS_MAX + older)
    bundle = VoteBundle(EpochNumber(newest + 1), account(3), (), challenges=(signed_by(CHALLENGE),))
    known = replace(previous(books=()), epoch=newest)
    found = audit_outcomes(known, SEEDS, {account(3): bundle}, WEIGHTS, band_of)
    assert [outcome.challenged for outcome in found] == ([] if older else [(receipt_digest(CHALLENGE.receipt),)])


@pytest.mark.parametrize("names", [{"node_id": NodeId("n" * 33)}, {"model_id": ModelId("m" * 65)}])
def test_a_challenge_with_too_long_a_name_voids_its_bundle(names: dict[str, str]) -> None:
    signed = signed_by(evidence_of(executor=EXECUTOR, payer=account(3), **names).signed)
    with pytest.raises(AuditVoteError, match="too long a name"):
        check_audits(VoteBundle(EpochNumber(1), account(3), (), challenges=(signed,)))


def test_no_payer_crowds_the_challenges_of_others_out() -> None:
    crowd = 4
    bundles = {}
    lone: set[Hash32] = set()
    for payer, count in ((2, crowd), (3, crowd), (4, crowd), (5, 1), (6, 1)):
        receipts = [
            signed_by(evidence_of(executor=EXECUTOR, payer=account(payer), at=number).signed, payer=payer)
            for number in range(count)
        ]
        bundles[account(payer)] = VoteBundle(EpochNumber(1), account(payer), (), challenges=tuple(receipts))
        lone |= {receipt_digest(signed.receipt) for signed in receipts if count == 1}
    for seed in range(8):
        known = previous(books=())
        (found,) = audit_outcomes(known, replace(SEEDS, lot=Hash32(bytes([seed]) * 32)), bundles, WEIGHTS, band_of)
        assert len(found.challenged) == CHALLENGED_MAX
        assert lone <= set(found.challenged)
        assert list(found.challenged) == sorted(found.challenged)


def test_only_payers_challenge_and_only_a_few() -> None:
    signed = signed_by(CHALLENGE)
    bundle = VoteBundle(EpochNumber(1), account(3), (), challenges=(signed,))
    check_audits(bundle)
    with pytest.raises(AuditVoteError, match="who paid"):
        check_audits(replace(bundle, validator=account(4)))
    with pytest.raises(AuditVoteError, match="challenges"):
        check_audits(replace(bundle, challenges=(signed,) * 5))
