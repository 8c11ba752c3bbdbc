"""An answer cut anywhere and taken up by real vLLM is the answer it would have been, to the character."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from node.engine.adapter import EngineNode
from node.ports import ChatMessage, GenerationRequest
from node.protocol.sampling import LogitBias, SamplingParameters
from node.services.frames import Tokens
from node.services.transcript import Continuation, Transcript
from tests.integration.engine.test_vllm import ready_engine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
TOKENS = 16
HOT = SamplingParameters(2000, top_k=400)
PROMPTS = ("What does Python say about lambda?", "def grüße(): return '磨石 🙂")
CHARACTERS = "ß石é磨 ("
"""Of whose tokens, many of them parts of characters, an answer is made: the tiny model alone writes ASCII."""


async def answer(
    engine: EngineNode, wanted: GenerationRequest, cuts: Sequence[int] = (), *, begins_anew: bool = False
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
                if count == cut or transcript.finish_reason:
                    break
        if transcript.finish_reason:
            return text, transcript.token_ids, transcript.finish_reason
    raise AssertionError("the answer has no end")


async def test_an_answer_cut_anywhere_is_the_same(tmp_path: Path) -> None:
    async with ready_engine(tmp_path) as engine:
        parts_of_characters = 0
        bias = tuple(LogitBias(token, 60_000) for token in sorted(set((await engine.tokenize(CHARACTERS))[1:])))
        foreign = SamplingParameters(0, logit_bias=bias)
        for seed, (prompt, sampling) in enumerate(zip(PROMPTS, (foreign, HOT), strict=True)):
            prompt_ids = await engine.render_chat([ChatMessage("user", prompt)])
            wanted = GenerationRequest(prompt_ids, TOKENS, sampling, seed, (), 0)
            whole = await answer(engine, wanted)
            async with engine.generate(wanted) as chunks:
                parts_of_characters += len([chunk async for chunk in chunks if not chunk.text])
            for cut in range(1, TOKENS):
                assert await answer(engine, wanted, (cut, 1)) == whole

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
        assert parts_of_characters >= 2
