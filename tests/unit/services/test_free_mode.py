"""Free mode: nobody pays, receipts are made all the same, and the two kinds of terms never mix."""

from dataclasses import replace

import pytest
import trio

from node.ports import CallFailedError
from node.protocol.codec import to_bytes
from node.protocol.identifiers import TokenAmount
from node.protocol.receipts import is_signed_by_executor, is_signed_by_payer
from node.services.frames import METHOD, Payment
from node.services.gateway import GatewayError
from node.services.terms import FreeMode, unit_price_for
from tests.builders import account
from tests.unit.services.serving_network import DEPOSIT, GATEWAY, serving_network
from tests.unit.services.test_serving import ask, call_with, request_to, signed

EVERYONE = FreeMode()
PRICE = TokenAmount(7)


async def test_a_free_answer_locks_and_costs_nothing_and_has_a_receipt_of_both(autojump_clock: object) -> None:
    async with serving_network(1, budget=TokenAmount(0), free={1: EVERYONE}) as network:
        answer, tokens = await ask(network)
        assert len(tokens) == 50
        assert answer.summary.price == 0
        assert not network.ledger.state.channels
        assert network.paid_by_gateway() == network.paid_to(1) == 0
        (given,), (kept,) = (network.members[n].store.receipts(limit=9) for n in (1, GATEWAY))
        assert given == kept
        assert given.receipt.price == 0
        assert is_signed_by_executor(given)
        assert is_signed_by_payer(given)


async def test_a_network_with_both_kinds_pays_those_that_charge_and_no_others(autojump_clock: object) -> None:
    async with serving_network(2, free={1: EVERYONE}) as network:
        numbers = iter(range(1, 255))
        network.gateway._random_bytes = lambda count: bytes([next(numbers)]) * count
        prices = set()
        for _ in range(8):
            answer, _ = await ask(network)
            (executor,) = answer.summary.executors
            prices.add((executor, answer.summary.price > 0))
        assert prices == {(account(1), False), (account(2), True)}
        assert network.paid_to(1) == 0
        assert network.paid_to(2) == network.paid_by_gateway() > 0


async def test_who_is_not_on_the_list_is_refused(autojump_clock: object) -> None:
    async with serving_network(1, free={1: FreeMode(frozenset({account(77)}))}) as network:
        with pytest.raises(GatewayError, match="not on the list"):
            await ask(network)


@pytest.mark.parametrize("is_free", [True, False])
async def test_a_request_for_other_terms_is_refused(autojump_clock: object, is_free: bool) -> None:
    async with serving_network(1, free={1: EVERYONE} if is_free else {}) as network:
        request = replace(request_to(1), free=not is_free)
        with pytest.raises(CallFailedError) as caught:
            await call_with(network, signed(network, request))
        assert caught.value.code == "terms"


async def test_a_free_executor_takes_no_voucher(autojump_clock: object) -> None:
    async with serving_network(1, free={1: EVERYONE}) as network:
        user, target = network.members[GATEWAY], network.members[1]
        await user.payer.reserve(account(1), TokenAmount(1000))
        payment = Payment(user.payer.pay(account(1), 1000), TokenAmount(1000), b"")
        payload = signed(network, replace(request_to(1), free=True))
        with pytest.raises(CallFailedError) as caught:
            async with user.network.call(target.network.peer_id, METHOD, payload, deadline_seconds=300) as call:
                await call.send(to_bytes(payment))
                while True:
                    await call.receive()
        assert caught.value.code == "unpaid"
        await trio.sleep(5)
        assert network.paid_to(1) == 0
        assert sum(c.deposited for c in network.ledger.state.channels.values()) == DEPOSIT


@pytest.mark.parametrize(
    ("asks_free", "free", "expected"),
    [
        (False, None, PRICE),
        (True, None, None),
        (True, EVERYONE, 0),
        (False, EVERYONE, None),
        (True, FreeMode(frozenset({account(1)})), 0),
        (True, FreeMode(frozenset({account(2)})), None),
        (True, FreeMode(frozenset()), None),
    ],
)
def test_terms_are_those_of_the_request_or_it_is_refused(
    asks_free: bool, free: FreeMode | None, expected: int | None
) -> None:
    if expected is None:
        with pytest.raises(CallFailedError):
            unit_price_for(account(1), asks_free=asks_free, free=free, unit_price=PRICE)
    else:
        assert unit_price_for(account(1), asks_free=asks_free, free=free, unit_price=PRICE) == expected
