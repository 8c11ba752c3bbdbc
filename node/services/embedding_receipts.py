"""The receipt for vectors as either side derives it from what it saw: equal on both, or nobody signs."""

from collections.abc import Sequence
from dataclasses import replace

from node.protocol.canonical import sha256_digest
from node.protocol.identifiers import EpochNumber, Hash32, NodeId, TokenAmount
from node.protocol.pricing import price
from node.protocol.receipts import draw_commitment
from node.protocol.records import ModelRecord, Receipt
from node.protocol.sampling import SamplingParameters
from node.services.embedding_frames import EmbeddingRequest, Vectors
from node.services.receipting import ANSWER_SECONDS_MAX, CLOCK_SECONDS_MAX, is_near_epoch

NOTHING_DRAWN = draw_commitment(SamplingParameters(), 0, (), "")
"""No token is drawn for a vector; the field is there all the same."""


def inputs_commitment(token_ids: Sequence[Sequence[int]]) -> Hash32:
    """Return the commitment to the tokens of all inputs, in place of a prompt's."""
    return sha256_digest(["quern-inputs", [list(ids) for ids in token_ids]])


def vectors_commitment(vectors: Vectors) -> Hash32:
    """Return the commitment to all vectors together, in place of an answer's tokens."""
    return sha256_digest(["quern-vectors", vectors.dimensions, vectors.data])


def embedding_receipt_of(
    request: EmbeddingRequest,
    model: ModelRecord,
    token_ids: Sequence[Sequence[int]],
    vectors: Vectors,
    unit_price: TokenAmount,
    *,
    epoch: EpochNumber,
    node_id: NodeId,
    at: int,
) -> Receipt:
    """Return the receipt over `vectors` (of all inputs), for which `token_ids` were read."""
    count = sum(map(len, token_ids))
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
        prompt_commitment=inputs_commitment(token_ids),
        output_commitment=vectors_commitment(vectors),
        draw_commitment=NOTHING_DRAWN,
        is_verifiable=False,
        seeded_by_user=False,
        at=at,
        price=price(count, 0, model, unit_price),
        is_within_rule=False,
    )


def is_the_same_embedding(stated: Receipt, seen: Receipt, request: EmbeddingRequest) -> bool:
    """Whether an executor's receipt says what its payer saw, in the epoch of `seen` or one beside it; node and time are
    the executor's to say."""
    within_call = request.at - CLOCK_SECONDS_MAX <= stated.at <= request.at + ANSWER_SECONDS_MAX + CLOCK_SECONDS_MAX
    within_call = within_call and is_near_epoch(stated, seen.epoch)
    return within_call and stated == replace(seen, node_id=stated.node_id, at=stated.at, epoch=stated.epoch)
