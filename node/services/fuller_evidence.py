"""Evidence of others' answers takes the place of what is kept of them without tokens.

An auditor that draws the row of a private answer is shown a receipt, and keeps that. Who paid for the answer may be an
auditor of it too, and have it judged later: then its tokens are what judges ask this node for.
"""

from dataclasses import replace

import structlog

from node.protocol.audit_evidence import AuditEvidence
from node.protocol.codec import SchemaError
from node.protocol.pricing import receipt_digest
from node.protocol.shown_evidence import evidence_from_bytes, evidence_to_bytes, has_tokens
from node.services.receipt_book import GivenAnswers

log = structlog.get_logger(__name__)


def keep_fuller(given: GivenAnswers, evidence: AuditEvidence, data: bytes) -> None:
    """Keep evidence that was checked, whose bytes are `data`, unless what is here of the same answer says as much.
    Durable on return.
    """
    digest = receipt_digest(evidence.signed.receipt)
    there = given.kept(digest)
    if there is None:
        given.keep(digest, data)
        return
    try:
        if has_tokens(there) or evidence.kept is None:
            return
        known = evidence_from_bytes(there)  # some hundred bytes, without tokens
    except SchemaError as error:
        log.error("stored evidence cannot be read; other takes its place", reason=str(error)[:200])
        given.keep_instead(digest, data)
        return
    if not evidence.request_signature and known.request_signature:
        data = evidence_to_bytes(replace(evidence, request_signature=known.request_signature))
    given.keep_instead(digest, data)
