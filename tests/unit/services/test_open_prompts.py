"""Open prompts over the simulated network: one executor works, one is paid, whatever the others try."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio

from netsim.clock import wall_clock
from netsim.engine import SimulatedEngine
from netsim.network import NETWORK_ID
from netsim.scenario import MODEL, MODEL_ID, PARAMETERS
from node.control.jsonrpc import RpcError
from node.control.prompt_methods import PromptReclaimParams, PromptShowParams
from node.operations.prompts import DeskPromptOperations
from node.ports import CallFailedError, Engine, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Address, Cid, EpochNumber, ModelId, NodeId, RequestId, TokenAmount
from node.protocol.messages import MessageBody, seal
from node.protocol.open_prompts import (
    ARRIVAL_SECONDS_MAX,
    OpenAnswer,
    OpenPrompt,
    Posted,
    default_turn_seconds,
    draw_order,
)
from node.protocol.pricing import receipt_digest
from node.protocol.receipts import is_signed_by_executor, is_signed_by_payer
from node.protocol.records import SignedReceipt
from node.protocol.sampling import SamplingParameters
from node.services.faults import load_evidence
from node.services.frames import Payment, Prompt, SignedVoucherFrame, Turn
from node.services.open_answering import OpenAnswering
from node.services.open_asking import Decision, OpenAskError, OpenResult
from node.services.open_board import WAITING_PER_PAYER_MAX
from node.services.open_debts import FORGIVEN_SECONDS, OpenDebts
from node.services.open_frames import SETTLE_METHOD, SettleOpen
from node.services.open_receipts import open_receipt
from node.services.prompt_asks import AskMode, AskState, PromptAsk
from node.services.prompt_content import AnswerContent, PromptContent, answer_bytes, prompt_bytes
from node.services.prompt_desk import DeskError, PromptDesk, PromptWish
from tests.builders import SOME_CID
from tests.unit.services.serving_network import GATEWAY, NODE, UNIT, Member, ServingNetwork, serving_network

TOKENS = 24
LIMIT = TokenAmount(TOKENS * UNIT)
WISH = PromptWish(AskMode.OPEN, MODEL_ID, Prompt((Turn("user", "who will answer me"),)), max_tokens=TOKENS)


def prompt_content(**changes: object) -> PromptContent:
    fields: dict[str, object] = {
        "model_id": MODEL_ID,
        "prompt": WISH.prompt,
        "max_output_tokens": 0,
        "sampling": SamplingParameters(),
        "seed": None,
        "stop": (),
        "response_format": "",
        "salt": bytes(16),
    }
    return PromptContent(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Work:
    """Which executors' engines were used."""

    numbers: list[int] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)

    def engine(self, number: int) -> Engine:
        work = self

        class Counting(SimulatedEngine):
            @asynccontextmanager
            async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
                work.numbers.append(number)
                if number in work.dead:
                    raise EngineFailedError("dead")
                async with super().generate(request) as chunks:
                    yield chunks

        return Counting(NODE, MODEL_ID, "honest", 0.0, number)


def number_of(network: ServingNetwork, account: Address) -> int:
    return next(number for number, member in network.members.items() if member.chain.account == account)


def paid(network: ServingNetwork) -> dict[int, int]:
    """What each executor holds vouchers for."""
    return {
        number: network.paid_to(number) for number in network.members if number != GATEWAY and network.paid_to(number)
    }


async def ask(network: ServingNetwork, content: PromptContent | None = None, *, private: bool = False) -> OpenResult:
    asking = network.members[GATEWAY].asking
    assert asking is not None
    return await asking.ask(
        content or prompt_content(), max_tokens=TOKENS, private=private,
        posted=lambda cid: None, decided=lambda decision: None,
    )  # fmt: skip


