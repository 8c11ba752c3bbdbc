"""Where users hand in prompts that nobody streams to them: on chain, or open by gossip. They ask again for the answer.

What was handed in goes on without whoever asked, and after a restart: a prompt on chain is found again by its CID; an
open prompt that was still waiting is over (nothing was paid), one whose answer was chosen is paid.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import structlog
import trio

from node.ports import Chain, Content, ContentUnavailableError, SealingError, Store, WallClock
from node.protocol.identifiers import Cid, ModelId
from node.protocol.open_prompts import MAX_TOKENS_LIMIT
from node.protocol.sampling import SamplingParameters
from node.services.chain_asking import AskOnChainError, ChainAsking
from node.services.frames import SALT_BYTES, Prompt
from node.services.open_asking import Decision, OpenAskError, OpenAsking
from node.services.prompt_asks import AskBook, AskMode, AskState, PromptAsk, failed
from node.services.prompt_content import AnswerContent, PromptContent, PromptContentError, prompt_bytes
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

HANDED_IN_MAX = 64
"""Prompts between being handed in and being begun: moments."""


class DeskError(Exception):
    """A prompt is not taken, or has no answer to give. `code` as of GatewayError, or `not-found`, `not-ready`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class PromptWish:
    """What a user hands in."""

    mode: AskMode
    model_id: ModelId
    prompt: Prompt
    max_tokens: int
    """Prompt and answer together: what is paid for at most."""
    max_output_tokens: int = 0
    """0: as many as are paid for."""
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_format: str = ""
    private: bool = False


