"""The receipt of an answer as either side derives it from what it saw: equal on both, or nobody signs."""

from collections.abc import Sequence
from dataclasses import replace

from node.protocol.asking import is_of_its_time
from node.protocol.claims import NOT_ASKED
from node.protocol.dossiers import AnswerEvidence
from node.protocol.identifiers import EpochNumber, Hash32, NodeId, TokenAmount
from node.protocol.pricing import price, tokens_commitment
from node.protocol.receipts import draw_commitment
from node.protocol.records import Asking, ModelRecord, Receipt
from node.services.frames import InferenceRequest
from node.services.seeding import AnswerSeed

CLOCK_SECONDS_MAX = 120
"""How far the clocks of both sides may differ before a receipt's time is called wrong."""
ANSWER_SECONDS_MAX = 3600
"""Longest life of a call; a receipt's time lies within it."""
EPOCHS_APART_MAX = 1
"""Blocks come to both sides at different times. A receipt of an epoch further away would be due in no book in time."""


def receipt_of(
    request: InferenceRequest,
    model: ModelRecord,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    unit_price: TokenAmount,
    *,
    epoch: EpochNumber,
    node_id: NodeId,
    at: int,
    seed: int,
    seeded_by_user: bool,
    by_rule: bool = True,
    claims_commitment: Hash32 = NOT_ASKED,
    asking: Asking | None = None,
) -> Receipt:
    """Return the receipt over `output_ids`, for which `prompt_ids` were read and `seed` was drawn by.

    `by_rule`: whether the engine draws by the network's rule where there is one, as the opening said.
    `claims_commitment`: to the log-probabilities told, if they were asked for. `asking`: what the payer signed of
    `request`; None where it signed no request to this executor.
    """
    return Receipt(
        request_id=request.request_id,
        epoch=epoch,
        model_id=model.model_id,
        model_cid=model.cid,
        payer=request.payer,
        executor=request.executor,
        node_id=node_id,
        prompt_tokens=len(prompt_ids),
        output_tokens=len(output_ids),
        prompt_commitment=tokens_commitment(prompt_ids),
        output_commitment=tokens_commitment(output_ids),
        draw_commitment=draw_commitment(request.sampling, seed, request.stop, request.response_format),
        is_verifiable=by_rule and request.is_within_rule,
        seeded_by_user=seeded_by_user,
        at=at,
        price=TokenAmount(price(len(prompt_ids), len(output_ids), model, unit_price)),
        is_private=request.private,
        is_within_rule=request.is_within_rule,
        claims_commitment=claims_commitment,
        asking=asking,
    )


def answer_evidence(
    request: InferenceRequest, prompt_ids: Sequence[int], output_ids: Sequence[int], drawn: AnswerSeed, text: str = ""
) -> AnswerEvidence:
    """Return what the receipt over `output_ids` commits to."""
    return AnswerEvidence(
        prompt_ids=tuple(prompt_ids),
        output_ids=tuple(output_ids),
        text=text,
        sampling=request.sampling,
        seed=drawn.seed,
        seed_share=drawn.share,
        stop=request.stop,
        response_format=request.response_format,
    )


def is_the_same_answer(stated: Receipt, seen: Receipt, request: InferenceRequest) -> bool:
    """Whether an executor's receipt says what its payer saw.

    The executor alone knows which of its nodes answered, and by its clock when; the epoch may have changed meanwhile,
    but not by many: in which books the receipt has to be follows from it. `seen` has the epoch at its payer.
    """
    within_call = request.at - CLOCK_SECONDS_MAX <= stated.at <= request.at + ANSWER_SECONDS_MAX + CLOCK_SECONDS_MAX
    same = replace(seen, node_id=stated.node_id, at=stated.at, epoch=stated.epoch)
    is_near = is_near_epoch(stated, seen.epoch) and is_of_its_time(stated)
    return within_call and is_near and stated == same


def is_near_epoch(stated: Receipt, epoch: EpochNumber) -> bool:
    """Whether a receipt's epoch may be that of its payer: by it follows which books must have the receipt."""
    return abs(stated.epoch - epoch) <= EPOCHS_APART_MAX