async def post(network: ServingNetwork, request_id: RequestId | None = None, **changes: object) -> Posted:
    """Post a prompt as a payer would who does not use our asking service; the channels are funded."""
    user = network.members[GATEWAY]
    request_id = request_id or RequestId(b"\x05" * 32)
    group = user.epochs.group()
    drawn = draw_order(request_id, group, MODEL_ID)
    for executor in drawn:
        await user.payer.reserve(executor, LIMIT)
    cid = await user.content.add_bytes(prompt_bytes(prompt_content()))
    fields: dict[str, object] = {
        "request_id": request_id,
        "epoch": group.epoch,
        "model_id": MODEL_ID,
        "prompt_cid": cid,
        "max_tokens": TOKENS,
        "price_limit": LIMIT,
        "drawn": drawn,
        "turn_seconds": default_turn_seconds(TOKENS),
        "reply_key": b"",
    }
    prompt = OpenPrompt(**{**fields, **changes})  # type: ignore[arg-type]
    posted = Posted(user.chain.account, wall_clock(), prompt)
    await user.network.publish(prompt, urgent=True)
    await inject(network, user, prompt)
    return posted


def forged(member: Member, posted: Posted, answer: AnswerContent, cid: Cid, **changes: object) -> OpenAnswer:
    """An answer that `member` makes by hand, with a receipt that is right for `answer`."""
    receipt = open_receipt(
        posted, prompt_content(), answer, MODEL, PARAMETERS.unit_price,
        executor=member.chain.account, node_id=NODE, at=wall_clock(),
    )  # fmt: skip
    receipt = replace(receipt, **changes)  # type: ignore[arg-type]
    return OpenAnswer(cid, SignedReceipt(receipt, member.chain.sign(receipt_digest(receipt))))


async def inject(network: ServingNetwork, member: Member, body: MessageBody, at: int | None = None) -> None:
    """Say something to all others without asking one's own node whether it is right."""
    topic, data = seal(NETWORK_ID, member.chain.account, at or wall_clock(), body, member.chain.sign)
    for other in network.members.values():
        if other is not member:
            other.network.accept(member.network.peer_id, topic, data)
    await trio.lowlevel.checkpoint()


ANSWER = AnswerContent((1, 2, 3), (4, 5), " four five", "length")


# --- the usual way ----------------------------------------------------------------------------------------------------


async def test_one_executor_works_and_it_alone_is_paid_exactly_its_price(autojump_clock: object) -> None:
    work = Work()
    async with serving_network(4, engine=work.engine) as network:
        result = await ask(network)
        await trio.sleep(300)
        executor = number_of(network, result.decision.executor)
        assert work.numbers == [executor]
        receipt = result.decision.receipt.receipt
        assert result.settled
        assert paid(network) == {executor: receipt.price}
        assert len(result.content.token_ids) == receipt.output_tokens > 0
        for holder in (executor, GATEWAY):
            (kept,) = network.members[holder].store.receipts(limit=10)
            assert kept.receipt == receipt
            assert is_signed_by_executor(kept)
            assert is_signed_by_payer(kept)


async def test_prompts_asked_side_by_side_are_each_paid_once(autojump_clock: object) -> None:
    async with serving_network(3) as network:
        results: list[OpenResult] = []

        async def one(number: int) -> None:
            results.append(await ask(network, prompt_content(seed=number)))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        assert sum(paid(network).values()) == sum(result.decision.receipt.receipt.price for result in results)
        assert len({result.decision.receipt.receipt.request_id for result in results}) == 20
        assert all(result.settled for result in results)


async def test_payments_of_streams_over_the_same_channel_do_not_mix_with_those_of_open_prompts(
    autojump_clock: object,
) -> None:
    from tests.unit.services.test_serving import ask as ask_gateway  # noqa: PLC0415 - the other file's helper

    async with serving_network(1) as network:
        streamed: list[int] = []

        async def stream() -> None:
            answer, _ = await ask_gateway(network)
            streamed.append(answer.summary.price)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream)
            result = await ask(network)
        assert result.settled
        assert paid(network) == {1: streamed[0] + result.decision.receipt.receipt.price}


