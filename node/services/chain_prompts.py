"""Answers prompts on chain: those this node was drawn for at once, others in its turn as a substitute.

What can go wrong has a rule each. The prompt's content is not to be had: tried again until its time is over. It is no
prompt, too long, or for another model: this node's duty ends, and the user takes the escrow back after the deadline.
Somebody else's answer is there first: work stops, and nothing is sent. The daemon dies with an answer made: the answer
was written down before it was submitted, and goes out after the restart without being made again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from node.ports import (
    ActionStatus,
    Chain,
    Content,
    ContentUnavailableError,
    Engine,
    EngineFailedError,
    EngineRefusedError,
    Store,
)
from node.protocol.actions import AnswerPrompt
from node.protocol.chain_prompts import answers_from
from node.protocol.chain_state import PromptState
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import BlockNumber, Cid
from node.services.groups import sole_error
from node.services.presence import PresenceTable
from node.services.prompt_content import PROMPT_BYTES_MAX, answer_bytes, read_prompt
from node.services.timing import position
from node.services.whole_answers import whole_answer

log = structlog.get_logger(__name__)

RETRY_SECONDS = 2.0
RETRY_SECONDS_MAX = 30.0
FETCH_SECONDS_MAX = 30.0
"""How long a prompt's content is looked for at once: others may be had meanwhile."""
AT_ONCE_MAX = 4
"""Prompts answered side by side: users at the gateway are not to wait behind the chain."""
WRITTEN_MAX = 64
"""Answers kept for a restart. Each is used up once its transaction is final, minutes later."""
WRITTEN_KEY = "chain-prompts/answers"


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """An answer that is made and stored as content, on its way to the chain."""

    prompt_id: int
    result_cid: Cid
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class WrittenAnswers:
    """The newest of them."""

    items: tuple[WrittenAnswer, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """How often a prompt could not be answered, and when (trio's clock) it is tried again."""

    count: int
    again_at: float


class ChainPromptService:
    """Looks at every block for prompts to answer."""

    def __init__(
        self, chain: Chain, content: Content, store: Store, presence: PresenceTable, engines: Sequence[Engine]
    ) -> None:
        self._chain = chain
        self._content = content
        self._store = store
        self._presence = presence
        self._engines = engines
        self._begun: set[int] = set()
        """Prompts not to begin (again): in work, answered, or not to be answered. Forgotten when they have ended."""
        self._working = 0
        self._failures: dict[int, Failure] = {}
        """Of prompts that are tried again; forgotten with them."""

    async def run(self) -> None:
        """Answer for ever."""
        async with trio.open_nursery() as nursery:
            async for head in self._chain.heads():
                self._forget_ended()
                waiting = {p for p, failure in self._failures.items() if failure.again_at > trio.current_time()}
                for prompt_id in sorted(self._chain.state.unfinished_prompts - self._begun - waiting):
                    if self._working >= AT_ONCE_MAX:
                        break  # whoever waits is judged anew when there is room: others may have answered
                    prompt = self._chain.state.prompts[prompt_id]
                    if self._is_due(prompt_id, prompt, head.number):
                        self._begun.add(prompt_id)
                        self._working += 1
                        nursery.start_soon(self._work_on, prompt_id, prompt)

    def _forget_ended(self) -> None:
        unfinished = self._chain.state.unfinished_prompts
        self._begun &= unfinished
        self._failures = {
            prompt_id: failure for prompt_id, failure in self._failures.items() if prompt_id in unfinished
        }

    def _is_due(self, prompt_id: int, prompt: PromptState, block: BlockNumber) -> bool:
        """Open, this node's turn, and with an engine that has the model."""
        submitted = prompt.submitted
        if not prompt.is_open or block >= submitted.deadline_block or self._engine(prompt) is None:
            return False
        begins = answers_from(prompt_id, prompt, self._chain.account, position(self._chain).epoch, self._chain.state)
        return begins is not None and block >= begins

    async def _work_on(self, prompt_id: int, prompt: PromptState) -> None:
        try:
            written = self._written(prompt_id) or await self._write_in_time(prompt_id, prompt)
            if written is not None and prompt.is_open:
                await self._submit(written)
        except (EngineFailedError, ContentUnavailableError) as error:
            known = self._failures.get(prompt_id)
            count = 1 if known is None else known.count + 1
            again_at = trio.current_time() + min(RETRY_SECONDS_MAX, RETRY_SECONDS * count)
            self._failures[prompt_id] = Failure(count, again_at)
            self._begun.discard(prompt_id)
            tell = log.warning if known is None else log.debug
            tell("a prompt on chain could not be answered yet", prompt=prompt_id, reason=str(error))
        except (EngineRefusedError, ValueError) as error:
            log.warning(
                "a prompt on chain cannot be answered; its user can take the escrow back after the deadline",
                prompt=prompt_id,
                reason=str(error)[:200],
            )
        finally:
            self._working -= 1

    async def _write_in_time(self, prompt_id: int, prompt: PromptState) -> WrittenAnswer | None:
        """Make the answer; stop, and return None, when another is there or it is too late."""
        written: WrittenAnswer | None = None
        with sole_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_too_late, prompt, nursery.cancel_scope)
                written = await self._write(prompt_id, prompt)
                nursery.cancel_scope.cancel()
        return written

    async def _cancel_when_too_late(self, prompt: PromptState, scope: trio.CancelScope) -> None:
        async for head in self._chain.heads():
            if not prompt.is_open or head.number >= prompt.submitted.deadline_block:
                scope.cancel()
                return

    async def _submit(self, written: WrittenAnswer) -> None:
        key = f"answer/{written.prompt_id}"
        await self._chain.submit(
            key, AnswerPrompt(written.prompt_id, written.result_cid, written.prompt_tokens, written.output_tokens)
        )
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.DONE:
            log.info("a prompt on chain is answered", prompt=written.prompt_id, tokens=written.output_tokens)
        else:
            log.warning(
                "the answer to a prompt on chain came too late, or another was there first; it is not paid",
                prompt=written.prompt_id,
                reason=outcome.reason,
                gas_used=outcome.gas_used,
            )

    async def _write(self, prompt_id: int, prompt: PromptState) -> WrittenAnswer:
        """Make the answer, store it as content, and write down that it is there."""
        submitted = prompt.submitted
        engine = self._engine(prompt)
        if engine is None:
            raise EngineFailedError("the engine is no longer ready")
        data = await self._fetch(submitted.prompt_cid)
        content = read_prompt(data, submitted.model_id)
        model = self._chain.state.models[submitted.model_id]
        answer = await whole_answer(engine, model, content, tokens_max=submitted.max_tokens, seed=prompt_id)
        cid = await self._content.add_bytes(answer_bytes(answer))
        written = WrittenAnswer(prompt_id, cid, len(answer.prompt_ids), len(answer.token_ids))
        self._keep(written)
        return written

    async def _fetch(self, cid: Cid) -> bytes:
        with trio.move_on_after(FETCH_SECONDS_MAX):
            return await self._content.read_bytes(cid, self._presence.providers(), limit_bytes=PROMPT_BYTES_MAX)
        raise ContentUnavailableError(f"{cid}: not to be had within {FETCH_SECONDS_MAX:.0f} s")

    def _written(self, prompt_id: int) -> WrittenAnswer | None:
        return next((item for item in self._all_written() if item.prompt_id == prompt_id), None)

    def _all_written(self) -> tuple[WrittenAnswer, ...]:
        data = self._store.get_document(WRITTEN_KEY)
        try:
            return from_bytes(WrittenAnswers, data).items if data is not None else ()
        except SchemaError as error:  # of another version: what was answered is answered again, and refused
            log.warning("answers of an older version are forgotten", reason=str(error))
            return ()

    def _keep(self, written: WrittenAnswer) -> None:
        newest = (*self._all_written(), written)[-WRITTEN_MAX:]
        self._store.put_document(WRITTEN_KEY, to_bytes(WrittenAnswers(newest)))

    def _engine(self, prompt: PromptState) -> Engine | None:
        return next((engine for engine in self._engines if engine.model_id == prompt.submitted.model_id), None)
