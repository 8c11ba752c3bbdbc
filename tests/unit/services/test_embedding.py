"""Vectors over the network: as the engine made them, paid exactly, and a liar gets nothing for nothing."""

import random
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from netsim.clock import wall_clock
from netsim.engine import DIMENSIONS, VOCABULARY_SIZE, SimulatedEngine
from netsim.scenario import MODEL, MODEL_ID
from node.ports import Call, CallFailedError, Engine, EngineFailedError
from node.protocol.asking import booked_under
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.dossiers import VectorEvidence
from node.protocol.identifiers import EpochNumber, ModelId, NodeId, RequestId, TokenAmount
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BookRow, booked_row, payer_bytes
from node.protocol.records import SignedReceipt
from node.protocol.signatures import sign
from node.protocol.sketches import SKETCH_BYTES, TOKENS_MAX, sketch_of, vectors_commitment
from node.protocol.verification import Outcome, verify_offline
from node.services.embedding import Embedder, floats_of, split_inputs
from node.services.embedding_executor import join_vectors, split_vectors
from node.services.embedding_frames import (
    METHOD,
    VECTORS_BYTES_MAX,
    EmbeddingFrame,
    EmbeddingInput,
    EmbeddingOpening,
    EmbeddingRequest,
    SignedEmbeddingRequest,
    Vectors,
    embedding_digest,
    embedding_opening_bytes,
    embedding_receipt_bytes,
    read_embedding_request,
    vectors_bytes,
)
from node.services.embedding_receipts import embedding_receipt_of
from node.services.faults import load_evidence
from node.services.gateway import GatewayError
from node.services.receipt_book import ReceiptBookKeeper
from node.services.terms import FreeMode
from node.services.timing import position
from node.services.unreceived import Unreceived, UnreceivedBook
from node.store.given_answers import GivenAnswerTables
from tests.builders import account, key_of
from tests.unit.services.serving_network import (
    DEPOSIT,
    GATEWAY,
    NODE,
    UNIT,
    UNPAID_TOKENS_MAX,
    ServingNetwork,
    honest_engine,
    serving_network,
)
from tests.unit.services.test_receipts import PrefillingEngine, only_dossier, operations_of, outcomes

SHORT = EmbeddingInput("what is a quern")
LONG = EmbeddingInput(" ".join(f"word{n}" for n in range(60)))
IDS = EmbeddingInput(token_ids=tuple(range(20)))


def embedder(network: ServingNetwork) -> Embedder:
    """The gateway's own, with request ids that differ."""
    vectors = network.gateway.vectors
    vectors._random_bytes = random.Random(7).randbytes
    return vectors


async def vectors_of(*inputs: EmbeddingInput) -> list[bytes]:
    engine = honest_engine(1)
    assert isinstance(engine, SimulatedEngine)
    return [engine._vector(item.token_ids or await engine.tokenize(item.text or "")) for item in inputs]


@pytest.mark.parametrize("inputs", [(SHORT,), (IDS,), (LONG,), (SHORT, LONG, IDS, SHORT)])
async def test_vectors_are_the_engines_and_cost_exactly_their_tokens(
    autojump_clock: object, inputs: tuple[EmbeddingInput, ...]
) -> None:
    async with serving_network(1) as network:
        found = await embedder(network).embed(MODEL_ID, inputs)
        assert list(found.vectors) == await vectors_of(*inputs)
        tokens = sum(len(item.token_ids or (item.text or "").split()) for item in inputs)
        assert found.prompt_tokens == tokens
        assert found.price == UNIT * tokens == network.paid_to(1) == network.paid_by_gateway()
        await trio.sleep(5)
        (given_receipt,), (kept,) = (network.members[n].store.receipts(limit=9) for n in (1, GATEWAY))
        assert given_receipt == kept
        assert (kept.receipt.prompt_tokens, kept.receipt.output_tokens) == (tokens, 0)
        assert kept.receipt.vectors == len(inputs)
        assert booked_row(kept) == BookRow(
            booked_under(kept.receipt), receipt_digest(kept.receipt), tokens, payer_bytes(account(GATEWAY))
        )
        assert kept.payer_signature
        assert unreceived(network) == []
        assert found.floats()[0] == list(struct.unpack(f"<{DIMENSIONS}f", found.vectors[0]))


