"""Evidence of others' answers takes the place of what is kept of them without tokens.

An auditor that draws the row of a private answer is shown a receipt, and keeps that. Who paid for the answer may be an
auditor of it too, and have it judged later: then its tokens are what judges ask this node for.
"""

from dataclasses import replace

import structlog

from node.protocol.audit_evidence import AuditEvidence
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.pricing import receipt_digest
from node.services.receipt_book import GivenAnswers

log = structlog.get_logger(__name__)


def keep_fuller(given: GivenAnswers, evidence: AuditEvidence) -> None:
    """Keep evidence that was checked, unless what is here of the same answer says as much. Durable on return."""
    digest = receipt_digest(evidence.signed.receipt)
    data = given.kept(digest)
    if data is None:
        given.keep(digest, to_bytes(evidence))
        return
    try:
        known = from_bytes(AuditEvidence, data)
    except SchemaError as error:
        log.error("stored evidence cannot be read; other takes its place", reason=str(error)[:200])
        given.keep_instead(digest, to_bytes(evidence))
        return
    if known.kept is None and evidence.kept is not None:
        signature = evidence.request_signature or known.request_signature
        given.keep_instead(digest, to_bytes(replace(evidence, request_signature=signature)))
