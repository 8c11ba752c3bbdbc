"""Receipt books and what is drawn of them: one file for a set of receipts, tokens drawn fairly, auditors by weight."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.audit_sampling import (
    DRAWS_MAX,
    DRAWS_MIN,
    ROW_DRAWS,
    SEATS,
    AuditorLots,
    auditors_of,
    drawn_rows,
    draws_of,
    models_served,
    token_draws_of,
)
from node.protocol.findings import ReceiptBook
from node.protocol.identifiers import EpochNumber, Hash32, ModelId
from node.protocol.receipt_books import (
    NOBODY,
    BookError,
    BookRow,
    book_bytes,
    make_book,
    order_rows,
    payer_bytes,
    read_book,
)
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot
from tests.builders import NODE, SOME_CID, TINY, account, model, peer, unasked_row

SEED = Hash32(bytes(range(32)))
BIG = ModelId("big")


def row(number: int, tokens: int = 10) -> BookRow:
    return unasked_row(Hash32(number.to_bytes(32)), tokens)


def group_of(*members: tuple[int, int, tuple[ModelId, ...]]) -> EpochGroup:
    made = [
        GroupMember(
            account(number),
            peer(number),
            weight,
            tuple(MLNodeSnapshot(NODE, model_id, weight, weight, (True, False)) for model_id in models),
        )
        for number, weight, models in members
    ]
    ordered = tuple(sorted(made, key=lambda member: member.participant.lower()))
    return EpochGroup(EpochNumber(1), ordered, (model(),))


GROUP = group_of((2, 5, (TINY,)), (3, 5, (TINY,)))

rows_of_any_book = st.lists(
    st.tuples(st.integers(0, 2**256 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=20, unique_by=lambda r: r[0]
)


@given(rows_of_any_book, st.randoms())
def test_a_book_is_read_as_it_was_written_in_whatever_order_receipts_came(
    entries: list[tuple[int, int]], source: random.Random
) -> None:
    payers = (NOBODY, payer_bytes(account(2)), payer_bytes(account(9)))
    rows = [replace(row(number, tokens), payer=payers[number % 3]) for number, tokens in entries]
    shuffled = list(rows)
    source.shuffle(shuffled)
    book = make_book(rows, SOME_CID)
    assert book == make_book(shuffled, SOME_CID)
    assert tuple(read_book(book_bytes(shuffled), book)) == order_rows(rows)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"count": 2}, "not 264 bytes"),
        ({"count": 1 << 40}, "not 264 bytes"),
        ({"output_tokens": 31}, "31 tokens"),
        ({"root": Hash32(bytes(32))}, "root"),
    ],
)
def test_a_book_whose_figures_disagree_is_none(changes: dict[str, object], complaint: str) -> None:
    rows = [row(1), row(2), row(3)]
    book = replace(make_book(rows, SOME_CID), **changes)  # type: ignore[arg-type]
    with pytest.raises(BookError, match=complaint):
        read_book(book_bytes(rows), book)


def test_a_book_that_lists_a_receipt_twice_or_out_of_order_is_none() -> None:
    rows = [row(1), row(2)]
    data = book_bytes([row(1)])
    for wrong in (data + data, book_bytes([row(2)]) + data):
        with pytest.raises(BookError, match="ascend"):
            read_book(wrong, make_book(rows, SOME_CID))


def test_a_book_with_two_answers_to_one_request_or_one_answer_to_two_is_none() -> None:
    """Else a thousand true answers to what a payer asked once would stand beside one that is false."""
    asked, other = Hash32(bytes([1]) * 32), Hash32(bytes([2]) * 32)
    twice = [BookRow(asked, Hash32(bytes([n]) * 32), 10) for n in (1, 2)]
    shared = [BookRow(asking, Hash32(bytes([1]) * 32), 10) for asking in (asked, other)]
    for rows, complaint in ((twice, "each request once"), (shared, "several requests")):
        with pytest.raises(BookError, match=complaint):
            read_book(book_bytes(rows), make_book(rows, SOME_CID))


def book(count: int, output_tokens: int) -> ReceiptBook:
    return ReceiptBook(count, output_tokens, Hash32(bytes(32)), SOME_CID)


def test_how_many_answers_are_drawn_follows_their_number_within_limits() -> None:
    assert [token_draws_of(book(count, 100)) for count in (1, 9, 10, 2_500, 4_000, 10**6)] == [
        1,
        9,
        DRAWS_MIN,
        DRAWS_MIN,
        16,
        DRAWS_MAX - ROW_DRAWS,
    ]
    assert token_draws_of(book(1000, 0)) == 0
    assert [draws_of(book(count, 100)) for count in (1, 3, 4_000)] == [1 + 1, 3 + ROW_DRAWS, 16 + ROW_DRAWS]
    assert draws_of(book(1000, 0)) == ROW_DRAWS
    assert draws_of(book(0, 0)) == 0
    assert draws_of(book(10**6, 1)) == DRAWS_MAX


def test_answers_are_drawn_in_proportion_to_their_tokens() -> None:
    """Padding with short answers hides nothing: who generated nine tenths of its tokens falsely is drawn as often."""
    rows = order_rows([row(1, 900), *(row(number, 1) for number in range(2, 102))])
    padded = make_book(rows, SOME_CID)
    found: Counter[bool] = Counter()
    for number in range(300):
        seed = Hash32(number.to_bytes(32))
        found[rows[0] in drawn_rows(seed, account(1), padded, rows, GROUP).values()] += 1
    assert found[True] > 290


def test_an_answer_that_is_drawn_twice_is_audited_once_and_empty_ones_are_by_rows_alone() -> None:
    rows = order_rows([row(1, 0), row(2, 100), row(3, 0)])
    whole = make_book(rows, SOME_CID)
    for number in range(20):
        drawn = drawn_rows(Hash32(number.to_bytes(32)), account(1), whole, rows, GROUP)
        assert drawn[0] == rows[1]
        assert len(set(drawn.values())) == len(drawn)
        assert all(draw >= token_draws_of(whole) for draw, found in drawn.items() if found.output_tokens == 0)


def test_a_row_that_says_it_has_no_tokens_is_looked_at_all_the_same() -> None:
    """Else whoever books its answers with no tokens is never audited."""
    rows = order_rows([row(number, 0) for number in range(10)])
    whole = make_book(rows, SOME_CID)
    drawn = [drawn_rows(Hash32(number.to_bytes(32)), account(1), whole, rows, GROUP) for number in range(60)]
    assert all(1 <= len(found) <= ROW_DRAWS for found in drawn)
    assert {found.digest for each in drawn for found in each.values()} == {known.digest for known in rows}


def test_the_draw_depends_on_seed_and_executor() -> None:
    rows = order_rows([row(number) for number in range(1000)])
    whole = make_book(rows, SOME_CID)
    one = drawn_rows(SEED, account(1), whole, rows, GROUP)
    assert one == drawn_rows(SEED, account(1), whole, rows, GROUP)
    assert one != drawn_rows(SEED, account(2), whole, rows, GROUP)
    assert one != drawn_rows(Hash32(bytes(32)), account(1), whole, rows, GROUP)


def test_auditors_are_members_with_a_model_of_the_executor_s_and_never_itself() -> None:
    group = group_of((1, 5, (TINY,)), (2, 5, (TINY, BIG)), (3, 5, (BIG,)), (4, 0, (TINY,)), (5, 5, (TINY,)))
    drawn = [auditors_of(SEED, account(1), draw, group) for draw in range(50)]
    assert {auditor for auditors in drawn for auditor in auditors} == {account(2), account(5)}
    assert models_served(group, account(9)) == {TINY}  # no member any more: the models of the group


def test_seats_are_drawn_by_weight_and_differ_between_answers() -> None:
    """And by nothing else: whoever has a third of it has a third of the seats, in one account or in twenty."""
    group = group_of(
        (1, 90, (TINY,)), (2, 20, (TINY,)), *((number, 1, (TINY,)) for number in range(3, 23)), (23, 20, (TINY, BIG))
    )
    lots = AuditorLots(SEED, group)
    drawn = [lots.seats(account(1), draw) for draw in range(400)]
    assert {sum(seats.values()) for seats in drawn} == {SEATS}
    for third in ({account(2)}, {account(number) for number in range(3, 23)}, {account(23)}):
        seats = [sum(count for who, count in each.items() if who in third) for each in drawn]
        assert sum(seats) == pytest.approx(400 * SEATS / 3, rel=0.1)
        assert sum(count > SEATS // 2 for count in seats) == pytest.approx(400 * 0.21, rel=0.3)
    assert {who for seats in drawn for who in seats} == {account(number) for number in range(2, 24)}


def test_a_group_of_few_audits_with_those_there_are() -> None:
    assert auditors_of(SEED, account(1), 0, group_of((1, 1, (TINY,)))) == ()
    group = group_of((1, 1, (TINY,)), (2, 1, (TINY,)), (3, 1, (TINY,)))
    assert set(auditors_of(SEED, account(1), 0, group)) == {account(2), account(3)}
