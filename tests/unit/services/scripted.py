"""Executors that do what a test tells them instead of what they should, on the network of serving_network.py."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from netsim.clock import wall_clock
from netsim.engine import VOCABULARY_SIZE, SimulatedEngine
from netsim.scenario import MODEL, MODEL_ID
from node.ports import Call, ChatMessage, GenerationChunk, GenerationRequest
from node.protocol.identifiers import RequestId
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.services.answers import AnswerPart
from node.services.faults import Evidence, load_evidence
from node.services.frames import (
    METHOD,
    InferenceRequest,
    Opening,
    Prompt,
    Tokens,
    Turn,
    asking_of,
    opening_bytes,
    read_request,
    tokens_bytes,
)
from node.services.gateway import Answer, ChatRequest
from node.services.receipting import receipt_of
from tests.builders import account
from tests.unit.services.serving_network import GATEWAY, NODE, UNPAID_TOKENS_MAX, Member, ServingNetwork

QUESTION = "what is a quern"
CHAT = ChatRequest(MODEL_ID, Prompt((Turn("user", QUESTION),)), max_tokens=50, seed=5)
REQUEST_ID = RequestId(bytes([GATEWAY]) * 32)
"""Of every request: the network's gateway draws its random bytes so."""


@dataclass
class Part:
    """One call as its script sees it."""

    call: Call
    request: InferenceRequest
    member: Member
    prompt_ids: tuple[int, ...]
    right_ids: tuple[int, ...]
    """What an honest executor gives."""

    async def open(self, **changes: object) -> None:
        opening = Opening((*self.prompt_ids, *self.request.prefix), UNPAID_TOKENS_MAX, None)
        await self.call.send(opening_bytes(replace(opening, **changes)))  # type: ignore[arg-type]

    async def give(self, count: int, *, begin: int = 0, finish_reason: str = "") -> None:
        """Give right tokens, one by one; with the last, a finish reason."""
        for place in range(begin, begin + count):
            token = self.right_ids[place]
            last = place == begin + count - 1
            await self.say(Tokens((token,), f" w{token}", finish_reason if last else ""))

    async def say(self, tokens: Tokens) -> None:
        await self.call.send(tokens_bytes(tokens))

    def receipt(self, count: int, **changes: object) -> SignedReceipt:
        """The receipt over the first `count` right tokens, signed, with changes."""
        honest = receipt_of(
            self.request, MODEL, (*self.prompt_ids, *self.request.prefix), self.right_ids[:count],
            self.member.chain.parameters.unit_price, epoch=self.member.epochs.group().epoch, node_id=NODE,
            at=wall_clock(), seed=self.request.seed or 0, seeded_by_user=True, asking=asking_of(self.request),
        )  # fmt: skip
        receipt = replace(honest, **changes)  # type: ignore[arg-type]
        return SignedReceipt(receipt, self.member.chain.sign(receipt_digest(receipt)))


Script = Callable[[Part], Awaitable[None]]


def install(network: ServingNetwork, number: int, script: Script) -> None:
    """Have executor `number` follow a script for every call."""
    member = network.members[number]

    async def handle(call: Call) -> None:
        request = read_request(call.payload).request
        prompt_ids = await prompt_of()
        right_ids = right_answer((*prompt_ids, *request.prefix), request.max_tokens, request.seed or 0)
        await script(Part(call, request, member, prompt_ids, right_ids))

    member.network._served.pop(METHOD, None)
    member.network.serve(METHOD, handle, concurrency=64)


async def prompt_of() -> tuple[int, ...]:
    engine = SimulatedEngine(NODE, MODEL_ID, "honest", 0.0, 0)
    return await engine.render_chat([ChatMessage("user", QUESTION)])


def right_answer(prompt_ids: tuple[int, ...], max_tokens: int, seed: int) -> tuple[int, ...]:
    """What an honest SimulatedEngine gives after a prompt, without the time it takes."""
    context = list(prompt_ids)
    for _ in range(max_tokens):
        digest = hashlib.sha256(f"honest/{seed}/{context}".encode()).digest()
        context.append(int.from_bytes(digest[:4]) % VOCABULARY_SIZE)
    return tuple(context[len(prompt_ids) :])


async def honest_tokens(chat: ChatRequest = CHAT) -> list[int]:
    return list(right_answer(await prompt_of(), chat.max_tokens or 0, chat.seed or 0))


def first_drawn(network: ServingNetwork) -> int:
    """The executor that the network's only request id draws first."""
    choice = network.gateway.candidates(REQUEST_ID, MODEL_ID)[0]
    return next(n for n in network.members if account(n) == choice.participant)


def evidence(network: ServingNetwork) -> list[Evidence]:
    """What the gateway wrote down, oldest first."""
    return list(reversed(load_evidence(network.members[GATEWAY].store, limit=100)))


async def ask(network: ServingNetwork, chat: ChatRequest = CHAT) -> tuple[Answer, list[AnswerPart]]:
    async with network.gateway.ask(chat) as answer:
        parts = [part async for part in answer]
    return answer, parts


def ids_of(parts: list[AnswerPart]) -> list[int]:
    return [token for part in parts for token in part.token_ids]


class CountingEngine(SimulatedEngine):
    """Counts what it generated, and when it was stopped."""

    generated = 0
    stopped_at = 0.0

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        try:
            async with super().generate(request) as chunks:
                yield self._counted(chunks)
        finally:
            self.stopped_at = trio.current_time()

    async def _counted(self, chunks: AsyncIterator[GenerationChunk]) -> AsyncIterator[GenerationChunk]:
        async for chunk in chunks:
            self.generated += len(chunk.token_ids)
            yield chunk
