"""A payer's watch over books: it proves what is missing, no more than a bundle carries, and holds nobody up."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import trio

from node.protocol.asking import BOOKED_EPOCHS_MAX
from node.protocol.audit_votes import check_audits
from node.protocol.findings import CommittedBook
from node.protocol.identifiers import Cid, EpochNumber, NodeId, RequestId
from node.protocol.omissions import OMISSIONS_MAX, is_omitted, is_surplus
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import NOBODY, book_bytes, booked_row, make_book, order_rows
from node.protocol.records import Asking, EpochGroup, EpochResult, SignedReceipt, VoteBundle
from node.protocol.signatures import sign
from node.services.omission_watch import OmissionWatch
from tests.builders import SOME_CID, account, key_of
from tests.unit.protocol.test_audit_evidence import ANSWER, ASKING, EXECUTOR, PAYER, receipt_for
from tests.unit.protocol.test_omissions import ROWS

CID_BEFORE = Cid("bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq")


def receipt(number: int, node_id: str = "node", **changes: object) -> SignedReceipt:
    made = replace(receipt_for(ANSWER), request_id=RequestId(number.to_bytes(32)), node_id=NodeId(node_id))
    made = replace(made, **changes)  # type: ignore[arg-type]
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
    committed_before = (CommittedBook(EXECUTOR, make_book(rows_before, CID_BEFORE)),)
    epoch = EpochNumber(signed[0].receipt.epoch + 1)
    group = EpochGroup(EpochNumber(epoch + 1), (), ())
    result = replace(EpochResult(epoch, group, (), 0), books=committed, books_before=committed_before)  # type: ignore[arg-type]

    async def read_bytes(cid: Cid, *_asked: object, **_limits: object) -> bytes:
        return book_bytes(rows if cid == SOME_CID else rows_before)

    content = SimpleNamespace(read_bytes=read_bytes)
    store = SimpleNamespace(receipts=lambda limit: signed[:limit])
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
    """As long as auditors would take it: what was asked longer ago than that nobody counts."""
    ages = {age: receipt(age, epoch=EpochNumber(9 - age), asking=asked(9 - age)) for age in range(7)}
    watch, result = world([receipt(99, epoch=EpochNumber(8), asking=asked(8)), *ages.values()], list(ages.values()))
    found = await watch.find(result)
    missing, *late = sorted(found, key=lambda one: -one.signed.receipt.epoch)
    assert missing.signed.receipt.request_id == (99).to_bytes(32)
    assert [one.signed.receipt.epoch for one in late] == [9 - BOOKED_EPOCHS_MAX]
    assert all(is_surplus(one, result) for one in late)


def asked(epoch: int) -> Asking:
    return replace(ASKING, epoch=EpochNumber(epoch))


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
