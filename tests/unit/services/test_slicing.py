"""Long computations leave others their turn: the largest book that anybody may commit to is read a bit at a time."""

from dataclasses import replace

import pytest
import trio

from node.protocol.identifiers import Hash32
from node.protocol.omissions import SearchedBook
from node.protocol.receipt_books import (
    ROW_BYTES,
    BookError,
    BookRow,
    book_bytes,
    book_bytes_in_slices,
    make_book,
    make_book_in_slices,
    read_book,
    read_book_in_slices,
)
from node.protocol.slices import ITEMS_PER_SLICE, Slices, finish
from node.services.slicing import Slicer
from tests.builders import SOME_CID, unasked_row

ROWS = [unasked_row(Hash32((n * 7919 % 10_007).to_bytes(32)), n) for n in range(10_007)]


class Clock:
    """Counts the turns that others get."""

    def __init__(self) -> None:
        self.turns = 0

    async def run(self) -> None:
        while True:
            self.turns += 1
            await trio.lowlevel.checkpoint()


async def turns_during(computation: Slices[object], slicer: Slicer) -> int:
    clock = Clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await slicer.run(computation)
        nursery.cancel_scope.cancel()
    return clock.turns


async def test_others_have_their_turn_after_every_few_rows_of_a_book() -> None:
    data, slicer = book_bytes(ROWS), Slicer()
    book = make_book(ROWS, SOME_CID)
    least = len(ROWS) // ITEMS_PER_SLICE
    assert await turns_during(read_book_in_slices(data, book), slicer) >= least
    assert await turns_during(make_book_in_slices(data, SOME_CID), slicer) >= least
    assert await turns_during(book_bytes_in_slices(ROWS), slicer) >= 2 * least
    searched = SearchedBook(read_book(data, book))
    assert await turns_during(searched.prepare(), slicer) >= least


async def test_in_slices_a_book_is_what_it_is_at_once() -> None:
    slicer = Slicer()
    data = await slicer.run(book_bytes_in_slices(ROWS))
    assert (
        data
        == book_bytes(ROWS)
        == b"".join(row.asking + row.digest + row.output_tokens.to_bytes(4) + row.payer for row in sorted_rows())
    )
    book = await slicer.run(make_book_in_slices(data, SOME_CID))
    assert book == make_book(ROWS, SOME_CID)
    assert list(await slicer.run(read_book_in_slices(data, book))) == sorted_rows()


def sorted_rows() -> list[BookRow]:
    return sorted(ROWS, key=lambda row: row.asking)


async def test_a_book_that_is_none_is_told_at_the_first_slice_that_shows_it() -> None:
    data = book_bytes(ROWS)
    book = make_book(ROWS, SOME_CID)
    swapped = data[ROW_BYTES : 2 * ROW_BYTES] + data[:ROW_BYTES] + data[2 * ROW_BYTES :]
    with pytest.raises(BookError, match="ascend"):
        next(read_book_in_slices(swapped, book))
    slicer = Slicer()
    with pytest.raises(BookError, match="root"):
        await slicer.run(read_book_in_slices(data, replace(book, root=Hash32(bytes(32)))))
    assert len(await slicer.run(read_book_in_slices(data, book))) == len(ROWS)  # whoever failed holds nobody up


async def test_one_computation_runs_at_a_time() -> None:
    slicer, order = Slicer(), list[int]()

    def computation(number: int) -> Slices[None]:
        for _ in range(3):
            order.append(number)
            yield

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(slicer.run, computation(number))
    assert [order[start : start + 3] for start in (0, 3, 6)] == [[n] * 3 for n in (order[0], order[3], order[6])]


def test_a_computation_is_finished_at_once_where_nobody_waits() -> None:
    def computation() -> Slices[int]:
        yield
        yield
        return 7

    assert finish(computation()) == 7
