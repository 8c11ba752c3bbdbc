"""Answers over several engines and pauses: nobody notices, and no engine works far ahead of what is taken."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import CallFailedError, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import NodeId
from node.protocol.sampling import SamplingParameters
from node.services.broker import Broker
from node.services.generation import Generation, cut_chunk, join_chunks
from node.services.groups import sole_error
from node.services.resuming import AnswerSoFar

REQUEST = GenerationRequest(tuple(range(20)), 60, SamplingParameters(), 7, (), 0)
AHEAD = 16
CHARACTERS = "añ漢🌾"
"""One to four bytes, one token each, as a byte-level tokenizer has them at its worst."""


class ByteEngine(SimulatedEngine):
    """One token per byte of a fixed text: text comes when a character is complete, as from a real detokenizer."""

    text = CHARACTERS * 6
    breaks_after: int | None = None
    given = 0
    starts = 0

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        type(self).starts += 1
        yield self._bytes(request)

    async def _bytes(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        data = self.text.encode()
        given = len(request.prompt_ids) - len(REQUEST.prompt_ids)
        assert bytes(request.prompt_ids[len(REQUEST.prompt_ids) :]) == data[:given]
        pending = b""
        end = min(len(data), given + request.max_tokens)
        for position in range(given, end):
            if self.breaks_after is not None and position >= self.breaks_after:
                raise EngineFailedError("the engine died")
            await trio.sleep(0.01)
            self.given = position + 1
            pending += data[position : position + 1]
            try:
                text, pending = pending.decode(), b""
            except UnicodeDecodeError:
                text = ""
            yield GenerationChunk((data[position],), text, "length" if position == end - 1 else None)


def node(number: int, *, breaks_after: int | None = None) -> ByteEngine:
    engine = ByteEngine(NodeId(f"node-{number}"), MODEL_ID, "honest", 0.0, number)
    engine.breaks_after = breaks_after
    return engine


async def read(
    broker: Broker, request: GenerationRequest = REQUEST, *, size: int = 8, pause: Callable[[], float] = lambda: 0.0
) -> tuple[list[int], str, Generation]:
    generation = Generation(broker, MODEL_ID, "payer", request, ahead_tokens_max=AHEAD)
    tokens: list[int] = []
    text = ""
    with sole_error():
        async with trio.open_nursery() as nursery:
            await nursery.start(generation.run)
            generation.begin()
            while True:
                piece = await generation.next_piece(size)
                assert len(piece.token_ids) <= size
                tokens += piece.token_ids
                text += piece.text
                if piece.finish_reason is not None:
                    return tokens, text, generation
                await trio.sleep(pause())
    raise AssertionError("the nursery was left early")


@pytest.mark.parametrize("refused", [0, 1, 2, 5])
async def test_what_is_given_at_once_and_what_is_returned_make_the_answer_in_order(
    autojump_clock: object, refused: int
) -> None:
    """`refused`: of so many pieces one is not taken at once; 0 takes all."""
    generation = Generation(Broker([node(1)]), MODEL_ID, "payer", REQUEST, ahead_tokens_max=AHEAD)
    tokens: list[int] = []
    text = ""
    offered = returned = 0

    def give_now(piece: GenerationChunk) -> bool:
        nonlocal offered, text
        offered += 1
        assert piece.finish_reason is None
        assert len(piece.token_ids) <= 8
        if refused and offered % refused == 0:
            return False
        tokens.extend(piece.token_ids)
        text += piece.text
        return True

    async with trio.open_nursery() as nursery:
        await nursery.start(generation.run)
        generation.begin()
        while True:
            piece = await generation.next_piece(8, give_now)
            returned += 1
            tokens += piece.token_ids
            text += piece.text
            if piece.finish_reason is not None:
                break
            before = offered
            await trio.sleep(0.035 if returned % 2 else 0)  # it is paid for, say: meanwhile nothing is offered
            assert offered == before
    assert bytes(tokens) == ByteEngine.text.encode()
    assert text == ByteEngine.text
    assert returned == 1 if refused == 0 else returned > 1


async def test_an_answer_is_whole(autojump_clock: object) -> None:
    tokens, text, generation = await read(Broker([node(1)]))
    assert bytes(tokens) == ByteEngine.text.encode()
    assert text == ByteEngine.text
    assert generation.node_ids == ["node-1"]


@pytest.mark.parametrize("breaks_after", range(1, 30))
async def test_another_own_engine_goes_on_with_the_same_tokens_and_text(
    autojump_clock: object, breaks_after: int
) -> None:
    broker = Broker([node(1, breaks_after=breaks_after), node(2)])
    tokens, text, generation = await read(broker)
    assert bytes(tokens) == ByteEngine.text.encode()
    assert text == ByteEngine.text  # a character that was half given is neither lost nor doubled
    assert generation.node_ids == ["node-1", "node-2"]
    assert broker.load == 0


@pytest.mark.parametrize(
    "request_",
    [
        replace(REQUEST, stop=("never",)),
        replace(REQUEST, sampling=SamplingParameters(presence_penalty_milli=500)),
        replace(REQUEST, response_format='{"type": "json_object"}'),
    ],
)
async def test_what_cannot_be_taken_up_in_the_middle_is_repeated_and_compared(
    autojump_clock: object, request_: GenerationRequest
) -> None:
    second = node(2)
    tokens, text, _ = await read(Broker([node(1, breaks_after=11), second]), request_)
    assert bytes(tokens) == ByteEngine.text.encode()
    assert text == ByteEngine.text
    assert second.given == len(tokens)


async def test_an_engine_that_goes_on_differently_ends_the_answer(autojump_clock: object) -> None:
    other = node(2)
    other.text = "x" * 60
    with pytest.raises(EngineFailedError, match="differ"):
        await read(Broker([node(1, breaks_after=11), other]), replace(REQUEST, stop=("never",)))


async def test_without_another_engine_the_failure_is_told(autojump_clock: object) -> None:
    broker = Broker([node(1, breaks_after=5)])
    with pytest.raises(EngineFailedError, match="died"):
        await read(broker)
    assert broker.load == 0


async def test_failures_are_limited(autojump_clock: object) -> None:
    broker = Broker([node(number, breaks_after=5) for number in range(6)])
    with pytest.raises(EngineFailedError, match="died"):
        await read(broker)
    assert broker.load == 0


async def test_no_engine_no_answer(autojump_clock: object) -> None:
    with pytest.raises(CallFailedError, match="not-serving"):
        await read(Broker([]))


async def test_an_engine_is_stopped_when_nobody_takes_what_it_gives(autojump_clock: object) -> None:
    engine = node(1)
    broker = Broker([engine])
    generation = Generation(broker, MODEL_ID, "payer", REQUEST, ahead_tokens_max=AHEAD)
    async with trio.open_nursery() as nursery:
        await nursery.start(generation.run)
        assert broker.load == 1
        await trio.sleep(5)
        assert engine.given == 0  # it waits for the word
        generation.begin()
        await trio.sleep(5)
        assert engine.given == AHEAD + 1
        assert broker.load == 0  # its place is free for others
        taken = 0
        while taken < len(ByteEngine.text.encode()):
            taken += len((await generation.next_piece(4)).token_ids)
            await trio.sleep(1)
            assert engine.given - taken <= AHEAD + 1


@pytest.mark.parametrize("stop", [(), ("never",)])
async def test_a_slow_reader_gets_the_same_answer(autojump_clock: object, stop: tuple[str, ...]) -> None:
    ByteEngine.starts = 0
    tokens, text, _ = await read(Broker([node(1)]), replace(REQUEST, stop=stop), size=3, pause=lambda: 0.5)
    assert bytes(tokens) == ByteEngine.text.encode()
    assert text == ByteEngine.text
    assert ByteEngine.starts > 1


async def test_a_fast_reader_gets_each_token_at_once_and_a_slow_one_few_pieces(autojump_clock: object) -> None:
    generation = Generation(Broker([node(1)]), MODEL_ID, "payer", REQUEST, ahead_tokens_max=1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(generation.run)
        generation.begin()
        began = trio.current_time()
        first = await generation.next_piece(100)
        assert len(first.token_ids) == 1
        assert trio.current_time() - began == pytest.approx(0.01)
        await trio.sleep(0.2)
        assert len((await generation.next_piece(100)).token_ids) == pytest.approx(20, abs=1)
        nursery.cancel_scope.cancel()


chunks = st.builds(
    GenerationChunk,
    st.lists(st.integers(0, 9), max_size=9).map(tuple),
    st.text(max_size=5),
    st.none(),
)


@given(st.lists(chunks, min_size=1, max_size=8), st.integers(0, 20))
def test_chunks_are_cut_and_joined_without_loss(parts: list[GenerationChunk], count: int) -> None:
    whole = join_chunks(iter(parts))
    assert whole.text == "".join(part.text for part in parts)
    head, tail = cut_chunk(whole, count)
    assert len(head.token_ids) == min(count, len(whole.token_ids))
    assert join_chunks(iter([head, tail])) == whole


@given(st.lists(chunks, max_size=20), st.integers(0, 20))
def test_an_answer_taken_up_anywhere_adds_up_to_the_whole(parts: list[GenerationChunk], cut: int) -> None:
    so_far = AnswerSoFar(replace(REQUEST, stop=("never",)))
    seen = [so_far.take(part) for part in parts[:cut]]
    assert so_far.resume().prompt_ids == REQUEST.prompt_ids
    seen += [so_far.take(part) for part in parts]
    fresh = [piece for piece in seen if piece is not None]
    assert [t for piece in fresh for t in piece.token_ids] == [t for part in parts for t in part.token_ids]
    assert "".join(piece.text for piece in fresh) == "".join(part.text for part in parts)
