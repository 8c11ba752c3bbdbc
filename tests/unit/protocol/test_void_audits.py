"""Votes and books that no honest auditor makes void the bundle that they are in."""

from dataclasses import replace

import pytest

from node.protocol.audit_votes import NO_DIGEST, AuditVoteError, check_audits
from node.protocol.findings import AUDIT_SUM_MICRO_MAX, AUDIT_TOKENS_MAX, AuditVote
from node.protocol.identifiers import EpochNumber, Hash32, ModelId, NodeId
from node.protocol.records import VoteBundle
from node.protocol.verdicts import Verdict
from tests.builders import account
from tests.unit.protocol.audited_group import BAD, BOOK, GOOD, judged, missing

BUNDLE = VoteBundle(EpochNumber(1), account(2), (), (judged(0, BAD), judged(3, GOOD)), BOOK)


def test_a_well_formed_bundle_of_audits_passes() -> None:
    check_audits(BUNDLE)
    check_audits(replace(BUNDLE, audits=(missing(0),)))


@pytest.mark.parametrize(
    ("audits", "complaint"),
    [
        ((judged(3, GOOD), judged(0, GOOD)), "ascend"),
        ((judged(0, GOOD), judged(0, GOOD, Hash32(b"\xff" * 32))), "ascend"),
        ((replace(judged(0, GOOD), executor=account(2)),), "itself"),
        ((judged(-2, GOOD),), "a draw"),
        ((judged(1 << 20, GOOD),), "a draw"),
        ((judged(0, GOOD, Hash32(b"short")),), "digest"),
        ((replace(judged(0, GOOD), reason="why"),), "a reason"),
        ((replace(judged(0, BAD), reason=""),), "a reason"),
        ((replace(judged(0, BAD), reason="x" * 65),), "64 characters"),
        ((replace(judged(0, BAD), node_id=NodeId("x" * 33)),), "too long a name"),
        ((replace(judged(0, BAD), model_id=ModelId("x" * 65)),), "too long a name"),
        ((judged(0, replace(GOOD, tokens=AUDIT_TOKENS_MAX + 1)),), "no single answer"),
        ((judged(0, replace(GOOD, surprise_micro=-AUDIT_SUM_MICRO_MAX - 1)),), "no single answer"),
        ((replace(missing(0), verdict=Verdict.INVALID),), "has figures"),
        ((replace(missing(0), figures=GOOD),), "has figures"),
        ((judged(0, GOOD, NO_DIGEST),), "of a receipt"),
    ],
)
def test_votes_that_no_honest_auditor_casts_void_the_bundle(audits: tuple[AuditVote, ...], complaint: str) -> None:
    with pytest.raises(AuditVoteError, match=complaint):
        check_audits(replace(BUNDLE, audits=audits))


@pytest.mark.parametrize(
    "changes", [{"count": 0}, {"count": 1 << 30}, {"output_tokens": -1}, {"root": b""}, {"content_cid": ""}]
)
def test_a_book_that_cannot_be_voids_the_bundle(changes: dict[str, object]) -> None:
    with pytest.raises(AuditVoteError, match="a book has"):
        check_audits(replace(BUNDLE, receipts=replace(BOOK, **changes)))
