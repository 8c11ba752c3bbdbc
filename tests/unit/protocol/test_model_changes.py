"""Answers are judged by the numbers that made them: whatever the owner of their model changes, and whenever."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.chain_state import ChainState
from node.protocol.events import ChainEvent, EventBody, ModelRecorded
from node.protocol.identifiers import BlockNumber, Cid, EpochNumber, Hash32
from node.protocol.model_changes import NOT_YET, judged_from
from node.protocol.model_numbers import makes_same_numbers
from node.protocol.records import EpochParameters, ModelRecord
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of
from tests.builders import PARAMETERS, TINY, model

GENESIS = 1000
EPOCHS = 12
PARAMETERS_LATER: EpochParameters = replace(PARAMETERS, genesis_block=BlockNumber(GENESIS))
SCHEDULE = ParameterSchedule(PARAMETERS_LATER)
OTHER = replace(model(), quantization="fp8")


def block(epoch: int, stage: Stage, before: int = 0) -> int:
    return first_block_of(epoch, stage, SCHEDULE) - before


def record(state: ChainState, at: int, body: EventBody) -> None:
    state.apply(ChainEvent(BlockNumber(at), Hash32(at.to_bytes(32)), 0, body))


def chain(*changes: tuple[int, ModelRecord], results: frozenset[int] = frozenset(range(EPOCHS))) -> ChainState:
    """A model of before genesis, changed at blocks; with the results of these epochs."""
    state = ChainState()
    record(state, 1, ModelRecorded(model()))
    for at, changed in changes:
        record(state, at, ModelRecorded(changed))
    summaries: Any = {EpochNumber(epoch): None for epoch in sorted(results)}
    state.results = summaries
    return state


def since(state: ChainState) -> int:
    return judged_from(state, SCHEDULE, TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"cid": Cid("bafy-of-other-weights")},
        {"model_args": ("--runner", "pooling")},
        {"quantization": "fp8"},
        {"kv_cache_quantization": "fp8_e5m2"},
        {"context_length": 256},
    ],
)
def test_answers_count_from_two_epochs_after_what_froze_a_change(change: dict[str, Any]) -> None:
    changed = replace(model(), **change)
    assert since(chain((block(4, Stage.SERVE), changed))) == 6
    assert since(chain((block(4, Stage.FORM, before=1), changed))) == 6
    assert since(chain((block(4, Stage.FORM), changed))) == 7  # the result of epoch 5 is the first that has it


@pytest.mark.parametrize(
    "change", [{"name": "new"}, {"units_of_compute_per_token": 9}, {"active": False}, {"version": 2}]
)
def test_what_no_engine_reads_hides_no_answer(change: dict[str, Any]) -> None:
    assert since(chain((block(4, Stage.SERVE), replace(model(), **change)))) == 0


def test_what_comes_before_the_first_epoch_is_no_change_nor_is_a_model_that_comes() -> None:
    assert since(chain((GENESIS - 1, OTHER))) == 0
    state = chain()
    assert judged_from(state, SCHEDULE, OTHER.model_id) == 0
    assert since(chain((GENESIS, OTHER))) == 2


def test_a_change_that_no_result_has_hides_all_answers_until_one_has_it() -> None:
    changed = (block(4, Stage.LOAD), OTHER)
    assert since(chain(changed, results=frozenset(range(5)))) == NOT_YET
    assert since(chain(changed, results=frozenset({*range(5), 8}))) == 10  # no quorum formed those between
    assert since(chain(changed, results=frozenset())) == NOT_YET


def test_there_and_back_again_counts_from_the_way_back() -> None:
    assert since(chain((block(4, Stage.SERVE), OTHER), (block(6, Stage.SERVE), model()))) == 8


@given(
    st.lists(
        st.tuples(st.integers(GENESIS, block(EPOCHS, Stage.SERVE)), st.sampled_from([model(), OTHER])), max_size=4
    ),
    st.frozensets(st.integers(0, EPOCHS - 1)),
    st.integers(1, EPOCHS),
)
def test_nobody_is_judged_by_other_numbers_than_its_engine_had(
    changes: list[tuple[int, ModelRecord]], results: frozenset[int], now: int
) -> None:
    """Whoever serves as the group in charge says, or the one before it, gave what the auditors have later."""
    changes = sorted(changes, key=lambda change: change[0])
    known = frozenset(epoch for epoch in results if epoch < now)

    def registered(before: int) -> ModelRecord:
        return next((changed for at, changed in reversed(changes) if at < before), model())

    def loaded(epoch: int) -> ModelRecord:
        """Without a result the registry stands in: as it was before the first epoch, or as it came to be."""
        newest = max((number for number in known if number < epoch), default=None)
        return registered(GENESIS if newest is None else block(newest, Stage.FORM))

    begin = block(now, Stage.SERVE)
    first = since(chain(*(change for change in changes if change[0] < begin), results=known))
    if not known:
        return  # nothing is audited before the first result
    for answered in range(max(first, 1), now):
        for served in (loaded(answered), loaded(answered - 1)):
            assert makes_same_numbers(served, loaded(now))
