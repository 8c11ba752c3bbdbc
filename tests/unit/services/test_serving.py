"""The serving path: answers arrive, money is exact, and nobody is paid for what was not given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from netsim.clock import wall_clock
from netsim.engine import VOCABULARY_SIZE, SimulatedEngine
from netsim.scenario import MODEL, MODEL_ID
from node.ports import (
    Call,
    CallFailedError,
    Engine,
    EngineFailedError,
    GenerationChunk,
    GenerationRequest,
)
from node.protocol.asking import ANSWER_EPOCHS_MAX, CLOCK_EPOCHS_MAX, booked_under
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.identifiers import EpochNumber, Hash32, ModelId, RequestId, TokenAmount
from node.protocol.pricing import price, receipt_digest, tokens_commitment
from node.protocol.receipts import is_signed_by_executor, is_signed_by_payer
from node.protocol.records import SignedReceipt, Voucher
from node.protocol.sampling import SamplingParameters
from node.services.attempt import AnswerPart
from node.services.executor import CAUTIOUS_TOKENS_MAX
from node.services.frames import (
    METHOD,
    Closing,
    ExecutorFrame,
    InferenceRequest,
    Opening,
    Payment,
    Prompt,
    SignedRequest,
    SignedVoucherFrame,
    Tokens,
    Turn,
    asking_of,
    closing_bytes,
    opening_bytes,
    read_request,
    request_digest,
    tokens_bytes,
)
from node.services.gateway import Answer, ChatRequest, GatewayError
from node.services.receipting import receipt_of
from node.services.timing import position
from node.services.unreceived import ON_THE_WAY_TOKENS, Unreceived, UnreceivedBook
from node.services.vouchers import PaymentError
from node.store.books import Books
from node.store.database import Database
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

CHAT = ChatRequest(MODEL_ID, Prompt((Turn("user", "what is a quern"),)), max_tokens=50, seed=5)


async def ask(network: ServingNetwork, chat: ChatRequest = CHAT) -> tuple[Answer, list[int]]:
    async with network.gateway.ask(chat) as answer:
        parts: list[AnswerPart] = [part async for part in answer]
    await trio.sleep(5)  # the last voucher arrives
    return answer, [token for part in parts for token in part.token_ids]


class BreakingEngine(SimulatedEngine):
    """Fails after some chunks, once."""

    breaks_after = 5

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        async with super().generate(request) as chunks:
            yield self._cut(chunks)

    async def _cut(self, chunks: AsyncIterator[GenerationChunk]) -> AsyncIterator[GenerationChunk]:
        count = 0
        async for chunk in chunks:
            if count == self.breaks_after:
                raise EngineFailedError("the engine died")
            count += 1
            yield chunk


async def test_an_answer_costs_exactly_its_tokens_on_both_sides(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        answer, tokens = await ask(network)
        assert len(tokens) == 50
        assert answer.summary.finish_reason == "length"
        (executor,) = [n for n in (1, 2) if account(n) in answer.summary.executors]
        expected = UNIT * (answer.summary.prompt_tokens + 50)
        assert answer.summary.price == expected
        assert network.paid_by_gateway() == network.paid_to(executor) == expected
        (given,), (kept,) = (network.members[n].store.receipts(limit=9) for n in (executor, GATEWAY))
        assert given == kept
        assert given.receipt.price == expected
        assert is_signed_by_executor(given)
        assert is_signed_by_payer(given)
        assert unreceived(network) == []


class BurstyEngine(SimulatedEngine):
    """Gives an answer in one piece, as an engine does whose reader was slow for a moment."""

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        async with super().generate(request) as chunks:
            yield self._together(chunks)

    async def _together(self, chunks: AsyncIterator[GenerationChunk]) -> AsyncIterator[GenerationChunk]:
        parts = [chunk async for chunk in chunks]
        tokens = tuple(token for part in parts for token in part.token_ids)
        yield GenerationChunk(tokens, "".join(part.text for part in parts), parts[-1].finish_reason)


async def test_a_burst_of_more_tokens_than_the_allowance_is_let_out_as_it_is_paid_for(autojump_clock: object) -> None:
    async with serving_network(1) as reference, reference.gateway.ask(CHAT) as answer:
        text = "".join([part.text async for part in answer])

    def engine(number: int) -> Engine:
        return BurstyEngine(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        began = trio.current_time()
        async with network.gateway.ask(CHAT) as answer:
            parts = [part async for part in answer]
        assert trio.current_time() - began < 20  # nobody waited for a voucher that could not come
        assert "".join(part.text for part in parts) == text
        await trio.sleep(5)
        assert network.paid_to(1) == answer.summary.price == UNIT * (answer.summary.prompt_tokens + 50)


async def test_a_second_answer_adds_to_the_same_channel(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        first, _ = await ask(network)
        network.gateway._random_bytes = lambda count: b"\x07" * count
        second, _ = await ask(network)
        assert network.paid_to(1) == first.summary.price + second.summary.price
        assert network.members[1].store.receipt_totals() == (2, 100, network.paid_to(1))


async def test_vouchers_are_redeemed_for_exactly_what_was_signed(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        answer, _ = await ask(network)
        before = network.ledger.balance(account(1))
        await trio.sleep(PARAMETERS_SECONDS)
        assert network.ledger.balance(account(1)) - before == answer.summary.price


PARAMETERS_SECONDS = 130.0
"""A whole epoch of the simulated chain and a little more."""


async def test_another_executor_finishes_what_a_dying_one_began(autojump_clock: object) -> None:
    async with serving_network(2) as reference:
        answer, whole = await ask(reference)
        first = next(n for n in (1, 2) if account(n) in answer.summary.executors)

    def engine(number: int) -> Engine:
        if number == first:
            breaking = BreakingEngine(NODE, MODEL_ID, "honest", 0.0, number)
            breaking.breaks_after = 6  # while no voucher is on its way: that would be made good by the next answer
            return breaking
        return honest_engine(number)

    async with serving_network(2, engine=engine) as network:
        answer, tokens = await ask(network)
        second = 3 - first
        assert tokens == whole  # the same answer, as if nothing had happened
        assert answer.summary.executors == (account(first), account(second))
        assert answer.summary.price == network.paid_to(first) + network.paid_to(second) == network.paid_by_gateway()
        (unfinished,) = network.members[first].store.receipts(limit=9)
        assert unfinished.payer_signature == b""  # nobody ever has it: it is booked all the same
        assert unfinished.receipt.output_commitment == tokens_commitment(tokens[: unfinished.receipt.output_tokens])
        (receipt,) = network.members[second].store.receipts(limit=9)
        assert network.paid_to(second) == receipt.receipt.price
        # What the first gave beyond its newest voucher is its loss, and bounded by the allowance.
        given = UNIT * (answer.summary.prompt_tokens + 24)
        assert 0 <= given - network.paid_to(first) <= UNIT * UNPAID_TOKENS_MAX
        (asked,) = unreceived(network)
        assert (asked.executor, asked.asking) == (account(first), booked_under(unfinished.receipt))
        assert unfinished.receipt.output_tokens <= asked.tokens_max < 50 + 4 * UNPAID_TOKENS_MAX + ON_THE_WAY_TOKENS


def unreceived(network: ServingNetwork) -> list[Unreceived]:
    """What the gateway asked for and has no receipt of."""
    gateway = network.members[GATEWAY]
    found = UnreceivedBook(gateway.store).booked_in(position(gateway.chain).epoch)
    return [asked for those in found.values() for asked in those]


async def test_what_a_reader_left_is_booked_with_no_more_than_was_on_the_way(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
            async for _ in answer:
                break
        await trio.sleep(5)
        (asked,), (given,) = unreceived(network), network.members[1].store.receipts(limit=9)
        assert asked.asking == booked_under(given.receipt)
        assert 0 < given.receipt.output_tokens <= asked.tokens_max


async def test_what_is_private_is_not_written_down_for_no_draw_falls_on_it(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        async with network.gateway.ask(replace(CHAT, max_tokens=400, private=True)) as answer:
            async for _ in answer:
                break
        await trio.sleep(5)
        assert unreceived(network) == []


async def test_an_executor_that_never_says_the_end_cannot_keep_an_answer_open(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        member = network.members[1]

        async def handle(call: Call) -> None:
            await call.send(opening_bytes(Opening((1, 2, 3), UNPAID_TOKENS_MAX, None)))
            await call.send(tokens_bytes(Tokens(tuple(range(50)), "x", "")))
            await trio.sleep(1)
            raise CallFailedError("engine-failed", "so near the end")

        member.network._served.clear()
        member.network.serve(METHOD, handle, concurrency=4)
        answer, tokens = await ask(network)
        assert len(tokens) == 50
        assert answer.summary.finish_reason == "length"


async def test_a_reader_who_leaves_stops_the_answer_and_the_paying(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
            async for _ in answer:
                break
        await trio.sleep(5)
        assert network.paid_by_gateway() < UNIT * 200
        executor = network.members[1].executor
        assert executor is not None
        assert executor.running == 0


async def test_unknown_models_and_absent_executors_are_said(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        with pytest.raises(GatewayError, match="can be asked: simulated") as caught:
            await ask(network, replace(CHAT, model_id=ModelId("absent")))
        assert caught.value.code == "model-not-found"
        network.switchboard.leave(network.members[1].network.peer_id)
        await trio.sleep(120)
        with pytest.raises(GatewayError) as caught:
            await ask(network)
        assert caught.value.code == "no-executor"


async def test_a_prompt_that_does_not_fit_is_the_users_fault(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        chat = replace(CHAT, prompt=Prompt((Turn("user", "word " * (MODEL.context_length + 5)),)))
        with pytest.raises(GatewayError) as caught:
            await ask(network, chat)
        assert caught.value.code == "too-long"
        assert network.paid_by_gateway() == 0


async def test_a_conversation_too_large_for_the_wire_is_the_users_fault(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        with pytest.raises(GatewayError, match="bytes") as caught:
            await ask(network, replace(CHAT, prompt=Prompt((Turn("user", "x" * 300_000),))))
        assert caught.value.code == "too-long"


async def test_a_budget_that_is_spent_stops_deposits(autojump_clock: object) -> None:
    async with serving_network(1, budget=TokenAmount(1)) as network:
        with pytest.raises(GatewayError, match="budget") as caught:
            await ask(network)
        assert caught.value.code == "payment"


async def test_deposits_side_by_side_share_one_budget(autojump_clock: object) -> None:
    async with serving_network(2, budget=TokenAmount(DEPOSIT * 3 // 2)) as network:
        payer = network.members[GATEWAY].payer
        refused: list[PaymentError] = []

        async def reserve(number: int) -> None:
            try:
                await payer.reserve(account(number), TokenAmount(1000))
            except PaymentError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reserve, 1)
            nursery.start_soon(reserve, 2)
        assert len(refused) == 1
        assert sum(channel.deposited for channel in network.ledger.state.channels.values()) == DEPOSIT


async def test_a_payer_that_lost_its_books_goes_on_from_the_payees(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        first, _ = await ask(network)
        member = network.members[GATEWAY]
        lost = Books(Database(":memory:"), member.chain.account)
        member.payer._store = lost
        network.gateway._random_bytes = lambda count: b"\x07" * count
        second, _ = await ask(network)
        assert network.paid_to(1) == first.summary.price + second.summary.price
        assert sum(v.voucher.cumulative for v in lost.issued_vouchers()) == network.paid_to(1)


# --- hostile gateways ---


def request_to(executor: int, **changes: object) -> InferenceRequest:
    request = InferenceRequest(
        request_id=RequestId(b"\x01" * 32),
        model_id=MODEL_ID,
        payer=account(GATEWAY),
        executor=account(executor),
        at=wall_clock(),
        epoch=EpochNumber(0),
        prompt=Prompt((Turn("user", "hello"),)),
        prefix=(),
        max_tokens=200,
        sampling=SamplingParameters(),
        seed=1,
        stop=(),
        logprobs=None,
        response_format="",
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def asked_now(network: ServingNetwork, number: int) -> InferenceRequest:
    """A request of its own number, in the network's present epoch."""
    epoch = position(network.members[1].chain).epoch
    return request_to(1, request_id=RequestId(bytes([number]) * 32), epoch=epoch)