async def test_when_the_first_fails_the_next_answers_in_its_turn_and_the_third_does_nothing(
    autojump_clock: object,
) -> None:
    work = Work()
    async with serving_network(3, engine=work.engine) as network:
        request_id = RequestId(b"\x09" * 32)
        order = [
            number_of(network, account)
            for account in draw_order(request_id, network.members[GATEWAY].epochs.group(), MODEL_ID)
        ]
        work.dead.add(order[0])
        asking = network.members[GATEWAY].asking
        assert asking is not None
        asking._parts.random_bytes = lambda count: b"\x09" * count
        began = trio.current_time()
        result = await ask(network)
        assert number_of(network, result.decision.executor) == order[1]
        assert work.numbers == order[:2]
        turn = default_turn_seconds(TOKENS)
        assert turn <= trio.current_time() - began <= 2 * turn
        assert list(paid(network)) == [order[1]]


async def test_nobody_answers_and_nothing_is_paid(autojump_clock: object) -> None:
    work = Work(dead={1, 2})
    async with serving_network(2, engine=work.engine) as network:
        with pytest.raises(OpenAskError, match="nothing was paid"):
            await ask(network)
        assert not paid(network)
        assert network.members[GATEWAY].payer._reserved in ({}, {member.chain.account: 0 for member in _ex(network)})


def _ex(network: ServingNetwork) -> list[Member]:
    return [member for number, member in network.members.items() if number != GATEWAY]


# --- hostile executors ------------------------------------------------------------------------------------------------


async def in_order(network: ServingNetwork, posted: Posted) -> list[Member]:
    return [network.members[number_of(network, account)] for account in posted.prompt.drawn]


@asynccontextmanager
async def waiting_payer(network: ServingNetwork, results: list[OpenResult]) -> AsyncIterator[Posted]:
    """A payer that waits for its answer while all executors' engines are stopped; yields what it posted."""
    board = network.members[GATEWAY].board
    assert board is not None
    found: list[Posted] = []
    board.on_posted(lambda entry: found.append(entry.posted))

    async def wait() -> None:
        results.append(await ask(network))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        with trio.fail_after(60):
            while not found:
                await trio.sleep(0.1)
        await trio.sleep(1)  # virtual: the others have it too
        yield found[0]


async def test_an_answer_out_of_turn_is_passed_over_and_the_one_in_turn_is_paid(autojump_clock: object) -> None:
    work = Work(dead={1, 2, 3})
    async with serving_network(3, engine=work.engine) as network:
        results: list[OpenResult] = []
        async with waiting_payer(network, results) as posted:
            first, thief, _ = await in_order(network, posted)
            stolen = await thief.content.add_bytes(answer_bytes(ANSWER))
            await inject(network, thief, forged(thief, posted, ANSWER, stolen))
            await trio.sleep(3)
            assert not results
            cid = await first.content.add_bytes(answer_bytes(ANSWER))
            await inject(network, first, forged(first, posted, ANSWER, cid))
        assert results[0].decision.executor == first.chain.account
        assert thief.number not in paid(network)


async def test_an_answer_whose_content_nobody_has_is_not_paid_and_the_next_executor_answers(
    autojump_clock: object,
) -> None:
    work = Work()
    async with serving_network(3, engine=work.engine) as network:
        request_id = RequestId(b"\x09" * 32)
        group = network.members[GATEWAY].epochs.group()
        cheat = network.members[number_of(network, draw_order(request_id, group, MODEL_ID)[0])]
        work.dead.add(cheat.number)
        asking = network.members[GATEWAY].asking
        assert asking is not None
        asking._parts.random_bytes = lambda count: b"\x09" * count
        results: list[OpenResult] = []
        async with waiting_payer(network, results) as posted:
            await inject(network, cheat, forged(cheat, posted, ANSWER, SOME_CID))
        assert results[0].decision.executor == posted.prompt.drawn[1]
        assert cheat.number not in paid(network)
        assert sorted(paid(network)) == [number_of(network, posted.prompt.drawn[1])]
        (evidence,) = load_evidence(network.members[GATEWAY].store, limit=5)
        assert (evidence.participant, evidence.code) == (cheat.chain.account, "lost")


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_tokens": 4, "price": TokenAmount(6 * UNIT)},
        {"output_commitment": bytes(32)},
        {"node_id": NodeId("made-up")},
    ],
    ids=["more-tokens", "other-tokens", "no-such-node"],
)
async def test_an_answer_that_is_not_what_its_receipt_says_is_not_paid(
    changes: dict[str, object], autojump_clock: object
) -> None:
    work = Work(dead={1})
    async with serving_network(1, engine=work.engine) as network:
        results: list[OpenResult] = []
        with pytest.RaisesGroup(OpenAskError, flatten_subgroups=True, allow_unwrapped=True):
            async with waiting_payer(network, results) as posted:
                (cheat,) = await in_order(network, posted)
                cid = await cheat.content.add_bytes(answer_bytes(ANSWER))
                await inject(network, cheat, forged(cheat, posted, ANSWER, cid, **changes))
        assert not paid(network)
        (evidence,) = load_evidence(network.members[GATEWAY].store, limit=5)
        assert (evidence.participant, evidence.code) == (cheat.chain.account, "receipt")
        assert evidence.receipt is not None


