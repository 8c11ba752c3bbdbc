"""Vectors of real vLLM: the tiny model converted to embed, ready by a vector, the same each time, minable."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.engine.adapter import EngineNode
from node.engine.running import EngineEnvironment
from node.ports import Engine, EngineRefusedError, GenerationRequest
from node.protocol.audits import judge_figures
from node.protocol.calibration import default_band
from node.protocol.dossiers import VectorEvidence
from node.protocol.identifiers import Hash32, NodeId
from node.protocol.nonces import nonce_prompt, quantise, squared_distance
from node.protocol.sampling import SamplingParameters
from node.protocol.sketches import FLOAT_BYTES, SKETCH_BYTES, sketch_of
from node.protocol.tails import TAIL_DIFFERENCE_MAX, judge_tails
from node.protocol.vector_audits import vector_band
from node.protocol.verdicts import Verdict
from node.services.broker import Broker
from node.services.brokered import brokered
from node.services.embedding import floats_of
from node.services.receipt_tokens import CheckingEngine
from node.services.recomputing import recompute, recompute_tails
from node.services.vector_checks import EmbeddingEngine, read_vector_figures
from tests.builders import account, model

ROOT = Path(__file__).resolve().parents[3]
ENGINES = (ROOT / ".engine" / "gpu", ROOT / ".engine" / "cpu")
TINY_MODEL = ROOT / ".cache" / "tiny-model"
pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
ARGUMENTS = ("--max-model-len", "2048", "--runner", "pooling", "--convert", "embed")
MODEL = replace(model(), model_args=ARGUMENTS, context_length=2048)


def cosine(one: bytes, other: bytes) -> float:
    a, b = floats_of(one), floats_of(other)
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


async def tails_are_the_validator_s_own(engine: Engine, vectors: list[bytes]) -> None:
    """Whoever recomputes a validator's tails finds the same, in any batch; another validator's are none of its."""
    zero, sample, key = Hash32(bytes(32)), Hash32(b"s" * 32), (account(1), NodeId("n"))
    nonces = range(len(vectors))
    one = await recompute(engine, MODEL, key, nonces, zero, sample, account(2))
    assert max(squared_distance(*pair) for pair in zip(vectors, one.vectors, strict=True)) <= MODEL.poc_distance_max
    again = [(await recompute_tails(engine, MODEL, [(key, n)], zero, sample, account(2)))[0] for n in nonces]
    assert judge_tails(account(2), MODEL.model_id, one.tails, again).verdict is Verdict.VALID
    assert max(abs(a - b) for a, b in zip(one.tails, again, strict=True)) <= TAIL_DIFFERENCE_MAX // 4
    other = await recompute_tails(engine, MODEL, [(key, n) for n in nonces], zero, sample, account(3))
    assert judge_tails(account(2), MODEL.model_id, other, again).verdict is Verdict.INVALID


async def answers_are_audited(engine: Engine, prompts: list[tuple[int, ...]], vectors: list[bytes]) -> None:
    """Vectors of a batch hold when they are made again one by one; made-up ones are proven not to be theirs."""
    assert isinstance(engine, CheckingEngine)
    assert isinstance(engine, EmbeddingEngine)
    sketches = [sketch_of(vector) for vector in vectors]
    band = vector_band(default_band(MODEL))
    for given, verdict in ((sketches, Verdict.VALID), ([bytes(SKETCH_BYTES)] * 3, Verdict.INVALID)):
        evidence = VectorEvidence(tuple(prompts), len(vectors[0]) // FLOAT_BYTES, b"".join(given))
        for places in (range(3), (2, 0, 1)):
            figures = await read_vector_figures(engine, evidence, places, band.poc_distance_max)
            assert figures is not None
            assert judge_figures(figures, band)[0] is verdict


async def test_an_embedding_model_serves_and_proves(tmp_path: Path) -> None:
    python = next(path for path in ENGINES if path.exists()) / "bin" / "python"
    engine = EngineNode(NodeId("node-1"), EngineEnvironment(python), tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        engine.load(MODEL, TINY_MODEL)
        with trio.fail_after(200):
            await engine.until_ready()
        texts = ["def add(a, b):\n    return a + b", "def add(x, y):\n    return x + y", "The licence of this file"]
        prompts = [await engine.tokenize(text) for text in texts]
        together = await engine.embed(prompts, priority=0)
        assert len({len(vector) for vector in together}) == 1
        alike, apart = cosine(together[0], together[1]), cosine(together[0], together[2])
        assert alike > apart
        for prompt, vector in zip(prompts, together, strict=True):
            (alone,) = await engine.embed([prompt], priority=0)
            assert cosine(alone, vector) > 0.9999

        with pytest.raises(EngineRefusedError):
            await engine.embed([[1] * 3000], priority=0)
        with pytest.raises(EngineRefusedError):
            request = GenerationRequest(prompts[0], 8, SamplingParameters(temperature_milli=0), 1, (), 0)
            async with engine.generate(request) as chunks:
                assert [chunk async for chunk in chunks] == []

        (duty,) = brokered([engine], Broker([engine]))
        await answers_are_audited(duty, prompts, together)
        nonces = [
            nonce_prompt(Hash32(bytes(32)), account(1), NodeId("n"), nonce, engine.vocabulary_size)
            for nonce in range(8)
        ]
        batch = [quantise(numbers) for numbers in await duty.prompt_logprobs(nonces, priority=10)]
        for nonce, vector in zip(nonces, batch, strict=True):
            (again,) = await engine.prompt_logprobs([nonce], priority=10)
            assert squared_distance(quantise(again), vector) <= MODEL.poc_distance_max
        distances = [squared_distance(one, other) for one in batch for other in batch if one != other]
        assert min(distances) > 4 * MODEL.poc_distance_max  # another nonce's vector does not pass
        await tails_are_the_validator_s_own(duty, batch)
        nursery.cancel_scope.cancel()
