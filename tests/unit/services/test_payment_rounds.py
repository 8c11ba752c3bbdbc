"""One voucher pays all answers that are due, each is told once what it was paid, and nobody waits for another."""

import random
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing

from netsim.engine import SECONDS_PER_TOKEN
from node.ports import SignedVoucher
from node.protocol.codec import from_bytes
from node.protocol.identifiers import TokenAmount
from node.services.frames import Payment, SignedVoucherFrame
from node.services.payment_rounds import ROUND_SECONDS, PaymentRounds
from node.services.payments import PayerBook
from node.services.tabs import Tab
from node.services.vouchers import PaymentError
from node.store.books import Books
from node.store.database import Database
from tests.builders import account
from tests.unit.services.scripted import Part, install
from tests.unit.services.serving_network import GATEWAY, PLACES, UNIT, UNPAID_TOKENS_MAX, serving_network
from tests.unit.services.test_payment_books import DEPOSIT, PAYEE, PAYER, Ends, ends
from tests.unit.services.test_serving import CHAT, ask

EXECUTOR = account(PAYEE)


@dataclass(eq=False)
class Answer:
    """An answer that owes; the payee's tab stands for its executor."""

    tab: Tab
    owed: int = 0
    paid: int = 0
    told: list[tuple[SignedVoucherFrame, int]] = field(default_factory=list)
    woken: int = 0

    def missing(self) -> int:
        return self.owed - self.paid

    def book(self, amount: int) -> int:
        self.paid += amount
        return self.paid

    def tell(self, frame: SignedVoucherFrame, paid: int) -> None:
        self.told.append((frame, paid))

    def wake(self) -> None:
        self.woken += 1


async def begun(answers: int) -> tuple[Ends, PaymentRounds, list[Answer]]:
    both = ends()
    await both.payer.reserve(EXECUTOR, DEPOSIT)
    tabs = [both.payee.begin(account(PAYER), allowance=DEPOSIT) for _ in range(answers)]
    return both, PaymentRounds(both.payer, both.payer_store), [Answer(tab, owed=10) for tab in tabs]


async def pay(rounds: PaymentRounds, answer: Answer) -> SignedVoucherFrame:
    """Pay what an answer owes, as its own task does."""
    signed = rounds.sign(EXECUTOR, answer)
    await rounds.publish(signed)
    answer.told.append((signed.frame, signed.paid))
    return signed.frame


async def test_answers_that_are_due_within_a_moment_are_paid_with_one_voucher(
    autojump_clock: trio.testing.MockClock,
) -> None:
    both, rounds, answers = await begun(4)
    opened = rounds.join(EXECUTOR, answers[0])
    assert opened is not None
    began = trio.current_time()
    for answer in answers[1:]:
        assert rounds.join(EXECUTOR, answer) is None  # these have to wait for nothing
        answer.owed += 3
    assert await rounds.until_over(EXECUTOR, opened)
    assert trio.current_time() - began <= ROUND_SECONDS
    frame = await pay(rounds, answers[0])
    assert frame.voucher.cumulative == 10 + 3 * 13
    assert [answer.told for answer in answers] == [[(frame, 10)], *[[(frame, 13)]] * 3]
    for answer in answers:  # and the executor takes it from each, in any order
        await both.payee.accept(answer.tab, Payment(frame, TokenAmount(answer.paid), b""))
        assert answer.tab.credited == answer.owed
    assert both.held() == both.promised() == 49


async def test_a_payment_that_cannot_wait_takes_the_round_with_it(autojump_clock: trio.testing.MockClock) -> None:
    _both, rounds, answers = await begun(3)
    opened = rounds.join(EXECUTOR, answers[0])
    assert opened is not None
    rounds.join(EXECUTOR, answers[1])
    began = trio.current_time()
    frame = await pay(rounds, answers[2])
    assert [answer.told for answer in answers] == [[(frame, 10)]] * 3
    assert not await rounds.until_over(EXECUTOR, opened)  # its opener has nothing left to pay
    assert trio.current_time() == began
    assert rounds.join(EXECUTOR, answers[0]) is not None  # the next one is another round


async def test_who_cannot_wait_ends_the_round(autojump_clock: trio.testing.MockClock) -> None:
    _both, rounds, answers = await begun(2)
    opened = rounds.join(EXECUTOR, answers[0])
    assert opened is not None
    rounds.join(EXECUTOR, answers[1])
    began = trio.current_time()
    rounds.hurry(EXECUTOR)
    assert await rounds.until_over(EXECUTOR, opened)
    assert trio.current_time() == began


async def test_others_see_to_themselves_when_the_one_who_would_pay_has_gone() -> None:
    _both, rounds, answers = await begun(3)
    for answer in answers:
        rounds.join(EXECUTOR, answer)
    rounds.leave(EXECUTOR, answers[2])
    assert [answer.woken for answer in answers] == [0, 0, 0]  # that one had nothing to do for the others
    rounds.leave(EXECUTOR, answers[0])
    assert [answer.woken for answer in answers] == [0, 1, 0]
    frame = await pay(rounds, answers[1])
    assert frame.voucher.cumulative == 10  # nobody pays for who has left


async def test_what_another_has_paid_meanwhile_is_not_paid_again() -> None:
    _both, rounds, answers = await begun(2)
    rounds.join(EXECUTOR, answers[0])
    await pay(rounds, answers[1])
    frame = await pay(rounds, answers[0])  # its own task was about to
    assert frame.voucher.cumulative == 20
    answers[0].owed += 1
    assert (await pay(rounds, answers[0])).voucher.cumulative == 21


