"""Many answers at once while engines keep dying: each is the one it would have been, and the books agree."""

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import Engine, EngineFailedError, GenerationChunk, GenerationRequest
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest
from tests.builders import account
from tests.unit.services import serving_network as network_module
from tests.unit.services.scripted import QUESTION, ids_of, prompt_of, right_answer
from tests.unit.services.serving_network import GATEWAY, NODE, UNIT, UNPAID_TOKENS_MAX, fund, serving_network

REQUESTS = 40
TOKENS_MAX = 200
DIES_ONE_IN = 40
"""Chunks after which an engine dies under an answer, on average: most answers change hands."""


class DyingEngine(SimulatedEngine):
    """Dies under its answers, as its seed has it."""

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        async with super().generate(request) as chunks:
            yield self._dying(chunks)

    async def _dying(self, chunks: AsyncIterator[GenerationChunk]) -> AsyncIterator[GenerationChunk]:
        async for chunk in chunks:
            if DICE[self.seed].randrange(DIES_ONE_IN) == 0:
                raise EngineFailedError("the engine died")
            yield chunk


DICE: dict[int, random.Random] = {}


@pytest.mark.parametrize("storm", range(3))
async def test_every_answer_is_the_one_it_would_have_been_and_the_books_agree(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, storm: int
) -> None:
    monkeypatch.setattr(network_module, "PLACES", 64)
    source = random.Random(storm)
    DICE.update({number: random.Random(f"{storm}/{number}") for number in range(1, 5)})

    def engine(number: int) -> Engine:
        return DyingEngine(NODE, MODEL_ID, "honest", 0.0, number)

    prompt_ids = await prompt_of()
    prices: list[int] = []
    changes = 0
    async with serving_network(4, engine=engine) as network:
        await fund(network)
        ids = itertools.count(1)
        network.gateway._random_bytes = lambda count: random.Random(f"{storm}/{next(ids)}").randbytes(count)

        async def ask(max_tokens: int, seed: int | None, stop: tuple[str, ...]) -> None:
            nonlocal changes
            chat = ChatRequest(MODEL_ID, Prompt((Turn("user", QUESTION),)), max_tokens=max_tokens, seed=seed, stop=stop)
            async with network.gateway.ask(chat) as answer:
                parts = [part async for part in answer]
            drawn = answer.summary.seed
            assert drawn is not None
            right = right_answer(prompt_ids, max_tokens, drawn.seed)
            assert tuple(ids_of(parts)) == right
            assert "".join(part.text for part in parts) == "".join(f" w{token}" for token in right)
            assert answer.summary.finish_reason == "length"
            prices.append(answer.summary.price)
            changes += len(answer.summary.executors) - 1

        async with trio.open_nursery() as nursery:
            for _ in range(REQUESTS):
                seed = source.choice((None, source.randrange(2**31)))
                nursery.start_soon(ask, source.randrange(1, TOKENS_MAX), seed, source.choice(((), ("never",))))
                await trio.sleep(source.random())
        await trio.sleep(10)
        assert changes > REQUESTS // 4  # it was a storm
        paid = sum(network.paid_to(number) for number in range(1, 5))
        assert sum(prices) == network.paid_by_gateway() >= paid
        # Vouchers that were on their way when an engine died arrive with the next answer, if there is one.
        assert network.paid_by_gateway() - paid <= 4 * UNIT * (len(prompt_ids) + TOKENS_MAX + UNPAID_TOKENS_MAX)
        assert not network.gateway._trade.in_flight
        for number in range(1, 5):
            executor = network.members[number].executor
            assert executor is not None
            assert executor.running == 0
            assert executor._payments.bad_debt(account(GATEWAY)) <= 2 * UNIT * UNPAID_TOKENS_MAX
