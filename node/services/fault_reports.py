"""Writes down what executors do wrong in the requests of one gateway: as evidence, without the prompt."""

from collections.abc import Sequence

from node.protocol.codec import to_bytes
from node.protocol.pricing import tokens_commitment
from node.services.errors import readable
from node.services.faults import (
    DETAIL_CHARACTERS_MAX,
    FRAME_BYTES_KEPT_MAX,
    Evidence,
    ExecutorFaultError,
    Fault,
)
from node.services.frames import InferenceRequest, prompt_commitment_of, request_digest
from node.services.trade import Trade


def report_fault(trade: Trade, request: InferenceRequest, token_ids: Sequence[int], error: ExecutorFaultError) -> None:
    """Note a fault of the executor of `request`, after it gave `token_ids`; nothing if it is no news."""
    at = trade.wall_clock()
    if not trade.faults.is_news(request.executor, error.fault, at):
        return
    trade.faults.add(
        Evidence(
            at=at,
            participant=request.executor,
            request_id=request.request_id,
            model_id=request.model_id,
            code=error.fault.value,
            detail=readable(error.message, DETAIL_CHARACTERS_MAX),
            request_digest=request_digest(request),
            prompt_commitment=prompt_commitment_of(request),
            output_tokens=len(token_ids),
            output_commitment=tokens_commitment(token_ids),
            frame=b"" if request.private else error.frame[:FRAME_BYTES_KEPT_MAX],
            receipt=error.receipt,
        )
    )


def report_refuted_shares(trade: Trade, secret: bytes) -> None:
    """Hold earlier halves of seeds against a secret that has been published since."""
    for given, refuted in trade.shares.refuted_by(secret):
        trade.faults.add(
            Evidence(
                at=trade.wall_clock(),
                participant=given.share.executor,
                request_id=given.request_id,
                model_id=given.model_id,
                code=Fault.SEED.value,
                detail="its half of a seed is not the one that its published secret gives",
                request_digest=given.request_digest,
                prompt_commitment=given.prompt_commitment,
                output_tokens=0,
                output_commitment=tokens_commitment(()),
                frame=to_bytes(refuted),
                receipt=None,
            )
        )
