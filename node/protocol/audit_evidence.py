"""What an auditor is given of an answer, and whether it is what the executor had committed to.

All of it can be checked without trusting whoever hands it over: the executor, another auditor or the payer. Whatever
does not fit counts as not handed over.
"""

from dataclasses import dataclass, replace

from eth_hash.auto import keccak

from node.protocol.asking import REQUEST_BYTES_MAX, booked_under, is_asked_by_payer
from node.protocol.audits import ClaimedLogprobs
from node.protocol.claims import ALTERNATIVES_KEPT, NOT_ASKED, ClaimsHash
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.findings import AUDIT_TOKENS_MAX
from node.protocol.identifiers import Address, Hash32
from node.protocol.pricing import receipt_digest, tokens_commitment
from node.protocol.receipt_books import NOBODY, BookRow, booked_payers, booked_tokens, drawable_tokens
from node.protocol.receipts import draw_commitment, is_signed_by_executor, is_signed_by_payer
from node.protocol.records import ModelRecord, Receipt, SignedReceipt
from node.protocol.seeds import SeedShareError, check_share, drawn_seed
from node.protocol.sketches import INPUTS_MAX, SKETCH_BYTES, TOKENS_MAX, inputs_commitment, vectors_commitment
from node.protocol.slices import Slices, finish
from node.protocol.tails import makes_vectors

EVIDENCE_BYTES_MAX = 16 * 1024 * 1024
"""A context of 128k tokens in canonical bytes, and log-probabilities of all of them: 108 bytes a token."""
CLAIMS_PER_SLICE = 512
"""Hashed or written at a time: some milliseconds."""
SIGNATURE_BYTES = 65
NODE_ID_LENGTH_MAX = 32
MODEL_ID_LENGTH_MAX = 64
"""As the settings and the registry have it. A receipt's names go into votes and results, whose size is bounded."""
PRIVATE = "private"
NO_TOKENS = "no-tokens"
"""An answer in words that ended before its first token: there is nothing to read. Its payer has a copy of the receipt,
so nobody books an answer that has tokens as one."""

OTHER_VERSION = "other-version"
"""An answer of a model, or a version of one, that the group does not have; or of before something else that makes its
numbers changed (model_changes.py)."""
NO_ROOM = "no-room"
"""An answer to a prompt that fills the context: engines refuse to read it, for they have no room for a token."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What an executor keeps of an answer that it may have to show: text is left out."""

    answer: AnswerEvidence
    claimed: tuple[ClaimedLogprobs, ...]
    """What it said of each token, if that was asked for; else empty."""


@dataclass(frozen=True, slots=True)
class AuditEvidence:
    """A receipt with what it commits to."""

    signed: SignedReceipt
    kept: KeptAnswer | None
    """None where the answer was private or vectors, or the executor has lost it."""
    request_signature: bytes = b""
    """The payer's, of the request (asking.py); empty where it asked by none, or no row names it."""
    vectors: VectorEvidence | None = None
    """In place of `kept`, where vectors were given."""
    request: bytes = b""
    """Of vectors, the canonical request, whose hash is in the receipt's asking: it has the texts that the token ids of
    `vectors` were made of."""


def kept_answer(answer: AnswerEvidence, claimed: tuple[ClaimedLogprobs, ...] = ()) -> KeptAnswer:
    """Return what is to be kept of an answer; whoever asked keeps no claims."""
    return KeptAnswer(replace(answer, text=""), claimed)


def are_names_short(receipt: Receipt) -> bool:
    """Whether a receipt's names may stand in votes and results."""
    return len(receipt.node_id) <= NODE_ID_LENGTH_MAX and len(receipt.model_id) <= MODEL_ID_LENGTH_MAX


def why_unjudged(receipt: Receipt, model: ModelRecord | None, judged_from: int) -> str:
    """Return a code for why nobody can judge what a receipt is about, as all see it; empty if some can.

    `model` is what the group that audits has of it; answers of before the epoch `judged_from` may be by other numbers
    (model_changes.py). What only auditors with the model could tell would leave the first
    of them who makes figures up as the only judge.
    """
    if model is None or model.cid != receipt.model_cid or receipt.epoch < judged_from:
        return OTHER_VERSION
    if makes_vectors(model) is not bool(receipt.vectors):
        return "not-the-receipt"
    return NO_ROOM if not receipt.vectors and readable_length(receipt.prompt_tokens, model.context_length) == 0 else ""


