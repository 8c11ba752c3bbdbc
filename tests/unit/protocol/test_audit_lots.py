"""What audits are drawn by: nobody who knows the lot can still choose, and nobody who chooses knows the lot."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.audit_outcomes import CHALLENGED_MAX, audit_outcomes
from node.protocol.audit_sampling import (
    DRAWS_PER_SLICE,
    SEATS,
    AuditorLots,
    AuditSeeds,
    auditors_of,
    drawn_rows,
    draws_of,
    models_served,
    own_draws,
    own_draws_in_slices,
)
from node.protocol.findings import CommittedBook
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, RequestId
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import booked_tokens, make_book, order_rows
from node.protocol.records import EpochGroup, SignedReceipt, VoteBundle
from node.protocol.signatures import sign
from tests.builders import SOME_CID, TINY, account, key_of, unasked_row
from tests.unit.protocol.audited_group import band_of, previous
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, receipt_for
from tests.unit.protocol.test_receipt_books import group_of

DRAW = Hash32(b"\x07" * 32)
seeds = st.binary(min_size=32, max_size=32).map(Hash32)
PAYERS = range(10, 26)


def challenge(payer: int, number: int = 0) -> SignedReceipt:
    receipt = replace(receipt_for(ANSWER), payer=account(payer), request_id=RequestId(number.to_bytes(32)))
    digest = receipt_digest(receipt)
    return SignedReceipt(receipt, sign(key_of(2), digest), sign(key_of(payer), digest))


CHALLENGES = {payer: tuple(challenge(payer, number) for number in range(2)) for payer in PAYERS}


def chosen(lot: Hash32, made: dict[int, tuple[SignedReceipt, ...]], weights: dict[int, int]) -> frozenset[Hash32]:
    """What is judged again of the challenges that are made, by payer."""
    known = replace(previous(books=(CommittedBook(EXECUTOR, make_book((), SOME_CID)),)), audits=())
    bundles = {
        account(payer): VoteBundle(EpochNumber(1), account(payer), (), challenges=signed)
        for payer, signed in made.items()
    }
    weighed = {account(payer): weight for payer, weight in weights.items()}
    (found,) = audit_outcomes(known, AuditSeeds(DRAW, lot), bundles, weighed, band_of)
    return frozenset(found.challenged)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sets(st.sampled_from(PAYERS), min_size=1, max_size=15))
def test_whoever_takes_its_challenges_back_once_the_lot_is_known_helps_all_others(lot: Hash32, gone: set[int]) -> None:
    """A bundle that is committed can still be kept to oneself: it is all that can be chosen after the lot is known."""
    weights = dict.fromkeys(PAYERS, 10)
    before = chosen(lot, CHALLENGES, weights)
    staying = {payer: made for payer, made in CHALLENGES.items() if payer not in gone}
    after = chosen(lot, staying, weights)
    still = {receipt_digest(signed.receipt) for made in staying.values() for signed in made}
    assert before & still <= after
    assert len(after) == min(CHALLENGED_MAX, len(still))


@settings(max_examples=25, deadline=None)
@given(seeds, st.permutations(PAYERS))
def test_the_lot_of_a_payer_does_not_follow_from_what_it_challenges(lot: Hash32, order: list[int]) -> None:
    """So receipts that an executor makes up with its friends gain no better place, however many it tries."""
    weights = {payer: 1 + place for place, payer in enumerate(order)}

    def payers(made: dict[int, tuple[SignedReceipt, ...]]) -> set[Address]:
        taken = chosen(lot, made, weights)
        return {
            signed.receipt.payer for of in made.values() for signed in of if receipt_digest(signed.receipt) in taken
        }

    ones = {payer: made[:1] for payer, made in CHALLENGES.items()}
    others = {payer: made[1:] for payer, made in CHALLENGES.items()}
    assert payers(ones) == payers(others)


def test_a_crowd_that_knew_what_books_are_drawn_by_does_not_crowd_a_challenge_out() -> None:
    """As it could when challenges were chosen by the seed of the draw, which was known when they were made."""
    honest, crowd = 9, range(10, 26)
    ground = {}
    for payer in crowd:  # of many receipts, the one that had the first place by the seed of the draw
        tries = (challenge(payer, number) for number in range(8))
        ground[payer] = (min(tries, key=lambda one: hashlib.sha256(DRAW + receipt_digest(one.receipt)).digest()),)
    mine = challenge(honest)
    weights = dict.fromkeys(crowd, 1) | {honest: 16}
    lots = [Hash32(hashlib.sha256(bytes([number])).digest()) for number in range(100)]
    heard = sum(receipt_digest(mine.receipt) in chosen(lot, {**ground, honest: (mine,)}, weights) for lot in lots)
    assert heard >= 95  # half of the weight is the honest payer's, and eight are chosen


def test_half_of_equal_payers_are_chosen_whichever_they_are() -> None:
    weights = dict.fromkeys(PAYERS, 10)
    ones = {payer: made[:1] for payer, made in CHALLENGES.items()}
    lots = [Hash32(hashlib.sha256(bytes([number])).digest()) for number in range(100)]
    taken = [chosen(lot, ones, weights) for lot in lots]
    for made in ones.values():
        times = sum(receipt_digest(made[0].receipt) in each for each in taken)
        assert 30 <= times <= 70


@settings(max_examples=50, deadline=None)
@given(seeds, seeds, st.integers(2, 12))
def test_what_is_drawn_from_a_book_follows_from_the_seed_and_what_was_committed_to_alone(
    seed: Hash32, other: Hash32, members: int
) -> None:
    rows = order_rows([unasked_row(Hash32(hashlib.sha256(bytes([n])).digest()), 5 * n) for n in range(100)])
    book = make_book(rows, SOME_CID)
    group = group_of(*((number, number, (TINY,)) for number in range(1, members + 1)))
    known = replace(previous(books=(CommittedBook(EXECUTOR, book),)), group=group)
    drawn = drawn_rows(seed, EXECUTOR, book, rows, group)
    assert drawn == drawn_rows(seed, EXECUTOR, replace(book, content_cid=Cid("elsewhere")), rows, group)
    assert (seed == other) == (drawn == drawn_rows(other, EXECUTOR, book, rows, group))
    by_member = {member.participant: own_draws(known, seed, member.participant) for member in group.members}
    for draw in range(draws_of(book)):
        auditors = auditors_of(seed, EXECUTOR, draw, group)
        assert {who for who, own in by_member.items() if draw in own.get(EXECUTOR, ())} == set(auditors)


def plainly_drawn(seed: Hash32, executor: Address, draw: int, group: EpochGroup) -> dict[Address, int]:
    """Whom docs/protocol.md names, without any short cut: for each seat, whose weight the number falls into."""
    served = models_served(group, executor)
    able = [
        (member.participant, member.weight)
        for member in sorted(group.members, key=lambda member: member.participant.lower())
        if member.participant != executor and served & {node.model_id for node in member.ml_nodes}
    ]
    total, seats = sum(weight for _, weight in able), dict[Address, int]()
    for seat in range(SEATS if total else 0):
        said = b"auditor\x00" + seed + f"{executor.lower()}/{draw}/{seat}".encode()
        left = int.from_bytes(hashlib.sha256(said).digest()) % total
        for who, weight in able:
            if left < weight:
                seats[who] = seats.get(who, 0) + 1
                break
            left -= weight
    return seats


members_drawn_from = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3), st.integers(1, 10**6), st.integers(1, 10**24)),
        st.sets(st.sampled_from((TINY, ModelId("other"))), min_size=1),
    ),
    min_size=1,
    max_size=24,
)


@settings(max_examples=60, deadline=None)
@given(seeds, members_drawn_from, st.integers(0, 30))
def test_auditors_and_what_each_audits_are_those_of_the_plain_definition(
    seed: Hash32, drawn_from: list[tuple[int, set[ModelId]]], strangers_book: int
) -> None:
    """Weights that are nought, alike or far apart; some models shared; a book of somebody who is no member any more."""
    group = group_of(
        *((number, weight, tuple(sorted(models)))
          for number, (weight, models) in enumerate(drawn_from, 1))
    )  # fmt: skip
    books = tuple(
        CommittedBook(account(number), replace(make_book((), SOME_CID), count=count, output_tokens=count))
        for number, count in ((1, 1000), (len(drawn_from), 3), (99, strangers_book))
    )
    known = replace(previous(books=books), group=group)
    lots = AuditorLots(seed, group)
    expected: dict[Address, dict[Address, list[int]]] = {}
    for book in books:
        for draw in range(draws_of(book.book)):
            seats = plainly_drawn(seed, book.executor, draw, group)
            assert lots.seats(book.executor, draw) == seats
            assert auditors_of(seed, book.executor, draw, group) == tuple(seats)
            for auditor in seats:
                expected.setdefault(auditor, {}).setdefault(book.executor, []).append(draw)
    for who in (*(member.participant for member in group.members), account(99)):
        mine = {executor: tuple(draws) for executor, draws in expected.get(who, {}).items()}
        assert own_draws(known, seed, who) == mine


def test_others_have_their_turn_while_a_node_looks_for_its_own_draws() -> None:
    group = group_of(*((number, number, (TINY,)) for number in range(1, 60)))
    book = replace(make_book((), SOME_CID), count=100, output_tokens=1000)
    books = tuple(CommittedBook(account(number), book) for number in range(1, 60))
    slices = sum(1 for _ in own_draws_in_slices(replace(previous(books=books), group=group), DRAW, account(1)))
    assert slices == 59 * draws_of(book) // DRAWS_PER_SLICE


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 2),
        ({"is_private": True}, 0),
        ({"is_within_rule": False, "is_verifiable": False}, 0),
        ({"is_verifiable": False}, 2),
        ({"output_tokens": 0}, 0),
    ],
)
def test_only_what_can_be_audited_is_booked_with_tokens(changes: dict[str, object], tokens: int) -> None:
    assert booked_tokens(receipt_for(ANSWER, **changes)) == tokens