async def call_with(network: ServingNetwork, payload: bytes) -> list[ExecutorFrame]:
    """Call executor 1, never paying; return what it let out."""
    user, target = network.members[GATEWAY], network.members[1]
    frames: list[ExecutorFrame] = []
    async with user.network.call(target.network.peer_id, METHOD, payload, deadline_seconds=300) as call:
        while True:
            try:
                frames.append(from_bytes(ExecutorFrame, await call.receive()))
            except trio.EndOfChannel:
                return frames
            except CallFailedError as error:
                frames_error = CallFailedError(error.code, error.message)
                frames_error.frames = frames  # type: ignore[attr-defined]
                raise frames_error from error


def signed(network: ServingNetwork, request: InferenceRequest) -> bytes:
    return to_bytes(SignedRequest(request, network.members[GATEWAY].chain.sign(request_digest(request))))


async def open_channel(network: ServingNetwork, amount: int = DEPOSIT) -> None:
    """Fund the gateway's channel to executor 1, but sign nothing."""
    await network.members[GATEWAY].payer.reserve(account(1), TokenAmount(amount))


async def test_who_has_no_channel_gets_nothing(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        with pytest.raises(CallFailedError, match="unpaid: the channel has 0 left") as caught:
            await call_with(network, signed(network, request_to(1)))
        assert caught.value.frames == []  # type: ignore[attr-defined]


async def test_who_does_not_pay_gets_the_allowance_and_no_more(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await open_channel(network)
        with pytest.raises(CallFailedError) as caught:
            await call_with(network, signed(network, request_to(1)))
        assert caught.value.code == "unpaid"
        frames: list[ExecutorFrame] = caught.value.frames  # type: ignore[attr-defined]
        opening = frames[0].opening
        assert opening is not None
        given = len(opening.prompt_ids) + sum(len(f.tokens.token_ids) for f in frames if f.tokens is not None)
        assert given <= UNPAID_TOKENS_MAX
        executor = network.members[1].executor
        assert executor is not None
        assert executor.running == 0


async def test_who_left_much_unpaid_is_served_on_and_may_owe_next_to_nothing(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await open_channel(network)
        executor = network.members[1].executor
        assert executor is not None
        leavers = 0
        while not executor.payments.is_bad_debtor(account(GATEWAY), allowance=UNIT * UNPAID_TOKENS_MAX):
            leavers += 1
            with pytest.raises(CallFailedError, match="voucher"):
                await call_with(network, signed(network, asked_now(network, leavers)))
        assert leavers > 8
        with pytest.raises(CallFailedError) as caught:
            await call_with(network, signed(network, asked_now(network, 0)))
        frames: list[ExecutorFrame] = caught.value.frames  # type: ignore[attr-defined]
        assert sum(len(frame.tokens.token_ids) for frame in frames if frame.tokens is not None) <= CAUTIOUS_TOKENS_MAX
        answer, tokens = await ask(network)
        assert answer.summary.finish_reason
        assert len(tokens) == 50


@pytest.mark.parametrize(
    "spoil",
    [
        "not bytes of a request",
        "wrong payer",
        "wrong executor",
        "old",
        "other epoch",
        "unknown model",
        "huge",
        "bad prefix",
    ],
)
async def test_bad_requests_are_refused_with_a_word(autojump_clock: object, spoil: str) -> None:
    async with serving_network(1) as network:
        request = request_to(1)
        payload = {
            "not bytes of a request": lambda: b"\xc1nonsense",
            "wrong payer": lambda: signed(network, replace(request, payer=account(55))),
            "wrong executor": lambda: signed(network, replace(request, executor=account(2))),
            "old": lambda: signed(network, replace(request, at=request.at - 1000)),
            "other epoch": lambda: signed(network, replace(request, epoch=EpochNumber(CLOCK_EPOCHS_MAX + 1))),
            "unknown model": lambda: signed(network, replace(request, model_id=ModelId("absent"))),
            "huge": lambda: signed(network, replace(request, prompt=Prompt((Turn("user", "x" * 300_000),)))),
            "bad prefix": lambda: signed(network, replace(request, prefix=(VOCABULARY_SIZE,))),
        }[spoil]()
        with pytest.raises(CallFailedError) as caught:
            await call_with(network, payload)
        assert caught.value.code in ("bad-request", "unknown-model", "stale")


async def test_a_request_is_served_once(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await open_channel(network)
        payload = signed(network, request_to(1))
        with pytest.raises(CallFailedError, match="unpaid"):
            await call_with(network, payload)
        with pytest.raises(CallFailedError, match="served already"):
            await call_with(network, payload)


async def test_a_forged_voucher_ends_the_request(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        user, target = network.members[GATEWAY], network.members[1]
        await user.payer.reserve(account(1), TokenAmount(10**15))
        frame = user.payer.pay(account(1), 10**12)
        forged = SignedVoucherFrame(replace(frame.voucher, cumulative=TokenAmount(10**14)), frame.signature)
        payload = signed(network, request_to(1))
        with pytest.raises(CallFailedError) as caught:
            async with user.network.call(target.network.peer_id, METHOD, payload, deadline_seconds=300) as call:
                await call.send(to_bytes(Payment(forged, TokenAmount(10**12), b"")))
                while True:
                    await call.receive()
        assert caught.value.code == "unpaid"
        assert network.paid_to(1) == 0


# --- hostile executors ---


def lying_executor(network: ServingNetwork, number: int, lie: str) -> None:
    """Replace an executor's handler by one that answers one token and lies about it."""
    member = network.members[number]

    async def handle(call: Call) -> None:
        request = read_request(call.payload).request
        prompt = (1, 2, 3) if lie != "inflated prompt" else tuple(range(5000))
        forged = Voucher(Hash32(bytes(32)), TokenAmount(10**20), Hash32(bytes(32)))
        newest = SignedVoucherFrame(forged, bytes(65)) if lie == "forged voucher" else None
        await call.send(opening_bytes(Opening(prompt, UNPAID_TOKENS_MAX, newest)))
        tokens = (9,) if lie != "too many tokens" else tuple(range(60))
        await call.send(tokens_bytes(Tokens(tokens, "x", "stop")))
        honest = receipt_of(
            request, MODEL, prompt, tokens, member.chain.parameters.unit_price,
            epoch=member.epochs.group().epoch, node_id=NODE, at=wall_clock(), seed=request.seed, seeded_by_user=True,
            asking=asking_of(request),
        )  # fmt: skip
        late = EpochNumber(request.epoch + ANSWER_EPOCHS_MAX + 1)
        receipt = replace(
            honest,
            prompt_tokens=3,
            output_tokens=1 if lie != "more output" else 30,
            output_commitment=tokens_commitment(tokens if lie != "other tokens" else (8,)),
            draw_commitment=honest.draw_commitment if lie != "other draw" else Hash32(bytes(32)),
            is_verifiable=lie != "not verifiable",
            epoch=late if lie == "other epoch" else honest.epoch,
            at=honest.at + (10_000 if lie == "other time" else 0),
            asking={
                "no request": None,
                "other request": asking_of(replace(request, salt=bytes(16))),
            }.get(lie, honest.asking),
            price=TokenAmount(price(3, 1, MODEL, member.chain.parameters.unit_price) + (10**15) * (lie == "price")),
        )
        key = key_of(number if lie != "signature" else 77)
        from node.protocol.signatures import sign  # noqa: PLC0415 - only the liar needs it

        await call.send(closing_bytes(Closing(SignedReceipt(receipt, sign(key, receipt_digest(receipt))))))
        await trio.sleep(5)

    member.network._served.clear()
    member.network.serve(METHOD, handle, concurrency=4)


@pytest.mark.parametrize(
    "lie",
    [
        "price",
        "more output",
        "other tokens",
        "signature",
        "inflated prompt",
        "too many tokens",
        "forged voucher",
        "other draw",
        "not verifiable",
        "other time",
        "other epoch",
        "no request",
        "other request",
    ],
)
async def test_a_lying_executor_is_paid_for_nothing_it_only_claims(autojump_clock: object, lie: str) -> None:
    async with serving_network(1) as network:
        lying_executor(network, 1, lie)
        if lie in ("inflated prompt", "too many tokens", "forged voucher"):
            with pytest.raises(GatewayError) as caught:
                await ask(network)
            assert caught.value.code == "failed"
        else:
            await ask(network)  # complete by what came; the receipt is refused and nothing more is paid
        assert network.paid_by_gateway() <= UNIT * (3 + 1)
        assert network.members[GATEWAY].store.receipts(limit=9) == ()
