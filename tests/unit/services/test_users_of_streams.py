"""Users of streams: who stops reading, or leaves, stops its engine and its payments, and nothing of it goes on."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import CallFailedError, Engine, GenerationChunk, GenerationRequest
from node.services.frames import METHOD
from node.services.gateway import CHUNKS_WAITING_MAX, GatewayError
from tests.unit.services.scripted import CHAT, CountingEngine, Part, ask, first_drawn, install
from tests.unit.services.serving_network import (
    GATEWAY,
    NODE,
    UNIT,
    UNPAID_TOKENS_MAX,
    fund,
    next_request,
    serving_network,
)


async def test_a_user_who_stops_reading_stops_tokens_and_payment_and_is_let_go_of(autojump_clock: object) -> None:
    engines = {1: CountingEngine(NODE, MODEL_ID, "honest", 0.0, 1)}
    # Parts are few, so that the queue to the user fills up before the context does.
    async with serving_network(1, engine=lambda number: engines[number]) as network:
        await fund(network)

        async def gives_singly(part: Part) -> None:
            await part.open()
            for place in range(400):
                await part.give(1, begin=place)
            await trio.sleep_forever()

        install(network, 1, gives_singly)
        with pytest.raises(GatewayError) as caught:
            async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
                async for _ in answer:
                    break
                await trio.sleep(20)
                prompt = answer.summary.prompt_tokens
                paid = network.paid_by_gateway()
                assert paid <= UNIT * (prompt + CHUNKS_WAITING_MAX + 2)
                await trio.sleep(4)
                assert network.paid_by_gateway() == paid
                await trio.sleep(30)
                async for _ in answer:
                    pass
        assert caught.value.code == "slow-reader"
        assert network.gateway.running == 0


async def test_a_user_who_leaves_stops_the_engine_within_one_step(autojump_clock: object) -> None:
    engines = {1: CountingEngine(NODE, MODEL_ID, "honest", 0.0, 1)}
    async with serving_network(1, engine=lambda number: engines[number]) as network:
        await fund(network)
        async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
            async for _ in answer:
                break
        assert network.paid_by_gateway() >= UNIT * (answer.summary.prompt_tokens + answer.summary.output_tokens)
        left_at, so_far = trio.current_time(), engines[1].generated
        await trio.sleep(2)
        assert engines[1].stopped_at - left_at < 0.2
        assert engines[1].generated - so_far <= UNPAID_TOKENS_MAX


class FastEngine(SimulatedEngine):
    """A token a millisecond, which is much sooner than a voucher."""

    async def _tokens(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        for place in range(request.max_tokens):
            await trio.sleep(0.001)
            yield GenerationChunk((place,), " word", "length" if place == request.max_tokens - 1 else None)


async def test_users_who_leave_do_not_make_a_thief_of_their_gateway(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return FastEngine(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        await fund(network)
        for seed in range(1, 61):
            next_request(network, seed)
            async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
                async for _ in answer:
                    if seed % 2:  # with tokens on their way that nobody will pay
                        break
            await trio.sleep(1)


async def test_a_users_name_for_a_request_is_kept_and_bounded(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        answer, _ = await ask(network, replace(CHAT, caller_id="order-17" + "x" * 1000))
        assert answer.summary.caller_id.startswith("order-17")
        assert len(answer.summary.caller_id) == 128


async def test_nothing_of_a_request_is_left_running_afterwards(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        install(network, first_drawn(network), died_at_once)
        await ask(network)
        await trio.sleep(5)
        assert not network.gateway._trade.in_flight
        assert network.gateway.running == 0
        assert all(member.network._served[METHOD].running == 0 for n, member in network.members.items() if n != GATEWAY)


async def died_at_once(part: Part) -> None:
    raise CallFailedError("engine-failed", "it died")
