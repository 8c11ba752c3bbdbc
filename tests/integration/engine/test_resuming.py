"""An answer cut anywhere and taken up by real vLLM is the answer it would have been, to the character."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from node.engine.adapter import EngineNode
from node.ports import ChatMessage, GenerationRequest
from node.protocol.sampling import LogitBias, SamplingParameters
from node.services.frames import Tokens
from node.services.transcript import Continuation, Transcript
from tests.integration.engine.shared import SharedServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
TOKENS = 16
HOT = SamplingParameters(2000, top_k=400)
PROMPTS = ("What does Python say about lambda?", "def grüße(): return '磨石 🙂")
CHARACTERS = "ß石é磨 ("
"""Of whose tokens, many of them parts of characters, an answer is made: the tiny model alone writes ASCII."""
BIAS_MILLI, BIAS_SPREAD_MILLI = 60_000, 10_000
BIASES_TRIED_MAX = 200
"""Of models of three trainings, and of weights with much noise, every third bias gave an answer that will do."""
PARTS_OF_CHARACTERS = range(4, 13)
"""How many of the tokens of an answer must be such; between them and after them there must be text, too."""


@dataclass(slots=True)
class Cuts:
    """Where the answers of a test were cut: how often within a character."""

    within_characters: int = 0


async def answer(
    engine: EngineNode,
    wanted: GenerationRequest,
    cuts: Sequence[int] = (),
    *,
    begins_anew: bool = False,
    made: Cuts | None = None,
) -> tuple[str, list[int], str]:
    """Text, tokens and end of an answer whose executors die after so many pieces each."""
    transcript = Transcript(wanted.stop, begins_anew=begins_anew)
    text = ""
    for cut in (*cuts, 10_000):
        point = transcript.resume()
        continuation = Continuation(transcript, point)
        rest = replace(
            wanted,
            prompt_ids=(*wanted.prompt_ids, *point.prefix),
            max_tokens=wanted.max_tokens - len(point.prefix),
        )
        count = 0
        async with engine.generate(rest) as chunks:
            async for chunk in chunks:
                part = continuation.add(Tokens(chunk.token_ids, chunk.text, chunk.finish_reason or ""))
                text += part.text if part is not None else ""
                count += 1
                if count == cut and made is not None and not chunk.text:
                    made.within_characters += 1
                if count == cut or transcript.finish_reason:
                    break
        if transcript.finish_reason:
            return text, transcript.token_ids, transcript.finish_reason
    raise AssertionError("the answer has no end")


async def foreign_request(engine: EngineNode, prompt_ids: tuple[int, ...]) -> GenerationRequest:
    """A request for an answer partly of parts of characters, whatever the weights of the tiny model are.

    Each machine trains its own, so none can be relied on to prefer certain tokens. Nor does the rule of draws go with
    a bias, so the answer is the likeliest one; it is the biases that are drawn until it will do.
    """
    separators = set((await engine.tokenize(" ("))[-1:])
    tokens = sorted({*(await engine.tokenize(CHARACTERS))} | separators)
    chance = random.Random(1)
    for _ in range(BIASES_TRIED_MAX):
        bias = tuple(LogitBias(token, BIAS_MILLI - chance.randint(0, BIAS_SPREAD_MILLI)) for token in tokens)
        wanted = GenerationRequest(prompt_ids, TOKENS, SamplingParameters(0, logit_bias=bias), 0, (), 0)
        _, token_ids, _ = await answer(engine, wanted)
        if sum(token in tokens and token not in separators for token in token_ids) in PARTS_OF_CHARACTERS:
            return wanted
    raise AssertionError(f"none of {BIASES_TRIED_MAX} biases gave an answer in parts of characters")


async def test_an_answer_cut_anywhere_is_the_same(shared_server: SharedServer, tmp_path: Path) -> None:
    async with shared_server.joined(tmp_path) as engine:
        made = Cuts()
        first, second = [await engine.render_chat([ChatMessage("user", prompt)]) for prompt in PROMPTS]
        for wanted in (await foreign_request(engine, first), GenerationRequest(second, TOKENS, HOT, 1, (), 0)):
            whole = await answer(engine, wanted)
            for cut in range(1, TOKENS):
                assert await answer(engine, wanted, (cut, 1), made=made) == whole

            # A stop text out of the answer itself, so that it lies across some cut.
            middle = len(whole[0]) // 2
            stopped = replace(wanted, stop=(whole[0][middle : middle + 4],))
            undisturbed = await answer(engine, stopped)
            assert undisturbed[0] == whole[0][: whole[0].index(stopped.stop[0])]
            assert undisturbed[2] == "stop"
            for cut in range(1, len(undisturbed[1]) + 1):
                text, ids, reason = await answer(engine, stopped, (cut,))
                assert (text, reason) == (undisturbed[0], "stop")
                # An engine that cannot see where the stop text began may have given a token more at once.
                assert ids[: len(undisturbed[1])] == undisturbed[1]
        assert made.within_characters >= 2
