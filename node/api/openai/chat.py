"""Answers to chats: what a model wrote, made into OpenAI's messages or chunks of them."""

import hashlib
from collections.abc import Sequence
from typing import Any

from node.api.openai.call_formats import CallSyntax, ToolCall
from node.api.openai.call_reader import CallReader, Piece
from node.api.openai.calls import Call
from node.api.openai.chunks import ChunkWriter
from node.api.openai.event_stream import EventWriter
from node.api.openai.token_likelihoods import chat_logprobs
from node.protocol.identifiers import RequestId
from node.protocol.sampling import TokenLogprobs
from node.services.attempt import AnswerPart, AnswerSummary

CALL_ID_CHARACTERS = 9
"""Letters and digits; some models' templates take exactly nine."""


class ChatShape:
    """How one chat's answers are read: with or without calls, with or without log-probabilities."""

    def __init__(self, syntax: CallSyntax | None, *, wants_logprobs: bool) -> None:
        self.syntax = syntax
        self.wants_logprobs = wants_logprobs

    def finish_reason(self, reason: str, calls: int) -> str:
        """Return why an answer ended: for calls, where the model chose to make them."""
        is_chosen = self.syntax is not None and not self.syntax.demanded
        return "tool_calls" if calls and reason == "stop" and is_chosen else reason


class _Choice:
    """One answer on its way."""

    def __init__(self, shape: ChatShape) -> None:
        self._reader = None if shape.syntax is None else CallReader(shape.syntax)
        self.reads_no_calls = self._reader is None
        self.calls = 0
        self.logprobs: list[TokenLogprobs] = []
        """Of tokens that were not told yet."""
        self.is_begun = False

    def take(self, text: str) -> list[Piece]:
        if self._reader is None:
            return [text] if text else []
        return self._reader.feed(text)

    def end(self) -> list[Piece]:
        return [] if self._reader is None else self._reader.finish()

    def call_delta(self, request_id: RequestId, call: ToolCall) -> dict[str, Any]:
        """Return a call as a chunk has it; in a message it has no index."""
        index = self.calls
        self.calls += 1
        digest = hashlib.sha256(request_id + index.to_bytes(4)).hexdigest()
        function = {"name": call.name, "arguments": call.arguments}
        return {"index": index, "id": digest[:CALL_ID_CHARACTERS], "type": "function", "function": function}


class WholeChat:
    """Collects whole messages."""

    def __init__(self, call: Call, shape: ChatShape) -> None:
        self._call = call
        self._shape = shape
        self._choices = [_Choice(shape) for _ in call.chats]
        self._pieces: list[list[Piece]] = [[] for _ in call.chats]
        self._ready: dict[int, dict[str, Any]] = {}

    async def begin(self, summaries: Sequence[AnswerSummary]) -> None:
        """Nothing is told before all is known."""

    async def take(self, index: int, part: AnswerPart) -> None:
        """Keep a part."""
        self.take_now(index, part)

    def take_now(self, index: int, part: AnswerPart) -> bool:
        """Keep a part."""
        choice = self._choices[index]
        choice.logprobs += part.logprobs
        self._pieces[index] += choice.take(part.text)
        return True

    async def end(self, index: int, summary: AnswerSummary) -> None:
        """Make the message."""
        choice = self._choices[index]
        pieces = self._pieces[index] + choice.end()
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        deltas = [choice.call_delta(summary.request_id, piece) for piece in pieces if isinstance(piece, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if deltas else "")}
        if deltas:
            message["tool_calls"] = [{key: delta[key] for key in ("id", "type", "function")} for delta in deltas]
        self._ready[index] = {
            "index": index,
            "message": {**message, "refusal": None},
            "logprobs": chat_logprobs(choice.logprobs) if self._shape.wants_logprobs else None,
            "finish_reason": self._shape.finish_reason(summary.finish_reason, choice.calls),
        }

    def body(self) -> dict[str, Any]:
        """Return the response."""
        choices = [choice for _, choice in sorted(self._ready.items())]
        return self._call.body("chatcmpl-", "chat.completion", choices)


class StreamedChat:
    """Writes chunks as parts come."""

    def __init__(self, call: Call, shape: ChatShape, write: EventWriter) -> None:
        self._call = call
        self._shape = shape
        self._write = write
        self._choices = [_Choice(shape) for _ in call.chats]
        self._chunks: ChunkWriter | None = None
        self._summaries: Sequence[AnswerSummary] = ()

    @property
    def chunks(self) -> ChunkWriter:
        """Writer of the events; there is one once all answers have been asked for."""
        if self._chunks is None:
            raise AssertionError("an answer came before it was asked for")
        return self._chunks

    async def begin(self, summaries: Sequence[AnswerSummary]) -> None:
        """Know the names of the answers. Nothing is written yet: what fails now still has a status of its own."""
        self._summaries = summaries
        self._chunks = self._call.chunk_writer("chatcmpl-", "chat.completion.chunk")

    async def take(self, index: int, part: AnswerPart) -> None:
        """Write what a part makes certain."""
        events = self._events_of(index, part)
        if events:
            await self._write(events)

    def take_now(self, index: int, part: AnswerPart) -> bool:
        """Write what a part makes certain, if the connection takes it at once."""
        choice, chunks, text = self._choices[index], self._chunks, part.text
        is_only_text = choice.is_begun and choice.reads_no_calls and not choice.logprobs and not part.logprobs
        if is_only_text and text and chunks is not None:
            return self._write.try_write(chunks.content(index, text))
        if not self._write.is_ready():
            return False
        self._write.write_now(self._events_of(index, part))
        return True

    async def end(self, index: int, summary: AnswerSummary) -> None:
        """Write what was held back, then why the answer ended."""
        choice = self._choices[index]
        events = self._opening(index) + self._events(index, choice.end())
        reason = self._shape.finish_reason(summary.finish_reason, choice.calls)
        logprobs = self._untold_logprobs(choice)
        await self._write(events + self.chunks.choice(index, "delta", {}, finish_reason=reason, logprobs=logprobs))

    def _events_of(self, index: int, part: AnswerPart) -> bytes:
        choice = self._choices[index]
        choice.logprobs += part.logprobs
        return self._opening(index) + self._events(index, choice.take(part.text))

    def _opening(self, index: int) -> bytes:
        if self._choices[index].is_begun:
            return b""
        self._choices[index].is_begun = True
        return self.chunks.choice(index, "delta", {"role": "assistant", "content": "", "refusal": None})

    def _events(self, index: int, pieces: Sequence[Piece]) -> bytes:
        choice = self._choices[index]
        events = []
        for piece in pieces:
            delta: dict[str, Any] = {"content": piece}
            if isinstance(piece, ToolCall):
                delta = {"tool_calls": [choice.call_delta(self._summaries[index].request_id, piece)]}
            logprobs = self._untold_logprobs(choice)
            events.append(self.chunks.choice(index, "delta", delta, logprobs=logprobs))
        return b"".join(events)

    def _untold_logprobs(self, choice: _Choice) -> dict[str, Any] | None:
        if not self._shape.wants_logprobs or not choice.logprobs:
            return None
        tokens, choice.logprobs = choice.logprobs, []
        return chat_logprobs(tokens)