async def test_without_room_for_evidence_no_vectors_are_given_but_private_ones(autojump_clock: object) -> None:
    """What is due is not forgotten for new ones: it would count as withheld."""
    async with serving_network(1) as network:
        member, vectors = network.members[1], embedder(network)
        assert member.executor is not None
        given = GivenAnswerTables(member.store.database, member.chain.account, vectors_bytes_max=1)
        member.executor.vectors._book = ReceiptBookKeeper(member.content, member.store, given)
        await vectors.embed(MODEL_ID, [SHORT])
        ((first,), own) = member.store.receipts(limit=9), await vectors_of(SHORT)
        with capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(GatewayError):
                    await vectors.embed(MODEL_ID, [SHORT])
        assert sum("vectors_kept_bytes_max" in entry["event"] for entry in logs) == 1
        assert len(member.store.receipts(limit=9)) == 1
        assert list((await vectors.embed(MODEL_ID, [SHORT], private=True)).vectors) == own
        assert given.kept(receipt_digest(first.receipt)) is not None
        given.forget([receipt_digest(first.receipt)])
        await trio.sleep(300)  # the gateway asks again whom it was sent away by
        assert list((await vectors.embed(MODEL_ID, [SHORT])).vectors) == own


async def test_a_small_request_is_paid_by_one_voucher(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        book, signed = network.members[GATEWAY].payer, []
        pay = book.pay
        book.pay = lambda *arguments: signed.append(arguments) or pay(*arguments)  # type: ignore[method-assign, func-returns-value]
        vectors = embedder(network)
        await vectors.embed(MODEL_ID, [SHORT])
        assert len(signed) == 1
        await vectors.embed(MODEL_ID, [LONG])
        assert len(signed) == 1 + 2
        assert signed[1][1] == UNIT * (60 - UNPAID_TOKENS_MAX)  # only what is beyond the allowance is paid ahead


async def test_a_large_request_takes_several_calls_and_keeps_its_order(autojump_clock: object) -> None:
    inputs = [EmbeddingInput(f"number {n} " + "x" * 300) for n in range(600)]
    async with serving_network(2) as network:
        found = await embedder(network).embed(MODEL_ID, inputs)
        assert list(found.vectors) == await vectors_of(*inputs)
        assert found.price == UNIT * 3 * 600 == network.paid_to(1) + network.paid_to(2)
        await trio.sleep(5)
        assert sum(len(network.members[n].store.receipts(limit=99)) for n in (1, 2)) == len(split_inputs(inputs)) > 4


async def test_a_free_network_charges_nothing(autojump_clock: object) -> None:
    async with serving_network(1, free={1: FreeMode()}) as network:
        found = await embedder(network).embed(MODEL_ID, [LONG])
        assert list(found.vectors) == await vectors_of(LONG)
        assert found.price == network.paid_by_gateway() == 0
        await trio.sleep(5)
        (receipt,) = network.members[1].store.receipts(limit=9)
        assert receipt.receipt.price == 0


class NoEmbedding(SimulatedEngine):
    """An engine that dies of it."""

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        raise EngineFailedError("it died")


async def test_another_executor_gives_what_one_cannot(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return NoEmbedding(NODE, MODEL_ID, "honest", 0.0, number) if number < 3 else honest_engine(number)

    async with serving_network(3, engine=engine) as network:
        found = await embedder(network).embed(MODEL_ID, [SHORT])
        assert list(found.vectors) == await vectors_of(SHORT)
        assert network.paid_by_gateway() == found.price == network.paid_to(3)
    async with serving_network(2, engine=engine) as network:
        with pytest.raises(GatewayError, match="engine-failed"):
            await embedder(network).embed(MODEL_ID, [SHORT])


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ([EmbeddingInput("word " * (MODEL.context_length + 1))], "too-long", "input 0 has"),
        ([EmbeddingInput("x" * 300_000)], "too-long", "bytes"),
        ([EmbeddingInput(token_ids=(VOCABULARY_SIZE,))], "bad-request", "end at"),
        ([], "bad-request", "inputs"),
    ],
)
async def test_what_cannot_be_read_is_the_users_fault(
    autojump_clock: object, inputs: list[EmbeddingInput], code: str, words: str
) -> None:
    async with serving_network(2) as network:
        with pytest.raises(GatewayError, match=words) as caught:
            await embedder(network).embed(MODEL_ID, inputs)
        assert caught.value.code == code
        assert network.paid_by_gateway() == 0


