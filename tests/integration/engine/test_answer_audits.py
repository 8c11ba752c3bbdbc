"""The rule of audits with real vLLM: the model's own answers are exact, and each lie about how they came is proven."""

from dataclasses import replace
from pathlib import Path

import pytest

from node.engine.adapter import EngineNode
from node.ports import EngineRefusedError, GenerationRequest
from node.protocol.audits import ClaimedLogprobs, answer_figures, judge_figures
from node.protocol.calibration import default_band
from node.protocol.claims import claims_of
from node.protocol.findings import AuditFigures
from node.protocol.sampling import SamplingParameters, TokenLogprobs
from node.protocol.verdicts import Verdict
from node.services.receipt_tokens import CANDIDATES
from tests.builders import model
from tests.integration.engine.shared import MODEL, SharedServer
from tests.integration.engine.test_verifiable_sampling import request

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
BAND = default_band(model())
PARAMETERS = (
    SamplingParameters(),
    SamplingParameters(temperature_milli=700, top_p_milli=950),
    SamplingParameters(top_k=20),
    SamplingParameters(temperature_milli=0),
)
TOKENS = 96
TOKENS_MIN = 64
SEEDS_MAX = 50


async def answered(engine: EngineNode, wanted: GenerationRequest) -> tuple[tuple[int, ...], list[TokenLogprobs]]:
    tokens: list[int] = []
    told: list[TokenLogprobs] = []
    async with engine.generate(wanted) as chunks:
        async for chunk in chunks:
            tokens.extend(chunk.token_ids)
            told.extend(chunk.logprobs)
    return tuple(tokens), told


async def long_answer(
    engine: EngineNode, sampling: SamplingParameters, first_seed: int
) -> tuple[GenerationRequest, tuple[int, ...], list[TokenLogprobs]]:
    """An answer with enough tokens to prove something, whatever the weights of the tiny model."""
    for seed in range(first_seed, first_seed + SEEDS_MAX):
        wanted = request(seed, sampling, TOKENS, logprobs=5)
        tokens, told = await answered(engine, wanted)
        if len(tokens) >= TOKENS_MIN:
            return wanted, tokens, told
    raise AssertionError(f"none of {SEEDS_MAX} answers has {TOKENS_MIN} tokens")


async def audited(
    engine: EngineNode, wanted: GenerationRequest, tokens: tuple[int, ...], claimed: tuple[ClaimedLogprobs, ...] = ()
) -> AuditFigures:
    first = len(wanted.prompt_ids)
    prefills = await engine.prefill((*wanted.prompt_ids, *tokens), first, top=CANDIDATES, priority=10)
    return answer_figures(first, tokens, prefills, wanted.seed, wanted.sampling, engine.vocabulary_size, claimed)


async def test_answers_of_the_model_are_exact_and_lies_about_them_are_proven(
    shared_server: SharedServer, tmp_path: Path
) -> None:
    async with shared_server.joined(tmp_path) as engine:
        for number, sampling in enumerate(PARAMETERS, 1):
            wanted, tokens, told = await long_answer(engine, sampling, number)
            claimed = claims_of(tuple(told))
            honest = await audited(engine, wanted, tokens, claimed)
            assert judge_figures(honest, BAND) == (Verdict.VALID, ""), (sampling, honest)
            assert honest.mismatches <= 1, honest
            assert honest.claimed == len(tokens)
            assert honest.distance_micro < 2_000 * len(tokens)
            assert honest.surprise_micro**2 < 36 * 1_000_000 * max(1, honest.variance_micro)  # six standard deviations

            shifted = tuple(replace(entry, alternatives=_shifted(entry)) for entry in claimed)
            forged = await audited(engine, wanted, tokens, shifted)
            assert judge_figures(forged, BAND) == (Verdict.INVALID, "logprobs"), sampling
            backwards = await audited(engine, wanted, tokens[::-1])
            assert judge_figures(backwards, BAND)[0] is Verdict.INVALID, sampling
            if sampling.temperature_milli:
                other_seed = await audited(engine, replace(wanted, seed=wanted.seed + 1), tokens)
                assert judge_figures(other_seed, BAND)[0] is Verdict.INVALID, sampling
        short = request(9, PARAMETERS[0], TOKENS)
        tokens, _ = await answered(engine, replace(short, prompt_ids=short.prompt_ids[4:]))
        truncated = await audited(engine, short, tokens)
        assert judge_figures(truncated, BAND)[0] is Verdict.INVALID
        await reads_all_but_the_last_place(engine)


async def reads_all_but_the_last_place(engine: EngineNode) -> None:
    """Why audits do not read the last token of an answer that fills the context."""
    filling = (5,) * MODEL.context_length
    with pytest.raises(EngineRefusedError):
        await engine.prefill(filling, 1, top=CANDIDATES, priority=10)
    assert len(await engine.prefill(filling[:-1], 1, top=CANDIDATES, priority=10)) == len(filling) - 2


def _shifted(entry: ClaimedLogprobs) -> tuple[tuple[int, int], ...]:
    """As a machine would claim whose log-probabilities are off by 0.4."""
    return tuple((token, logprob - 400_000) for token, logprob in entry.alternatives)
