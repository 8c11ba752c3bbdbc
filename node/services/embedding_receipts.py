"""The receipt for vectors as either side derives it from what it saw: equal on both, or nobody signs."""

from dataclasses import replace

from node.protocol.asking import is_of_its_time
from node.protocol.dossiers import VectorEvidence
from node.protocol.identifiers import EpochNumber, NodeId, TokenAmount
from node.protocol.pricing import price
from node.protocol.receipts import draw_commitment
from node.protocol.records import ModelRecord, Receipt
from node.protocol.sampling import SamplingParameters
from node.protocol.sketches import SKETCH_BYTES, inputs_commitment, vectors_commitment
from node.services.embedding_frames import EmbeddingRequest, embedding_asking
from node.services.receipting import ANSWER_SECONDS_MAX, CLOCK_SECONDS_MAX, is_near_epoch

NOTHING_DRAWN = draw_commitment(SamplingParameters(), 0, (), "")
"""No token is drawn for a vector; the field is there all the same."""


def embedding_receipt_of(
    request: EmbeddingRequest,
    model: ModelRecord,
    given: VectorEvidence,
    unit_price: TokenAmount,
    *,
    epoch: EpochNumber,
    node_id: NodeId,
    at: int,
) -> Receipt:
    """Return the receipt over the vectors `given`."""
    count = sum(map(len, given.inputs))
    return Receipt(
        request_id=request.request_id,
        epoch=epoch,
        model_id=model.model_id,
        model_cid=model.cid,
        payer=request.payer,
        executor=request.executor,
        node_id=node_id,
        prompt_tokens=count,
        output_tokens=0,
        prompt_commitment=inputs_commitment(given.inputs),
        output_commitment=vectors_commitment(given.dimensions, given.sketches),
        draw_commitment=NOTHING_DRAWN,
        is_verifiable=True,
        seeded_by_user=False,
        at=at,
        price=price(count, 0, model, unit_price),
        is_private=request.private,
        asking=embedding_asking(request),
        vectors=len(given.sketches) // SKETCH_BYTES,
    )


def is_the_same_embedding(stated: Receipt, seen: Receipt, request: EmbeddingRequest) -> bool:
    """Whether an executor's receipt says what its payer saw, in the epoch of `seen` or one beside it; node and time are
    the executor's to say."""
    within_call = request.at - CLOCK_SECONDS_MAX <= stated.at <= request.at + ANSWER_SECONDS_MAX + CLOCK_SECONDS_MAX
    within_call = within_call and is_near_epoch(stated, seen.epoch) and is_of_its_time(stated)
    return within_call and stated == replace(seen, node_id=stated.node_id, at=stated.at, epoch=stated.epoch)
