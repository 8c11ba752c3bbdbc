"""What a transaction offers for gas is enough to be taken, and never more than its operator allows."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chain.fees import GWEI, PRIORITY_FEE_DEFAULT_WEI, Fees
from node.chain.rpc import RpcError

WEI = st.integers(0, 10_000 * GWEI)
MOST = st.integers(1, 1_000 * GWEI)


class Endpoint:
    """An endpoint that names these fees, and no priority fee if that is None."""

    def __init__(self, base_fee: int, priority_fee: int | None) -> None:
        self.base_fee, self.priority_fee = base_fee, priority_fee

    async def block(self, _which: str) -> object:
        return SimpleNamespace(base_fee=self.base_fee)

    async def call(self, _method: str) -> str:
        if self.priority_fee is None:
            raise RpcError(-32601, "no such method", "")
        return hex(self.priority_fee)


def finished(answer: Any) -> tuple[int, int]:
    """Run what waits for nothing."""
    with pytest.raises(StopIteration) as end:
        answer.send(None)
    found: tuple[int, int] = end.value.value
    return found


@given(base_fee=WEI, priority_fee=WEI, most=MOST)
def test_whatever_an_endpoint_says_no_more_is_offered_than_is_allowed(
    base_fee: int, priority_fee: int, most: int
) -> None:
    fees = Fees(cast(Any, Endpoint(base_fee, priority_fee)), most)
    max_fee, tip = finished(fees.first())
    assert tip <= max_fee <= most
    again, tip_again = finished(fees.above(max_fee, tip))
    assert tip_again <= again <= most
    if again < most:  # or nodes would refuse the replacement
        assert 10 * again >= 11 * max_fee
        assert 10 * tip_again >= 11 * tip


def test_an_endpoint_that_knows_no_priority_fee_is_offered_the_usual_one() -> None:
    fees = Fees(cast(Any, Endpoint(3 * GWEI, None)), 500 * GWEI)
    assert finished(fees.first()) == (6 * GWEI + PRIORITY_FEE_DEFAULT_WEI, PRIORITY_FEE_DEFAULT_WEI)
