"""Stage changes come once each and in order, whatever blocks are seen and whenever the program restarts."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from node.ports import StageChange
from node.protocol.identifiers import BlockNumber
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, stage_at
from node.stage_changes import next_stage_change
from tests.builders import PARAMETERS

GENESIS = PARAMETERS.genesis_block
SCHEDULE = ParameterSchedule(PARAMETERS)


def handled(heads: list[int], restarts: set[int]) -> list[StageChange]:
    """What a consumer handles that sees these heads and is restarted, with its kept place, at some of them."""
    kept: BlockNumber | None = None
    seen = []
    for index, head in enumerate(heads):
        cursor = kept if index in restarts else (seen[-1].first_block if seen else None)
        while (change := next_stage_change(cursor, BlockNumber(head), SCHEDULE)) is not None:
            seen.append(change)
            cursor = kept = change.first_block
    return seen


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20), st.sets(st.integers(0, 19)))
def test_every_change_comes_once_and_in_order(steps: list[int], restarts: set[int]) -> None:
    heads = [GENESIS + sum(steps[: index + 1]) for index in range(len(steps))]
    seen = handled(heads, restarts)
    assert seen[0].first_block == stage_at(heads[0], PARAMETERS).first_block, "a new consumer begins with the present"
    for before, after in pairwise(seen):
        assert after.first_block == stage_at(before.first_block, PARAMETERS).next_block
        assert after.stage == (before.stage + 1) % len(Stage)
    assert seen[-1].first_block == stage_at(heads[-1], PARAMETERS).first_block


def test_before_the_first_epoch_there_is_none() -> None:
    early = BlockNumber(GENESIS - 1)
    assert next_stage_change(None, early, SCHEDULE) is None
