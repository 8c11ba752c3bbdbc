"""A payer's watch over books: it proves what is missing, no more than a bundle carries, and holds nobody up."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
import trio

from node.ports import ContentUnavailableError
from node.protocol.audit_votes import check_audits
from node.protocol.due_books import BOOKS_REMEMBERED_EPOCHS
from node.protocol.findings import CommittedBook, EarlierBook, MissingBook
from node.protocol.identifiers import EpochNumber, NodeId, RequestId, TokenAmount
from node.protocol.omissions import OMISSIONS_MAX, is_omitted
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BOOK_BYTES_MAX, NOBODY, BookRow, book_bytes, make_book, order_rows, payer_bytes
from node.protocol.records import EpochGroup, EpochResult, SignedReceipt, VoteBundle
from node.protocol.signatures import sign
from node.services import omission_watch
from node.services.omission_watch import RECEIPTS_PER_PAGE, TRIES, OmissionWatch
from tests.builders import SOME_CID, account, key_of
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, PAYER, receipt_for
from tests.unit.protocol.test_omissions import ROWS


def receipt(number: int, node_id: str = "node") -> SignedReceipt:
    made = replace(receipt_for(ANSWER), request_id=RequestId(number.to_bytes(32)), node_id=NodeId(node_id))
    digest = receipt_digest(made)
    return SignedReceipt(made, sign(key_of(2), digest), sign(key_of(1), digest))


def receipt_of_epoch(number: int, later: int) -> SignedReceipt:
    """One of an epoch so much later."""
    of = receipt(number).receipt
    made = replace(of, epoch=EpochNumber(of.epoch + later))
    digest = receipt_digest(made)
    return SignedReceipt(made, sign(key_of(2), digest), sign(key_of(1), digest))


def world(
    signed: list[SignedReceipt],
    listed: list[SignedReceipt],
    tokens: Mapping[int, int] = MappingProxyType({}),
    unnamed: Collection[int] = (),
) -> tuple[OmissionWatch, EpochResult]:
    """A watch and the result it looks at; by place in `listed`: `tokens` that some are booked with, and those whose
    payer is not named."""
    booked = [
        BookRow(receipt_digest(one.receipt), tokens.get(place, 2), NOBODY if place in unnamed else payer_bytes(PAYER))
        for place, one in enumerate(listed)
    ]
    rows = order_rows([*ROWS, *booked])
    committed = (CommittedBook(EXECUTOR, make_book(rows, SOME_CID)),)
    epoch = EpochNumber(signed[0].receipt.epoch + 1)
    group = EpochGroup(EpochNumber(epoch + 1), (), ())
    before = (EarlierBook(EXECUTOR, EpochNumber(epoch - 1), committed[0].book),)
    result = replace(EpochResult(epoch, group, (), TokenAmount(0)), books=committed, books_before=before)

    async def read_bytes(*_asked: object, **_limits: object) -> bytes:
        return book_bytes(rows)

    content = SimpleNamespace(read_bytes=read_bytes)

    def receipts_got(before: int | None, limit: int) -> tuple[tuple[SignedReceipt, ...], int]:
        end = len(signed) if before is None else before
        return tuple(signed[max(0, end - limit) : end][::-1]), max(0, end - limit)

    store = SimpleNamespace(receipts_got=receipts_got)
    presence = SimpleNamespace(providers=tuple)
    chain = SimpleNamespace(account=PAYER)
    return OmissionWatch(cast(Any, chain), cast(Any, content), cast(Any, store), cast(Any, presence)), result


async def test_what_is_missing_is_proven_and_what_is_there_is_not() -> None:
    signed = [receipt(number) for number in range(6)]
    watch, result = world(signed, signed[2:])
    found = await watch.find(result)
    assert {one.signed.receipt.request_id for one in found} == {one.receipt.request_id for one in signed[:2]}
    assert all(is_omitted(one, result) for one in found)
    check_audits(VoteBundle(EpochNumber(result.epoch + 1), account(3), (), omissions=found))


async def test_what_is_booked_with_fewer_tokens_than_it_has_is_proven() -> None:
    signed = [receipt(number) for number in range(4)]
    watch, result = world(signed, signed, tokens={1: 0, 3: 1})
    found = await watch.find(result)
    assert {one.signed.receipt.request_id for one in found} == {signed[number].receipt.request_id for number in (1, 3)}
    assert all(is_omitted(one, result) for one in found)
    check_audits(VoteBundle(EpochNumber(result.epoch + 1), account(3), (), omissions=found))


async def test_what_is_booked_as_unsigned_is_told_and_proves_nothing() -> None:
    signed = [receipt(number) for number in range(4)]
    watch, result = world(signed, signed, unnamed={1, 2})
    assert await watch.find(result) == ()
    assert {one.receipt.request_id for one in watch.unnamed} == {signed[n].receipt.request_id for n in (1, 2)}


async def test_no_more_is_proven_than_a_bundle_carries_and_others_get_their_turn() -> None:
    signed = [receipt(number) for number in range(OMISSIONS_MAX + 20)]
    watch, result = world(signed, [])
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        found = await watch.find(result)
        nursery.cancel_scope.cancel()
    assert len(found) == OMISSIONS_MAX
    assert turns >= OMISSIONS_MAX
    check_audits(VoteBundle(EpochNumber(result.epoch + 1), account(3), (), omissions=found))


async def test_a_receipt_whose_name_would_void_the_bundle_stays_out_of_it() -> None:
    watch, result = world([receipt(1, "n" * 33), receipt(2)], [])
    assert [one.signed.receipt.node_id for one in await watch.find(result)] == ["node"]


async def test_what_is_in_no_book_because_there_was_none_twice_running_is_proven_without_any() -> None:
    signed = [receipt(number) for number in range(3)]
    watch, result = world(signed, [])
    epoch = signed[0].receipt.epoch
    once = replace(result, books=(), books_missing=(MissingBook(EXECUTOR, EpochNumber(0), EpochNumber(0)),))
    assert await watch.find(once) == ()
    twice = replace(
        once, books_before=(), books_missing=(MissingBook(EXECUTOR, EpochNumber(0), EpochNumber(epoch + 1)),)
    )
    (found,) = await watch.find(twice)  # one is enough, and leaves room for what others left out
    assert found.signed in signed
    assert (found.earlier, found.later) == (None, None)
    assert is_omitted(found, twice)
    check_audits(VoteBundle(EpochNumber(result.epoch + 1), account(3), (), omissions=(found,)))


async def test_after_a_missing_book_the_next_one_alone_has_to_have_a_receipt() -> None:
    signed = [receipt(number) for number in range(4)]
    watch, result = world(signed, signed[2:])
    late = replace(result, epoch=EpochNumber(result.epoch + 2), books_before=())
    found = await watch.find(late)
    assert {one.signed for one in found} == set(signed[:2])
    assert all(one.earlier is None and one.later is not None and is_omitted(one, late) for one in found)


async def test_receipts_of_a_busy_payer_are_found_however_many_are_newer_and_a_lot_of_them_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(omission_watch, "RECEIPTS_LOOKED_AT", 5)
    old = [receipt(number) for number in range(20)]
    chosen = set()
    for later in range(3):
        newer = [receipt_of_epoch(200 + later, 1)] + [receipt_of_epoch(number, 1) for number in range(300, 1500)]
        watch, result = world([*old, *newer[::-1]], [])
        found = await watch.find(result)
        assert len(found) == 5
        assert {one.signed for one in found} <= set(old)
        chosen.add(found)
    assert len(chosen) == 3  # which ones nobody can foresee who gave them


async def test_a_payer_that_has_read_back_far_enough_stops() -> None:
    per_epoch, epochs = 150, 2 * BOOKS_REMEMBERED_EPOCHS
    signed = [receipt_of_epoch(number, number // per_epoch) for number in range(epochs * per_epoch)]
    watch, result = world([receipt(3000)], [])
    newest = signed[-1].receipt.epoch
    pages = 0

    def receipts_got(before: int | None, limit: int) -> tuple[tuple[SignedReceipt, ...], int]:
        nonlocal pages
        pages += 1
        end = len(signed) if before is None else before
        return tuple(signed[max(0, end - limit) : end][::-1]), max(0, end - limit)

    watch._store = cast(Any, SimpleNamespace(receipts_got=receipts_got))
    await watch.find(replace(result, epoch=newest))
    assert 0 <= pages * RECEIPTS_PER_PAGE - (BOOKS_REMEMBERED_EPOCHS + 1) * per_epoch <= 2 * RECEIPTS_PER_PAGE


async def test_the_book_that_is_drawn_from_is_fetched_before_its_executor_may_hide_it() -> None:
    early, late = receipt(1), receipt_of_epoch(2, 1)
    watch, result = world([early, late], [early])
    data = await watch._content.read_bytes(SOME_CID, (), limit_bytes=BOOK_BYTES_MAX)
    fetched = list[object]()

    async def read_bytes(cid: object, *_asked: object, **_limits: object) -> bytes:
        fetched.append(cid)
        return data

    watch._content = cast(Any, SimpleNamespace(read_bytes=read_bytes))
    await watch.hold(result)
    assert fetched == [SOME_CID]  # for the receipt of its own epoch, which the next result decides
    watch, _ = world([early], [early])
    watch._content = cast(Any, SimpleNamespace(read_bytes=read_bytes))
    await watch.hold(result)
    assert len(fetched) == 1


async def test_a_book_that_does_not_come_proves_nothing(autojump_clock: object) -> None:
    """Who hides it has its draws counted as withheld by others."""
    signed = [receipt(number) for number in range(2)]
    watch, result = world(signed, [])
    asked = 0

    async def unavailable(*_asked: object, **_limits: object) -> bytes:
        nonlocal asked
        asked += 1
        raise ContentUnavailableError("nobody has it")

    watch._content = cast(Any, SimpleNamespace(read_bytes=unavailable))
    assert await watch.find(result) == ()
    assert asked == TRIES  # not again for each receipt
