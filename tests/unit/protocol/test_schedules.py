"""Parameters that change between epochs: nothing of the past moves, and epochs follow each other without a gap."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.events import ParametersScheduled
from node.protocol.identifiers import BlockNumber, EpochNumber, TokenAmount
from node.protocol.rewards import subsidy
from node.protocol.schedules import ParameterSchedule, with_change
from node.protocol.stages import BeforeGenesisError, Stage, first_block_of, stage_at
from node.stage_changes import next_stage_change
from tests.builders import PARAMETERS, scheduled, state_of

LENGTHS = st.lists(st.tuples(st.integers(1, 5), st.integers(49, 200)), max_size=4)


def schedule_of(steps: list[tuple[int, int]]) -> ParameterSchedule:
    """Changes after so many epochs each, to epochs of so many blocks."""
    changes: list[ParametersScheduled] = []
    epoch = 0
    for epochs, length in steps:
        known = ParameterSchedule(PARAMETERS, tuple(changes))
        epoch += epochs
        changes.append(scheduled(epoch, first_block_of(epoch, Stage.SERVE, known.of_epoch(epoch)), epoch_blocks=length))
    return ParameterSchedule(PARAMETERS, tuple(changes))


def before_every(end: int, schedule: ParameterSchedule) -> list[int]:
    """The first block of each stage before `end`."""
    found = [0]
    while (following := stage_at(found[-1], schedule).next_block) < end:
        found.append(following)
    return found


@given(LENGTHS)
def test_epochs_and_stages_follow_each_other_without_a_gap(steps: list[tuple[int, int]]) -> None:
    schedule = schedule_of(steps)
    block = PARAMETERS.genesis_block
    for epoch in range(20):
        for stage in Stage:
            where = stage_at(block, schedule)
            assert (where.epoch, where.stage, where.first_block) == (epoch, stage, block)
            assert first_block_of(epoch, stage, schedule) == block
            assert stage_at(where.next_block - 1, schedule) == where
            block = where.next_block


@given(LENGTHS, st.integers(1, 4), st.integers(49, 200))
def test_a_change_touches_no_epoch_before_it(steps: list[tuple[int, int]], epochs: int, length: int) -> None:
    before, after = schedule_of(steps), schedule_of([*steps, (epochs, length)])
    begin = after.changes[-1].from_block
    for block in {block for stage in before_every(begin, after) for block in (stage, stage - 1)} - {-1}:
        assert stage_at(block, before) == stage_at(block, after)


@given(LENGTHS)
def test_the_parameters_of_an_epoch_are_enough_within_it(steps: list[tuple[int, int]]) -> None:
    schedule = schedule_of(steps)
    for epoch in range(12):
        own = schedule.of_epoch(epoch)
        for stage in Stage:
            block = first_block_of(epoch, stage, schedule)
            assert first_block_of(epoch, stage, own) == block
            assert stage_at(block, own) == stage_at(block, schedule)
            assert schedule.at_block(block) == own


@given(LENGTHS, st.lists(st.integers(0, 90), min_size=1, max_size=30))
def test_each_change_of_stage_comes_once_and_in_order(steps: list[tuple[int, int]], moves: list[int]) -> None:
    schedule = schedule_of(steps)
    cursor, head, seen = BlockNumber(0), 0, []
    for move in moves:
        head += move
        while (change := next_stage_change(cursor, BlockNumber(head), schedule)) is not None:
            cursor = change.first_block
            seen.append((change.epoch, change.stage))
    expected = [(epoch, stage) for epoch in range(60) for stage in Stage][1 : len(seen) + 1]
    assert seen == expected


def test_a_change_may_hold_for_price_and_sample_alone() -> None:
    change = scheduled(3, 180, unit_price=11, poc_sample_size=64, poc_reject_mismatches=5)
    schedule = ParameterSchedule(PARAMETERS, (change,))
    assert schedule.at_block(179).unit_price == PARAMETERS.unit_price
    changed = replace(PARAMETERS, unit_price=TokenAmount(11), poc_sample_size=64, poc_reject_mismatches=5)
    assert schedule.of_epoch(3) == schedule.at_block(180) == changed
    assert schedule.next_change(179) == change
    assert schedule.next_change(180) is None


@given(LENGTHS, st.integers(0, 40))
def test_subsidies_follow_the_number_of_the_epoch_alone(steps: list[tuple[int, int]], epoch: int) -> None:
    assert subsidy(epoch, schedule_of(steps).of_epoch(epoch)) == subsidy(epoch, PARAMETERS)


def test_a_change_that_has_not_begun_is_replaced_and_one_that_has_stays() -> None:
    first, second, third = scheduled(3, 180, epoch_blocks=90), scheduled(4, 240), scheduled(5, 360, unit_price=9)
    changes = with_change((), first, BlockNumber(10))
    assert with_change(changes, second, BlockNumber(179)) == (second,)
    assert with_change(changes, third, BlockNumber(180)) == (first, third)


def test_the_chain_tells_the_changes() -> None:
    first, second = scheduled(3, 180), scheduled(4, 240)
    assert state_of(first, second).parameter_changes == (second,)  # both told before block 180
    assert state_of().parameter_changes == ()


def test_before_genesis_there_is_no_stage_whatever_changes() -> None:
    later = replace(PARAMETERS, genesis_block=BlockNumber(100))
    schedule = ParameterSchedule(later, (scheduled(2, 220, epoch_blocks=120),))
    assert schedule.of_epoch(2).genesis_block < 0
    assert stage_at(220, schedule).epoch == EpochNumber(2)
    with pytest.raises(BeforeGenesisError):
        stage_at(99, schedule)
