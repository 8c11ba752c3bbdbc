"""Prompts on chain: answers those this node was drawn for, and asks for users who prefer the chain to a gateway."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from node.ports import (
    ActionOutcome,
    ActionStatus,
    Chain,
    Content,
    ContentUnavailableError,
    Engine,
    EngineFailedError,
    EngineRefusedError,
    GenerationRequest,
)
from node.protocol.actions import AnswerPrompt, ReclaimPrompt, SubmitPrompt
from node.protocol.chain_state import PromptState
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.events import PromptAnswered
from node.protocol.identifiers import Address, ModelId
from node.protocol.pricing import price
from node.protocol.sampling import SamplingParameters
from node.services.executor import USER_PRIORITY, render
from node.services.frames import MESSAGES_MAX, Prompt, Turn
from node.services.presence import PresenceTable
from node.services.timing import position

log = structlog.get_logger(__name__)

PROMPT_BYTES_MAX = 256 * 1024
ANSWER_BYTES_MAX = 4 * 1024 * 1024
RETRY_SECONDS = 2.0
LAST_BLOCKS = 10
"""So many blocks before its deadline a prompt is anybody's. The contract opens it at half of the deadline; waiting
longer keeps members from answering the same prompt side by side with whoever was drawn."""
AT_ONCE_MAX = 4
"""Prompts answered side by side: users at the gateway are not to wait behind the chain."""


@dataclass(frozen=True, slots=True)
class PromptContent:
    """What a prompt's CID names."""

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.turns) <= MESSAGES_MAX:
            raise ValueError(f"1 to {MESSAGES_MAX} messages")


