"""The epoch book: contents are checked against the chain, and a voided result is not confused with its successor."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from node.ports import BadContentError, ContentUnavailableError, Head
from node.protocol.canonical import encode
from node.protocol.chain_state import ChainState
from node.protocol.codec import SchemaError, to_value
from node.protocol.events import (
    ChainEvent,
    EpochResultPosted,
    EpochResultVoided,
    EventBody,
    GroupStored,
    ModelRecorded,
    WorkCoinsAdded,
)
from node.protocol.identifiers import BlockNumber, Cid, EpochNumber, Hash32, TokenAmount
from node.protocol.records import EpochGroup, EpochResult, EpochResultSummary, RewardShare
from node.protocol.results import form_epoch_result, summarise
from node.protocol.schedules import ParameterSchedule
from node.protocol.slices import finish
from node.services.epochs import (
    ENTRY_BYTES_MAX,
    EpochBook,
    ResultContentError,
    read_result_in_slices,
    result_from_bytes,
    result_to_bytes,
)
from node.store.books import Books
from node.store.database import Database
from p2p.content.cid import Cid as BlockCid
from p2p.content.cid import Codec
from tests.builders import PARAMETERS, account, bundle_of, commit, group_set, model, registered, state_of

EPOCH = EpochNumber(0)
EVENTS: tuple[EventBody, ...] = (ModelRecorded(model()), *registered(1), group_set(0, {1: 1}), commit(1, 50))


class StubChain:
    """As much of the Chain port as the book looks at; `show` brings a new block."""

    parameters = PARAMETERS
    schedule = ParameterSchedule(PARAMETERS)

    def __init__(self) -> None:
        self.state = ChainState()
        self.head = Head(BlockNumber(PARAMETERS.epoch_blocks), BlockNumber(PARAMETERS.epoch_blocks))
        self._changed = trio.Event()

    def show(self, *bodies: EventBody) -> None:
        self.state = state_of(*bodies)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def heads(self) -> AsyncIterator[Head]:
        while True:
            changed = self._changed
            yield self.head
            await changed.wait()


class StubContent:
    """Contents by CID."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def read_bytes(self, cid: Cid, providers: object, *, limit_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.held[cid]


@dataclass
class FailingContent:
    """Fails once."""

    error: Exception
    data: bytes
    asked: int = 0

    async def read_bytes(self, cid: Cid, providers: object, *, limit_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.asked == 1:
            raise self.error
        return self.data


class StubPresence:
    def providers(self) -> tuple[object, ...]:
        return ()


Posted = tuple[EpochResult, EpochResultSummary, tuple[EventBody, ...]]
"""A result, what its quorum tells the chain, and the events by which the chain accepts it."""


def a_result(content: StubContent, coins: int, before: EpochResult | None = None, *events: EventBody) -> Posted:
    """A result that differs with `coins`, and the events by which the chain accepts it; of EPOCH, or of the epoch after
    `before`, which `events` tell of.
    """
    epoch = EPOCH if before is None else EpochNumber(before.epoch + 1)
    state = state_of(*EVENTS, *events, WorkCoinsAdded(account(5), TokenAmount(coins)))
    result = form_epoch_result(epoch, state, PARAMETERS, {account(1): bundle_of(1, epoch=epoch)}, before)
    assert result is not None
    data = result_to_bytes(result)
    summary, _ = summarise(result, Cid(str(BlockCid.of(Codec.RAW, data))))
    content.held[summary.content_cid] = data
    weights = tuple((member.participant, member.weight) for member in result.group.members)
    return result, summary, (GroupStored(summary.validator_set_hash, weights), EpochResultPosted(summary, account(1)))


def two_results(content: StubContent) -> tuple[Posted, Posted]:
    """The results of EPOCH and of the epoch after."""
    first, summary, posted = a_result(content, 0)
    proof = commit(1, 50, epoch=1)
    second, newest, accepted = a_result(content, 0, first, *posted, proof)
    return (first, summary, posted), (second, newest, (proof, *accepted))


async def until(book: EpochBook, wanted: EpochResult) -> None:
    with trio.fail_after(10):
        while book.result(EPOCH) != wanted:
            await trio.sleep(0.1)


async def test_a_result_in_a_voided_ones_place_is_the_one_that_counts(autojump_clock: object) -> None:
    chain, content = StubChain(), StubContent()
    store = Books(Database(":memory:"), account(1))
    anything: Any = chain
    contents: Any = content
    presence: Any = StubPresence()
    book = EpochBook(anything, contents, store, presence)
    first, _, posted = a_result(content, 0)
    second, _, posted_again = a_result(content, 700)
    assert first != second
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run)
        chain.show(*EVENTS, *posted)
        await until(book, first)
        void = EpochResultVoided(EPOCH, Hash32(bytes(32)))
        chain.show(*EVENTS, *posted, void)
        assert book.result(EPOCH) is None
        assert book.newest_result() is None
        chain.show(*EVENTS, *posted, void, *posted_again)
        await until(book, second)
        nursery.cancel_scope.cancel()