async def test_unknown_models_and_absent_executors_are_said(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        with pytest.raises(GatewayError, match="can be asked: simulated"):
            await embedder(network).embed(ModelId("absent"), [SHORT])
        network.switchboard.leave(network.members[1].network.peer_id)
        await trio.sleep(120)
        with pytest.raises(GatewayError) as caught:
            await embedder(network).embed(MODEL_ID, [SHORT])
        assert caught.value.code == "no-executor"


# --- hostile executors ---

HONEST = tuple(struct.pack("<4f", 1, 2, 3, n) for n in range(2))


def lying_executor(network: ServingNetwork, lie: str) -> None:
    """Replace executor 1 by one that answers vectors and lies about them."""
    member = network.members[1]

    async def handle(call: Call) -> None:
        request = read_embedding_request(call.payload).request
        token_ids: tuple[tuple[int, ...], ...] = ((1, 2, 3), request.inputs[1].token_ids)
        if lie == "inflated inputs":
            token_ids = (tuple(range(5000)), token_ids[1])
        if lie == "other tokens":
            token_ids = (token_ids[0], (7,) * 20)
        if lie == "fewer inputs":
            token_ids = token_ids[:1]
        unpaid = 0 if lie == "in advance" else UNPAID_TOKENS_MAX
        await call.send(embedding_opening_bytes(EmbeddingOpening(token_ids, unpaid, None)))
        data = b"".join(HONEST)
        if lie == "fewer vectors":
            data = HONEST[0]
        if lie == "more vectors":
            data *= 2
        if lie == "no numbers":
            data = HONEST[0] + struct.pack("<4f", 1, float("nan"), 3, 4)
        vectors = Vectors(4, data)
        await call.send(b"\xc1" if lie == "garbage" else vectors_bytes(vectors))
        if lie == "lengths":
            await call.send(vectors_bytes(Vectors(3, data[:12])))
        committed = HONEST[::-1] if lie == "other vectors" else HONEST
        dimensions = 5 if lie == "dimensions" else 4
        evidence = VectorEvidence(token_ids, dimensions, b"".join(map(sketch_of, committed)))
        receipt = embedding_receipt_of(
            request, MODEL, evidence,
            member.chain.parameters.unit_price, epoch=member.epochs.group().epoch, node_id=NODE, at=wall_clock(),
        )  # fmt: skip
        if lie == "no such node":
            receipt = replace(receipt, node_id=NodeId("made-up"))
        if lie == "price":
            receipt = replace(receipt, price=TokenAmount(receipt.price * 10))
        if lie == "epoch":
            receipt = replace(receipt, epoch=EpochNumber(receipt.epoch + 2))
        if lie == "output":
            receipt = replace(receipt, output_tokens=100)
        if lie == "out of the draw":
            receipt = replace(receipt, is_within_rule=False)
        if lie == "nobody asked":
            receipt = replace(receipt, asking=None)
        if lie == "one vector":
            receipt = replace(receipt, vectors=1)
        key = key_of(77 if lie == "signature" else 1)
        if lie != "no receipt":
            await call.send(embedding_receipt_bytes(SignedReceipt(receipt, sign(key, receipt_digest(receipt)))))
        await trio.sleep(5)

    member.network._served.pop(METHOD)
    member.network.serve(METHOD, handle, concurrency=4)


def unreceived(network: ServingNetwork) -> list[Unreceived]:
    """What the gateway asked for and has no receipt of."""
    gateway = network.members[GATEWAY]
    found = UnreceivedBook(gateway.store).booked_in(position(gateway.chain).epoch)
    return [asked for those in found.values() for asked in those]


@pytest.mark.parametrize(("private", "written"), [(False, [0]), (True, [])])
async def test_vectors_that_never_began_are_written_down_unless_no_draw_falls_on_them(
    autojump_clock: object, private: bool, written: list[int]
) -> None:
    async with serving_network(1) as network:
        asked = list[EmbeddingRequest]()

        async def handle(call: Call) -> None:
            asked.append(read_embedding_request(call.payload).request)
            raise CallFailedError("engine-failed", "it makes the rest up")

        member = network.members[1]
        member.network._served.pop(METHOD)
        member.network.serve(METHOD, handle, concurrency=4)
        with pytest.raises(GatewayError):
            await embedder(network).embed(MODEL_ID, [SHORT], private=private)
        assert [one.tokens_max for one in unreceived(network)] == written
        assert [one.asking for one in unreceived(network)] == [embedding_digest(one) for one in asked[: len(written)]]


IN_THE_RECEIPT = (
    "other vectors", "dimensions", "price", "epoch", "output", "signature", "out of the draw", "nobody asked",
    "one vector", "no such node",
)  # fmt: skip


@pytest.mark.parametrize(
    "lie",
    [
        "inflated inputs", "other tokens", "fewer inputs", "in advance", "fewer vectors", "more vectors", "garbage",
        "lengths", "no receipt", "no numbers", *IN_THE_RECEIPT,
    ],
)  # fmt: skip
async def test_a_liar_is_found_out_and_paid_no_more_than_what_is_paid_ahead(autojump_clock: object, lie: str) -> None:
    async with serving_network(1) as network:
        lying_executor(network, lie)
        code = "receipt" if lie in IN_THE_RECEIPT else "tokens" if lie == "no numbers" else "bad-answer"
        with pytest.raises(GatewayError, match=f"{code}:"):
            await embedder(network).embed(MODEL_ID, [SHORT, IDS])
        ahead = 0 if lie in ("inflated inputs", "other tokens", "fewer inputs", "in advance") else 23
        assert network.paid_by_gateway() == UNIT * max(0, ahead - UNPAID_TOKENS_MAX)
        member = network.members[GATEWAY]
        assert member.store.receipts(limit=9) == ()
        found = load_evidence(member.store, limit=9)
        assert [evidence.code for evidence in found] == ([] if code == "bad-answer" else [code])
        assert network.gateway.faults.is_faulty(account(1)) is bool(found)
        (asked,) = unreceived(network)
        assert (asked.executor, asked.tokens_max) == (account(1), ahead)  # what it may book, and no more
        if lie == "other vectors":
            (evidence,) = found
            assert evidence.output_commitment == vectors_commitment(4, b"".join(map(sketch_of, HONEST)))
            assert evidence.receipt is not None
            assert evidence.receipt.receipt.output_commitment != evidence.output_commitment


# --- what is kept for audits ---


@pytest.mark.parametrize("private", [False, True])
async def test_the_user_s_receipt_holds_and_of_private_vectors_neither_side_keeps_anything(
    autojump_clock: object, private: bool
) -> None:
    async with serving_network(1) as network:
        await embedder(network).embed(MODEL_ID, [SHORT, IDS], private=private)
        dossier = await only_dossier(operations_of(network, GATEWAY))
        assert dossier.signed.receipt.is_private is private
        assert booked_row(dossier.signed).output_tokens == (0 if private else 24)
        checks = {check.what: check.outcome for check in verify_offline(dossier)}
        assert Outcome.FAILS not in checks.values()
        assert checks["inputs"] is checks["vectors"] is (Outcome.UNCHECKED if private else Outcome.HOLDS)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"inputs": ((1, 2, 3, 4), IDS.token_ids)}, "inputs"),
        ({"inputs": ((1,), IDS.token_ids)}, "inputs"),
        ({"inputs": (IDS.token_ids,)}, "vectors"),
        ({"dimensions": 7}, "vectors"),
        ({"sketches": bytes(2 * SKETCH_BYTES)}, "vectors"),
        ({"sketches": b""}, "vectors"),
    ],
)
async def test_other_vectors_than_a_receipt_s_are_told_line_by_line(
    autojump_clock: object, changes: dict[str, object], what: str
) -> None:
    async with serving_network(1) as network:
        await embedder(network).embed(MODEL_ID, [SHORT, IDS])
        dossier = await only_dossier(operations_of(network, GATEWAY))
        assert dossier.vectors is not None
        other = replace(dossier, vectors=replace(dossier.vectors, **changes))  # type: ignore[arg-type]
        assert {check.what: check.outcome for check in verify_offline(other)}[what] is Outcome.FAILS


