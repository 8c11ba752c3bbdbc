"""What decoys say is written by the model, of the wanted length, and ends where texts end."""

import json
import random
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsim.engine import DrawingEngine
from netsim.scenario import MODEL_ID
from node.ports import ChatMessage, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import NodeId
from node.protocol.sampling import SamplingParameters
from node.services.decoy_writing import TOPICS, DecoyWriter, cut
from node.services.request_shapes import RequestShape, TurnShape, shape_of, step, usual_shape


class ShortEngine(DrawingEngine):
    """Says little at a time, after a thought."""

    async def _tokens(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        number = random.Random(request.seed).randrange(10**6)
        yield GenerationChunk((1,), f"<think>I think{number}</think>\n Say {number}. ", "stop")


class ContinuingEngine(ShortEngine):
    """Knows no conversations."""

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        raise EngineRefusedError("the model has no chat template")


def writer(kind: type[ShortEngine] = ShortEngine) -> DecoyWriter:
    return DecoyWriter(kind(NodeId("node-1"), MODEL_ID, "honest", 0.0, 1), random.Random(4))


@given(st.text(alphabet="abc .?\n", max_size=60), st.integers(0, 30), st.integers(1, 20))
def test_a_text_is_cut_within_its_step_and_not_in_a_word_if_it_can_be(text: str, least: int, width: int) -> None:
    found = cut(text, least, least + width)
    assert text.startswith(found)
    assert len(found) < least + width
    assert len(found) >= min(least, len(text))
    if len(text) < least + width:
        assert found == text


def test_a_text_ends_where_a_sentence_does_else_a_word_else_anywhere() -> None:
    assert cut("One two. Three four five", 4, 12) == "One two."
    assert cut("One two three four five", 4, 12) == "One two"
    assert cut("Onetwothreefourfive", 4, 12) == "Onetwothree"


@pytest.mark.parametrize("kind", [ShortEngine, ContinuingEngine])
async def test_texts_have_the_wanted_length_no_thoughts_and_not_the_topic(
    autojump_clock: object, kind: type[ShortEngine]
) -> None:
    shape = RequestShape(
        turns=(TurnShape("system", 64), TurnShape("user", 40, is_named=True)), text=None, token_ids=0, tools=0,
        max_tokens=9, sampling=SamplingParameters(), is_seeded=True, stop=("",), logprobs=None, private=True,
    )  # fmt: skip
    found = await writer(kind).write(shape, MODEL_ID)
    assert (found.private, found.max_tokens, found.seed is not None, len(found.stop)) == (True, 9, True, 1)
    for turn, wanted in zip(found.prompt.turns, shape.turns, strict=True):
        least, beyond = step(wanted.characters)
        assert least <= len(turn.content) < beyond
        assert "think" not in turn.content
        assert not any(topic in turn.content for topic in TOPICS)
        assert bool(turn.name) is wanted.is_named


async def test_calls_name_functions_that_are_offered_and_answers_the_calls(autojump_clock: object) -> None:
    turns = (TurnShape("user", 20), TurnShape("assistant", 0, calls=1), TurnShape("tool", 16))
    shape = RequestShape(
        turns=turns, text=None, token_ids=0, tools=2, max_tokens=None, sampling=SamplingParameters(), is_seeded=False,
        stop=(), logprobs=None, private=False,
    )  # fmt: skip
    found = await writer().write(shape, MODEL_ID)
    offered = {tool["function"]["name"] for tool in json.loads(found.prompt.tools)}
    (call,) = json.loads(found.prompt.turns[1].tool_calls)
    assert call["function"]["name"] in offered
    assert found.prompt.turns[2].tool_call_id == call["id"]
    assert shape_of(found) is not None


async def test_usual_decoys_can_be_written_and_differ(autojump_clock: object) -> None:
    made, source = writer(), random.Random(6)
    found = [await made.write(usual_shape(source), MODEL_ID) for _ in range(40)]
    assert len({chat.prompt for chat in found}) == 40
    assert len({chat.prompt.text is None for chat in found}) == 2
