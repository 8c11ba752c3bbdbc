"""One stream from several executors: the answer goes on exactly, soon, and whoever is slower or gone is left."""

import codecs
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import CallFailedError, Engine, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import TokenAmount
from node.services import executor_part
from node.services.attempt import Attempt
from node.services.candidate_line import (
    AGAIN_SECONDS_MAX,
    BUSY_AGAIN_SECONDS_MAX,
    UNBEGUN_ROOM_SECONDS_MAX,
    UNBEGUN_WAIT_SECONDS_MAX,
)
from node.services.faults import Fault
from node.services.frames import METHOD, Tokens
from node.services.gateway import CHUNKS_WAITING_MAX, GatewayError
from node.services.patience import HEDGE_SECONDS_UNKNOWN
from node.services.refusals import busy_error
from tests.builders import account
from tests.unit.services.scripted import (
    CHAT,
    Part,
    ask,
    evidence,
    first_drawn,
    honest_tokens,
    ids_of,
    install,
)
from tests.unit.services.serving_network import (
    GATEWAY,
    NODE,
    UNIT,
    UNPAID_TOKENS_MAX,
    ServingNetwork,
    serving_network,
)


async def fund(network: ServingNetwork) -> None:
    """Have the channels to all executors funded, so that no test waits for the chain."""
    for number in network.members:
        if number != GATEWAY:
            await network.members[GATEWAY].payer.reserve(account(number), TokenAmount(1))


def next_request(network: ServingNetwork, seed: int) -> None:
    network.gateway._random_bytes = lambda count: bytes([seed]) * count


# --- hedges ---


async def test_a_late_first_token_has_a_second_executor_asked_and_the_first_cancelled(
    autojump_clock: object,
) -> None:
    cancelled: list[float] = []

    async def late(part: Part) -> None:
        await part.open()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    async with serving_network(2) as network:
        await fund(network)
        slow = first_drawn(network)
        install(network, slow, late)
        began = trio.current_time()
        async with network.gateway.ask(CHAT) as answer:
            parts = []
            async for part in answer:
                if not parts:
                    first_at = trio.current_time()
                parts.append(part)
        assert ids_of(parts) == await honest_tokens()
        assert answer.summary.executors == (account(3 - slow),)
        assert HEDGE_SECONDS_UNKNOWN < first_at - began < HEDGE_SECONDS_UNKNOWN + 1
        assert cancelled
        assert cancelled[0] - first_at < 0.2  # at once: one way of the link
        prompt = UNIT * answer.summary.prompt_tokens
        assert network.paid_by_gateway() - network.paid_to(3 - slow) == prompt  # it read the prompt, and no more
        assert not evidence(network)


async def test_a_first_that_gives_its_token_after_all_wins_over_the_hedge(autojump_clock: object) -> None:
    async def late(part: Part) -> None:
        await part.open()
        await trio.sleep(HEDGE_SECONDS_UNKNOWN + 1)
        await part.give(50, finish_reason="stop")
        await trio.sleep_forever()

    async def later(part: Part) -> None:
        await part.open()
        await trio.sleep(3)
        await part.give(50, finish_reason="stop")

    async with serving_network(2) as network:
        await fund(network)
        first = first_drawn(network)
        install(network, first, late)
        install(network, 3 - first, later)
        answer, parts = await ask(network)
        assert answer.summary.executors == (account(first),)
        assert ids_of(parts) == await honest_tokens()


class FailingAsItIsCancelled(Attempt):
    """Has read a first token, and learned that another was faster, in the moment it is cancelled for that."""

    async def run(self) -> None:
        try:
            await super().run()
        except BaseException as cancelled:  # trio may raise a group of several
            failed = CallFailedError("superseded", "another executor was faster")
            raise BaseExceptionGroup("both at once", [cancelled, failed]) from None


async def test_who_fails_in_the_moment_it_loses_against_a_hedge_does_not_fail_the_answer(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_part, "Attempt", FailingAsItIsCancelled)

    async def late(part: Part) -> None:
        await part.open()
        await trio.sleep_forever()

    async with serving_network(2) as network:
        await fund(network)
        slow = first_drawn(network)
        install(network, slow, late)
        answer, parts = await ask(network)
        assert answer.summary.executors == (account(3 - slow),)
        assert ids_of(parts) == await honest_tokens()


