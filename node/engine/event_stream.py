"""What a vLLM server streams of a generation: its events as chunks, asked for one by one or pushed as they come."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import trio
from pydantic_core import from_json

from node.engine.plain_http import Push
from node.ports import EngineFailedError, EngineRefusedError, GenerationChunk

LINE_BYTES_MAX = 16 * 1024 * 1024
"""A streamed event; more is a fault of the server."""
END_SECONDS_MAX = 1.0
"""From the last token to the end of the reply."""
EVENT = b"data: "
EVENT_END = b"\n\n"
DONE = b"data: [DONE]"
ONLY_NUMBERS = frozenset({int})
REASON_TYPES = frozenset({str, type(None)})


class EventLines:
    """Finds the events in a stream. Not by httpx's own lines: those cost more than all the rest of an event."""

    def __init__(self) -> None:
        self._rest = b""

    def events(self, data: bytes) -> list[bytes]:
        """Return the data of the events that are complete with `data`. Raises EngineFailedError."""
        if not self._rest and data.endswith(EVENT_END) and data.find(b"\n") == len(data) - len(EVENT_END):
            # One whole event, as most that come.
            is_content = data.startswith(EVENT) and not data.startswith(DONE)
            return [data[len(EVENT) : -len(EVENT_END)]] if is_content else []
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise EngineFailedError("an event of the engine is too large")
        return [
            line[len(EVENT) :].rstrip(b"\r") for line in lines if line.startswith(EVENT) and not line.startswith(DONE)
        ]


class StreamedChunks(AsyncIterator[GenerationChunk]):
    """The chunks of a stream, one by one or pushed: `node.ports.PushedChunks`."""

    def __init__(self, chunks: AsyncIterator[GenerationChunk], push: Push) -> None:
        self._chunks = chunks
        self._push = push
        self._lines = EventLines()

    async def __anext__(self) -> GenerationChunk:
        return await anext(self._chunks)

    async def push_to(self, take: Callable[[Sequence[GenerationChunk]], bool]) -> None:
        """Hand all chunks to `take` as they come. Raises EngineFailedError, EngineRefusedError."""
        finished, wanted, ending = False, True, trio.CancelScope()

        def take_data(data: bytes) -> bool:
            nonlocal finished, wanted
            if finished:
                return True  # what follows are the ends of stream and reply: then the connection can be used again
            chunks = []
            try:
                for event in self._lines.events(data):
                    choice = read_event(event)
                    chunk = None if choice is None else chunk_of(choice)
                    if chunk is not None:
                        chunks.append(chunk)
                        finished = chunk.finish_reason is not None
                        if finished:
                            break
            finally:  # what came before an error is good
                wanted = not chunks or take(chunks)
            if finished:
                ending.deadline = trio.current_time() + END_SECONDS_MAX
            return wanted or finished

        try:
            with ending:
                await self._push(take_data)
        except httpx.HTTPError as error:
            if not finished:
                raise connection_failed(error) from error
        if wanted and not finished:  # an engine that dies mid-stream still sends [DONE]
            raise broken_off()


def read_event(text: bytes) -> dict[str, Any] | None:
    """Return the choice in an event; None if it has none. Raises EngineFailedError, EngineRefusedError."""
    try:
        event = from_json(text)
    except ValueError as error:
        raise EngineFailedError("an event of the engine is not JSON") from error
    if not isinstance(event, dict):
        raise EngineFailedError("an event of the engine is not an object")
    if "error" in event:
        said = event["error"]
        if isinstance(said, dict) and said.get("code") == httpx.codes.BAD_REQUEST:  # found only after the stream began
            raise EngineRefusedError(f"/v1/completions: {str(said.get('message'))[:500]}")
        raise EngineFailedError(f"the engine reports: {str(said)[:500]}")
    choices = event.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise EngineFailedError("an event of the engine has no choice")
    return choices[0]


def chunk_of(choice: dict[str, Any]) -> GenerationChunk | None:
    """Return what a choice says, log-probabilities apart; None if that is nothing. Raises EngineFailedError."""
    given, text, reason = choice.get("token_ids"), choice.get("text"), choice.get("finish_reason")
    if reason is None and type(given) is list and len(given) == 1 and type(given[0]) is int and type(text) is str:
        return GenerationChunk((given[0],), text, None)  # as nearly all are
    token_ids, text = tuple(given or ()), text or ""
    if not ONLY_NUMBERS.issuperset(map(type, token_ids)) or type(text) is not str or type(reason) not in REASON_TYPES:
        raise EngineFailedError("an event of the engine has tokens, text or a reason that are none")
    return GenerationChunk(token_ids, text, reason) if token_ids or text or reason is not None else None


def connection_failed(error: httpx.HTTPError) -> EngineFailedError:
    """Return what it means that the connection failed."""
    return EngineFailedError(f"the engine's connection failed: {error!r}")


def broken_off() -> EngineFailedError:
    """Return what it means that a stream ended before its answer."""
    return EngineFailedError("the engine's answer broke off")
