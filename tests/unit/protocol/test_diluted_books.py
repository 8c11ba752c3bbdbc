"""An executor fills its own book at no cost: what that takes from the draws of others, and what it cannot take."""

import hashlib
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.audit_sampling import drawn_rows, is_of_payer, token_draws_of
from node.protocol.identifiers import Address, Hash32
from node.protocol.receipt_books import NOBODY, BookRow, make_book, order_rows, payer_bytes
from tests.builders import SOME_CID, TINY, account, unasked_row
from tests.unit.protocol.test_receipt_books import group_of

EXECUTOR = account(1)
GATEWAY, OTHER, STRANGER = (payer_bytes(account(number)) for number in (2, 3, 30))
GROUP = group_of((1, 50, (TINY,)), (2, 10, (TINY,)), (3, 30, (TINY,)), (4, 10, (TINY,)))
seeds = st.binary(min_size=32, max_size=32).map(Hash32)


def rows_of(payer: bytes, count: int, tokens: int = 256) -> tuple[BookRow, ...]:
    def digest(number: int) -> Hash32:
        return Hash32(hashlib.sha256(payer + tokens.to_bytes(8) + number.to_bytes(8)).digest())

    return tuple(unasked_row(digest(number), tokens, payer) for number in range(count))


def drawn(seed: Hash32, rows: tuple[BookRow, ...], executor: Address = EXECUTOR) -> dict[int, BookRow]:
    ordered = order_rows(rows)
    return drawn_rows(seed, executor, make_book(ordered, SOME_CID), ordered, GROUP)


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    st.lists(st.tuples(st.sampled_from([NOBODY, STRANGER, payer_bytes(EXECUTOR)]), st.integers(1, 300)), max_size=3),
    st.integers(1, 100_000),
)
def test_what_is_drawn_of_a_payer_with_weight_stays_drawn_whatever_else_is_booked(
    seed: Hash32, padding: list[tuple[bytes, int]], tokens: int
) -> None:
    """Keys are free: answers under keys of its own, or under none, take nothing away."""
    paid = rows_of(GATEWAY, 400)
    added = {row.digest: row for payer, count in padding for row in rows_of(payer, count, tokens)}
    alone = make_book(order_rows(paid), SOME_CID)
    before = {row.digest for draw, row in drawn(seed, paid).items() if is_of_payer(draw, alone)}
    after = {row.digest for row in drawn(seed, (*paid, *added.values())).values()}
    assert before <= after


def test_a_book_that_is_nearly_all_padding_still_has_half_of_its_draws_where_weight_paid() -> None:
    """At first all draws were by tokens: this book would have had one of sixty thousand."""
    paid, padding = rows_of(GATEWAY, 100), rows_of(STRANGER, 16_000, 100_000)
    found = [drawn(Hash32(number.to_bytes(32)), (*paid, *padding)) for number in range(20)]
    hits = [sum(row.payer == GATEWAY for row in each.values()) for each in found]
    assert token_draws_of(make_book((*paid, *padding), SOME_CID)) == 62
    assert min(hits) >= 20  # of 31; some fall on the same of a hundred answers


def test_what_was_asked_and_never_answered_takes_few_draws_though_it_asked_for_much() -> None:
    """One request in twenty that its executor fails, or its user leaves, booked in three books with made-up answers."""
    answered, unanswered = rows_of(GATEWAY, 1_800), rows_of(GATEWAY, 1_800 * 3 // 20, 32_000)
    rows = (*answered, *unanswered)
    book, truly = make_book(order_rows(rows), SOME_CID), set(answered)
    hits: Counter[bool] = Counter()
    for number in range(100):
        found = drawn(Hash32(number.to_bytes(32)), rows)
        hits.update(row in truly for draw, row in found.items() if is_of_payer(draw, book))
    assert 0.68 <= hits[True] / hits.total() <= 0.86  # 77 %; over 500 draws its standard error is 0.019


def test_members_share_these_draws_by_their_weight_and_not_by_what_they_are_booked_with() -> None:
    rows = (*rows_of(GATEWAY, 3000, 10_000), *rows_of(OTHER, 3000, 10))
    ordered = order_rows(rows)
    book = make_book(ordered, SOME_CID)
    counts: Counter[bytes] = Counter()
    for number in range(100):
        found = drawn_rows(Hash32(number.to_bytes(32)), EXECUTOR, book, ordered, GROUP)
        counts.update(row.payer for draw, row in found.items() if is_of_payer(draw, book))
    share = counts[OTHER] / counts.total()
    assert 0.68 <= share <= 0.82  # three of four; over 1,200 draws its standard error is 0.013


def test_an_executor_has_no_draws_as_its_own_payer() -> None:
    """Its weight would be the cheapest there is to hide behind."""
    rows = (*rows_of(payer_bytes(EXECUTOR), 8_000, 1_000_000), *rows_of(GATEWAY, 2_000, 1))
    for number in range(10):
        found = drawn(Hash32(number.to_bytes(32)), rows)
        assert sum(row.payer == GATEWAY for row in found.values()) >= 19  # of 20 by payers, with 2,000 answers


def test_without_a_payer_that_has_weight_all_draws_are_by_tokens() -> None:
    rows = (*rows_of(STRANGER, 20, 1_000), *rows_of(NOBODY, 20, 1_000))
    found = [drawn(Hash32(number.to_bytes(32)), rows) for number in range(20)]
    assert {row.payer for each in found for draw, row in each.items() if draw % 2} == {STRANGER, NOBODY}
