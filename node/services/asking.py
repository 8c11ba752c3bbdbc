"""How the faces see a gateway: something that knows models and can be asked. What stands before it looks the same."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from node.protocol.records import ModelRecord
from node.services.answers import AnswerPart, AnswerSummary
from node.services.gateway import ChatRequest
from node.services.outlet import TakePart


class AnswerStream(Protocol):
    """An answer on its way. Iterate for its parts; then `summary` is complete. Raises GatewayError if it fails."""

    @property
    def summary(self) -> AnswerSummary:
        """How the answer came about so far."""

    def __aiter__(self) -> AsyncIterator[AnswerPart]:
        """Yield the parts as they come."""

    def hand_to(self, take_now: TakePart) -> None:
        """Offer each part that comes while the iteration waits to `take_now`; those that it takes are not yielded."""


class Asker(Protocol):
    """A gateway, or what stands before one."""

    def models(self) -> tuple[ModelRecord, ...]:
        """Models that can be asked in this epoch."""

    def ask(self, chat: ChatRequest) -> AbstractAsyncContextManager[AnswerStream]:
        """Ask; leaving the context stops the answer, and the paying. Raises GatewayError at once or while iterating."""
