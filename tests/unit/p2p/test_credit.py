"""Credit bounds what a receiver holds, whatever the two ends do and in whatever order frames arrive."""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2p.credit import (
    CALL_CREDIT_BYTES,
    CHUNK_COST_BYTES,
    GRANT_BYTES,
    CreditError,
    HeldBytes,
    ReceiveCredit,
    SendCredit,
    chunk_cost,
)
from p2p.frames import BODY_BYTES_MAX


class OneDirection(RuleBasedStateMachine):
    """A sender and a receiver, with a wire of any delay in both directions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.sending = SendCredit()
        self.receiving = ReceiveCredit()
        self.on_the_wire: deque[int] = deque()
        self.unread: deque[int] = deque()
        self.grants: deque[int] = deque()

    @precondition(lambda self: self.sending.may_send)
    @rule(size=st.one_of(st.just(0), st.just(BODY_BYTES_MAX), st.integers(0, BODY_BYTES_MAX)))
    def send(self, size: int) -> None:
        cost = chunk_cost(bytes(size))
        self.sending.spend(cost)
        self.on_the_wire.append(cost)

    @precondition(lambda self: self.on_the_wire)
    @rule()
    def arrive(self) -> None:
        cost = self.on_the_wire.popleft()
        self.receiving.arrive(cost)  # an honest sender is never refused
        self.unread.append(cost)

    @precondition(lambda self: self.unread)
    @rule()
    def read(self) -> None:
        granted = self.receiving.take(self.unread.popleft())
        if granted:
            self.grants.append(granted)

    @precondition(lambda self: self.grants)
    @rule()
    def hear_of_a_grant(self) -> None:
        self.sending.add(self.grants.popleft())

    @invariant()
    def no_more_is_held_than_the_credit_and_one_chunk(self) -> None:
        assert sum(self.unread) <= CALL_CREDIT_BYTES + BODY_BYTES_MAX + CHUNK_COST_BYTES

    @invariant()
    def nothing_is_lost_or_made(self) -> None:
        under_way = sum(self.on_the_wire) + sum(self.unread) + self.receiving.taken + sum(self.grants)
        assert self.sending.left + under_way == CALL_CREDIT_BYTES

    @invariant()
    def a_sender_is_never_stuck_when_everything_was_read(self) -> None:
        if not (self.on_the_wire or self.unread or self.grants):
            assert self.sending.may_send


TestOneDirection = OneDirection.TestCase
TestOneDirection.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_a_chunk_without_credit_is_an_offence() -> None:
    receiving = ReceiveCredit()
    receiving.arrive(CALL_CREDIT_BYTES - 1)
    receiving.arrive(chunk_cost(bytes(BODY_BYTES_MAX)))  # overdraws
    with pytest.raises(CreditError):
        receiving.arrive(CHUNK_COST_BYTES)


@pytest.mark.parametrize("granted", [0, -1, 101, CALL_CREDIT_BYTES, 2**32 - 1])
def test_a_grant_of_what_was_not_spent_is_an_offence(granted: int) -> None:
    sending = SendCredit()
    sending.spend(100)
    with pytest.raises(CreditError):
        sending.add(granted)


def test_small_chunks_are_granted_together() -> None:
    receiving = ReceiveCredit()
    grants = [granted for _ in range(4 * GRANT_BYTES // 128) if (granted := receiving.take(128))]
    assert len(grants) == 4


def test_what_is_held_is_bounded_in_the_part_and_in_the_whole() -> None:
    whole = HeldBytes(150)
    one, other = HeldBytes(100, whole), HeldBytes(100, whole)
    assert one.hold(100)
    assert not one.hold(1)
    assert other.hold(50)
    assert not other.hold(1)
    one.release(100)
    assert other.hold(50)
    assert (one.count, other.count, whole.count) == (0, 100, 100)
    with pytest.raises(ValueError, match="released"):
        one.release(1)