async def test_an_engine_of_one_s_own_tells_whether_vectors_are_the_model_s(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return SimulatedEngine(NODE, MODEL_ID, "honest" if number == 1 else "another", 0.0, number)

    async with serving_network(2, engine=engine) as network:
        own = PrefillingEngine(NODE, MODEL_ID, "honest", 0.0, 9)
        operations, vectors, found = operations_of(network, GATEWAY, own), embedder(network), {}
        for _ in range(20):
            await vectors.embed(MODEL_ID, [EmbeddingInput(f"text {number}") for number in range(6)])
            dossier = await only_dossier(operations)
            found[dossier.signed.receipt.executor] = (await outcomes(operations, dossier, NODE))["vectors"]
        assert found == {account(1): "holds", account(2): "fails"}
        assert (await outcomes(operations, replace(dossier, vectors=None), NODE))["vectors"] == "not checked"
        own.model_id = ModelId("another")
        assert (await outcomes(operations, dossier, NODE))["vectors"] == "not checked"


async def test_what_was_given_and_never_paid_for_is_booked_all_the_same(autojump_clock: object) -> None:
    """Who takes the vectors and goes would choose what is audited else."""
    async with serving_network(1) as network:
        await network.members[GATEWAY].payer.reserve(account(1), TokenAmount(DEPOSIT))
        frames = await call_with(network, request_to(1, inputs=(SHORT,)))
        assert [frame.vectors is not None for frame in frames] == [False, True, False]
        (kept,) = network.members[1].store.receipts(limit=9)
        assert kept.payer_signature == b""
        assert booked_row(kept).payer == payer_bytes(account(GATEWAY))


class NoNumbers(SimulatedEngine):
    """An engine that overflows."""

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        return [struct.pack("<4f", 1, float("nan"), 3, 4) for _ in prompts]


async def test_vectors_that_are_no_numbers_are_given_to_nobody(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return NoNumbers(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        with pytest.raises(GatewayError, match="engine-failed"):
            await embedder(network).embed(MODEL_ID, [SHORT])
        assert network.members[1].store.receipts(limit=9) == ()
        assert network.paid_by_gateway() == 0


# --- hostile gateways ---


def request_to(number: int, /, **changes: object) -> EmbeddingRequest:
    request = EmbeddingRequest(
        request_id=RequestId(b"\x01" * 32), model_id=MODEL_ID, payer=account(GATEWAY), executor=account(number),
        at=wall_clock(), epoch=EpochNumber(0), inputs=(LONG,),
    )  # fmt: skip
    return replace(request, **changes)  # type: ignore[arg-type]


async def call_with(network: ServingNetwork, request: EmbeddingRequest) -> list[EmbeddingFrame]:
    """Call executor 1, never paying; return what it let out before it failed."""
    user, target = network.members[GATEWAY], network.members[1]
    payload = to_bytes(SignedEmbeddingRequest(request, user.chain.sign(embedding_digest(request))))
    frames: list[EmbeddingFrame] = []
    async with user.network.call(target.network.peer_id, METHOD, payload, deadline_seconds=300) as call:
        while True:
            try:
                frames.append(from_bytes(EmbeddingFrame, await call.receive()))
            except CallFailedError as error:
                assert error.code == "unpaid"
                return frames


async def test_who_does_not_pay_gets_no_more_than_the_allowance(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        assert await call_with(network, request_to(1)) == []  # no channel
        await network.members[GATEWAY].payer.reserve(account(1), TokenAmount(DEPOSIT))
        frames = await call_with(network, request_to(1, request_id=RequestId(b"\x02" * 32)))
        assert [frame.opening is not None for frame in frames] == [True]  # 60 tokens are more than the allowance
        frames = await call_with(network, request_to(1, request_id=RequestId(b"\x03" * 32), inputs=(SHORT,)))
        assert [frame.vectors is not None for frame in frames] == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"payer": account(55)}, "bad-request"),
        ({"executor": account(2)}, "bad-request"),
        ({"at": 5}, "stale"),
        ({"epoch": EpochNumber(9)}, "stale"),
        ({"model_id": ModelId("absent")}, "unknown-model"),
        ({"free": True}, "terms"),
    ],
)
async def test_bad_requests_are_refused_with_a_word(
    autojump_clock: object, changes: dict[str, object], code: str
) -> None:
    async with serving_network(1) as network:
        user = network.members[GATEWAY]
        request = request_to(1, **changes)
        payload = to_bytes(SignedEmbeddingRequest(request, user.chain.sign(embedding_digest(request))))
        with pytest.raises(CallFailedError) as caught:
            async with user.network.call(
                network.members[1].network.peer_id, METHOD, payload, deadline_seconds=9
            ) as call:
                await call.receive()
        assert caught.value.code == code