@dataclass(frozen=True, slots=True)
class AnswerContent:
    """What an answer's CID names. Token ids let anyone recompute it."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


class OpenPromptService:
    """Answers open prompts that this node may answer and whose model it has ready."""

    def __init__(self, chain: Chain, content: Content, presence: PresenceTable, engines: Sequence[Engine]) -> None:
        self._chain = chain
        self._content = content
        self._presence = presence
        self._engines = engines
        self._taken: set[int] = set()
        """Prompts that are or were worked on since the start; the store knows those answered before."""

    async def run(self) -> None:
        """Look at every block for prompts to answer."""
        limit = trio.CapacityLimiter(AT_ONCE_MAX)
        async with trio.open_nursery() as nursery:
            async for head in self._chain.heads():
                for prompt_id, prompt in self._chain.state.prompts.items():
                    if prompt_id not in self._taken and self._may_answer(prompt, head.number):
                        self._taken.add(prompt_id)
                        nursery.start_soon(self._answer_within, limit, prompt_id, prompt)

    def _may_answer(self, prompt: PromptState, block: int) -> bool:
        """Drawn, or a member when the deadline is near; with an engine that has the model."""
        submitted = prompt.submitted
        if not prompt.is_open or block >= submitted.deadline_block or self._engine(submitted.model_id) is None:
            return False
        if submitted.executor == self._chain.account:
            return True
        members = dict(self._chain.state.group_weights(position(self._chain).epoch))
        return members.get(self._chain.account, 0) > 0 and submitted.deadline_block - block <= LAST_BLOCKS

    async def _answer_within(self, limit: trio.CapacityLimiter, prompt_id: int, prompt: PromptState) -> None:
        async with limit:
            try:
                await self._answer(prompt_id, prompt)
            except (EngineFailedError, ContentUnavailableError) as error:
                log.warning("a prompt on chain could not be answered yet", prompt=prompt_id, reason=str(error))
                await trio.sleep(RETRY_SECONDS)
                self._taken.discard(prompt_id)
            except (SchemaError, ValueError, EngineRefusedError) as error:
                log.warning("a prompt on chain cannot be answered", prompt=prompt_id, reason=str(error))

    async def _answer(self, prompt_id: int, prompt: PromptState) -> None:
        submitted = prompt.submitted
        engine = self._engine(submitted.model_id)
        if engine is None:
            raise EngineFailedError("the engine is no longer ready")
        data = await self._content.read_bytes(
            submitted.prompt_cid, self._presence.providers(), limit_bytes=PROMPT_BYTES_MAX
        )
        content = from_bytes(PromptContent, data)
        prompt_ids = await render(engine, Prompt(content.turns))
        model = self._chain.state.models[submitted.model_id]
        room = min(submitted.max_tokens, model.context_length) - len(prompt_ids)
        if room < 1:
            raise ValueError(f"the prompt has {len(prompt_ids)} tokens, paid for are {submitted.max_tokens}")
        answer = await _generate(engine, prompt_ids, room, seed=prompt_id)
        cid = await self._content.add_bytes(to_bytes(answer))
        key = f"answer/{prompt_id}"
        await self._chain.submit(key, AnswerPrompt(prompt_id, cid, len(answer.prompt_ids), len(answer.token_ids)))
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.DONE:
            log.info("a prompt on chain is answered", prompt=prompt_id, tokens=len(answer.token_ids))
        else:
            log.warning("the answer to a prompt on chain was refused", prompt=prompt_id, reason=outcome.reason)

    def _engine(self, model_id: ModelId) -> Engine | None:
        return next((engine for engine in self._engines if engine.model_id == model_id), None)


async def _generate(engine: Engine, prompt_ids: tuple[int, ...], max_tokens: int, *, seed: int) -> AnswerContent:
    request = GenerationRequest(prompt_ids, max_tokens, SamplingParameters(), seed, (), USER_PRIORITY)
    tokens: list[int] = []
    texts: list[str] = []
    finish_reason = ""
    async with engine.generate(request) as chunks:
        async for chunk in chunks:
            tokens.extend(chunk.token_ids)
            texts.append(chunk.text)
            finish_reason = chunk.finish_reason or finish_reason
    return AnswerContent(prompt_ids, tuple(tokens), "".join(texts), finish_reason)


class AskOnChainError(Exception):
    """A prompt on chain came to nothing; the message says why and where the escrow is."""


@dataclass(frozen=True, slots=True)
class ChainAnswer:
    """An answer from the chain."""

    prompt_id: int
    submitted: ActionOutcome
    answered: PromptAnswered
    content: AnswerContent


async def ask_on_chain(
    chain: Chain,
    content: Content,
    presence: PresenceTable,
    *,
    key: str,
    model_id: ModelId,
    turns: tuple[Turn, ...],
    max_tokens: int,
) -> ChainAnswer:
    """Submit a prompt, wait for its answer; take the escrow back if none comes. Raises AskOnChainError."""
    model = chain.state.models.get(model_id)
    if model is None or not model.active:
        raise AskOnChainError(f"there is no active model {model_id}")
    prompt_cid = await content.add_bytes(to_bytes(PromptContent(turns)))
    most = price(max_tokens, 0, model, chain.parameters.unit_price)
    known = set(chain.state.prompts)
    await chain.submit(key, SubmitPrompt(prompt_cid, model_id, max_tokens, most))
    outcome = await chain.outcome(key)
    if outcome.status is not ActionStatus.DONE:
        raise AskOnChainError(f"the prompt was refused: {outcome.reason}")
    prompt_id = _own_prompt(chain, chain.account, known, prompt_cid)
    async for head in chain.heads():
        prompt = chain.state.prompts[prompt_id]
        if prompt.answered is not None:
            data = await content.read_bytes(
                prompt.answered.result_cid, presence.providers(), limit_bytes=ANSWER_BYTES_MAX
            )
            return ChainAnswer(prompt_id, outcome, prompt.answered, from_bytes(AnswerContent, data))
        if head.confirmed > prompt.submitted.deadline_block:
            await chain.submit(f"reclaim/{prompt_id}", ReclaimPrompt(prompt_id))
            await chain.outcome(f"reclaim/{prompt_id}")
            raise AskOnChainError("nobody answered in time; the escrow was taken back")
    raise AssertionError("heads never end")


def _own_prompt(chain: Chain, account: Address, known: set[int], prompt_cid: str) -> int:
    for prompt_id, prompt in chain.state.prompts.items():
        submitted = prompt.submitted
        if prompt_id not in known and submitted.user == account and submitted.prompt_cid == prompt_cid:
            return prompt_id
    raise AskOnChainError("the prompt's event was not found, though its transaction succeeded")
