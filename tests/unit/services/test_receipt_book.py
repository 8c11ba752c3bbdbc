"""The executor's book: every receipt that is due is in one, once, and what is kept of it is on the disk before."""

from dataclasses import replace

import trio

from node.protocol.asking import ANSWER_EPOCHS_MAX
from node.protocol.audit_evidence import what_is_wrong
from node.protocol.findings import EarlierBook, ReceiptBook
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.omissions import EMPTY_BOOK, SearchedBook
from node.protocol.receipt_books import NOBODY, payer_bytes, read_book, read_rows
from node.protocol.shown_evidence import evidence_from_bytes
from node.services.receipt_book import RECEIPTS_PER_SLICE, ReceiptBookKeeper
from node.store.given_answers import GivenAnswerTables
from tests.builders import account
from tests.unit.protocol.test_audit_evidence import ANSWER, ASKING, EXECUTOR, evidence_of
from tests.unit.services.receipt_bench import EPOCH, bench, row_of
from tests.unit.services.scripted import CHAT, ask
from tests.unit.services.serving_network import GATEWAY, serving_network


async def test_a_book_names_every_receipt_and_is_the_same_after_a_restart(nursery: trio.Nursery) -> None:
    made = bench(nursery)
    assert await made.keeper.book(EpochNumber(EPOCH - 1)) is None
    first = made.give(evidence_of())
    private = evidence_of(replace(ANSWER, output_ids=(9,)), is_private=True, request_id=bytes([1]) * 32)
    second = made.give(private)
    book = await made.keeper.book(EPOCH)
    assert book is not None
    rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
    # Of what is private, no token is drawn, and its payer is not named.
    assert set(rows) == {row_of(evidence_of()), row_of(private)}
    assert {row.digest: (row.output_tokens, row.payer) for row in rows} == {
        first: (2, payer_bytes(account(1))),
        second: (0, NOBODY),
    }
    now = replace(ASKING, epoch=EPOCH)
    made.give(evidence_of(replace(ANSWER, output_ids=(7, 8)), request_id=bytes([2]) * 32, epoch=EPOCH, asking=now))
    again = ReceiptBookKeeper(made.content, made.store, made.keeper.given)
    assert await again.book(EPOCH) == book
    await again.note_counted(EarlierBook(EXECUTOR, EPOCH, book))
    following = await again.book(EpochNumber(EPOCH + 1))
    assert following is not None
    assert following.count == 1


async def test_of_a_private_answer_only_the_receipt_and_who_asked_are_kept(nursery: trio.Nursery) -> None:
    made = bench(nursery)
    evidence = evidence_of(is_private=True)
    kept = made.keeper.given.kept(made.give(evidence))
    assert kept is not None
    assert evidence_from_bytes(kept) == replace(evidence, kept=None)


async def test_what_was_asked_long_before_it_was_answered_stays_out_of_the_book(nursery: trio.Nursery) -> None:
    """No auditor would take it, so it would count as withheld."""
    made = bench(nursery)
    late = EpochNumber(ASKING.epoch + ANSWER_EPOCHS_MAX + 1)
    made.give(evidence_of(epoch=late))
    assert await made.keeper.book(late) is None
    digest = made.give(evidence_of(request_id=bytes([1]) * 32, epoch=EpochNumber(late - 1)))
    book = await made.keeper.book(EpochNumber(late + 1))
    assert book is not None
    rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
    assert [row.digest for row in rows] == [digest]


async def test_of_one_id_asked_with_twice_both_answers_are_booked(nursery: trio.Nursery) -> None:
    """A payer that asks anew under the same id finds neither receipt left out, paid for or not."""
    made = bench(nursery)
    first = evidence_of(both=False)
    second = evidence_of(asking=replace(ASKING, body=Hash32(bytes([8]) * 32)))
    digests = {made.give(first), made.give(second)}
    book = await made.keeper.book(EPOCH)
    assert book is not None
    rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
    assert {row.digest for row in rows} == digests
    assert all(SearchedBook(rows).books_rightly(one.signed.receipt) for one in (first, second))


async def test_a_book_of_several_pages_has_every_receipt_once(nursery: trio.Nursery) -> None:
    made = bench(nursery)
    count = 2 * RECEIPTS_PER_SLICE + 1
    digests = {made.give(evidence_of(request_id=number.to_bytes(32))) for number in range(count)}
    book = await made.keeper.book(EPOCH)
    assert book is not None
    rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=100_000), book)
    assert {row.digest for row in rows} == digests
    assert len(rows) == count
    await made.keeper.note_counted(EarlierBook(EXECUTOR, EPOCH, book))
    assert await made.keeper.book(EpochNumber(EPOCH + 1)) is None