async def test_only_a_share_of_requests_is_hedged(autojump_clock: object) -> None:
    asked: list[int] = []

    def late_of(number: int) -> object:
        async def late(part: Part) -> None:
            asked.append(number)
            await part.open()
            await trio.sleep(HEDGE_SECONDS_UNKNOWN + 2)
            await part.give(1, finish_reason="stop")
            await trio.sleep_forever()

        return late

    async with serving_network(2) as network:
        await fund(network)
        for number in (1, 2):
            install(network, number, late_of(number))  # type: ignore[arg-type]
        for seed in range(1, 21):
            next_request(network, seed)
            await ask(network)
        assert 20 <= len(asked) <= 20 + 2  # one saved at the start, one for 20 requests


async def test_the_channel_of_the_stand_by_is_funded_while_the_first_works(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        first = first_drawn(network)
        await ask(network, replace(CHAT, max_tokens=400))
        payer = network.members[GATEWAY].payer
        channel = network.ledger.state.channels.get(payer.channel_of(account(3 - first)))
        assert channel is not None
        assert channel.deposited > 0


# --- fail-over ---


async def test_the_gap_after_a_death_is_no_longer_than_two_first_tokens(autojump_clock: object) -> None:
    async def dies(part: Part) -> None:
        await part.open()
        await part.give(20)
        await trio.sleep(1)
        raise CallFailedError("lost", "its process was killed")

    async with serving_network(2) as reference:
        await fund(reference)
        began = trio.current_time()
        async with reference.gateway.ask(CHAT) as answer:
            async for _ in answer:
                usual = trio.current_time() - began
                break

    async with serving_network(2) as network:
        await fund(network)
        first = first_drawn(network)
        install(network, first, dies)
        times: list[float] = []
        parts = []
        async with network.gateway.ask(CHAT) as answer:
            async for part in answer:
                times.append(trio.current_time())
                parts.append(part)
        assert ids_of(parts) == await honest_tokens()
        gap = max(later - earlier for earlier, later in itertools.pairwise(times))
        assert gap < 1.0 + 0.2 + 2 * usual  # it died a second after its last token, and that took a link to be known


@dataclass(slots=True)
class ByteEngine(SimulatedEngine):
    """Tokens are the bytes of a fixed text; chunks as vLLM gives them, its fault with cut characters included."""

    answer: bytes = b""
    sizes: tuple[int, ...] = (1,)
    dies_after: int | None = None

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        yield self._bytes(request)

    async def _bytes(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        place = begin = len(request.prompt_ids) - PROMPT_TOKENS
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(self.answer[:begin])
        is_whole = not decoder.getstate()[0]
        said = "" if is_whole else self.answer[:begin].decode("utf-8", "ignore")
        end = min(len(self.answer), begin + request.max_tokens)
        turn = 0
        text_so_far = ""
        while place < end:
            await trio.sleep(0.01)
            size = self.sizes[turn % len(self.sizes)]
            turn += 1
            ids = tuple(self.answer[place : min(end, place + size)])
            place += len(ids)
            text = decoder.decode(bytes(ids), final=place >= end)
            if text:
                text, said = said + text, ""
            text_so_far += text
            reason = "length" if place >= end else None
            for stop in request.stop:
                if stop in text_so_far:
                    reason = "stop"
            if self.dies_after is not None and place - begin > self.dies_after:
                raise EngineFailedError("killed")
            yield GenerationChunk(ids, text, reason)
            if reason:
                return


PROMPT_TOKENS = 5
TEXT = "Der Mühlstein – 磨石 🙂 – mahlt. END of it"


@pytest.mark.parametrize("sizes", [(1,), (3, 2), (7,)])
@pytest.mark.parametrize("dies_after", [0, 5, 6, 7, 17, 20, 22, 29, 40])
async def test_characters_over_a_cut_are_neither_lost_nor_doubled(
    autojump_clock: object, sizes: tuple[int, ...], dies_after: int
) -> None:
    data = TEXT.encode()
    async with serving_network(2) as network:
        dying = first_drawn(network)

    def engine(number: int) -> Engine:
        made = ByteEngine(NODE, MODEL_ID, "honest", 0.0, number, data, sizes)
        if number == dying:
            made.dies_after = dies_after
        return made

    async with serving_network(2, engine=engine) as network:
        answer, parts = await ask(network, replace(CHAT, max_tokens=len(data)))
        assert "".join(part.text for part in parts) == TEXT
        assert ids_of(parts) == list(data)
        assert answer.summary.finish_reason == "length"
        assert answer.summary.output_tokens == len(data)
        assert account(3 - dying) in answer.summary.executors


@pytest.mark.parametrize("dies_after", range(TEXT.encode().index(b"END") - 1, TEXT.encode().index(b"END") + 4))
async def test_a_stop_text_over_a_cut_ends_the_answer(autojump_clock: object, dies_after: int) -> None:
    data = TEXT.encode()
    async with serving_network(2) as network:
        dying = first_drawn(network)

    def engine(number: int) -> Engine:
        made = ByteEngine(NODE, MODEL_ID, "honest", 0.0, number, data)
        if number == dying:
            made.dies_after = dies_after
        return made

    async with serving_network(2, engine=engine) as network:
        answer, parts = await ask(network, replace(CHAT, max_tokens=len(data), stop=("END", "never")))
        assert "".join(part.text for part in parts) == TEXT[: TEXT.index("END")]
        assert answer.summary.finish_reason == "stop"


async def test_an_answer_with_a_format_is_made_again_from_its_beginning_and_the_user_sees_no_seam(
    autojump_clock: object,
) -> None:
    prefixes: list[int] = []

    async def dies(part: Part) -> None:
        await part.open()
        await part.give(20)
        raise CallFailedError("engine-failed", "it died")

    async def honest(part: Part) -> None:
        prefixes.append(len(part.request.prefix))
        await part.open()
        await part.give(50, finish_reason="length")

    async with serving_network(2) as network:
        first = first_drawn(network)
        install(network, first, dies)
        install(network, 3 - first, honest)
        answer, parts = await ask(network, replace(CHAT, response_format='{"type":"json_object"}'))
        assert ids_of(parts) == await honest_tokens()
        assert prefixes == [0]
        assert answer.summary.output_tokens == 50


async def test_an_executor_with_other_numbers_goes_on_without_repeating(autojump_clock: object) -> None:
    async def dies(part: Part) -> None:
        await part.open()
        await part.say(Tokens(part.right_ids[:3], "ö", ""))
        await part.say(Tokens(part.right_ids[3:6], "ö", ""))
        raise CallFailedError("engine-failed", "it died")

    async def other(part: Part) -> None:
        await part.open()
        await part.say(Tokens((1, 2, 3), "other", ""))
        await part.say(Tokens(tuple(range(4, part.request.max_tokens + 1)), "way", "length"))
        await trio.sleep_forever()

    async with serving_network(2) as network:
        first = first_drawn(network)
        install(network, first, dies)
        install(network, 3 - first, other)
        answer, parts = await ask(network)
        assert "".join(part.text for part in parts) == "ööotherway"
        assert answer.summary.output_tokens == 50
        assert Fault.DIFFERS.value in [found.code for found in evidence(network)]


# --- too many requests, slow users ---


async def test_when_everybody_is_busy_the_user_is_told_when_to_come_again(autojump_clock: object) -> None:
    async def busy(part: Part) -> None:
        raise busy_error(7.0, "the queue is full")

    async with serving_network(2) as network:
        await fund(network)
        for number in (1, 2):
            install(network, number, busy)
        with pytest.raises(GatewayError) as caught:
            await ask(network)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after == pytest.approx(7.0, abs=0.5)
        assert not evidence(network)


async def test_an_answer_that_was_begun_waits_for_room(autojump_clock: object) -> None:
    async def dies(part: Part) -> None:
        await part.open()
        await part.give(20)
        raise CallFailedError("engine-failed", "it died")

    turns: list[float] = []

    async def busy_at_first(part: Part) -> None:
        turns.append(trio.current_time())
        if len(turns) < 3:
            raise busy_error(2.0, "the queue is full")
        await part.open()
        await part.give(part.request.max_tokens, finish_reason="length")

    async with serving_network(2) as network:
        first = first_drawn(network)
        install(network, first, dies)
        install(network, 3 - first, busy_at_first)
        _, parts = await ask(network)
        assert ids_of(parts) == await honest_tokens()
        assert len(turns) == 3


async def test_a_request_that_has_not_begun_waits_for_room_too(autojump_clock: object) -> None:
    """While another one restarts its users are here as well."""
    asked: list[float] = []

    async def busy_for_a_while(part: Part) -> None:
        asked.append(trio.current_time())
        if asked[-1] - asked[0] < 20.0:
            raise busy_error(0.1, "the queue is full")
        await part.open()
        await part.give(part.request.max_tokens, finish_reason="length")

    async with serving_network(1) as network:
        await fund(network)
        install(network, 1, busy_for_a_while)
        answer, parts = await ask(network)
        assert ids_of(parts) == await honest_tokens()
        assert answer.summary.finish_reason == "length"
        pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert max(pauses) == pytest.approx(BUSY_AGAIN_SECONDS_MAX, abs=0.5)


@pytest.mark.parametrize(
    ("others_fail", "patience"), [(False, UNBEGUN_ROOM_SECONDS_MAX), (True, UNBEGUN_WAIT_SECONDS_MAX)]
)
async def test_a_request_that_has_not_begun_waits_longer_for_room_where_somebody_failed(
    autojump_clock: object, others_fail: bool, patience: float
) -> None:
    async def busy(part: Part) -> None:
        raise busy_error(5.0, "the queue is full")

    async def is_gone(part: Part) -> None:
        if others_fail:
            raise CallFailedError("lost", "it is restarting")
        raise busy_error(5.0, "the queue is full")

    async with serving_network(2) as network:
        await fund(network)
        for number, program in ((1, busy), (2, is_gone)):
            install(network, number, program)
        began = trio.current_time()
        with pytest.raises(GatewayError) as caught:
            await ask(network)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after == pytest.approx(5.0, abs=0.5)
        assert patience - 6 < trio.current_time() - began <= patience + 1


async def test_room_that_is_promised_for_later_is_not_waited_for(autojump_clock: object) -> None:
    async def busy(part: Part) -> None:
        raise busy_error(UNBEGUN_ROOM_SECONDS_MAX + 1, "the queue is full")

    async with serving_network(1) as network:
        await fund(network)
        install(network, 1, busy)
        began = trio.current_time()
        with pytest.raises(GatewayError) as caught:
            await ask(network)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after == pytest.approx(UNBEGUN_ROOM_SECONDS_MAX + 1, abs=0.5)
        assert trio.current_time() - began < 1


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


async def test_own_requests_in_progress_count_as_load_where_presence_is_old(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        trade = network.gateway._trade
        first = first_drawn(network)
        for number in (1, 2):
            record = network.members[GATEWAY].presence.record_of(account(number))
            assert record is not None
            network.members[GATEWAY].presence._records[account(number)] = replace(record, capacity=4)
        trade.in_flight[account(first)] = 4
        assert first_drawn(network) == 3 - first
        del trade.in_flight[account(first)]
        assert first_drawn(network) == first


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


async def test_a_request_that_has_not_begun_waits_for_nodes_that_restart(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        starting = 3

        async def restarts(part: Part) -> None:
            nonlocal starting
            starting -= 1
            if not starting:
                executor = network.members[1].executor
                assert executor is not None
                network.members[1].network._served.pop(METHOD, None)
                network.members[1].network.serve(METHOD, executor.serve, concurrency=64)
            raise CallFailedError("lost", "it is restarting")

        install(network, 1, restarts)
        answer, parts = await ask(network)
        assert starting == 0
        assert ids_of(parts) == await honest_tokens()
        assert answer.summary.finish_reason == "length"


async def test_a_request_that_nobody_takes_fails_within_seconds(autojump_clock: object) -> None:
    async with serving_network(2) as network:

        async def is_gone(_: Part) -> None:
            raise CallFailedError("lost", "it is gone")

        for number in (1, 2):
            install(network, number, is_gone)
        began = trio.current_time()
        with pytest.raises(GatewayError, match="it is gone") as caught:
            await ask(network)
        assert caught.value.code == "failed"
        assert trio.current_time() - began <= UNBEGUN_WAIT_SECONDS_MAX + 2 * AGAIN_SECONDS_MAX
