"""The bytes of evidence for audits: written by who gave an answer, read by who was drawn to audit it.

*Purpose.* Evidence has up to 16 MiB, of whoever is audited, and is read by everybody who was drawn. So the signed
receipt comes first, in some bytes of its own: who hands evidence over replaces it, and who reads it says whether it is
the one that was asked for, and neither looks at the rest. The rest is a map of what the receipt commits to; its lists
are counted by the receipt before they are read, and it is read and written in slices.

*Detail.* What nobody knows is ignored as long as it is short, but not in claims, of which there is one for each token.
"""

from dataclasses import dataclass, replace

import msgpack

from node.protocol.audit_evidence import CLAIMS_PER_SLICE, EVIDENCE_BYTES_MAX, AuditEvidence, KeptAnswer
from node.protocol.audits import ClaimedLogprobs
from node.protocol.canonical import encode
from node.protocol.canonical_reading import CanonicalReader
from node.protocol.claims import ALTERNATIVES_KEPT
from node.protocol.codec import SchemaError, to_bytes
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.record_reading import Part, at_once, entries, or_none, read_record, whole
from node.protocol.records import Receipt, SignedReceipt
from node.protocol.sketches import INPUTS_MAX
from node.protocol.slices import Slices, finish

PIECE_BYTES_MAX = 16 * 1024
"""Read at a time; a receipt and a claim are shorter."""
STOPS_MAX = 64
"""Texts that end an answer; a request has 16 at most."""
NAME = "evidence of an audit"
MAP_OF_FOUR, EMPTY_LIST = b"\x84", b"\x90"
"""As MessagePack begins them."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What follows the receipt; as in AuditEvidence."""

    kept: KeptAnswer | None
    request: bytes
    request_signature: bytes
    vectors: VectorEvidence | None


def evidence_bytes_in_slices(evidence: AuditEvidence) -> Slices[bytes]:
    """Return the bytes that `read_evidence_in_slices` reads."""
    kept, signed = evidence.kept, to_bytes(evidence.signed)
    bare = None if kept is None else replace(kept, claimed=())
    rest = to_bytes(_Shown(bare, evidence.request, evidence.request_signature, evidence.vectors))
    if kept is None or bare is None or not kept.claimed:
        return signed + rest
    before = MAP_OF_FOUR + encode("kept") + to_bytes(bare)  # in order it is the first, and claims are the last in it
    pieces = [signed, before.removesuffix(EMPTY_LIST), msgpack.Packer().pack_array_header(len(kept.claimed))]
    for start in range(0, len(kept.claimed), CLAIMS_PER_SLICE):
        pieces += map(to_bytes, kept.claimed[start : start + CLAIMS_PER_SLICE])
        yield
    return b"".join((*pieces, rest.removeprefix(before)))


def evidence_to_bytes(evidence: AuditEvidence) -> bytes:
    """Return the same, at once."""
    return finish(evidence_bytes_in_slices(evidence))


def split_evidence(data: bytes) -> tuple[SignedReceipt, bytes]:
    """Return the receipt that evidence begins with, and the bytes that follow, unread. Raises SchemaError."""
    reader = CanonicalReader(data, NAME, PIECE_BYTES_MAX)
    signed = reader.record(SignedReceipt)
    return signed, data[reader.place :]


def has_tokens(data: bytes) -> bool:
    """Whether evidence has an answer in tokens, which is not read. Raises SchemaError."""
    reader = CanonicalReader(split_evidence(data)[1], NAME, PIECE_BYTES_MAX)
    return next(reader.fields(), "") == "kept" and not reader.is_none()


def read_evidence_in_slices(data: bytes) -> Slices[AuditEvidence]:
    """Return the evidence whose bytes are `data`. Raises SchemaError, as well for more than its receipt tells of."""
    if len(data) > EVIDENCE_BYTES_MAX:
        raise SchemaError(f"{NAME}: {len(data)} bytes, at most {EVIDENCE_BYTES_MAX}")
    signed, rest = split_evidence(data)
    yield
    reader = CanonicalReader(rest, NAME, PIECE_BYTES_MAX)
    shown = yield from read_record(reader, _Shown, _parts(signed.receipt))
    reader.require_end()
    return AuditEvidence(signed, shown.kept, shown.request_signature, shown.vectors, shown.request)


def evidence_from_bytes(data: bytes) -> AuditEvidence:
    """Return the same, at once. Raises SchemaError."""
    return finish(read_evidence_in_slices(data))


def _parts(receipt: Receipt) -> dict[str, Part]:
    """Return what the long fields of evidence are read by."""
    read_bytes = at_once(lambda reader: reader.scalar(bytes))
    answer = {
        "output_ids": entries(int, receipt.output_tokens, "tokens of the answer"),
        "prompt_ids": entries(int, receipt.prompt_tokens, "tokens of the prompt"),
        "response_format": at_once(lambda reader: reader.scalar(str)),
        "stop": at_once(_texts),
        "text": at_once(lambda reader: reader.scalar(str)),
    }
    kept = {"answer": whole(AnswerEvidence, answer), "claimed": lambda reader: _claims(reader, receipt.output_tokens)}
    vectors = {"inputs": lambda reader: _inputs(reader, receipt), "sketches": read_bytes}
    return {
        "kept": or_none(whole(KeptAnswer, kept)),
        "request": read_bytes,
        "request_signature": read_bytes,
        "vectors": or_none(whole(VectorEvidence, vectors)),
    }


def _texts(reader: CanonicalReader) -> tuple[str, ...]:
    count = reader.items()
    if count > STOPS_MAX:
        raise SchemaError(f"{count} texts that end an answer, at most {STOPS_MAX}")
    return tuple(reader.scalar(str) for _ in range(count))


def _claims(reader: CanonicalReader, tokens: int) -> Slices[tuple[ClaimedLogprobs, ...]]:
    left = reader.items()
    if left > tokens:
        raise SchemaError(f"claims of {left} tokens, at most {tokens}")
    found: list[ClaimedLogprobs] = []
    while left:
        some = reader.records(ClaimedLogprobs, left)
        if any(len(claim.alternatives) > ALTERNATIVES_KEPT for claim in some):
            raise SchemaError(f"a claim with more than {ALTERNATIVES_KEPT} alternatives")
        found += some
        left -= len(some)
        yield
    return tuple(found)


def _inputs(reader: CanonicalReader, receipt: Receipt) -> Slices[tuple[tuple[int, ...], ...]]:
    count, tokens, count_max = reader.items(), 0, min(receipt.vectors, INPUTS_MAX)
    if count > count_max:
        raise SchemaError(f"{count} inputs, at most {count_max}")
    found: list[tuple[int, ...]] = []
    for _ in range(count):
        read = entries(int, receipt.prompt_tokens - tokens, "tokens of an input")
        found.append((yield from read(reader)))
        tokens += len(found[-1])
        yield
    return tuple(found)