async def test_a_false_summary_of_a_true_content_says_nothing_against_the_true_one(autojump_clock: object) -> None:
    chain, content = StubChain(), StubContent()
    anything: Any = chain
    contents: Any = content
    presence: Any = StubPresence()
    book = EpochBook(anything, contents, Books(Database(":memory:"), account(1)), presence)
    result, summary, posted = a_result(content, 0)
    false = replace(summary, reward_total=TokenAmount(summary.reward_total + 1))
    group_stored = posted[0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run)
        accepted = (group_stored, EpochResultPosted(false, account(1)))
        chain.show(*EVENTS, *accepted)
        with trio.fail_after(10):
            while not book.is_wrong(false):
                await trio.sleep(0.1)
        assert not book.is_wrong(summary)
        assert book.result(EPOCH) is None
        chain.show(*EVENTS, *accepted, EpochResultVoided(EPOCH, Hash32(bytes(32))), *posted)
        await until(book, result)
        nursery.cancel_scope.cancel()


async def test_a_node_that_starts_once_a_result_is_posted_knows_who_is_in_charge_until_it_takes_effect(
    autojump_clock: object,
) -> None:
    chain, content = StubChain(), StubContent()
    store = Books(Database(":memory:"), account(1))
    anything: Any = chain
    contents: Any = content
    presence: Any = StubPresence()
    (first, _, posted), (second, _, posted_again) = two_results(content)
    assert second.epoch == EPOCH + 1
    book = EpochBook(anything, contents, store, presence)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run)
        chain.show(*EVENTS, *posted, *posted_again)  # in FORM or LOAD of epoch 1
        with trio.fail_after(10):
            assert await book.result_before(EpochNumber(1), chain.state) == first
            assert await book.result_before(EpochNumber(2), chain.state) == second
        assert book.group() == replace(first.group, epoch=EpochNumber(1))
        nursery.cancel_scope.cancel()


async def test_an_older_result_is_known_after_a_restart_and_nobody_waits_for_one_that_is_not_here(
    autojump_clock: object,
) -> None:
    chain, content = StubChain(), StubContent()
    store = Books(Database(":memory:"), account(1))
    anything: Any = chain
    contents: Any = content
    presence: Any = StubPresence()
    (first, summary, posted), (second, _, posted_again) = two_results(content)
    book = EpochBook(anything, contents, store, presence)
    chain.show(*EVENTS, *posted)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run)
        await until(book, first)
        assert book.known_before(EpochNumber(1), chain.state) == first
        nursery.cancel_scope.cancel()
    chain.show(*EVENTS, *posted, *posted_again)
    content.held.pop(summary.content_cid)
    for kept, found in ((store, first), (Books(Database(":memory:"), account(1)), None)):
        restarted = EpochBook(anything, contents, kept, presence)
        assert restarted.known_before(second.epoch, chain.state) == found
        assert restarted.known_before(first.epoch, chain.state) is None  # there is none
        assert restarted.known_before(EpochNumber(second.epoch + 1), chain.state) is None  # not here
    store.put_document(f"result/{summary.epoch}/{summary.content_cid}", b"damaged")
    assert EpochBook(anything, contents, store, presence).known_before(second.epoch, chain.state) is None


async def test_a_result_that_is_not_to_be_had_holds_up_no_other(autojump_clock: object) -> None:
    chain, content = StubChain(), StubContent()
    anything: Any = chain
    presence: Any = StubPresence()
    (first, _, posted), (_, newest, posted_again) = two_results(content)

    class Without:
        async def read_bytes(self, cid: Cid, providers: object, *, limit_bytes: int) -> bytes:
            if cid == newest.content_cid:
                raise ContentUnavailableError("nobody has it")
            return await content.read_bytes(cid, providers, limit_bytes=limit_bytes)

    contents: Any = Without()
    book = EpochBook(anything, contents, Books(Database(":memory:"), account(1)), presence)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run)
        chain.show(*EVENTS, *posted, *posted_again)
        await until(book, first)
        nursery.cancel_scope.cancel()


