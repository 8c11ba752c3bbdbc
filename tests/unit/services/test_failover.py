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
from node.services import executor_part
from node.services.attempt import Attempt
from node.services.faults import Fault
from node.services.frames import Tokens
from node.services.patience import HEDGE_SECONDS_UNKNOWN
from tests.builders import account
from tests.unit.services.scripted import CHAT, Part, ask, evidence, first_drawn, honest_tokens, ids_of, install
from tests.unit.services.serving_network import GATEWAY, NODE, UNIT, fund, next_request, serving_network

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
