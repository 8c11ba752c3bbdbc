"""What is kept of another's answer is what says most of it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from node.protocol.audit_evidence import AuditEvidence, KeptAnswer
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.protocol.shown_evidence import evidence_from_bytes, evidence_to_bytes
from node.services.fuller_evidence import keep_fuller
from node.store.database import Database
from node.store.given_answers import GivenAnswerTables
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, receipt_for

SIGNED = SignedReceipt(replace(receipt_for(ANSWER), is_private=True), b"\x01" * 65, b"\x02" * 65)
DIGEST = receipt_digest(SIGNED.receipt)
WITH_TOKENS = AuditEvidence(SIGNED, KeptAnswer(ANSWER, ()))
AS_AUDITED = AuditEvidence(SIGNED, None, request_signature=b"\x03" * 65)


@pytest.fixture
def given() -> Iterator[GivenAnswerTables]:
    database = Database(":memory:")
    yield GivenAnswerTables(database, EXECUTOR)
    database.close()


def keep(given: GivenAnswerTables, evidence: AuditEvidence) -> None:
    keep_fuller(given, evidence, evidence_to_bytes(evidence))


def kept(given: GivenAnswerTables) -> AuditEvidence:
    data = given.kept(DIGEST)
    assert data is not None
    return evidence_from_bytes(data)


def test_an_answer_that_was_audited_by_its_receipt_alone_is_kept_with_its_tokens_once_they_come(
    given: GivenAnswerTables,
) -> None:
    keep(given, AS_AUDITED)
    assert kept(given) == AS_AUDITED
    keep(given, WITH_TOKENS)
    assert kept(given) == replace(WITH_TOKENS, request_signature=AS_AUDITED.request_signature)


def test_tokens_that_are_kept_stay_whatever_comes_after(given: GivenAnswerTables) -> None:
    keep(given, WITH_TOKENS)
    keep(given, AS_AUDITED)
    keep(given, replace(WITH_TOKENS, request_signature=b"\x04" * 65))
    assert kept(given) == WITH_TOKENS


def test_what_cannot_be_read_makes_place(given: GivenAnswerTables) -> None:
    given.keep(DIGEST, b"of another version")
    keep(given, AS_AUDITED)
    assert kept(given) == AS_AUDITED
    assert evidence_to_bytes(AS_AUDITED) == given.kept(DIGEST)