def readable_length(prompt_length: int, context_length: int) -> int:
    """Return how many tokens of an answer an engine reads: it refuses what leaves no room for one of its own."""
    return max(0, min(AUDIT_TOKENS_MAX, context_length - 1 - prompt_length))


def without_surplus(evidence: AuditEvidence) -> AuditEvidence:
    """Return evidence without what no audit looks at, and nobody committed to: its size is the holder's choice."""
    kept = evidence.kept
    shorter = replace(evidence, request_signature=evidence.request_signature[:SIGNATURE_BYTES])
    if evidence.signed.receipt.vectors:
        return replace(shorter, kept=None)
    shorter = replace(shorter, vectors=None, request=b"")
    return shorter if kept is None else replace(shorter, kept=kept_answer(kept.answer, kept.claimed))


def is_the_receipt(signed: SignedReceipt, executor: Address, digest: Hash32) -> bool:
    """Whether a receipt is the one that was asked for, signed by its executor, and may be in a vote."""
    receipt = signed.receipt
    is_it = receipt_digest(receipt) == digest and receipt.executor == executor
    return is_it and is_signed_by_executor(signed) and are_names_short(receipt)


def what_is_wrong(
    evidence: AuditEvidence, executor: Address, digest: Hash32, booked: BookRow | None, *, is_accused: bool = False
) -> str:
    """Return what `what_is_wrong_in_slices` does, at once."""
    return finish(what_is_wrong_in_slices(evidence, executor, digest, booked, is_accused=is_accused))


def what_is_wrong_in_slices(
    evidence: AuditEvidence, executor: Address, digest: Hash32, booked: BookRow | None, *, is_accused: bool = False
) -> Slices[str]:
    """Return a code for what in the evidence is not as committed to; empty if nothing is.

    `booked` is the receipt's row in the book; None where there is no book at hand: of what is judged again because its
    executor is accused (`is_accused`), or was challenged.
    """
    signed, kept = evidence.signed, evidence.kept
    receipt = signed.receipt
    if not is_the_receipt(signed, executor, digest):
        return "not-the-receipt"
    if booked is not None and (misbooked := _what_is_misbooked(booked, evidence)):
        return misbooked
    if kept is None or receipt.vectors:
        return _what_is_wrong_without_tokens(evidence)
    answer = kept.answer
    for token_ids, count, commitment in (
        (answer.prompt_ids, receipt.prompt_tokens, receipt.prompt_commitment),
        (answer.output_ids, receipt.output_tokens, receipt.output_commitment),
    ):
        if len(token_ids) != count or tokens_commitment(token_ids) != commitment:
            return "not-the-tokens"
    if not _is_draw_committed_to(receipt, answer):
        return "not-the-draw"
    if receipt.seeded_by_user != (answer.seed_share is None) or not _is_seed_drawn(evidence, answer):
        return "not-the-seed"
    if not receipt.is_within_rule:
        return "outside-rule"
    if not receipt.is_verifiable:
        return "not-by-rule"
    # Of a private answer its executor keeps nothing, and who asked keeps no claims.
    must_show_claims = booked is not None or (is_accused and not receipt.is_private)
    if not (yield from _are_claims_committed_to(receipt, kept, must_be_shown=must_show_claims)):
        return "not-the-claims"
    return "" if receipt.output_tokens else NO_TOKENS


def _what_is_wrong_without_tokens(evidence: AuditEvidence) -> str:
    receipt = evidence.signed.receipt
    if receipt.vectors and evidence.vectors is not None:
        # No executor answers more, and an auditor's work has a bound, whatever one signs that is its own payer.
        if receipt.vectors > INPUTS_MAX or receipt.prompt_tokens > TOKENS_MAX:
            return "not-the-receipt"
        if len(evidence.request) > REQUEST_BYTES_MAX:
            return "not-the-receipt"
        if receipt.asking is None or keccak(evidence.request) != receipt.asking.body:
            return "not-the-request"
        return _what_is_wrong_with_vectors(receipt, evidence.vectors)
    if receipt.is_private:  # with the answer, its payer hands it over
        return PRIVATE if _is_asked_in_private(evidence) else "not-the-receipt"
    return "withheld"