async def test_a_prompt_charged_with_more_tokens_than_it_can_have_is_not_paid(autojump_clock: object) -> None:
    padded = AnswerContent(tuple(range(200)), (4, 5), " four five", "length")
    work = Work(dead={1})
    async with serving_network(1, engine=work.engine) as network:
        member = network.members[GATEWAY]
        assert member.asking is not None
        small = prompt_content(prompt=Prompt(text="hi"))
        results: list[OpenResult] = []
        asking = member.asking

        async def wait() -> None:
            results.append(
                await asking.ask(
                    small, max_tokens=300, private=False, posted=lambda cid: None, decided=lambda decision: None
                )
            )

        board = member.board
        assert board is not None
        with pytest.RaisesGroup(OpenAskError, flatten_subgroups=True, allow_unwrapped=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                with trio.fail_after(60):
                    while not len(board):
                        await trio.sleep(0.1)
                await trio.sleep(1)
                (entry,) = board._entries.values()
                cheat = network.members[1]
                cid = await cheat.content.add_bytes(answer_bytes(padded))
                receipt = open_receipt(
                    entry.posted, small, padded, MODEL, PARAMETERS.unit_price,
                    executor=cheat.chain.account, node_id=NODE, at=wall_clock(),
                )  # fmt: skip
                signed = SignedReceipt(receipt, cheat.chain.sign(receipt_digest(receipt)))
                await inject(network, cheat, OpenAnswer(cid, signed))
        assert not paid(network)


async def test_a_second_answer_of_the_same_executor_is_not_passed_on(autojump_clock: object) -> None:
    work = Work(dead={1, 2})
    async with serving_network(2, engine=work.engine) as network:
        results: list[OpenResult] = []
        async with waiting_payer(network, results) as posted:
            first, second = await in_order(network, posted)
            longer = AnswerContent((1, 2, 3), (4, 5, 6), " four five six", "length")
            for answer in (ANSWER, longer):
                cid = await first.content.add_bytes(answer_bytes(answer))
                await inject(network, first, forged(first, posted, answer, cid))
        await trio.sleep(60)
        assert results[0].content == ANSWER
        for member in (network.members[GATEWAY], second):
            assert member.board is not None
            entry = member.board.entry(posted.prompt.request_id)
            assert entry is not None
            assert list(entry.answers) == [first.chain.account]
        assert network.paid_by_gateway() == results[0].decision.receipt.receipt.price


async def test_answers_dated_back_or_forth_are_not_counted(autojump_clock: object) -> None:
    work = Work(dead={1, 2})
    async with serving_network(2, engine=work.engine) as network:
        posted = await post(network)
        first, second = await in_order(network, posted)
        cid = await second.content.add_bytes(answer_bytes(ANSWER))
        await trio.sleep(1)
        await inject(network, second, forged(second, posted, ANSWER, cid), posted.at + posted.prompt.turn_seconds + 1)
        await trio.sleep(posted.prompt.turn_seconds + ARRIVAL_SECONDS_MAX + 2)
        cid = await first.content.add_bytes(answer_bytes(ANSWER))
        await inject(network, first, forged(first, posted, ANSWER, cid), posted.at + posted.prompt.turn_seconds - 1)
        await trio.sleep(2)
        board = network.members[GATEWAY].board
        assert board is not None
        entry = board.entry(posted.prompt.request_id)
        assert entry is not None
        assert not entry.answers


# --- hostile payers ---------------------------------------------------------------------------------------------------


async def test_a_payer_that_never_pays_gets_no_second_answer_until_it_does(autojump_clock: object) -> None:
    work = Work()
    async with serving_network(1, engine=work.engine) as network:
        user, executor = network.members[GATEWAY], network.members[1]
        posted = await post(network)
        await trio.sleep(60)
        await post(network, RequestId(b"\x06" * 32))
        await trio.sleep(60)
        assert work.numbers == [1]
        assert user.board is not None
        entry = user.board.entry(posted.prompt.request_id)
        assert entry is not None
        answered = entry.answers[executor.chain.account]
        # What its executor signed is in its next book, though its payer signs later: else that could prove an omission.
        assert executor.store.receipts(limit=9) == (answered.answer.receipt,)
        decision = Decision(
            executor.chain.account, executor.network.peer_id, answered.answer.result_cid, answered.answer.receipt,
            TokenAmount(0),
        )  # fmt: skip
        assert user.asking is not None
        assert await user.asking.settle(decision)
        (settled,) = executor.store.receipts(limit=9)
        assert is_signed_by_payer(settled)
        await post(network, RequestId(b"\x07" * 32))
        await trio.sleep(60)
        assert work.numbers == [1, 1]


async def test_a_payer_that_never_pays_gets_no_second_answer_by_asking_at_once(autojump_clock: object) -> None:
    work = Work()
    async with serving_network(1, engine=work.engine) as network:
        for number in range(4):
            await post(network, RequestId(bytes([number + 1]) * 32))
        await trio.sleep(120)
        assert work.numbers == [1]


async def test_what_is_owed_outlives_a_restart_and_is_forgiven_after_a_day(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        posted = await post(network)
        await trio.sleep(60)
        now = wall_clock()
        store = network.members[1].store
        assert OpenDebts(store, lambda: now).refusal(posted.payer) is not None
        assert OpenDebts(store, lambda: now + FORGIVEN_SECONDS + 60).refusal(posted.payer) is None


async def test_nobody_works_for_a_payer_whose_channel_does_not_hold_the_price(autojump_clock: object) -> None:
    work = Work()
    async with serving_network(2, engine=work.engine) as network:
        await post(network, price_limit=TokenAmount(10**30))
        await trio.sleep(120)
        assert not work.numbers


async def settlement_of(network: ServingNetwork, posted: Posted) -> tuple[Member, Payment, int]:
    """The right payment for the first executor's answer, not sent yet, and its price."""
    user = network.members[GATEWAY]
    first = network.members[number_of(network, posted.prompt.drawn[0])]
    assert user.board is not None
    entry = user.board.entry(posted.prompt.request_id)
    assert entry is not None
    receipt = entry.answers[first.chain.account].answer.receipt.receipt
    frame = user.payer.pay(first.chain.account, receipt.price)
    return first, Payment(frame, receipt.price, user.chain.sign(receipt_digest(receipt))), receipt.price


async def settle(network: ServingNetwork, executor: Member, request_id: RequestId, payment: Payment) -> str:
    """Send a payment; return the failure's word, or nothing."""
    try:
        async with network.members[GATEWAY].network.call(
            executor.network.peer_id, SETTLE_METHOD, to_bytes(SettleOpen(request_id, payment)), deadline_seconds=30
        ) as call:
            await call.receive()
    except trio.EndOfChannel:
        return ""
    except CallFailedError as error:
        return error.code
    raise AssertionError("it says nothing but its end")


async def test_only_the_right_payment_settles_an_answer_and_sending_it_twice_harms_nobody(
    autojump_clock: object,
) -> None:
    async with serving_network(1) as network:
        posted = await post(network)
        await trio.sleep(30)
        request_id = posted.prompt.request_id
        executor, right, cost = await settlement_of(network, posted)
        assert right.voucher is not None
        less = replace(right.voucher.voucher, cumulative=TokenAmount(cost - 1))
        wrong = (
            (replace(right, receipt_signature=b""), "unpaid"),
            (replace(right, receipt_signature=executor.chain.sign(receipt_digest(
                executor.answering._debts.get(request_id).receipt.receipt))), "unpaid"),  # type: ignore[union-attr]
            (replace(right, paid=TokenAmount(cost - 1)), "unpaid"),
            (replace(right, voucher=SignedVoucherFrame(less, right.voucher.signature)), "unpaid"),
            (replace(right, paid=TokenAmount(cost + 1)), "unpaid"),
        )  # fmt: skip
        for payment, word in wrong:
            assert await settle(network, executor, request_id, payment) == word
            assert executor.answering is not None
            assert executor.answering._debts.get(request_id) is not None
        assert await settle(network, executor, RequestId(bytes(32)), right) == "unknown-answer"
        assert await settle(network, executor, request_id, right) == ""
        assert await settle(network, executor, request_id, right) == ""
        assert network.paid_to(1) == cost
        with pytest.raises(CallFailedError, match="bad-request"):
            async with network.members[GATEWAY].network.call(
                executor.network.peer_id, SETTLE_METHOD, b"\xc1", deadline_seconds=30
            ) as call:
                await call.receive()


async def test_prompts_that_break_the_rules_are_not_put_on_any_board(autojump_clock: object) -> None:
    async with serving_network(3) as network:
        boards = [member.board for member in network.members.values()]
        group = network.members[GATEWAY].epochs.group()
        order = draw_order(RequestId(b"\x05" * 32), group, MODEL_ID)
        wrong: list[dict[str, object]] = [
            {"drawn": order[::-1]},
            {"drawn": (network.members[GATEWAY].chain.account,)},
            {"epoch": EpochNumber(group.epoch + 1)},
            {"model_id": ModelId("another")},
            {"prompt_cid": Cid("no cid")},
        ]
        for changes in wrong:
            await post(network, **changes)
            await trio.sleep(3)
            assert not any(len(board) for board in boards if board is not None)
        await post(network)
        await trio.sleep(3)
        assert all(len(board) == 1 for board in boards if board is not None)


async def test_a_payer_that_floods_fills_its_own_places_only(autojump_clock: object) -> None:
    async with serving_network(2, engine=Work(dead={1, 2}).engine) as network:
        for number in range(2 * WAITING_PER_PAYER_MAX):
            await post(network, RequestId(bytes([number]) * 32))
        await trio.sleep(5)
        for member in network.members.values():
            assert member.board is not None
            assert len(member.board) == WAITING_PER_PAYER_MAX
        await trio.sleep(300)
        await post(network, RequestId(b"\xaa" * 32))
        await trio.sleep(3)
        for member in network.members.values():
            assert member.board is not None
            assert len(member.board) == 1, "what is over makes room"


async def test_a_stranger_that_is_not_here_posts_nothing(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        board = network.members[1].board
        assert board is not None
        board._presence._records.pop(network.members[GATEWAY].chain.account)
        await post(network)
        await trio.sleep(0.5)
        assert not len(board)


# --- the desk ---------------------------------------------------------------------------------------------------------


async def test_the_desk_tells_how_far_a_prompt_is_and_gives_its_answer(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        handed_in = await network.desk.hand_in(WISH)
        seen = [ask async for ask in network.desk.changes(handed_in.ask_id)]
        assert [ask.state for ask in seen] == [AskState.POSTING, AskState.WAITING, AskState.PAYING, AskState.ANSWERED]
        ended = seen[-1]
        assert len((await network.desk.answer(ended)).token_ids) == ended.output_tokens
        assert network.paid_by_gateway() == ended.price
        with pytest.raises(DeskError, match="there is no prompt"):
            network.desk.get("none")
        operations = DeskPromptOperations(network.desk)
        assert [view.ask_id for view in (await operations.list_prompts()).asks] == [ended.ask_id]
        shown = await operations.show_prompt(PromptShowParams(ask_id=ended.ask_id))
        assert shown.text == (await network.desk.answer(ended)).text
        assert shown.ask.price == str(ended.price)
        with pytest.raises(RpcError, match="not one of this account"):
            await operations.reclaim_prompt(PromptReclaimParams(prompt_id=5))


async def test_what_nobody_could_pay_for_is_not_taken(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        for tokens in (0, 1_000_001):
            with pytest.raises(DeskError, match="max_tokens"):
                await network.desk.hand_in(replace(WISH, max_tokens=tokens))
        with pytest.raises(DeskError, match="over the limit") as caught:
            await network.desk.hand_in(replace(WISH, prompt=Prompt(text="x" * 300_000)))
        assert caught.value.code == "too-long"
        assert not network.desk.asks()


@pytest.mark.parametrize("signed_before", [False, True], ids=["before-the-voucher", "after-the-voucher"])
async def test_a_crash_while_paying_pays_once_after_the_restart(signed_before: bool, autojump_clock: object) -> None:
    async with serving_network(1) as network, trio.open_nursery() as nursery:
        user, executor = network.members[GATEWAY], network.members[1]
        assert user.asking is not None
        assert executor.answering is not None

        def crash(decision: Decision, payment: Payment | None = None) -> None:
            raise CrashError

        if signed_before:
            user.asking._deliver = crash  # type: ignore[method-assign,assignment]
        else:
            user.asking._payment = crash  # type: ignore[method-assign,assignment]
        desk = network.desk
        content = desk._content_of(WISH)
        ask = await _written_down(desk)
        with pytest.raises(CrashError):
            await desk._see_open(ask, content)
        assert desk.get(ask.ask_id).state is AskState.PAYING
        for name in ("_deliver", "_payment"):
            user.asking.__dict__.pop(name, None)
        restarted = PromptDesk(
            user.chain, user.content, user.store, desk._chain_asking, user.asking, wall_clock=wall_clock
        )
        nursery.start_soon(restarted.run)
        ended = await restarted.until_ended(ask.ask_id)
        assert ended.state is AskState.ANSWERED
        assert ended.reason == ""
        assert network.paid_to(1) == network.paid_by_gateway() == ended.price > 0
        nursery.cancel_scope.cancel()


class CrashError(Exception):
    """The daemon dies here."""


async def _written_down(desk: PromptDesk) -> PromptAsk:
    ask = PromptAsk("aa" * 16, AskMode.OPEN, MODEL_ID, TOKENS, False, wall_clock())
    assert desk._book.add(ask)
    await trio.lowlevel.checkpoint()
    return ask


async def test_an_open_prompt_that_waited_during_a_restart_is_over_and_nothing_was_paid(
    autojump_clock: object,
) -> None:
    async with serving_network(1) as network, trio.open_nursery() as nursery:
        user = network.members[GATEWAY]
        ask = await _written_down(network.desk)
        restarted = PromptDesk(
            user.chain, user.content, user.store, network.desk._chain_asking, user.asking, wall_clock=wall_clock
        )
        nursery.start_soon(restarted.run)
        ended = await restarted.until_ended(ask.ask_id)
        assert ended.state is AskState.FAILED
        assert "nothing was paid" in ended.reason
        nursery.cancel_scope.cancel()


async def test_an_answering_service_made_after_a_restart_still_takes_its_payment(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        posted = await post(network)
        await trio.sleep(30)
        executor, right, cost = await settlement_of(network, posted)
        assert executor.answering is not None
        executor.network._served.pop(SETTLE_METHOD)
        OpenAnswering(executor.answering._parts)
        assert await settle(network, executor, posted.prompt.request_id, right) == ""
        assert network.paid_to(1) == cost
