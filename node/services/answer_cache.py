"""Answers kept to be given again: only those that the request alone decides, only whole ones, only in memory.

Purpose: an application that repeats its requests neither waits nor pays twice.
Detail: a request is kept if it is deterministic (temperature 0, or a seed of the user's) and not private. The key is
the hash of the model's content and of everything in the request that decides the answer, so another version of a model
or another parameter is another key. An answer that failed, broke off or was left early is never kept. Whoever may ask
this gateway can tell by the time an answer takes whether somebody asked the same before: so it is off by default.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from node.protocol.canonical import CanonicalError, keccak_digest
from node.protocol.codec import to_value
from node.protocol.identifiers import Hash32
from node.protocol.records import ModelRecord
from node.services.answers import AnswerPart, AnswerSummary
from node.services.asking import AnswerStream, Asker
from node.services.gateway import ChatRequest, GatewayError
from node.services.outlet import TakePart

ANSWER_SHARE_MAX = 8
"""One answer takes at most one part in so many of the cache: a few long ones do not drive out all others."""
PART_BYTES = 256
TOKEN_BYTES = 32
LOGPROB_BYTES = 256
"""What Python needs for a part, a token and a token's alternative, roughly and rather too much."""
NOT_OF_THE_ANSWER = frozenset({"caller_id", "user"})
"""Fields of a request that do not decide its answer."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A whole answer. `summary` has no price: it was paid for once."""

    parts: tuple[AnswerPart, ...]
    summary: AnswerSummary
    size: int


class AnswerCache:
    """Answers by key, at most `bytes_max` of them; the longest unused gives way."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[Hash32, KeptAnswer] = OrderedDict()
        self.bytes_kept = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def answer_bytes_max(self) -> int:
        """Size of the largest answer that is kept."""
        return self._bytes_max // ANSWER_SHARE_MAX

    def get(self, key: Hash32) -> KeptAnswer | None:
        """Return what is kept under `key`, and count whether it was there."""
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found

    def put(self, key: Hash32, answer: KeptAnswer) -> None:
        """Keep an answer, unless it is too large."""
        if answer.size > self.answer_bytes_max:
            return
        replaced = self._kept.pop(key, None)
        if replaced is not None:
            self.bytes_kept -= replaced.size
        self._kept[key] = answer
        self.bytes_kept += answer.size
        while self.bytes_kept > self._bytes_max:
            _, dropped = self._kept.popitem(last=False)
            self.bytes_kept -= dropped.size


class CachingAsker:
    """Stands before a gateway and answers from the cache what it can."""

    def __init__(self, gateway: Asker, cache: AnswerCache) -> None:
        self._gateway = gateway
        self._cache = cache

    def models(self) -> tuple[ModelRecord, ...]:
        """Models that can be asked in this epoch."""
        return self._gateway.models()

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[AnswerStream]:
        """Ask, as the gateway does."""
        model = next((model for model in self.models() if model.model_id == chat.model_id), None)
        if model is None or not is_deterministic(chat):
            async with self._gateway.ask(chat) as answer:
                yield answer
            return
        try:
            key = cache_key(chat, model)
        except CanonicalError as error:
            raise GatewayError("bad-request", f"the request has text that is no Unicode: {error}") from error
        kept = self._cache.get(key)
        if kept is not None:
            yield _Repeated(kept, chat.caller_id)
            return
        async with self._gateway.ask(chat) as answer:
            yield _Watched(answer, key, self._cache)


class _Repeated:
    """An answer from the cache."""

    def __init__(self, kept: KeptAnswer, caller_id: str) -> None:
        self.summary = replace(kept.summary, caller_id=caller_id)
        self._parts = kept.parts

    async def __aiter__(self) -> AsyncIterator[AnswerPart]:
        for part in self._parts:
            yield part

    def hand_to(self, take_now: TakePart) -> None:
        """All parts are there already: nothing waits for them."""


class _Watched:
    """An answer on its way that is kept once it is whole."""

    def __init__(self, answer: AnswerStream, key: Hash32, cache: AnswerCache) -> None:
        self._answer = answer
        self._key = key
        self._cache = cache
        self._taken: list[AnswerPart] = []
        self._size = PART_BYTES

    @property
    def summary(self) -> AnswerSummary:
        return self._answer.summary

    async def __aiter__(self) -> AsyncIterator[AnswerPart]:
        async for part in self._answer:
            self._keep(part)
            yield part
        # Here the answer ended by itself: a failure would have been raised, a reader that left never comes here.
        if self.summary.finish_reason and self._size <= self._cache.answer_bytes_max:
            summary = replace(self.summary, price=0, cached=True, caller_id="")
            self._cache.put(self._key, KeptAnswer(tuple(self._taken), summary, self._size))

    def hand_to(self, take_now: TakePart) -> None:
        def kept(part: AnswerPart) -> bool:
            is_taken = take_now(part)
            if is_taken:
                self._keep(part)
            return is_taken

        self._answer.hand_to(kept)

    def _keep(self, part: AnswerPart) -> None:
        self._size += part_bytes(part)
        if self._size <= self._cache.answer_bytes_max:
            self._taken.append(part)


def is_deterministic(chat: ChatRequest) -> bool:
    """Whether the request decides its answer, and may be remembered."""
    return not chat.private and (chat.sampling.temperature_milli == 0 or chat.seed is not None)


def cache_key(chat: ChatRequest, model: ModelRecord) -> Hash32:
    """Return the hash of all that decides an answer: the model's content and version, and the request.

    Raises CanonicalError for text that is no Unicode; no gateway can send such a request anyway.
    """
    wanted = {name: value for name, value in to_value(chat).items() if name not in NOT_OF_THE_ANSWER}
    return keccak_digest(["quern-answer", model.cid, model.version, wanted])


def part_bytes(part: AnswerPart) -> int:
    """Return roughly what a part takes in memory."""
    alternatives = sum(1 + len(entry.alternatives) for entry in part.logprobs)
    return PART_BYTES + 4 * len(part.text) + TOKEN_BYTES * len(part.token_ids) + LOGPROB_BYTES * alternatives