class SlowBooks(Books):
    """A disk that never answers."""

    async def durable(self) -> None:
        await trio.sleep_forever()


async def test_whoever_was_signed_for_by_one_who_goes_sends_its_own(autojump_clock: trio.testing.MockClock) -> None:
    both, _, answers = await begun(2)
    store = SlowBooks(Database(":memory:"), account(PAYER))
    payer = PayerBook(both.payer_chain.port, store, channel_deposit=DEPOSIT, budget=DEPOSIT)
    rounds = PaymentRounds(payer, store)
    rounds.join(EXECUTOR, answers[1])
    with trio.move_on_after(1):
        await pay(rounds, answers[0])
    assert answers[1].paid == 10
    assert answers[1].told == []
    assert answers[1].woken == 1
    assert payer.issued(EXECUTOR) == 20  # booked: it is not to be signed for again
    frame = rounds.sign(EXECUTOR, answers[1]).frame
    assert frame.voucher.cumulative == 20


async def test_what_the_channel_does_not_hold_for_all_it_holds_for_one() -> None:
    both, rounds, answers = await begun(2)
    rounds.join(EXECUTOR, answers[1])
    answers[1].owed = DEPOSIT
    frame = await pay(rounds, answers[0])
    assert frame.voucher.cumulative == 10
    assert answers[1].told == []
    assert answers[1].woken == 1
    with pytest.raises(PaymentError, match="does not hold"):
        await pay(rounds, answers[1])
    assert both.promised() == 10


async def test_answers_side_by_side_are_paid_with_fewer_vouchers_than_steps(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """And each is paid exactly, within the executor's allowance: it would wait for ever otherwise."""
    tokens, answers = 8 * UNPAID_TOKENS_MAX, PLACES
    async with serving_network(executors=1) as network:
        network.gateway._random_bytes = random.Random(5).randbytes  # else every request has the same id
        store = network.members[GATEWAY].store
        signed: list[SignedVoucher] = []

        def save(voucher: SignedVoucher) -> None:
            signed.append(voucher)
            Books.save_issued_voucher(store, voucher)

        store.save_issued_voucher = save  # type: ignore[method-assign]
        prices = []

        async def ask_one() -> None:
            answer, _ids = await ask(network, replace(CHAT, max_tokens=tokens))
            summary = answer.summary
            prices.append((summary.prompt_tokens, summary.output_tokens, summary.price))

        async with trio.open_nursery() as nursery:
            for _ in range(answers):
                nursery.start_soon(ask_one)
        assert all(output == tokens and paid == (prompt + output) * UNIT for prompt, output, paid in prices)
        assert network.paid_by_gateway() == network.paid_to(1) == sum(paid for *_, paid in prices)
        steps = tokens // (UNPAID_TOKENS_MAX // 2)
        assert len(signed) < answers * steps // 2


@pytest.mark.parametrize("is_long", [False, True])
async def test_prompts_are_paid_together_unless_their_executor_would_have_to_wait(
    autojump_clock: trio.testing.MockClock, is_long: bool
) -> None:
    answers, heard = PLACES, dict[bytes, list[tuple[float, Payment]]]()
    length = UNPAID_TOKENS_MAX // 4 if not is_long else UNPAID_TOKENS_MAX

    async def script(part: Part) -> None:
        await part.open(prompt_ids=tuple(range(length)))
        opened, payments = trio.current_time(), heard.setdefault(part.request.request_id, [])
        while True:
            payment = from_bytes(Payment, await part.call.receive())
            payments.append((trio.current_time() - opened, payment))

    async with serving_network(executors=1) as network, trio.open_nursery() as nursery:
        network.gateway._random_bytes = random.Random(5).randbytes  # else every request has the same id
        install(network, 1, script)
        for _ in range(answers):
            nursery.start_soon(ask, network)
        with trio.fail_after(10):
            while len(heard) < answers or not all(heard.values()):
                await trio.sleep(0.01)
        await trio.sleep(2 * ROUND_SECONDS)
        nursery.cancel_scope.cancel()
    assert all(payment.paid == length * UNIT for [(_, payment)] in heard.values())
    vouchers = {payment.voucher for payments in heard.values() for _, payment in payments}
    assert len(vouchers) == (answers if is_long else 1)
    if is_long:
        assert all(seconds < ROUND_SECONDS for [(seconds, _)] in heard.values())


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_booked_meanwhile_no_payment_takes_anything_back(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    """Answers of all lengths begin at any time: their steps, prompts and ends meet in every order."""
    choose = random.Random(seed)
    async with serving_network(executors=1) as network:
        network.gateway._random_bytes = choose.randbytes
        places, paid = trio.CapacityLimiter(PLACES), []

        async def ask_one(wait: float, tokens: int) -> None:
            await trio.sleep(wait)
            async with places:
                answer, _ids = await ask(network, replace(CHAT, max_tokens=tokens))
            summary = answer.summary
            assert summary.output_tokens == tokens
            assert summary.price == (summary.prompt_tokens + tokens) * UNIT
            paid.append(summary.price)

        async with trio.open_nursery() as nursery:
            for _ in range(24):
                nursery.start_soon(ask_one, choose.randint(0, 100) * SECONDS_PER_TOKEN, choose.randint(1, 120))
        assert len(paid) == 24
        assert network.paid_by_gateway() == network.paid_to(1) == sum(paid)
