"""The executor's end: several engines behind one door, no work for nobody, refusals that say when."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL, MODEL_ID
from node.ports import Call, CallFailedError, Engine, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.codec import from_bytes
from node.protocol.identifiers import NodeId
from node.services import paid_calls
from node.services.executor import AHEAD_STEPS
from node.services.frames import METHOD, ExecutorFrame, Prompt, Turn
from node.services.gateway import ChatRequest, GatewayError
from node.services.refusals import busy_error, retry_after_seconds
from tests.builders import account
from tests.unit.services.serving_network import (
    DEPOSIT,
    GATEWAY,
    NODE,
    PLACES,
    UNIT,
    UNPAID_TOKENS_MAX,
    ServingNetwork,
    serving_network,
)
from tests.unit.services.test_serving import BreakingEngine, ask, asked_now, request_to, signed

CHAT = ChatRequest(MODEL_ID, Prompt((Turn("user", "what is a quern"),)), max_tokens=50, seed=5)


class WatchedEngine(SimulatedEngine):
    """Counts what it gives, and knows whether anybody listens."""

    given = 0
    listeners = 0

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        self.listeners += 1
        try:
            async with super().generate(request) as chunks:
                yield self._counted(chunks)
        finally:
            self.listeners -= 1

    async def _counted(self, chunks: AsyncIterator[GenerationChunk]) -> AsyncIterator[GenerationChunk]:
        async for chunk in chunks:
            self.given += len(chunk.token_ids)
            yield chunk


def watched(number: int) -> WatchedEngine:
    return WatchedEngine(NODE, MODEL_ID, "honest", 0.0, number)


def engine_of(network: ServingNetwork) -> WatchedEngine:
    engine = network.members[1].engine
    assert isinstance(engine, WatchedEngine)
    return engine


async def open_channel(network: ServingNetwork) -> None:
    await network.members[GATEWAY].payer.reserve(account(1), DEPOSIT)


async def test_an_own_engine_goes_on_before_the_gateway_has_to(autojump_clock: object) -> None:
    async with serving_network(1) as reference:
        _, whole = await ask(reference, CHAT)

    def engines(number: int) -> Sequence[Engine]:
        return [
            BreakingEngine(NodeId("node-1"), MODEL_ID, "honest", 0.0, number),
            SimulatedEngine(NodeId("node-2"), MODEL_ID, "honest", 0.0, number),
        ]

    async with serving_network(1, engine=engines) as network:
        answer, tokens = await ask(network, CHAT)
        assert tokens == whole
        assert answer.summary.executors == (account(1),)
        assert answer.summary.price == UNIT * (answer.summary.prompt_tokens + 50) == network.paid_to(1)
        (receipt,) = network.members[1].store.receipts(limit=9)
        assert receipt.receipt.node_id == "node-2"
        assert receipt.receipt.output_tokens == 50


async def test_a_gateway_that_leaves_stops_the_engine_within_a_step(autojump_clock: object) -> None:
    async with serving_network(1, engine=watched) as network:
        engine = engine_of(network)
        async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
            async for _ in answer:
                break
            assert engine.listeners == 1
        await trio.sleep(0.3)  # the links' latency
        assert engine.listeners == 0
        given = engine.given
        await trio.sleep(10)
        assert engine.given == given < 60


async def test_an_engine_works_a_few_steps_ahead_of_a_payer_that_stops_paying(autojump_clock: object) -> None:
    async with serving_network(1, engine=watched) as network:
        await open_channel(network)
        user, target = network.members[GATEWAY], network.members[1]
        payload = signed(network, request_to(1, max_tokens=400))
        frames = []
        with pytest.raises(CallFailedError, match="no voucher came"):
            async with user.network.call(target.network.peer_id, METHOD, payload, deadline_seconds=300) as call:
                while True:
                    frames.append(from_bytes(ExecutorFrame, await call.receive()))
        let_out = sum(len(frame.tokens.token_ids) for frame in frames if frame.tokens is not None)
        assert let_out < UNPAID_TOKENS_MAX
        assert engine_of(network).given <= let_out + (AHEAD_STEPS + 1) * UNPAID_TOKENS_MAX
        assert engine_of(network).listeners == 0


async def test_no_engine_works_for_a_payer_without_a_channel(autojump_clock: object) -> None:
    async with serving_network(1, engine=watched) as network:
        user, target = network.members[GATEWAY], network.members[1]
        for number in range(40):
            payload = signed(network, asked_now(network, number))
            with pytest.raises(CallFailedError, match="the channel has 0 left"):
                async with user.network.call(target.network.peer_id, METHOD, payload, deadline_seconds=99) as call:
                    await call.receive()
        assert engine_of(network).given == 0


async def test_a_channel_that_is_too_small_for_the_prompt_is_said_before_the_prompt_is_read(
    autojump_clock: object,
) -> None:
    async with serving_network(1, engine=watched) as network:
        await open_channel(network)
        user, target = network.members[GATEWAY], network.members[1]
        funding = target.executor._funding  # type: ignore[union-attr]
        payload = signed(network, request_to(1, prompt=Prompt((Turn("user", "word " * 100),))))
        with pytest.raises(CallFailedError, match=f"the channel has {UNIT * 60} left"):
            async with (
                funding.held(account(GATEWAY), DEPOSIT - UNIT * 60),
                user.network.call(target.network.peer_id, METHOD, payload, deadline_seconds=99) as call,
            ):
                await call.receive()
        assert engine_of(network).given == 0


async def test_many_without_a_channel_do_not_keep_out_who_has_one(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await open_channel(network)
        user, target = network.members[GATEWAY], network.members[1]
        funding = target.executor._funding  # type: ignore[union-attr]
        refused: list[str] = []

        async def wait_for_deposit(number: int) -> None:
            try:
                async with funding.held(account(number), 1):
                    raise AssertionError("it has no channel")
            except CallFailedError as error:
                refused.append(error.code)

        async with trio.open_nursery() as nursery:
            for number in range(500, 600):
                nursery.start_soon(wait_for_deposit, number)
            await trio.sleep(1)
            assert len(refused) > 80  # at once: only some may wait
            payload = signed(network, request_to(1))
            async with user.network.call(target.network.peer_id, METHOD, payload, deadline_seconds=99) as call:
                assert from_bytes(ExecutorFrame, await call.receive()).opening is not None
        assert refused == ["unpaid"] * 100


async def test_what_is_set_aside_for_one_request_is_not_there_for_another(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await open_channel(network)
        funding = network.members[1].executor._funding  # type: ignore[union-attr]
        payer = account(GATEWAY)
        assert funding.free(payer) == DEPOSIT
        async with funding.held(payer, DEPOSIT - 5):
            with pytest.raises(CallFailedError, match="has 5 left"):
                async with funding.held(payer, 6):
                    raise AssertionError("it is taken")
        assert funding.free(payer) == DEPOSIT


async def test_a_deposit_on_its_way_is_waited_for(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        funding = network.members[1].executor._funding  # type: ignore[union-attr]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_channel, network)
            async with funding.held(account(GATEWAY), 5):
                assert funding.free(account(GATEWAY)) == DEPOSIT - 5


async def test_a_full_house_says_when_to_come_again_and_the_gateway_passes_it_on(autojump_clock: object) -> None:
    async with serving_network(1, engine=watched) as network:
        gateway = network.gateway
        numbers = iter(range(1, 10_000))
        gateway._random_bytes = lambda count: next(numbers).to_bytes(count)
        done: list[int] = []
        refused: list[GatewayError] = []

        async def user() -> None:
            try:
                async with gateway.ask(replace(CHAT, max_tokens=400)) as answer:
                    done.append(sum([len(part.token_ids) async for part in answer]))
            except GatewayError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(150):
                nursery.start_soon(user)
            broker = network.members[1].executor._broker  # type: ignore[union-attr]
            with trio.fail_after(60):
                while broker.views()[0].running == 0:
                    await trio.sleep(0.1)
            await trio.sleep(1)
            assert broker.views()[0].running == PLACES
            assert engine_of(network).listeners <= PLACES
        assert {error.code for error in refused} == {"overloaded"}
        assert all(error.retry_after is not None and error.retry_after >= 0 for error in refused)
        assert len(done) >= PLACES
        assert set(done) == {400}
        assert len(done) + len(refused) == 150


@pytest.mark.parametrize("chunks", [0, 1, 2])
async def test_a_gateway_that_does_not_read_is_given_up(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    monkeypatch.setattr(paid_calls, "READ_SECONDS_MAX", 5.0)
    async with serving_network(1, engine=watched) as network:
        executor = network.members[1].executor
        assert executor is not None
        await open_channel(network)

        class DeafCall(Call):
            """At its other end somebody reads a few chunks, and then no more."""

            peer_id = network.members[GATEWAY].network.peer_id
            payload = signed(network, request_to(1))
            left = chunks

            async def send(self, data: bytes) -> None:
                self.left -= 1
                if self.left < 0:
                    await trio.sleep_forever()

            async def receive(self) -> bytes:
                await trio.sleep_forever()
                return b""

        with trio.fail_after(20), pytest.raises(CallFailedError) as caught:
            await executor.serve(DeafCall())
        assert caught.value.code == "unread"
        assert executor.running == 0
        assert engine_of(network).listeners == 0


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"prompt": Prompt(token_ids=(5000,))}, "bad-request", "token id 5000 .* end at 3071"),
        ({"prefix": (4000,)}, "bad-request", "token id 4000"),
        ({"prompt": Prompt((Turn("user", "w " * MODEL.context_length),))}, "too-long", "the model reads"),
        ({"prefix": (1,) * MODEL.context_length}, "too-long", "the model reads"),
    ],
)
async def test_what_the_model_cannot_read_is_said_in_numbers(
    autojump_clock: object, changes: dict[str, object], code: str, words: str
) -> None:
    async with serving_network(1, engine=watched) as network:
        user, target = network.members[GATEWAY], network.members[1]
        with pytest.raises(CallFailedError, match=words) as caught:
            async with user.network.call(
                target.network.peer_id, METHOD, signed(network, request_to(1, **changes)), deadline_seconds=9
            ) as call:
                await call.receive()
        assert caught.value.code == code
        assert engine_of(network).given == 0


class DyingEngine(SimulatedEngine):
    """Fails at once, always."""

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        raise EngineFailedError("secret words of the operator's log")
        yield


async def test_an_operators_words_stay_at_home(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return DyingEngine(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        with pytest.raises(GatewayError) as caught:
            await ask(network, CHAT)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (busy_error(2.5, "full"), 2.5),
        (busy_error(0, "full"), 0.1),
        (busy_error(1e9, "full"), 60.0),
        (busy_error(float("inf"), "full"), 60.0),
        (CallFailedError("busy", "1024 calls of infer are running"), None),
        (CallFailedError("busy", "retry-after-ms=; x"), None),
        (CallFailedError("busy", "retry-after-ms=99999999999; x"), None),
        (CallFailedError("busy", "retry-after-ms=-5; x"), None),
        (CallFailedError("busy", "retry-after-ms=999999999; x"), 60.0),
        (CallFailedError("unpaid", "retry-after-ms=500; x"), None),
    ],
)
def test_a_time_to_come_again_is_read_strictly(error: CallFailedError, seconds: float | None) -> None:
    assert retry_after_seconds(error) == seconds
