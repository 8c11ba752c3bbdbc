"""What is objected to: only what evidence shows, and only where it changes what is paid, weighed or punished."""

import dataclasses
from collections import Counter
from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.findings import (
    CommittedBook,
    EarlierBook,
    MissingBook,
    NodeFate,
    NodeOutcome,
    PenaltyDecision,
    ReceiptBook,
    SampleHistory,
    ThinWeight,
)
from node.protocol.identifiers import Address, EpochNumber, Hash32, TokenAmount
from node.protocol.objections import (
    IMMATERIAL_FIELDS,
    MATERIAL_FIELDS,
    Statements,
    counted_in,
    differs_in_pay,
    differs_materially,
    is_enough,
    left_out_without_ground,
    posting_block,
)
from node.protocol.records import EpochGroup, EpochResult, RewardShare
from node.protocol.verdicts import Offence
from tests.builders import NODE, SOME_CID, TINY, account

EPOCH = EpochNumber(3)
BOOK = CommittedBook(account(1), ReceiptBook(0, 0, Hash32(bytes(32)), SOME_CID))
RESULT = EpochResult(EPOCH, EpochGroup(EpochNumber(4), (), ()), (), TokenAmount(0), books=(BOOK,))
PAID = (
    replace(RESULT, group=EpochGroup(EpochNumber(5), (), ())),
    replace(RESULT, rewards=(RewardShare(account(1), TokenAmount(1)),)),
    replace(RESULT, reward_total=TokenAmount(1)),
    replace(RESULT, penalties=(PenaltyDecision(account(1), Offence.FRAUD, "batch-of-fakes"),)),
)
LATER = (
    replace(RESULT, books=()),
    replace(RESULT, books_before=(EarlierBook(account(1), EpochNumber(2), BOOK.book),)),
    replace(RESULT, books_missing=(MissingBook(account(1), EpochNumber(0), EpochNumber(0)),)),
    replace(RESULT, nodes=(NodeOutcome(account(1), NODE, TINY, NodeFate.UNDECIDED, 1, 0, 0, 0, ""),)),
)
LATER += (
    replace(RESULT, histories=(SampleHistory(account(1), TINY, ()),)),
    replace(RESULT, thin_weights=(ThinWeight(account(1), TINY, 10**12, 10**12, EPOCH),)),
)
WEIGHTS = {account(number): 1 for number in range(1, 7)}
VICTIM = account(1)


@pytest.mark.parametrize("other", PAID)
def test_what_pays_weighs_or_punishes_otherwise_is_worth_an_objection(other: EpochResult) -> None:
    assert differs_materially(RESULT, other)
    assert differs_in_pay(RESULT, other)


@pytest.mark.parametrize("other", LATER)
def test_what_only_later_epochs_build_on_counts_where_the_result_contradicts_its_own_votes(other: EpochResult) -> None:
    assert differs_materially(RESULT, other)
    assert not differs_in_pay(RESULT, other)


def test_another_explanation_of_the_same_pay_is_no_reason_to_void_it() -> None:
    other = replace(RESULT, available=TokenAmount(9), validators=(), scores=())
    assert not differs_materially(RESULT, other)
    assert not differs_materially(RESULT, RESULT)


def test_every_field_of_a_result_is_material_or_explains_it() -> None:
    """Whoever adds one has to say which: one that later epochs build on and nobody objects to is a way in."""
    names = [field.name for field in dataclasses.fields(EpochResult)]
    assert sorted((*MATERIAL_FIELDS, *IMMATERIAL_FIELDS)) == sorted(names)


def test_a_result_where_none_follows_is_false() -> None:
    assert differs_materially(None, RESULT)


def test_a_result_says_by_its_books_whose_votes_it_counts() -> None:
    assert counted_in(RESULT) == {account(1)}


def holding(*members: int) -> dict[Address, set[Address]]:
    return {account(number): {VICTIM} for number in members}


def signers(*members: int) -> set[Address]:
    return {account(number) for number in members}


def test_votes_are_left_out_without_ground_if_more_than_two_thirds_said_they_hold_them() -> None:
    statements = Statements(signers(2, 3, 4, 5, 6), holding(2, 3, 4, 5, 6))
    assert left_out_without_ground({VICTIM}, statements, WEIGHTS) == {VICTIM}