def test_a_content_that_cannot_be_summed_up_is_not_a_result() -> None:
    content = StubContent()
    result, summary, _ = a_result(content, 0)
    members = tuple(replace(member, weight=-1) for member in result.group.members)
    assert members
    data = result_to_bytes(replace(result, group=replace(result.group, members=members)))
    with pytest.raises(ResultContentError):
        result_from_bytes(data, summary)


async def test_a_content_that_is_no_file_is_wrong_and_one_that_does_not_come_is_not(autojump_clock: object) -> None:
    chain = StubChain()
    result, summary, posted = a_result(StubContent(), 0)
    for error, is_wrong in ((BadContentError("too large"), True), (ContentUnavailableError("nobody has it"), False)):
        content = FailingContent(error, result_to_bytes(result))
        anything: Any = chain
        contents: Any = content
        presence: Any = StubPresence()
        book = EpochBook(anything, contents, Books(Database(":memory:"), account(1)), presence)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(book.run)
            chain.show(*EVENTS, *posted)
            await trio.sleep(5)
            assert book.is_wrong(summary) is is_wrong
            assert (book.result(EPOCH) == result) is not is_wrong
            nursery.cancel_scope.cancel()


async def test_content_that_its_quorum_did_not_sign_is_not_taken(autojump_clock: object) -> None:
    chain, content = StubChain(), StubContent()
    anything: Any = chain
    contents: Any = content
    presence: Any = StubPresence()
    book = EpochBook(anything, contents, Books(Database(":memory:"), account(1)), presence)
    _, summary, posted = a_result(content, 0)
    other, _, _ = a_result(content, 700)
    content.held[summary.content_cid] = result_to_bytes(other)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run)
        chain.show(*EVENTS, *posted)
        await trio.sleep(5)
        assert book.result(EPOCH) is None
        nursery.cancel_scope.cancel()


async def test_the_group_in_charge_follows_every_event_every_block_and_every_content(autojump_clock: object) -> None:
    chain, content = StubChain(), StubContent()
    anything: Any = chain
    contents: Any = content
    presence: Any = StubPresence()
    book = EpochBook(anything, contents, Books(Database(":memory:"), account(1)), presence)
    result, _, posted = a_result(content, 0)

    def apply(*bodies: EventBody) -> None:
        for body in bodies:
            chain.state.apply(ChainEvent(chain.head.number, Hash32(bytes(32)), 0, body))

    apply(*EVENTS)
    first = book.group()
    assert first.epoch == EPOCH + 1
    assert [member.participant for member in first.members] == [account(1)]
    assert book.group() is first
    apply(*registered(2), group_set(EPOCH + 1, {1: 1, 2: 5}))
    assert {member.participant for member in book.group().members} == {account(1), account(2)}
    second = StubChain()
    second.show(*EVENTS)
    chain.state = second.state  # as many events as once before: another state all the same
    assert len(book.group().members) == 1
    next_block = BlockNumber(chain.head.number + PARAMETERS.epoch_blocks)
    chain.head = Head(next_block, next_block)
    assert book.group().epoch == EPOCH + 2
    apply(*posted)
    known = book.group()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(book.run)
        await until(book, result)
        assert book.group() is not known
        assert book.group().throughputs == result.group.throughputs
        nursery.cancel_scope.cancel()


def test_what_a_single_member_names_as_a_result_is_read_in_slices_and_as_the_codec_reads_it() -> None:
    """Nobody else vouches for it, and it may have 32 MiB."""
    share = RewardShare(account(1), TokenAmount(7))
    result = EpochResult(EPOCH, EpochGroup(EPOCH, (), (model(),)), (share,) * 5000, TokenAmount(21))
    data = result_to_bytes(result)
    assert finish(read_result_in_slices(data)) == result
    assert sum(1 for _ in read_result_in_slices(data)) >= len(data) // ENTRY_BYTES_MAX >= 2
    with pytest.raises(SchemaError):
        finish(read_result_in_slices(encode({**to_value(result), "zeal": [{}] * 10_000})))