class PromptDesk:
    """Takes prompts, sees them to their end, gives out their answers."""

    def __init__(
        self,
        chain: Chain,
        content: Content,
        store: Store,
        chain_asking: ChainAsking,
        open_asking: OpenAsking | None,
        *,
        wall_clock: WallClock,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`open_asking`: None where this node pays nobody (it is no gateway)."""
        self._chain = chain
        self._content = content
        self._book = AskBook(store)
        self._chain_asking = chain_asking
        self._open_asking = open_asking
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self._ended: dict[str, Callable[[PromptAsk], None]] = {}
        """Whom to tell of the end of a prompt. Bounded by those that run; forgotten at a restart."""
        self._send, self._receive = trio.open_memory_channel[tuple[PromptAsk, PromptContent | None]](HANDED_IN_MAX)

    async def run(self) -> None:
        """See all prompts to their end."""
        async with trio.open_nursery() as nursery:
            for ask in self._book.all():
                if not ask.has_ended:
                    nursery.start_soon(self._see_to_its_end, ask, None)
            async for ask, content in self._receive:
                nursery.start_soon(self._see_to_its_end, ask, content)

    def asks(self) -> tuple[PromptAsk, ...]:
        """All prompts that are remembered, oldest first."""
        return self._book.all()

    def get(self, ask_id: str) -> PromptAsk:
        """Return a prompt. Raises DeskError `not-found`."""
        ask = self._book.get(ask_id)
        if ask is None:
            raise DeskError("not-found", f"there is no prompt {ask_id[:64]}, or it was forgotten since")
        return ask

    async def hand_in(
        self, wish: PromptWish, *, owner: str = "", ended: Callable[[PromptAsk], None] | None = None
    ) -> PromptAsk:
        """Take a prompt; what becomes of it is asked with `get`, its end told to `ended`. Raises DeskError."""
        content = self._content_of(wish)
        ask = PromptAsk(
            ask_id=self._random_bytes(16).hex(),
            mode=wish.mode,
            model_id=wish.model_id,
            max_tokens=wish.max_tokens,
            private=wish.private,
            asked_at=self._wall_clock(),
            owner=owner,
        )
        if wish.mode is AskMode.CHAIN:
            # Before it is written down: after a crash the CID is all that is needed to go on.
            ask = replace(ask, prompt_cid=await self._content.add_bytes(prompt_bytes(content)))
        if not self._book.add(ask):
            raise DeskError("busy", "too many prompts wait for their answers; ask again when some have ended")
        if ended is not None:
            self._ended[ask.ask_id] = ended
        await self._send.send((ask, content))
        return ask

    async def changes(self, ask_id: str) -> AsyncIterator[PromptAsk]:
        """Yield a prompt now and after every change of it, its end included. Raises DeskError `not-found`."""
        told: PromptAsk | None = None
        while told is None or not told.has_ended:
            ask = self.get(ask_id)
            if ask == told:
                await self._book.changed()
                continue
            told = ask
            yield ask

    async def until_ended(self, ask_id: str) -> PromptAsk:
        """Wait for the end of a prompt. Raises DeskError `not-found`."""
        while not (ask := self.get(ask_id)).has_ended:
            await self._book.changed()
        return ask

    async def answer(self, ask: PromptAsk) -> AnswerContent:
        """Return the answer to a prompt. Raises DeskError."""
        if ask.state is not AskState.ANSWERED or ask.result_cid is None:
            raise DeskError("not-ready", ask.reason or f"the prompt is {ask.state.value}")
        try:
            if ask.mode is AskMode.OPEN and self._open_asking is not None:
                return await self._open_asking.read(ask.result_cid, ask.model_id, sealed=ask.private)
            return await self._chain_asking.read(ask.result_cid, ask.prompt_tokens, ask.output_tokens)
        except (ContentUnavailableError, SealingError, ValueError) as error:
            remedy = ""
            if ask.mode is AskMode.CHAIN:
                remedy = f"; while its time lasts: quern chain prompts dispute {ask.prompt_id} REASON_CID"
            raise DeskError("failed", f"the answer {ask.result_cid} is not to be had: {error}{remedy}") from error

    async def reclaim(self, prompt_id: int) -> None:
        """Take back the escrow of a prompt on chain. Raises DeskError."""
        try:
            await self._chain_asking.reclaim(prompt_id)
        except AskOnChainError as error:
            raise DeskError("failed", str(error)) from error

    def _content_of(self, wish: PromptWish) -> PromptContent:
        if not 0 < wish.max_tokens <= MAX_TOKENS_LIMIT:
            raise DeskError("bad-request", f"max_tokens is 1 to {MAX_TOKENS_LIMIT}, prompt and answer together")
        if wish.mode is AskMode.CHAIN and wish.private:
            raise DeskError(
                "bad-request",
                "a prompt on chain cannot be private: who answers is drawn when it is there already, so it cannot be "
                "sealed for anybody; ask by open prompt, or directly",
            )
        if wish.mode is AskMode.OPEN and self._open_asking is None:
            raise DeskError("bad-request", 'this node is not a gateway: add "gateway" to [node] roles')
        try:
            content = PromptContent(
                model_id=wish.model_id,
                prompt=wish.prompt,
                max_output_tokens=wish.max_output_tokens,
                sampling=wish.sampling,
                seed=wish.seed,
                stop=wish.stop,
                response_format=wish.response_format,
                salt=self._random_bytes(SALT_BYTES),
            )
            prompt_bytes(content)
        except PromptContentError as error:
            raise DeskError("too-long", str(error)) from error
        except ValueError as error:
            raise DeskError("bad-request", str(error)) from error
        return content

    async def _see_to_its_end(self, ask: PromptAsk, content: PromptContent | None) -> None:
        """`content`: None after a restart."""
        try:
            if ask.mode is AskMode.CHAIN:
                await self._see_on_chain(ask)
            elif content is not None:
                await self._see_open(ask, content)
            else:
                await self._resume_open(ask)
        except (AskOnChainError, OpenAskError, PaymentError) as error:
            self._book.put(failed(self.get(ask.ask_id), str(error)))
            log.info("a prompt came to nothing", mode=ask.mode.value, reason=str(error))
        tell = self._ended.pop(ask.ask_id, None)
        if tell is not None:
            tell(self.get(ask.ask_id))

    async def _see_on_chain(self, ask: PromptAsk) -> None:
        if ask.prompt_cid is None:
            raise AssertionError("prompts on chain are written down with their CID")
        submitted = await self._chain_asking.submit(
            f"prompt/{ask.ask_id}", ask.prompt_cid, ask.model_id, ask.max_tokens
        )
        ask = replace(
            ask,
            state=AskState.WAITING,
            prompt_id=submitted.prompt_id,
            transaction_hash=submitted.transaction_hash,
        )
        self._book.put(ask)
        answered = await self._chain_asking.until_answered(submitted.prompt_id)
        if answered is None:
            await self._chain_asking.reclaim(submitted.prompt_id)
            self._book.put(replace(ask, state=AskState.RECLAIMED, reason="nobody answered in time; the escrow is back"))
            return
        self._book.put(
            replace(
                ask,
                state=AskState.ANSWERED,
                executor=answered.executor,
                result_cid=answered.result_cid,
                prompt_tokens=answered.prompt_tokens,
                output_tokens=answered.output_tokens,
                price=answered.price,
            )
        )

    async def _see_open(self, ask: PromptAsk, content: PromptContent) -> None:
        if self._open_asking is None:
            raise AssertionError("only gateways take open prompts")

        def posted(cid: Cid) -> None:
            self._book.put(replace(ask, state=AskState.WAITING, prompt_cid=cid))

        def decided(decision: Decision) -> None:
            receipt = decision.receipt.receipt
            self._book.put(
                replace(
                    self.get(ask.ask_id),
                    state=AskState.PAYING,
                    executor=decision.executor,
                    executor_peer=decision.peer_id,
                    result_cid=decision.result_cid,
                    prompt_tokens=receipt.prompt_tokens,
                    output_tokens=receipt.output_tokens,
                    price=receipt.price,
                    receipt=decision.receipt,
                    paid_before=decision.paid_before,
                )
            )

        result = await self._open_asking.ask(
            content, max_tokens=ask.max_tokens, private=ask.private, posted=posted, decided=decided
        )
        self._end_open(self.get(ask.ask_id), settled=result.settled)

    async def _resume_open(self, ask: PromptAsk) -> None:
        """Go on after a restart."""
        decision = _decision_of(ask)
        if decision is None or self._open_asking is None:
            self._book.put(failed(ask, "the daemon was restarted while it waited; nothing was paid"))
            return
        self._end_open(ask, settled=await self._open_asking.settle(decision))

    def _end_open(self, ask: PromptAsk, *, settled: bool) -> None:
        reason = "" if settled else "the executor did not take its payment yet; it is signed and goes with the next"
        self._book.put(replace(ask, state=AskState.ANSWERED, reason=reason))


def _decision_of(ask: PromptAsk) -> Decision | None:
    """Return the answer that was chosen before a crash."""
    if ask.state is not AskState.PAYING:
        return None
    if ask.executor is None or ask.executor_peer is None or ask.result_cid is None:
        return None
    if ask.receipt is None or ask.paid_before is None:
        return None
    return Decision(ask.executor, ask.executor_peer, ask.result_cid, ask.receipt, ask.paid_before)