def test_a_third_of_the_weight_that_lacks_votes_or_was_not_heard_is_ground_to_leave_them_out() -> None:
    statements = Statements(signers(2, 3, 4, 5, 6), holding(1, 2, 3, 4))
    assert left_out_without_ground({VICTIM}, statements, WEIGHTS) == frozenset()
    statements = Statements(signers(2, 3, 4, 5, 6), {**holding(1, 2, 3, 4), account(5): set(), account(6): set()})
    assert left_out_without_ground({VICTIM}, statements, WEIGHTS) == frozenset()


def test_whoever_heard_too_few_of_the_signers_cannot_tell() -> None:
    everyone = holding(1, 2, 3, 4, 5, 6)
    statements = Statements(signers(3, 4, 5, 6), everyone)  # exactly two thirds: no quorum signed that it knows of
    assert left_out_without_ground({VICTIM}, statements, WEIGHTS) == frozenset()


def test_statements_of_whoever_has_no_weight_count_for_nothing() -> None:
    statements = Statements(signers(3, 4, 5, 6, 7, 8), holding(1, 2, 3, 4, 5, 6))
    assert left_out_without_ground({VICTIM}, statements, WEIGHTS) == frozenset()
    statements = Statements(signers(2, 3, 4, 5, 6), holding(3, 4, 5, 6, 7, 8, 9))
    assert left_out_without_ground({VICTIM}, statements, WEIGHTS) == frozenset()


@given(st.dictionaries(st.integers(1, 9), st.integers(1, 10), min_size=1), st.data())
def test_a_result_without_votes_that_a_third_lacks_looks_groundless_to_nobody(
    weights: dict[int, int], data: st.DataObject
) -> None:
    """Whatever part of the statements somebody heard. Who contradicts itself is among those that lack everything."""
    by_account = {account(number): weight for number, weight in weights.items()}
    lackers = data.draw(st.sets(st.sampled_from(sorted(weights))))
    if 3 * sum(weights[number] for number in lackers) < sum(weights.values()):
        return
    heard = data.draw(st.sets(st.sampled_from(sorted(weights))))
    statements = Statements(set(by_account), holding(*(heard - lackers)))
    assert left_out_without_ground({VICTIM}, statements, by_account) == frozenset()


@pytest.mark.parametrize(
    ("objecting", "total", "enough"), [(1, 3, True), (33, 100, False), (34, 100, True), (0, 0, False)]
)
def test_a_third_of_the_weight_is_enough_as_the_contract_has_it(objecting: int, total: int, enough: bool) -> None:
    assert is_enough(objecting, total) is enough


PATIENCE, MARGIN = 3, 4


@given(st.integers(0, 1000), st.integers(0, 512), st.integers(1, 1000))
def test_no_objector_waits_for_others_until_it_is_too_late(enough_at: int, turn: int, blocks_left: int) -> None:
    end = enough_at + blocks_left
    block = posting_block(enough_at, turn, end, patience=PATIENCE, margin=MARGIN)
    assert enough_at <= block <= max(enough_at, end - 2)  # and it is in the last block of the epoch
    assert block <= enough_at + turn * PATIENCE + MARGIN
    assert posting_block(enough_at, 0, end, patience=PATIENCE, margin=MARGIN) == enough_at


@given(st.integers(0, 1000), st.integers(1, 512), st.integers(1, 1000))
def test_never_do_all_objectors_post_at_once(enough_at: int, members: int, blocks_left: int) -> None:
    end = enough_at + blocks_left
    turns = range(members)
    blocks = Counter(posting_block(enough_at, turn, end, patience=PATIENCE, margin=MARGIN) for turn in turns)
    ways = max(1, min(MARGIN, blocks_left - 1))  # blocks that are left to post in
    assert max(blocks.values()) <= ceil(members / ways)


def test_of_many_objectors_those_whose_turn_would_come_after_the_end_are_spread_over_the_last_blocks() -> None:
    blocks = [posting_block(100, turn, 110, patience=PATIENCE, margin=MARGIN) for turn in range(170)]
    assert blocks[:6] == [100, 103, 105, 106, 107, 108]
    assert Counter(blocks) == {100: 1, 103: 1, 105: 42, 106: 42, 107: 42, 108: 42}
