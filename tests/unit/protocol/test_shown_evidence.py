"""Evidence for audits is read as it was written, in slices, and never more of it than its receipt tells of."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import shown_evidence
from node.protocol.audit_evidence import CLAIMS_PER_SLICE, EVIDENCE_BYTES_MAX, AuditEvidence, KeptAnswer
from node.protocol.audits import ClaimedLogprobs
from node.protocol.canonical import encode
from node.protocol.claims import ALTERNATIVES_KEPT
from node.protocol.codec import SLOW_BYTES_MAX, SchemaError, to_bytes
from node.protocol.dossiers import VectorEvidence
from node.protocol.records import SignedReceipt
from node.protocol.shown_evidence import (
    PIECE_BYTES_MAX,
    evidence_bytes_in_slices,
    evidence_from_bytes,
    evidence_to_bytes,
    has_tokens,
    read_evidence_in_slices,
    split_evidence,
)
from node.protocol.sketches import INPUTS_MAX
from tests.unit.protocol.test_audit_evidence import ANSWER, evidence_of

TOKENS = 6000
WIDE: SignedReceipt = evidence_of(prompt_tokens=TOKENS, output_tokens=TOKENS, vectors=3).signed
OF_TOKENS: SignedReceipt = evidence_of(prompt_tokens=TOKENS, output_tokens=TOKENS).signed
CLAIM = ClaimedLogprobs(7, -3, ((7, -3), (8, -4)))

ids = st.lists(st.integers(0, 2**32), max_size=9).map(tuple)
answers = st.builds(replace, st.just(ANSWER), prompt_ids=ids, output_ids=ids, text=st.text(), stop=st.tuples(st.text()))
told = st.builds(ClaimedLogprobs, st.integers(0, 9), st.integers(-(2**40), 0), st.just(((1, 2),)))
answered = st.none() | st.builds(KeptAnswer, answers, st.lists(told, max_size=5).map(tuple))
given_vectors = st.none() | st.builds(
    VectorEvidence, st.lists(ids, max_size=3).map(tuple), st.integers(0, 9), st.binary(max_size=300)
)


def claiming(count: int) -> AuditEvidence:
    return AuditEvidence(OF_TOKENS, KeptAnswer(ANSWER, (CLAIM,) * count))


def rest_of(evidence: AuditEvidence) -> dict[str, Any]:
    value: dict[str, Any] = msgpack.unpackb(split_evidence(evidence_to_bytes(evidence))[1])
    return value


def with_rest(evidence: AuditEvidence, value: dict[str, Any]) -> bytes:
    return to_bytes(evidence.signed) + encode(value)


@given(answered, given_vectors, st.binary(max_size=300), st.binary(max_size=70))
def test_what_was_written_is_read(
    kept: KeptAnswer | None, vectors: VectorEvidence | None, request: bytes, signature: bytes
) -> None:
    evidence = AuditEvidence(WIDE, kept, signature, vectors, request)
    data = evidence_to_bytes(evidence)
    assert evidence_from_bytes(data) == evidence
    signed, rest = split_evidence(data)
    assert (signed, has_tokens(data)) == (WIDE, kept is not None)
    value = msgpack.unpackb(rest)
    assert encode(value) == rest
    assert list(value) == ["kept", "request", "request_signature", "vectors"]


@pytest.mark.parametrize("count", [0, 1, CLAIMS_PER_SLICE, TOKENS])
def test_claims_are_written_in_slices_as_they_would_be_in_one(count: int) -> None:
    evidence = claiming(count)
    assert sum(1 for _ in evidence_bytes_in_slices(evidence)) == -(-count // CLAIMS_PER_SLICE)
    data = evidence_to_bytes(evidence)
    assert evidence_from_bytes(data) == evidence
    assert split_evidence(data)[1] == encode(rest_of(evidence))


def test_no_slice_is_of_more_than_a_piece() -> None:
    data = evidence_to_bytes(claiming(TOKENS))
    assert sum(1 for _ in read_evidence_in_slices(data)) >= len(data) // PIECE_BYTES_MAX > 10


def listed(*path: str, count: int) -> Callable[[dict[str, Any]], None]:
    """Put a list of so many items in place of a list; they are none of its kind, which reading them would tell."""

    def change(value: dict[str, Any]) -> None:
        for name in path[:-1]:
            value = value[name]
        value[path[-1]] = [None] * count

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (listed("kept", "answer", "output_ids", count=TOKENS + 1), "tokens of the answer, at most"),
        (listed("kept", "answer", "prompt_ids", count=TOKENS + 1), "tokens of the prompt, at most"),
        (listed("kept", "claimed", count=TOKENS + 1), f"claims of {TOKENS + 1} tokens, at most"),
        (listed("kept", "answer", "stop", count=65), "65 texts"),
        (listed("vectors", "inputs", count=4), "4 inputs, at most 3"),
    ],
)
def test_lists_are_counted_by_the_receipt_before_they_are_read(
    change: Callable[[dict[str, Any]], None], what: str
) -> None:
    evidence = AuditEvidence(WIDE, KeptAnswer(ANSWER, ()), b"", VectorEvidence((), 8, b""))
    value = rest_of(evidence)
    change(value)
    with pytest.raises(SchemaError, match=what):
        evidence_from_bytes(with_rest(evidence, value))


def test_tokens_of_all_inputs_are_counted_together() -> None:
    evidence = AuditEvidence(WIDE, None, b"", VectorEvidence(((1,) * TOKENS, (), ()), 8, b""))
    assert evidence_from_bytes(evidence_to_bytes(evidence)) == evidence
    more = replace(evidence, vectors=VectorEvidence(((1,) * TOKENS, (1,)), 8, b""))
    with pytest.raises(SchemaError, match="1 tokens of an input, at most 0"):
        evidence_from_bytes(evidence_to_bytes(more))


def test_a_receipt_of_more_inputs_than_a_call_may_have_makes_room_for_no_more() -> None:
    signed = replace(WIDE, receipt=replace(WIDE.receipt, vectors=1 << 24))
    evidence = AuditEvidence(signed, None, b"", VectorEvidence(((),) * (INPUTS_MAX + 1), 8, b""))
    with pytest.raises(SchemaError, match=f"at most {INPUTS_MAX}"):
        evidence_from_bytes(evidence_to_bytes(evidence))


def test_what_nobody_knows_is_ignored_while_it_is_short_and_never_in_claims() -> None:
    evidence = claiming(1)
    value = rest_of(evidence)
    assert evidence_from_bytes(with_rest(evidence, {**value, "zeal": [1]})) == evidence
    with pytest.raises(SchemaError, match=f"more than {SLOW_BYTES_MAX} bytes"):
        evidence_from_bytes(with_rest(evidence, {**value, "zeal": [{}] * SLOW_BYTES_MAX}))
    value["kept"]["claimed"][0]["zeal"] = 1
    with pytest.raises(SchemaError, match="nobody knows"):
        evidence_from_bytes(with_rest(evidence, value))


@pytest.mark.parametrize("count", [ALTERNATIVES_KEPT, ALTERNATIVES_KEPT + 1])
def test_a_claim_has_so_many_alternatives_at_most(count: int) -> None:
    claim = replace(CLAIM, alternatives=((7, -3),) * count)
    evidence = AuditEvidence(OF_TOKENS, KeptAnswer(ANSWER, (claim,)))
    if count <= ALTERNATIVES_KEPT:
        assert evidence_from_bytes(evidence_to_bytes(evidence)) == evidence
        return
    with pytest.raises(SchemaError, match="alternatives"):
        evidence_from_bytes(evidence_to_bytes(evidence))


def test_what_is_too_long_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_evidence, "CanonicalReader", lambda *_: pytest.fail("it was read"))
    with pytest.raises(SchemaError, match="at most"):
        evidence_from_bytes(bytes(EVIDENCE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\xc0", lambda _: b"", lambda _: b"\xc0"]
)
def test_what_is_no_evidence_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SchemaError):
        evidence_from_bytes(change(evidence_to_bytes(claiming(1))))


def test_what_is_missing_is_named() -> None:
    evidence = claiming(0)
    value = rest_of(evidence)
    del value["request"]
    with pytest.raises(SchemaError, match="request: missing"):
        evidence_from_bytes(with_rest(evidence, value))
