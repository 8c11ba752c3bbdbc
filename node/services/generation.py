"""One answer from a participant's engines, whichever they are: gathers what is not yet taken, pauses, starts again.

*Purpose.* The reader takes pieces at its own pace (that of payment and of the wire). What the engine gives meanwhile is
gathered, so that a slow reader gets few large pieces and a fast one gets each token at once.

*Detail.* When too much is gathered the engine is stopped and its place given to others; the answer is taken up when
little is left. So an engine works for nobody but a few steps ahead of what is paid. When an engine fails, another one
of this participant goes on, before the gateway has to look elsewhere.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
import trio

from node.ports import Engine, EngineFailedError, GenerationChunk, GenerationRequest, PushedChunks, RuleFollower
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.sampling import TokenLogprobs
from node.services.broker import Broker, Lease
from node.services.groups import sole_error
from node.services.resuming import AnswerSoFar

log = structlog.get_logger(__name__)

FAILURES_MAX = 2
"""Engines that may fail under one answer and be replaced; then the gateway decides."""
REPEATED_TOKENS_MAX = 2048
"""Tokens that may be generated once more for one answer because of pauses. Beyond it the engine runs to its end."""

Give = Callable[[GenerationChunk], bool]
"""Takes a piece at once, or not at all; returns whether it did."""


class Generation:
    """An answer in the making. `run` makes it, `next_piece` takes it."""

    def __init__(
        self, broker: Broker, model_id: ModelId, payer: str, request: GenerationRequest, *, ahead_tokens_max: int
    ) -> None:
        """`ahead_tokens_max`: tokens the engine may be ahead of the reader."""
        self._broker = broker
        self._model_id = model_id
        self._payer = payer
        self._request = request
        self._ahead_tokens_max = ahead_tokens_max
        self._so_far = AnswerSoFar(request)
        self._gathered: deque[GenerationChunk] = deque()
        self._gathered_tokens = 0
        self._finished = False
        self._give_now: Give | None = None
        """The reader's, while it waits."""
        self._give_tokens_max = 0
        self._arrived = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()
        self._wanted = trio.Event()
        self._repeated = 0
        self._failed: set[NodeId] = set()
        self.node_ids: list[NodeId] = []
        """Nodes that worked on it, in order."""
        self.by_rule = True
        """Whether they draw by the network's rule; known once a place is held."""
        self.logprobs: list[TokenLogprobs] = []
        """What was told of each token, if it was asked for: audits compare it."""

    def begin(self) -> None:
        """Let the engine start: until then only its place is held."""
        self._wanted.set()

    # Any: trio does not export the type that Nursery.start hands over.
    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Make the answer. Started when a place at an engine is held.

        Raises CallFailedError if there is none, EngineFailedError and EngineRefusedError.
        """
        while not self._finished:
            try:
                with sole_error():
                    async with self._broker.lease(
                        self._model_id,
                        payer=self._payer,
                        prompt_ids=self._request.prompt_ids,
                        max_tokens=self._request.max_tokens - self._so_far.tokens,
                        avoid=self._failed,
                    ) as lease:
                        self.node_ids.append(lease.engine.node_id)
                        self._check_rule(lease.engine)
                        task_status.started()
                        task_status = trio.TASK_STATUS_IGNORED
                        await self._wanted.wait()
                        await self._read(lease)
            except EngineFailedError as error:
                self._failed.add(self.node_ids[-1])
                others = self._broker.ready_engine(self._model_id, avoid=self._failed)
                if len(self._failed) > FAILURES_MAX or others is None:
                    raise
                why = type(error).__name__ if self._request.private else str(error)
                log.warning("an engine failed; another one goes on", node=self.node_ids[-1], reason=why)
            await self._until_behind()

    async def next_piece(self, tokens_max: int, give_now: Give | None = None) -> GenerationChunk:
        """Wait for something new and return all there is, up to `tokens_max`. The last piece has a finish reason.

        While this waits, pieces are offered to `give_now` as they come, which saves waking a task for each. What it
        takes is not returned. It is called in the task that reads the engine, and never with the last piece.
        """
        while not self._gathered:
            self._give_now, self._give_tokens_max = give_now, tokens_max
            try:
                await self._arrived.park()
            finally:
                self._give_now = None
        return self._next_piece(tokens_max)

    def _next_piece(self, tokens_max: int) -> GenerationChunk:
        piece = join_chunks(take_chunks(self._gathered, tokens_max))
        self._gathered_tokens -= len(piece.token_ids)
        self._taken.unpark_all()
        return piece

    def _hand_on(self) -> None:
        """Offer what is gathered to a reader that waits, and wake it if something is left."""
        while self._gathered and self._give_now is not None:
            piece = self._next_piece(self._give_tokens_max)
            if piece.finish_reason is not None or not self._give_now(piece):
                self._gathered.appendleft(piece)
                self._gathered_tokens += len(piece.token_ids)
                break
        if self._gathered:
            self._arrived.unpark_all()

    async def _until_behind(self) -> None:
        """Wait until little is gathered, unless the answer is complete."""
        while not self._finished and self._gathered_tokens > self._ahead_tokens_max // 2:
            await self._taken.park()

    async def _read(self, lease: Lease) -> None:
        """Gather what an engine gives until the answer ends or too much is gathered."""
        goes_on = True

        def take(chunks: Sequence[GenerationChunk]) -> bool:
            nonlocal goes_on
            goes_on = self._take(lease, chunks)
            return goes_on

        async with lease.engine.generate(self._so_far.resume()) as chunks:
            if isinstance(chunks, PushedChunks):
                await chunks.push_to(take)
            else:
                async for chunk in chunks:
                    if not take((chunk,)):
                        break
        if goes_on:
            raise EngineFailedError("the engine's answer ended without a reason")

    def _check_rule(self, engine: Engine) -> None:
        """Who has been told that the answer is drawn by the rule is not given another one's tokens."""
        by_rule = not isinstance(engine, RuleFollower) or engine.draws_by_rule
        if len(self.node_ids) > 1 and self.by_rule and not by_rule:
            raise EngineFailedError(f"{engine.node_id} does not draw by the rule that the answer began with")
        self.by_rule = by_rule if len(self.node_ids) == 1 else self.by_rule

    def _take(self, lease: Lease, chunks: Sequence[GenerationChunk]) -> bool:
        """Gather what has come; return whether the engine is to go on."""
        give_now = self._give_now if len(chunks) == 1 and not self._gathered else None
        """How a piece like most others goes straight to a reader that waits and has all before it."""
        try:
            for chunk in chunks:
                lease.produced(len(chunk.token_ids))
                fresh = self._so_far.take(chunk)
                if fresh is None:
                    continue
                if fresh.logprobs:
                    self.logprobs.extend(fresh.logprobs)
                fits = fresh.finish_reason is None and len(fresh.token_ids) <= self._give_tokens_max
                if give_now is not None and fits:
                    if give_now(fresh):
                        return True
                    self._give_now = None  # it is not to be asked twice
                self._gathered.append(fresh)
                self._gathered_tokens += len(fresh.token_ids)
                if fresh.finish_reason is not None:
                    self._finished = True
                    return False
        finally:
            if self._gathered:
                self._hand_on()
        return self._gathered_tokens <= self._ahead_tokens_max or not self._may_pause()

    def _may_pause(self) -> bool:
        repeated = self._repeated + self._so_far.repeats
        if repeated > REPEATED_TOKENS_MAX:
            return False
        self._repeated = repeated
        return True