# --- records ---

inputs_strategy = st.one_of(
    st.text(min_size=1, max_size=3000).map(EmbeddingInput),
    st.lists(st.integers(0, 9), min_size=1, max_size=3000).map(lambda ids: EmbeddingInput(token_ids=tuple(ids))),
)


@given(st.lists(inputs_strategy, max_size=40))
def test_inputs_are_split_into_calls_that_take_them(inputs: list[EmbeddingInput]) -> None:
    batches = split_inputs(inputs)
    assert [item for batch in batches for item in batch] == inputs
    assert all(sum(item.weight + 8 for item in batch) <= TOKENS_MAX for batch in batches)


@given(st.integers(1, 3000), st.integers(1, 40))
def test_vectors_are_split_into_frames_and_come_together_again(dimensions: int, count: int) -> None:
    vectors = join_vectors([bytes([number]) * 4 * dimensions for number in range(count)])
    parts = split_vectors(vectors)
    assert b"".join(part.data for part in parts) == vectors.data
    assert all(len(part.data) <= VECTORS_BYTES_MAX and part.dimensions == dimensions for part in parts)
    assert from_bytes(EmbeddingFrame, vectors_bytes(parts[0])).vectors == parts[0]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_numbers_survive(numbers: list[float]) -> None:
    assert floats_of(struct.pack(f"<{len(numbers)}f", *numbers)) == numbers


@pytest.mark.parametrize("vectors", [[], [b""], [b"abc"], [b"abcd", b"abcdefgh"], [bytes(4 * 20_000)]])
def test_an_engines_malformed_vectors_are_its_failure(vectors: list[bytes]) -> None:
    with pytest.raises(EngineFailedError):
        join_vectors(vectors)


@pytest.mark.parametrize("loaded", [None, MODEL_ID])
async def test_another_own_engine_steps_in_and_the_receipt_names_it(
    autojump_clock: object, loaded: ModelId | None
) -> None:
    def engines(number: int) -> list[Engine]:
        broken = NoEmbedding(NodeId("node-0"), loaded, "honest", 0.0, number)
        return [broken, SimulatedEngine(NodeId("node-7"), MODEL_ID, "honest", 0.0, number)]

    async with serving_network(1, engine=engines) as network:
        await embedder(network).embed(MODEL_ID, [SHORT])
        await trio.sleep(5)
        (receipt,) = network.members[1].store.receipts(limit=9)
        assert receipt.receipt.node_id == "node-7"
