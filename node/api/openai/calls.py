"""One call of a user: what is asked, under which names, and what its response has around the choices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from node.api.openai.answers import Answers
from node.api.openai.chunks import ChunkWriter
from node.api.openai.usage import usage_of
from node.protocol.records import ModelRecord
from node.services.gateway import ChatRequest

IDENTITY_CHARACTERS = 32
REQUEST_HEADER = "quern-request-id"
"""Ids of the network's requests, one for each answer: receipts are found by them."""
CACHE_HEADER = "x-quern-cache"
"""`hit` where every answer was given before, and only repeated."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was taken."""

    model: ModelRecord
    chats: Sequence[ChatRequest]
    answers: Answers
    created: int
    """UNIX seconds."""
    wants_usage_in_stream: bool = False

    @property
    def request_ids(self) -> str:
        """Ids of the network's requests, once they were asked."""
        return ",".join(summary.request_id.hex() for summary in self.answers.summaries)

    @property
    def headers(self) -> dict[str, str]:
        """What tells a caller how its answers come about, once they were asked."""
        summaries = self.answers.summaries
        repeated = {CACHE_HEADER: "hit"} if summaries and all(summary.cached for summary in summaries) else {}
        return {REQUEST_HEADER: self.request_ids, **repeated}

    def identity(self, prefix: str) -> str:
        """Return the response's id: that of the first answer's request, so that its receipt is found."""
        return prefix + self.request_ids[:IDENTITY_CHARACTERS]

    def body(self, prefix: str, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a whole response."""
        return {
            "id": self.identity(prefix),
            "object": kind,
            "created": self.created,
            "model": self.model.model_id,
            "system_fingerprint": self.model.cid,
            "choices": choices,
            "usage": usage_of(self.answers.summaries).body(),
        }

    def chunk_writer(self, prefix: str, kind: str) -> ChunkWriter:
        """Return what writes a stream's events."""
        return ChunkWriter(
            identity=self.identity(prefix),
            kind=kind,
            created=self.created,
            model=self.model.model_id,
            fingerprint=self.model.cid,
            wants_usage=self.wants_usage_in_stream,
        )