def _what_is_wrong_with_vectors(receipt: Receipt, vectors: VectorEvidence) -> str:
    is_read = sum(map(len, vectors.inputs)) == receipt.prompt_tokens and min(map(len, vectors.inputs), default=0) > 0
    if not is_read or inputs_commitment(vectors.inputs) != receipt.prompt_commitment:
        return "not-the-tokens"
    if len(vectors.inputs) != receipt.vectors or len(vectors.sketches) != SKETCH_BYTES * receipt.vectors:
        return "not-the-vectors"
    if vectors_commitment(vectors.dimensions, vectors.sketches) != receipt.output_commitment:
        return "not-the-vectors"
    # There is nothing that a request for vectors could ask for outside the rule, and nothing that is written.
    return "not-the-receipt" if receipt.output_tokens or not receipt.is_within_rule else ""


def _is_asked_in_private(evidence: AuditEvidence) -> bool:
    """Whether a private answer may be booked without tokens. Its payer may keep its signature of the receipt back; what
    nobody was asked for by a request is in no payer's draws."""
    receipt = evidence.signed.receipt
    if receipt.asking is None or is_signed_by_payer(evidence.signed):
        return True
    return receipt.asking.is_private and is_asked_by_payer(receipt, evidence.request_signature)


def _what_is_misbooked(booked: BookRow, evidence: AuditEvidence) -> str:
    """Whoever a row names must have asked: else an executor puts answers that it made up beside a payer's own."""
    receipt = evidence.signed.receipt
    if booked.asking != booked_under(receipt):
        return "not-the-request"
    if booked.output_tokens != booked_tokens(receipt):
        return "not-the-length"
    if booked.payer not in booked_payers(receipt) or not _has_asked(booked, evidence):
        return "not-the-payer"
    if receipt.asking is not None and drawable_tokens(receipt) > receipt.asking.max_tokens:
        return "not-the-length"
    return ""


def _has_asked(booked: BookRow, evidence: AuditEvidence) -> bool:
    """Whether the receipt's payer signed the request or, where there was none and a row names it, the receipt."""
    if evidence.signed.receipt.asking is not None and booked.output_tokens:
        return is_asked_by_payer(evidence.signed.receipt, evidence.request_signature)
    return booked.payer == NOBODY or is_signed_by_payer(evidence.signed)


def _is_draw_committed_to(receipt: Receipt, answer: AnswerEvidence) -> bool:
    is_within_rule = answer.sampling.is_verifiable and not answer.response_format
    derived = draw_commitment(answer.sampling, answer.seed, answer.stop, answer.response_format)
    return derived == receipt.draw_commitment and is_within_rule == receipt.is_within_rule


def _are_claims_committed_to(receipt: Receipt, kept: KeptAnswer, *, must_be_shown: bool) -> Slices[bool]:
    """Whether claims are what the user was told. Who asked keeps none, so a challenged answer may come without."""
    claimed = kept.claimed
    if claimed and [entry.token_id for entry in claimed] != list(kept.answer.output_ids):
        return False
    if any(len(entry.alternatives) > ALTERNATIVES_KEPT for entry in claimed):
        return False  # one that is both sides may commit to what it likes, and others keep it
    if not claimed and (receipt.claims_commitment == NOT_ASKED or not must_be_shown):
        return True
    running = ClaimsHash()
    for start in range(0, len(claimed), CLAIMS_PER_SLICE):
        running.add(claimed[start : start + CLAIMS_PER_SLICE])
        yield
    return running.commitment() == receipt.claims_commitment


def _is_seed_drawn(evidence: AuditEvidence, answer: AnswerEvidence) -> bool:
    receipt, share = evidence.signed.receipt, answer.seed_share
    if share is None:
        return True
    try:
        check_share(share, receipt.request_id, receipt.payer)
    except SeedShareError:
        return False
    return drawn_seed(receipt.request_id, receipt.payer, share.share) == answer.seed
