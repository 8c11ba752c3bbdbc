"""The receipt of an answer to an open prompt, as its executor makes it, its payer and the others drawn check it."""

from node.protocol.canonical import sha256_digest
from node.protocol.identifiers import Address, NodeId, TokenAmount
from node.protocol.open_prompts import Posted
from node.protocol.pricing import tokens_commitment
from node.protocol.records import ModelRecord, Receipt
from node.protocol.sampling import SEED_MAX
from node.services.frames import InferenceRequest
from node.services.prompt_content import AnswerContent, PromptContent
from node.services.receipting import receipt_of


def seed_of(posted: Posted, content: PromptContent) -> int:
    """Return the seed of the answer: the user's, or one that every executor derives alike from the request.

    Who posts could try request ids until it likes the seed: receipts say that the user chose it.
    """
    if content.seed is not None:
        return content.seed
    return int.from_bytes(sha256_digest(["quern-open-seed", posted.prompt.request_id])[:8]) & SEED_MAX


def open_request(posted: Posted, content: PromptContent, executor: Address) -> InferenceRequest:
    """Return what was asked of `executor`, as a direct request would have said it."""
    return InferenceRequest(
        request_id=posted.prompt.request_id,
        model_id=posted.prompt.model_id,
        payer=posted.payer,
        executor=executor,
        at=posted.at,
        epoch=posted.prompt.epoch,
        prompt=content.prompt,
        prefix=(),
        max_tokens=posted.prompt.max_tokens,
        sampling=content.sampling,
        seed=seed_of(posted, content),
        stop=content.stop,
        logprobs=None,
        response_format=content.response_format,
        private=posted.prompt.is_sealed,
        salt=content.salt,
    )


def open_receipt(
    posted: Posted,
    content: PromptContent,
    answer: AnswerContent,
    model: ModelRecord,
    unit_price: TokenAmount,
    *,
    executor: Address,
    node_id: NodeId,
    at: int,
    by_rule: bool = True,
) -> Receipt:
    """Return the receipt for `answer`, which `executor` gave at `at` (UNIX seconds), drawn `by_rule` as it says."""
    return receipt_of(
        open_request(posted, content, executor),
        model,
        answer.prompt_ids,
        answer.token_ids,
        unit_price,
        epoch=posted.prompt.epoch,
        node_id=node_id,
        at=at,
        seed=seed_of(posted, content),
        seeded_by_user=True,
        by_rule=by_rule,
    )


def is_of_receipt(answer: AnswerContent, receipt: Receipt) -> bool:
    """Whether these are the tokens that the receipt charges for: what anybody can tell."""
    return (
        (len(answer.prompt_ids), len(answer.token_ids)) == (receipt.prompt_tokens, receipt.output_tokens)
        and tokens_commitment(answer.prompt_ids) == receipt.prompt_commitment
        and tokens_commitment(answer.token_ids) == receipt.output_commitment
    )
