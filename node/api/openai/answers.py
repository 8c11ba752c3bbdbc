"""Asks the gateway for the answers of one call, side by side, and hands on what comes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from node.api.openai.faults import fault_of
from node.services.asking import Asker
from node.services.attempt import AnswerPart, AnswerSummary
from node.services.gateway import ChatRequest, GatewayError
from node.services.groups import sole_error


class Reader(Protocol):
    """Makes something of answers as they come."""

    async def begin(self, summaries: Sequence[AnswerSummary]) -> None:
        """All have been asked; nothing came yet."""

    async def take(self, index: int, part: AnswerPart) -> None:
        """A part of answer `index` came."""

    def take_now(self, index: int, part: AnswerPart) -> bool:
        """Take a part without waiting, if that can be; whether it was taken. Only after `begin`."""

    async def end(self, index: int, summary: AnswerSummary) -> None:
        """Answer `index` is complete."""


class Answers:
    """The answers of one call. `summaries` tell what they cost so far, also after a failure."""

    def __init__(self, asker: Asker, chats: Sequence[ChatRequest], on_asked: Callable[[], None]) -> None:
        """`on_asked` is called when all have been asked and nothing was answered."""
        self._asker = asker
        self._chats = chats
        self._on_asked = on_asked
        self._found: dict[int, AnswerSummary] = {}
        self._all_asked = trio.Event()

    @property
    def summaries(self) -> list[AnswerSummary]:
        """Of those that were asked, in order."""
        return [summary for _, summary in sorted(self._found.items())]

    async def read(self, reader: Reader) -> None:
        """Ask for all, and have `reader` take them. If one fails, all end. Raises ApiError."""
        try:
            if len(self._chats) == 1:
                await self._read_one(0, self._chats[0], reader)
                return
            with sole_error():
                async with trio.open_nursery() as nursery:
                    for index, chat in enumerate(self._chats):
                        nursery.start_soon(self._read_one, index, chat, reader)
        except* GatewayError as failed:
            raise fault_of(_first(failed)) from failed

    async def _read_one(self, index: int, chat: ChatRequest, reader: Reader) -> None:
        async with self._asker.ask(chat) as answer:
            self._found[index] = answer.summary
            if len(self._found) == len(self._chats):
                self._on_asked()
                await reader.begin(self.summaries)
                self._all_asked.set()
            if not self._all_asked.is_set():
                await self._all_asked.wait()
            answer.hand_to(partial(reader.take_now, index))
            async for part in answer:
                await reader.take(index, part)
            await reader.end(index, answer.summary)


def _first(group: BaseExceptionGroup[GatewayError]) -> GatewayError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, GatewayError):
        raise error
    return error
