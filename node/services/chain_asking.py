"""Asks on chain: submits a prompt, waits for its answer, takes the escrow back if none comes.

Every step can be taken again after a crash: a submission is sent once for its key, a prompt is found by the CID of its
content, which is never used twice.
"""

from dataclasses import dataclass

import structlog

from node.ports import ActionStatus, Chain, Content
from node.protocol.actions import ReclaimPrompt, SubmitPrompt
from node.protocol.events import PromptAnswered
from node.protocol.identifiers import Cid, Hash32, ModelId
from node.protocol.pricing import price
from node.services.presence import PresenceTable
from node.services.prompt_content import ANSWER_BYTES_MAX, AnswerContent, PromptContentError, read_answer

log = structlog.get_logger(__name__)


class AskOnChainError(Exception):
    """A prompt on chain came to nothing; the message says why and where the escrow is."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A prompt that is on chain."""

    prompt_id: int
    transaction_hash: Hash32 | None


class ChainAsking:
    """The user's side of prompts on chain."""

    def __init__(self, chain: Chain, content: Content, presence: PresenceTable) -> None:
        self._chain = chain
        self._content = content
        self._presence = presence

    async def submit(self, key: str, prompt_cid: Cid, model_id: ModelId, max_tokens: int) -> Submitted:
        """Put a prompt on chain, once for `key`; escrows the price of `max_tokens`. Raises AskOnChainError."""
        chain = self._chain
        model = chain.state.models.get(model_id)
        if model is None or not model.active:
            raise AskOnChainError(f"there is no active model {model_id}; nothing was sent")
        most = price(max_tokens, 0, model, chain.parameters.unit_price)
        await chain.submit(key, SubmitPrompt(prompt_cid, model_id, max_tokens, most))
        outcome = await chain.outcome(key)
        if outcome.status is not ActionStatus.DONE:
            raise AskOnChainError(f"the contract refused the prompt: {outcome.reason}; nothing is escrowed")
        prompt_id = self.find(prompt_cid)
        if prompt_id is None:
            raise AskOnChainError(
                "the prompt is on chain, but so many are open that this node does not follow it; its escrow can be "
                "reclaimed at the contract after the deadline"
            )
        return Submitted(prompt_id, outcome.transaction_hash)

    def find(self, prompt_cid: Cid) -> int | None:
        """Return this account's prompt with that content."""
        for prompt_id, prompt in self._chain.state.prompts.items():
            if prompt.submitted.user == self._chain.account and prompt.submitted.prompt_cid == prompt_cid:
                return prompt_id
        return None

    async def until_answered(self, prompt_id: int) -> PromptAnswered | None:
        """Wait for the answer; return None when the time for answers is over, or the escrow was taken back."""
        async for head in self._chain.heads():
            prompt = self._chain.state.prompts.get(prompt_id)
            if prompt is None:
                return None
            if prompt.answered is not None:
                return prompt.answered
            if prompt.ended is not None or head.confirmed > prompt.submitted.deadline_block:
                return None
        raise AssertionError("heads never end")

    async def reclaim(self, prompt_id: int) -> None:
        """Take back the escrow of a prompt that nobody answered in time. Raises AskOnChainError."""
        prompt = self._chain.state.prompts.get(prompt_id)
        if prompt is None or prompt.submitted.user != self._chain.account:
            raise AskOnChainError(f"prompt {prompt_id} is not one of this account's that this node follows")
        if prompt.answered is not None:
            raise AskOnChainError(f"prompt {prompt_id} is answered: what the answer does not cost comes back by itself")
        if prompt.ended is not None:
            return
        left = prompt.submitted.deadline_block - self._chain.head.number
        if left >= 0:
            raise AskOnChainError(f"prompt {prompt_id} may still be answered, for {left + 1} blocks more")
        key = f"reclaim/{prompt_id}"
        await self._chain.submit(key, ReclaimPrompt(prompt_id))
        outcome = await self._chain.outcome(key)
        after = self._chain.state.prompts.get(prompt_id)
        if outcome.status is not ActionStatus.DONE and (after is None or after.ended is None):
            raise AskOnChainError(f"the contract did not give the escrow back: {outcome.reason}")
        log.info("the escrow of an unanswered prompt is back", prompt=prompt_id)

    async def read(self, result_cid: Cid, prompt_tokens: int, output_tokens: int) -> AnswerContent:
        """Return the content of an answer that is charged so. Raises ContentUnavailableError, PromptContentError."""
        data = await self._content.read_bytes(result_cid, self._presence.providers(), limit_bytes=ANSWER_BYTES_MAX)
        answer = read_answer(data)
        if (len(answer.prompt_ids), len(answer.token_ids)) != (prompt_tokens, output_tokens):
            raise PromptContentError(
                f"its executor charges for {prompt_tokens} + {output_tokens} tokens, and it has "
                f"{len(answer.prompt_ids)} + {len(answer.token_ids)}"
            )
        return answer