def take_chunks(gathered: deque[GenerationChunk], tokens_max: int) -> Iterator[GenerationChunk]:
    """Take chunks from the front, up to `tokens_max` tokens; cut the first if it alone has more.

    Only then: tokens whose text is still to come must not travel behind text, for whoever goes on elsewhere could not
    tell that theirs is missing.
    """
    left = tokens_max
    while gathered:
        chunk = gathered[0]
        if len(chunk.token_ids) > left:
            if left == tokens_max:
                head, gathered[0] = cut_chunk(chunk, left)
                yield head
            return
        left -= len(chunk.token_ids)
        yield gathered.popleft()


def cut_chunk(chunk: GenerationChunk, count: int) -> tuple[GenerationChunk, GenerationChunk]:
    """Cut a chunk after `count` tokens; the text and the finish reason stay with the second part."""
    ids, logprobs = chunk.token_ids, chunk.logprobs
    return (
        GenerationChunk(ids[:count], "", None, logprobs[:count]),
        GenerationChunk(ids[count:], chunk.text, chunk.finish_reason, logprobs[count:]),
    )


def join_chunks(chunks: Iterator[GenerationChunk]) -> GenerationChunk:
    """Return consecutive chunks as one."""
    parts = list(chunks)
    if len(parts) == 1:
        return parts[0]
    return GenerationChunk(
        tuple(token for part in parts for token in part.token_ids),
        "".join(part.text for part in parts),
        parts[-1].finish_reason,
        tuple(entry for part in parts for entry in part.logprobs),
    )
