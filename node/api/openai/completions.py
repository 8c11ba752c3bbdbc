"""Answers to completions: what a model wrote after a text, made into OpenAI's choices or chunks of them."""

from collections.abc import Callable, Sequence
from typing import Any

from node.api.openai.calls import Call
from node.api.openai.chunks import ChunkWriter
from node.api.openai.event_stream import EventWriter
from node.api.openai.token_likelihoods import completion_logprobs
from node.protocol.sampling import TokenLogprobs
from node.services.attempt import AnswerPart, AnswerSummary


class WholeCompletion:
    """Collects whole texts. `echoed` tells what stands before each answer."""

    def __init__(self, call: Call, echoed: Callable[[int], str], *, wants_logprobs: bool) -> None:
        self._call = call
        self._wants_logprobs = wants_logprobs
        self._texts = [[echoed(index)] for index in range(len(call.chats))]
        self._logprobs: list[list[TokenLogprobs]] = [[] for _ in call.chats]
        self._reasons = [""] * len(call.chats)

    async def begin(self, summaries: Sequence[AnswerSummary]) -> None:
        """Nothing is told before all is known."""

    async def take(self, index: int, part: AnswerPart) -> None:
        """Keep a part."""
        self.take_now(index, part)

    def take_now(self, index: int, part: AnswerPart) -> bool:
        """Keep a part."""
        self._texts[index].append(part.text)
        self._logprobs[index] += part.logprobs
        return True

    async def end(self, index: int, summary: AnswerSummary) -> None:
        """Keep why it ended."""
        self._reasons[index] = summary.finish_reason

    def body(self) -> dict[str, Any]:
        """Return the response."""
        choices = [
            {
                "index": index,
                "text": "".join(self._texts[index]),
                "logprobs": completion_logprobs(self._logprobs[index], 0) if self._wants_logprobs else None,
                "finish_reason": reason,
            }
            for index, reason in enumerate(self._reasons)
        ]
        return self._call.body("cmpl-", "text_completion", choices)


class StreamedCompletion:
    """Writes chunks as parts come."""

    def __init__(self, call: Call, echoed: Callable[[int], str], write: EventWriter, *, wants_logprobs: bool) -> None:
        self._call = call
        self._write = write
        self._wants_logprobs = wants_logprobs
        self._untold = [echoed(index) for index in range(len(call.chats))]
        self._offsets = [0] * len(call.chats)
        self._chunks: ChunkWriter | None = None

    @property
    def chunks(self) -> ChunkWriter:
        """Writer of the events; there is one once all answers have been asked for."""
        if self._chunks is None:
            raise AssertionError("an answer came before it was asked for")
        return self._chunks

    async def begin(self, summaries: Sequence[AnswerSummary]) -> None:
        """Know the names of the answers. Nothing is written yet: what fails now still has a status of its own."""
        self._chunks = self._call.chunk_writer("cmpl-", "text_completion")

    async def take(self, index: int, part: AnswerPart) -> None:
        """Write a part; before the first, what is echoed."""
        events = self._events_of(index, part)
        if events:
            await self._write(events)

    def take_now(self, index: int, part: AnswerPart) -> bool:
        """Write a part, if the connection takes it at once."""
        if not self._write.is_ready():
            return False
        self._write.write_now(self._events_of(index, part))
        return True

    def _events_of(self, index: int, part: AnswerPart) -> bytes:
        text, self._untold[index] = self._untold[index] + part.text, ""
        logprobs = None
        if self._wants_logprobs and part.logprobs:
            logprobs = completion_logprobs(part.logprobs, self._offsets[index])
            self._offsets[index] += sum(len(token.chosen.text) for token in part.logprobs)
        return self.chunks.choice(index, "text", text, logprobs=logprobs) if text or logprobs else b""

    async def end(self, index: int, summary: AnswerSummary) -> None:
        """Write why the answer ended."""
        text, self._untold[index] = self._untold[index], ""
        await self._write(self.chunks.choice(index, "text", text, finish_reason=summary.finish_reason))
