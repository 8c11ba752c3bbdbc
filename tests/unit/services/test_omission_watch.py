"""A payer's watch over books: it proves what is missing, no more than a bundle carries, and holds nobody up."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs

from node.ports import ContentUnavailableError
from node.protocol.audit_votes import check_audits
from node.protocol.due_books import BOOKS_REMEMBERED_EPOCHS
from node.protocol.findings import CommittedBook, EarlierBook, MissingBook
from node.protocol.identifiers import Cid, EpochNumber, NodeId, RequestId, TokenAmount
from node.protocol.omissions import OMISSIONS_MAX, is_omitted, is_surplus
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BOOK_BYTES_MAX, NOBODY, book_bytes, booked_row, make_book, order_rows
from node.protocol.records import Asking, EpochGroup, EpochResult, Omission, SignedReceipt, VoteBundle
from node.protocol.signatures import sign
from node.services import omission_watch
from node.services.omission_watch import FOUND_PER_EXECUTOR_MAX, RECEIPTS_PER_PAGE, TRIES, OmissionWatch
from tests.builders import SOME_CID, account, key_of
from tests.unit.protocol.test_audit_evidence import ANSWER, ASKING, EXECUTOR, PAYER, receipt_for
from tests.unit.protocol.test_omissions import ROWS

CID_BEFORE = Cid("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq")


def receipt(number: int, node_id: str = "node", **changes: Any) -> SignedReceipt:
    made = replace(receipt_for(ANSWER), request_id=RequestId(number.to_bytes(32)), node_id=NodeId(node_id))
    made = replace(made, **changes)
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
    before: Sequence[SignedReceipt] = (),
) -> tuple[OmissionWatch, EpochResult]:
    """A watch and the result it looks at; by place in `listed`: `tokens` that some are booked with, and those whose
    payer is not named. The book before has `before`."""
    booked = [booked_row(one) for one in listed]
    for place in unnamed:
        booked[place] = replace(booked[place], payer=NOBODY)
    for place, count in tokens.items():
        booked[place] = replace(booked[place], output_tokens=count)
    rows, rows_before = order_rows([*ROWS, *booked]), order_rows([*ROWS, *map(booked_row, before)])
    committed = (CommittedBook(EXECUTOR, make_book(rows, SOME_CID)),)
    epoch = EpochNumber(signed[0].receipt.epoch + 1)
    group = EpochGroup(EpochNumber(epoch + 1), (), ())
    earlier = (EarlierBook(EXECUTOR, EpochNumber(epoch - 1), make_book(rows_before, CID_BEFORE)),)
    result = replace(EpochResult(epoch, group, (), TokenAmount(0)), books=committed, books_before=earlier)

    async def read_bytes(cid: Cid, *_asked: object, **_limits: object) -> bytes:
        return book_bytes(rows if cid == SOME_CID else rows_before)

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


async def test_what_is_booked_as_nobody_s_is_proven() -> None:
    signed = [receipt(number) for number in range(4)]
    watch, result = world(signed, signed, unnamed={1, 2})
    found = await watch.find(result)
    assert {one.signed.receipt.request_id for one in found} == {signed[n].receipt.request_id for n in (1, 2)}
    assert all(is_omitted(one, result) for one in found)


async def test_what_is_booked_a_second_time_or_with_another_receipt_is_proven() -> None:
    """True rows beside those that are false take draws away from these: what was asked once stands in books once."""
    signed = [receipt(number) for number in range(4)]
    another = receipt(2, at=5)
    watch, result = world(signed, [signed[0], another, signed[3]], before=signed[:3])
    found = await watch.find(result)
    assert {one.signed.receipt.request_id for one in found} == {signed[n].receipt.request_id for n in (0, 2)}
    assert all(is_surplus(one, result) and not is_omitted(one, result) for one in found)
    check_audits(VoteBundle(EpochNumber(result.epoch + 1), account(3), (), omissions=found))


async def test_an_answer_of_an_older_epoch_that_is_booked_now_is_proven() -> None:
    """The book before had to have it, whatever the age."""
    ages = {age: receipt(age, epoch=EpochNumber(9 - age), asking=asked(9 - age)) for age in range(7)}
    watch, result = world([receipt(99, epoch=EpochNumber(8), asking=asked(8)), *ages.values()], list(ages.values()))
    found = await watch.find(result)
    missing, *late = sorted(found, key=lambda one: -one.signed.receipt.epoch)
    assert missing.signed.receipt.request_id == (99).to_bytes(32)
    assert [one.signed.receipt.epoch for one in late] == [7, 6, 5, 4, 3]
    assert all(is_surplus(one, result) for one in late)


def asked(epoch: int) -> Asking:
    return replace(ASKING, epoch=EpochNumber(epoch))


async def test_no_more_is_proven_than_is_of_use_and_others_get_their_turn() -> None:
    signed = [receipt(number) for number in range(FOUND_PER_EXECUTOR_MAX + 20)]
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
    assert len(found) == FOUND_PER_EXECUTOR_MAX
    assert turns >= FOUND_PER_EXECUTOR_MAX
    assert len({receipt_digest(one.signed.receipt) for one in found}) == len(found)
    check_audits(VoteBundle(EpochNumber(result.epoch + 1), account(3), (), omissions=found[:OMISSIONS_MAX]))


async def test_what_is_found_is_kept_at_once_and_not_looked_for_again() -> None:
    signed = [receipt(number) for number in range(40)]
    watch, result = world(signed, [])
    kept: list[Omission] = []
    found = await watch.find(result, (), kept.append)
    assert set(kept) == set(found)
    again: list[Omission] = []
    assert await watch.find(result, kept[:25], again.append) == found
    assert set(again) == set(kept[25:])


async def test_one_executor_s_proofs_leave_room_for_those_against_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omission_watch, "FOUND_MAX", OMISSIONS_MAX + 10)
    signed = [receipt(number) for number in range(100)]
    for number in range(100, 105):
        made = replace(signed[0].receipt, executor=account(5), request_id=RequestId(number.to_bytes(32)))
        signed.append(SignedReceipt(made, sign(key_of(5), receipt_digest(made)), b"signed"))
    watch, result = world(signed, [])
    other = CommittedBook(account(5), result.books[0].book)
    both = replace(result, books=(*result.books, other))
    counts = Counter(one.signed.receipt.executor for one in await watch.find(both))
    assert counts == {EXECUTOR: OMISSIONS_MAX + 5, account(5): 5}


async def test_a_receipt_whose_name_would_void_the_bundle_stays_out_of_it() -> None:
    watch, result = world([receipt(1, "n" * 33), receipt(2)], [])
    with capture_logs() as logs:
        assert [one.signed.receipt.node_id for one in await watch.find(result)] == ["node"]
    assert [entry["receipts"] for entry in logs if "too long a name" in entry["event"]] == [1]


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
    assert asked == 2 * TRIES  # each of both books, and not again for each receipt
