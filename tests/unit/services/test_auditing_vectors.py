"""An auditor with an embedding model finds vectors that are not the model's, and blames nobody for its own lack."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from eth_hash.auto import keccak

from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.audit_evidence import AuditEvidence
from node.protocol.audit_tasks import AuditTask
from node.protocol.codec import to_bytes
from node.protocol.dossiers import VectorEvidence
from node.protocol.identifiers import EpochNumber, Hash32, RequestId
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import booked_row
from node.protocol.sketches import (
    INPUTS_JUDGED_AGAIN_MAX,
    INPUTS_JUDGED_MAX,
    SKETCH_BYTES,
    TOKENS_MAX,
    inputs_commitment,
    judged_inputs,
    sketch_of,
    vectors_commitment,
)
from node.protocol.vector_audits import vector_band
from node.protocol.verdicts import Verdict
from node.services.embedding_frames import EmbeddingInput, EmbeddingRequest
from tests.builders import TINY, account
from tests.unit.protocol.audited_group import BAND
from tests.unit.protocol.test_audit_evidence import ASKING, EXECUTOR, REQUEST, evidence_of, vectors_of
from tests.unit.protocol.test_sketches import DIMENSIONS, vector
from tests.unit.services.audit_bench import VOCABULARY, Auditor, VectorEngine

INPUTS = tuple((number, 1) for number in range(40))
HONEST_VECTORS = VectorEvidence(INPUTS, DIMENSIONS, b"".join(sketch_of(vector(number)) for number in range(40)))


def request_for(inputs: Sequence[tuple[int, ...]], *, in_words: bool = False) -> EmbeddingRequest:
    """What somebody asked: token ids, or texts of which VectorEngine makes these."""
    asked = [EmbeddingInput(" ".join(map(str, ids))) if in_words else EmbeddingInput(None, ids) for ids in inputs]
    return EmbeddingRequest(RequestId(bytes(32)), TINY, account(1), EXECUTOR, 5, EpochNumber(3), tuple(asked))


def given_as(given: VectorEvidence, request: bytes = b"") -> AuditEvidence:
    """Evidence of vectors that fits its receipt."""
    asked = request or to_bytes(request_for(given.inputs))
    evidence = vectors_of(
        given, asking=replace(ASKING, max_tokens=10**6, body=Hash32(keccak(asked))),
        vectors=len(given.inputs), prompt_tokens=sum(map(len, given.inputs)),
        prompt_commitment=inputs_commitment(given.inputs),
        output_commitment=vectors_commitment(given.dimensions, given.sketches),
    )  # fmt: skip
    return replace(evidence, request=asked)


@pytest.fixture
def vector_auditor(auditor: Auditor) -> Auditor:
    """One that serves an embedding model."""
    auditor.engine = VectorEngine()
    auditor.service._engines = [cast(Any, auditor.engine)]
    group = auditor.round.previous.group
    embedding = ("--runner", "pooling")
    group = replace(group, models=tuple(replace(model, model_args=embedding) for model in group.models))
    band = vector_band(replace(BAND, poc_distance_max=100_000))
    auditor.round = replace(
        auditor.round, previous=replace(auditor.round.previous, group=group), band_of=lambda *_: band
    )
    return auditor


async def test_honest_vectors_are_found_to_be_the_model_s_and_all_are_read_where_they_are_judged_again(
    vector_auditor: Auditor,
) -> None:
    (vote,) = await vector_auditor.votes_on(given_as(HONEST_VECTORS))
    assert (vote.verdict, vote.reason) == (Verdict.VALID, "")
    assert vote.figures.tokens == len(vector_auditor.engine.asked) == 40
    assert vote.figures.mismatches == 0


async def test_of_a_drawn_answer_some_inputs_are_read_by_the_seed_of_the_draw(vector_auditor: Auditor) -> None:
    evidence = given_as(HONEST_VECTORS)
    digest, row = receipt_digest(evidence.signed.receipt), booked_row(evidence.signed)
    vector_auditor.holders[digest] = evidence
    vote = await vector_auditor.service._vote_or_abstain(AuditTask(EXECUTOR, 1, digest, row), vector_auditor.round)
    assert vote.verdict is Verdict.VALID
    assert vote.figures.tokens == INPUTS_JUDGED_MAX
    places = judged_inputs(INPUTS, digest, vector_auditor.round.seed)
    assert vector_auditor.engine.asked == [INPUTS[place] for place in places]


async def test_of_an_answer_with_many_inputs_that_is_judged_again_some_more_are_read(vector_auditor: Auditor) -> None:
    vector_auditor.engine.vocabulary_size = 500
    inputs = tuple((number, 1) for number in range(INPUTS_JUDGED_AGAIN_MAX + 40))
    sketches = b"".join(sketch_of(vector(number)) for number, _ in inputs)
    evidence = given_as(VectorEvidence(inputs, DIMENSIONS, sketches))
    (vote,) = await vector_auditor.votes_on(evidence)
    assert (vote.verdict, vote.figures.tokens) == (Verdict.VALID, INPUTS_JUDGED_AGAIN_MAX)
    digest, seed = receipt_digest(evidence.signed.receipt), vector_auditor.round.seed
    places = judged_inputs(inputs, digest, seed, INPUTS_JUDGED_AGAIN_MAX)
    assert vector_auditor.engine.asked == [inputs[place] for place in places]


JUNK = random.Random(1).randbytes(SKETCH_BYTES * 40)
FIVE_MADE_UP = JUNK[: 5 * SKETCH_BYTES] + HONEST_VECTORS.sketches[5 * SKETCH_BYTES :]


@pytest.mark.parametrize(
    "given",
    [
        replace(HONEST_VECTORS, sketches=JUNK),
        replace(HONEST_VECTORS, sketches=bytes(SKETCH_BYTES * 40)),
        replace(HONEST_VECTORS, sketches=FIVE_MADE_UP),
        replace(HONEST_VECTORS, sketches=b"".join(sketch_of(vector(n, times=2)) for n in range(40))),
        replace(HONEST_VECTORS, dimensions=DIMENSIONS // 2),
    ],
    ids=["junk", "nothing", "five of forty", "another length", "other dimensions"],
)
async def test_vectors_that_are_not_the_model_s_are_proven_by_one_answer(
    vector_auditor: Auditor, given: VectorEvidence
) -> None:
    (vote,) = await vector_auditor.votes_on(given_as(given))
    assert (vote.verdict, vote.reason) == (Verdict.INVALID, "vectors")


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (evidence_of(), "not-the-receipt"),
        (given_as(replace(HONEST_VECTORS, inputs=((-1, 1), *INPUTS[1:])), REQUEST), "not-the-tokens"),
        (given_as(replace(HONEST_VECTORS, inputs=((VOCABULARY, 1), *INPUTS[1:]))), "not-the-tokens"),
        (given_as(replace(HONEST_VECTORS, inputs=((1,) * (TOKENS_MAX - 100), *INPUTS[1:]))), "not-the-tokens"),
    ],
)
async def test_what_no_embedding_model_was_asked_never_reaches_the_engine(
    vector_auditor: Auditor, evidence: AuditEvidence, reason: str
) -> None:
    (vote,) = await vector_auditor.votes_on(evidence)
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, reason)
    assert vector_auditor.engine.asked == []


async def test_true_vectors_of_other_inputs_than_were_asked_for_count_as_withheld(vector_auditor: Auditor) -> None:
    """Else one vector, made once, would do for everybody: whoever asks in words cannot tell which tokens were read."""
    asked = request_for(INPUTS, in_words=True)
    (vote,) = await vector_auditor.votes_on(given_as(HONEST_VECTORS, to_bytes(asked)))
    assert vote.verdict is Verdict.VALID
    others = replace(HONEST_VECTORS, inputs=(*INPUTS[1:], INPUTS[0]))
    for request in (to_bytes(asked), to_bytes(request_for(INPUTS)), to_bytes(request_for(INPUTS[1:])), b"no request"):
        vector_auditor.engine.asked.clear()
        (vote,) = await vector_auditor.votes_on(given_as(others, request))
        assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-tokens")
        assert vector_auditor.engine.asked == []


async def test_tokens_beside_vectors_that_are_not_the_model_s_save_nobody(vector_auditor: Auditor) -> None:
    evidence = given_as(replace(HONEST_VECTORS, sketches=JUNK))
    (vote,) = await vector_auditor.votes_on(replace(evidence, kept=evidence_of().kept))
    assert (vote.verdict, vote.reason) == (Verdict.INVALID, "vectors")


async def test_a_text_that_no_engine_takes_is_told(vector_auditor: Auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tokenize(text: str) -> tuple[int, ...]:
        raise EngineRefusedError(f"not {text}")

    monkeypatch.setattr(vector_auditor.engine, "tokenize", tokenize)
    (vote,) = await vector_auditor.votes_on(given_as(HONEST_VECTORS, to_bytes(request_for(INPUTS, in_words=True))))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-tokens")


async def test_vectors_of_a_model_that_makes_none_are_told(auditor: Auditor) -> None:
    (vote,) = await auditor.votes_on(given_as(HONEST_VECTORS))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-receipt")


async def test_an_engine_that_makes_no_vectors_blames_nobody(
    vector_auditor: Auditor, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def embed(_prompts: object, *, priority: int) -> list[bytes]:
        raise EngineFailedError(f"not at priority {priority}")

    monkeypatch.setattr(vector_auditor.engine, "embed", embed)
    (vote,) = await vector_auditor.votes_on(given_as(replace(HONEST_VECTORS, sketches=JUNK)))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "engine-failed")
