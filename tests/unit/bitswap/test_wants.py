"""What peers want of us and we of them: bounded, answered from whole blocks only, solicited blocks only."""

from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from p2p.content.bitswap.answers import (
    ANSWER_BYTES,
    ANSWERED_AT_ONCE_MAX,
    WANTS_PER_PEER_MAX,
    WantList,
    answer,
)
from p2p.content.bitswap.budget import Budget
from p2p.content.bitswap.messages import Block, Presence, Want
from p2p.content.bitswap.requests import RECENT_SECONDS, SETTLED_MAX, Requests
from p2p.content.blockstore import BlockMissingError
from p2p.content.cid import Cid, Codec
from p2p.content.source import SourceFailedError


@dataclass
class Held:
    """Blocks in memory."""

    blocks: dict[Cid, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> Cid:
        cid = Cid.of(Codec.RAW, data)
        self.blocks[cid] = data
        return cid

    def has(self, cid: Cid) -> bool:
        return cid in self.blocks

    def read(self, cid: Cid) -> bytes:
        try:
            return self.blocks[cid]
        except KeyError:
            raise BlockMissingError(str(cid)) from None

    def remove(self, cid: Cid) -> None:
        del self.blocks[cid]


def block(data: bytes) -> Block:
    return Block(b"\x01\x55\x12\x20", data)


def want(cid: Cid, *, have: bool = False, dont_have: bool = True, cancel: bool = False) -> Want:
    return Want(cid.to_bytes(), have=have, send_dont_have=dont_have, cancel=cancel)


def test_a_question_is_answered_with_have_and_a_want_with_the_block() -> None:
    held = Held()
    cid = held.add(b"data")
    absent = Cid.of(Codec.RAW, b"absent")
    message, count = answer(held, [want(cid, have=True), want(cid), want(absent), want(absent, have=True)])
    assert count == 4
    assert message.blocks == (block(b"data"),)
    lacks = Presence(absent.to_bytes(), has=False)
    assert message.presences == (Presence(cid.to_bytes(), has=True), lacks, lacks)


def test_who_did_not_ask_for_dont_have_is_not_told() -> None:
    message, _ = answer(Held(), [want(Cid.of(Codec.RAW, b"absent"), dont_have=False), Want(b"another kind of CID")])
    assert message.presences == ()


def test_a_damaged_block_is_not_given_and_is_forgotten() -> None:
    held = Held()
    cid = held.add(b"precious")
    held.blocks[cid] = b"rotten"
    message, _ = answer(held, [want(cid)])
    assert message.blocks == ()
    assert message.presences == (Presence(cid.to_bytes(), has=False),)
    assert not held.has(cid)


def test_a_message_is_no_larger_than_one_answer() -> None:
    held = Held()
    cids = [held.add(bytes([number]) * (ANSWER_BYTES // 3)) for number in range(10)]
    message, count = answer(held, [want(cid) for cid in cids])
    assert count == len(message.blocks) == 3
    large = held.add(bytes(2 * ANSWER_BYTES))
    message, count = answer(held, [want(large), want(cids[0])])
    assert (count, len(message.blocks)) == (1, 1)


def test_a_peers_list_is_bounded() -> None:
    wants = WantList()
    wants.update([Want(number.to_bytes(4)) for number in range(WANTS_PER_PEER_MAX + 10)], full=False)
    assert len(wants) == WANTS_PER_PEER_MAX
    assert wants.dropped == 10
    assert len(wants.take()) == ANSWERED_AT_ONCE_MAX


def test_what_is_cancelled_or_replaced_is_not_answered() -> None:
    one, two = (Cid.of(Codec.RAW, data) for data in (b"1", b"2"))
    wants = WantList()
    wants.update([want(one), want(two)], full=False)
    wants.update([want(one, cancel=True)], full=False)
    assert wants.take() == (want(two),)
    wants.update([want(one)], full=True)
    assert wants.take() == (want(one),)
    wants.update([], full=True)
    assert len(wants) == 0


def test_a_block_wanted_while_its_presence_is_told_is_still_answered() -> None:
    cid = Cid.of(Codec.RAW, b"1")
    wants = WantList()
    wants.update([want(cid, have=True)], full=False)
    taken = wants.take()
    wants.update([want(cid)], full=False)
    wants.settle(taken)
    assert wants.take() == (want(cid),)
    wants.update([want(cid, have=True)], full=False)
    assert wants.take() == (want(cid),)


async def test_only_wanted_blocks_are_taken() -> None:
    requests = Requests()
    cid = Cid.of(Codec.RAW, b"data")
    assert not requests.receive_block(block(b"data"))
    waiter = requests.add(cid)
    assert [entry.name for entry in requests.take_unsent()] == [cid.to_bytes()]
    assert not requests.receive_block(block(b"lies"))
    assert not waiter.done.is_set()
    assert requests.receive_block(block(b"data"))
    assert requests.result(waiter) == b"data"
    requests.remove(cid, waiter)
    assert not requests.has_unsent


async def test_a_block_that_crosses_its_cancellation_is_no_offence() -> None:
    requests = Requests()
    cid = Cid.of(Codec.RAW, b"data")
    waiter = requests.add(cid)
    requests.take_unsent()
    requests.remove(cid, waiter)
    (told,) = requests.take_unsent()
    assert told.cancel
    assert requests.receive_block(block(b"data"))
    assert not waiter.done.is_set()


async def test_a_block_that_two_wait_for_is_cancelled_by_neither_alone() -> None:
    requests = Requests()
    cid = Cid.of(Codec.RAW, b"data")
    first, second = requests.add(cid), requests.add(cid)
    requests.take_unsent()
    requests.remove(cid, first)
    assert not requests.has_unsent
    requests.receive_block(block(b"data"))
    assert requests.result(second) == b"data"


async def test_a_peer_that_lacks_a_block_is_believed_and_one_that_is_gone_fails() -> None:
    requests = Requests()
    absent, other = (Cid.of(Codec.RAW, data) for data in (b"1", b"2"))
    lacking, waiting = requests.add(absent), requests.add(other)
    requests.receive_presence(Presence(other.to_bytes(), has=True))
    requests.receive_presence(Presence(b"some other kind of CID", has=False))
    requests.receive_presence(Presence(absent.to_bytes(), has=False))
    assert lacking.done.is_set()
    assert requests.result(lacking) is None
    assert not waiting.done.is_set()
    requests.fail("gone")
    with pytest.raises(SourceFailedError, match="gone"):
        requests.result(waiting)


async def test_what_was_once_wanted_is_forgotten_in_the_end(autojump_clock: MockClock) -> None:
    requests = Requests()
    first = Cid.of(Codec.RAW, b"first")
    requests.remove(first, requests.add(first))
    for number in range(SETTLED_MAX):
        cid = Cid.of(Codec.RAW, number.to_bytes(4))
        requests.remove(cid, requests.add(cid))
    assert not requests.receive_block(block(b"first"))
    assert requests.expects_blocks
    await trio.sleep(RECENT_SECONDS + 1)
    assert not requests.expects_blocks


async def test_a_budget_lets_a_burst_pass_and_then_so_much_a_second(autojump_clock: MockClock) -> None:
    budget = Budget(per_second=10, burst=20)
    started = trio.current_time()
    await budget.spend(20)
    assert trio.current_time() == started
    for _ in range(5):
        await budget.spend(10)
    assert trio.current_time() - started == pytest.approx(5)
    await trio.sleep(100)
    before = trio.current_time()
    await budget.spend(20)
    assert trio.current_time() == before
