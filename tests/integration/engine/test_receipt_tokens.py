"""Tokens of a receipt, checked with real vLLM: the model's own hold, those of another seed, model or hand do not."""

from dataclasses import replace
from pathlib import Path

import pytest

from node.engine.adapter import EngineNode
from node.ports import GenerationRequest
from node.protocol.dossiers import AnswerEvidence, Dossier
from node.protocol.identifiers import ZERO_HASH, Address, EpochNumber, RequestId, TokenAmount
from node.protocol.pricing import tokens_commitment
from node.protocol.receipts import draw_commitment
from node.protocol.records import Receipt, SignedReceipt
from node.protocol.sampling import SamplingParameters
from node.protocol.verification import Check, Outcome
from node.services.receipt_tokens import check_tokens
from tests.builders import NODE, account, model
from tests.integration.engine.shared import SharedServer
from tests.integration.engine.test_vllm import generate, request

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
MODEL = model()


def dossier_of(wanted: GenerationRequest, tokens: tuple[int, ...]) -> Dossier:
    receipt = Receipt(
        request_id=RequestId(bytes(32)),
        epoch=EpochNumber(0),
        model_id=MODEL.model_id,
        model_cid=MODEL.cid,
        payer=account(1),
        executor=account(2),
        node_id=NODE,
        prompt_tokens=len(wanted.prompt_ids),
        output_tokens=len(tokens),
        prompt_commitment=tokens_commitment(wanted.prompt_ids),
        output_commitment=tokens_commitment(tokens),
        draw_commitment=draw_commitment(wanted.sampling, wanted.seed, (), ""),
        is_verifiable=True,
        seeded_by_user=True,
        at=0,
        price=TokenAmount(0),
    )
    answer = AnswerEvidence(wanted.prompt_ids, tokens, "", wanted.sampling, wanted.seed, None, (), "")
    return Dossier(1, Address("0x" + "11" * 20), SignedReceipt(receipt, ZERO_HASH), answer, None)


async def verdict(engine: EngineNode, dossier: Dossier, **claimed: object) -> Check:
    assert dossier.answer is not None
    changed = replace(dossier, answer=replace(dossier.answer, **claimed))  # type: ignore[arg-type]
    return await check_tokens(changed, engine, MODEL.cid)


async def test_an_engine_tells_its_model_s_tokens_from_any_others(shared_server: SharedServer, tmp_path: Path) -> None:
    async with shared_server.joined(tmp_path) as engine:
        for number, milli in ((1, 0), (2, 700), (3, 1000)):
            plain = request(tuple(range(number * 10, number * 10 + 12)), 40, seed=1_000_003 * number)
            wanted = replace(plain, sampling=SamplingParameters(temperature_milli=milli))
            tokens = tuple((await generate(engine, wanted))[0])
            dossier = dossier_of(wanted, tokens)
            honest = await verdict(engine, dossier)
            assert honest.outcome is Outcome.HOLDS, (milli, honest)
            reversed_ones = await verdict(engine, dossier, output_ids=tokens[::-1])
            assert reversed_ones.outcome is Outcome.FAILS, (milli, reversed_ones)
            if milli:
                other_seed = await verdict(engine, dossier, seed=wanted.seed + 1)
                assert other_seed.outcome is Outcome.FAILS, (milli, other_seed)
        foreign = await verdict(engine, dossier, output_ids=(engine.vocabulary_size,) * len(tokens))
        assert foreign.outcome is Outcome.FAILS
        other_version = await check_tokens(dossier, engine, "bafkother")
        assert other_version.outcome is Outcome.UNCHECKED
