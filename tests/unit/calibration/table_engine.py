"""An engine of a model that is a table: it draws by the rule, and may be off by a little, as machines are."""

import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from node.ports import ChatMessage, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.draws import Drawn, Prefill, draw
from node.protocol.sampling import TokenAlternative, TokenLogprobs

VOCABULARY = 64


class TableEngine:
    def __init__(self, off: float = 0.0, *, chats: bool = True, tells_winners: bool = True) -> None:
        self.off = off
        self.chats = chats
        self.tells_winners = tells_winners

    def _logits(self, before: Sequence[int]) -> list[float]:
        """Follow the last two tokens alone; `off` is this machine's own noise."""
        key = bytes(repr(tuple(before[-2:])), "ascii")
        clean = hashlib.shake_256(key).digest(VOCABULARY)
        own = hashlib.shake_256(key + b"machine").digest(VOCABULARY)
        return [8 * a / 255 + self.off * (b / 127.5 - 1) for a, b in zip(clean, own, strict=True)]

    def _logprobs(self, before: Sequence[int]) -> list[float]:
        logits = self._logits(before)
        whole = math.log(math.fsum(math.exp(value) for value in logits))
        return [value - whole for value in logits]

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        return [[self._logprobs(p[:at])[p[at]] for at in range(1, len(p))] for p in prompts]

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        found = []
        for at in range(first, len(token_ids)):
            logprobs = self._logprobs(token_ids[:at])
            likeliest = sorted(range(VOCABULARY), key=lambda token: -logprobs[token])[:top]
            known, winner = {*likeliest, token_ids[at]}, None
            if drawn is not None and self.tells_winners:
                winner = draw(logprobs, drawn.seed, at - 1, drawn.parameters)
                known.add(winner)
            found.append(Prefill({token: logprobs[token] for token in known}, top, winner))
        return found

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        if not self.chats:
            raise EngineRefusedError("no chat template")
        return tuple(letter % VOCABULARY for letter in messages[0].content.encode())

    async def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(letter % VOCABULARY for letter in text.encode())

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        async def chunks() -> AsyncIterator[GenerationChunk]:
            tokens = list(request.prompt_ids)
            for number in range(request.max_tokens):
                logprobs = self._logprobs(tokens)
                token = draw(logprobs, request.seed, len(tokens) - 1, request.sampling)
                tokens.append(token)
                likeliest = sorted(range(VOCABULARY), key=lambda other: -logprobs[other])[: request.logprobs]
                told = tuple(TokenAlternative(other, "", round(logprobs[other] * 1e6)) for other in likeliest)
                reason = "length" if number + 1 == request.max_tokens else None
                yield GenerationChunk((token,), "", reason, (TokenLogprobs(told[0], told),))

        yield chunks()