async def test_what_no_result_has_is_in_the_next_book_again_also_after_a_restart(nursery: trio.Nursery) -> None:
    """Whether the bundle was not counted or the epoch has no result, and whatever this node missed."""
    made = bench(nursery)
    keeper, digests, books = made.keeper, list[Hash32](), list[ReceiptBook]()

    async def give_and_book(epoch: int) -> set[Hash32]:
        digests.append(made.give(evidence_of(request_id=epoch.to_bytes(32))))
        book = await keeper.book(EpochNumber(epoch))
        assert book is not None
        books.append(book)
        rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
        return {row.digest for row in rows}

    assert await give_and_book(0) == set(digests)
    await keeper.note_counted(EarlierBook(EXECUTOR, EpochNumber(0), books[0]))
    assert await give_and_book(1) == set(digests[1:])
    await keeper.note_counted(None)  # a result in which nothing is known of this node
    await keeper.note_counted(EarlierBook(EXECUTOR, EpochNumber(0), books[0]))  # that has no book of epoch 1
    assert await give_and_book(2) == set(digests[1:])
    keeper = ReceiptBookKeeper(made.content, made.store, made.keeper.given)
    assert await keeper.book(EpochNumber(2)) == books[2]
    assert await give_and_book(3) == set(digests[1:])
    await keeper.note_counted(EarlierBook(EXECUTOR, EpochNumber(2), books[2]))  # learned late
    assert await give_and_book(4) == set(digests[3:])


async def test_what_may_be_in_a_counted_book_that_is_not_here_is_not_booked_again(nursery: trio.Nursery) -> None:
    """A backup was restored: what stands in two books running is proven against this node."""
    made = bench(nursery)
    made.give(evidence_of())
    made.give(evidence_of(asking=None, request_id=bytes([1]) * 32))
    book = await made.keeper.book(EPOCH)
    assert book is not None
    for other in (replace(book, count=3), EMPTY_BOOK):
        await made.keeper.note_counted(EarlierBook(EXECUTOR, EPOCH, other))
        assert not made.keeper.given.is_counted(EPOCH)
    epoch = EpochNumber(EPOCH + 1)
    asking = replace(ASKING, epoch=epoch)
    later = made.give(evidence_of(request_id=bytes([2]) * 32, epoch=epoch, asking=asking))
    assert await made.keeper.book(EpochNumber(EPOCH + 1)) is not None
    assert [row.digest for row in read_rows(made.keeper.given.book(EPOCH + 1) or b"")] == [later]


async def test_of_what_was_due_before_the_counted_book_nothing_is_booked_late(nursery: trio.Nursery) -> None:
    """It is omitted already; late it would be surplus as well, and no auditor would take it."""
    made = bench(nursery)
    await made.keeper.note_counted(EarlierBook(EXECUTOR, EpochNumber(EPOCH + 1), EMPTY_BOOK))
    made.give(evidence_of())
    open_prompt = made.give(evidence_of(asking=None, request_id=bytes([1]) * 32))  # its epoch is when it was posted
    made.keeper._lost_before = EpochNumber(0)
    assert await made.keeper.book(EpochNumber(EPOCH + 2)) is not None
    assert [row.digest for row in read_rows(made.keeper.given.book(EPOCH + 2) or b"")] == [open_prompt]


async def test_an_empty_book_is_counted_as_well(nursery: trio.Nursery) -> None:
    made = bench(nursery)
    assert await made.keeper.book(EPOCH) is None
    await made.keeper.note_counted(EarlierBook(EXECUTOR, EPOCH, EMPTY_BOOK))
    assert made.keeper.given.is_counted(EPOCH)


async def test_a_payer_that_leaves_before_the_receipt_takes_nothing_out_of_the_book(autojump_clock: object) -> None:
    """It has read the tokens by then: else it would leave to audits what it likes of an honest executor's answers."""
    async with serving_network(1) as network:
        member = network.members[1]
        given = GivenAnswerTables(member.store.database, member.chain.account)
        executor = member.executor
        assert executor is not None
        keeper = executor._book = ReceiptBookKeeper(member.content, member.store, given)
        async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
            left = 20
            async for _ in answer:
                left -= 1
                if not left:
                    break
        await trio.sleep(5)
        (signed,) = member.store.receipts(limit=9)
        assert signed.payer_signature == b""
        assert 20 <= signed.receipt.output_tokens < 400
        book = await keeper.book(EpochNumber(0))
        assert book is not None
        (row,) = read_book(await member.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
        assert row.payer == payer_bytes(network.members[GATEWAY].chain.account)
        evidence = given.kept(row.digest)
        assert evidence is not None
        assert what_is_wrong(evidence_from_bytes(evidence), member.chain.account, row.digest, row) == ""


async def test_an_answer_is_on_the_disk_before_anybody_has_its_receipt(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        member = network.members[1]
        given = GivenAnswerTables(member.store.database, member.chain.account)
        executor = member.executor
        assert executor is not None
        executor._book = ReceiptBookKeeper(member.content, member.store, given)
        disk, kept_by_then = trio.Event(), list[int]()

        def count(table: str) -> int:
            (rows,) = member.store.database.connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
            return int(rows)

        async def durable() -> None:
            if count("given_answers"):
                kept_by_then.append(count("given_answers"))
                await disk.wait()

        member.store.durable = durable  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, network)
            with trio.fail_after(60):
                while not kept_by_then:
                    await trio.sleep(0.1)
            await trio.sleep(1)  # less than its gateway's patience
            assert not network.members[GATEWAY].store.receipts(limit=9)  # the power may fail: nobody has it
            disk.set()
        assert len(network.members[GATEWAY].store.receipts(limit=9)) == 1
