"""What changes in a registry while a result is formed is told once, by name, and nothing else is."""

from collections.abc import AsyncIterator
from typing import Any, cast

from structlog.testing import capture_logs

from node.ports import Head
from node.protocol.bands import Calibration, HonestBand
from node.protocol.calibration import calibration_bytes
from node.protocol.chain_state import ChainState
from node.protocol.events import CollateralDeposited, MLNodeRemoved, ModelCalibrated, ModelRecorded, ParticipantLeft
from node.protocol.identifiers import BlockNumber, EpochNumber, ModelId, TokenAmount
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of
from node.services.registry_notices import NAMED_MAX, log_registry_changes
from tests.builders import NODE, PARAMETERS, TINY, account, group_set, model, registered, state_of

EPOCH = EpochNumber(3)
BEFORE = (ModelRecorded(model()), *registered(1))
BAND = ModelCalibrated(TINY, 1, calibration_bytes(Calibration(TINY, 1, (HonestBand("vllm", "", 1, 0, 0, 0, 0, 0),))))


class Past:
    """As much of the Chain port as is looked at: the state before FORM, and one for each head."""

    schedule = ParameterSchedule(PARAMETERS)

    def __init__(self, *states: ChainState) -> None:
        self._before, *self._states = states
        self.state = self._before

    async def state_at(self, block: BlockNumber) -> ChainState:
        assert block == first_block_of(EPOCH, Stage.FORM, PARAMETERS) - 1
        return self._before

    async def heads(self) -> AsyncIterator[Head]:
        for number, state in enumerate(self._states):
            self.state = state
            yield Head(BlockNumber(number), BlockNumber(number))


async def told(*states: ChainState) -> list[tuple[list[str], list[str]]]:
    """The models and participants of each line."""
    with capture_logs() as lines:
        await log_registry_changes(cast(Any, Past(*states)), EPOCH)
    assert all((line["log_level"], line["epoch"]) == ("info", EPOCH) for line in lines)
    return [(line["models"], line["participants"]) for line in lines]


async def test_each_change_is_told_once_with_what_changed() -> None:
    before = state_of(*BEFORE)
    calibrated = state_of(*BEFORE, BAND)
    come = state_of(*BEFORE, BAND, *registered(2))
    fewer = state_of(*BEFORE, BAND, *registered(2), MLNodeRemoved(account(1), NODE), ParticipantLeft(account(2)))
    lines = await told(before, before, calibrated, calibrated, come, fewer, fewer)
    assert lines == [([TINY], []), ([], [account(2)]), ([], sorted([account(1), account(2)]))]


async def test_what_is_confirmed_already_when_a_node_comes_to_it_is_told_too() -> None:
    assert await told(state_of(*BEFORE), state_of(ModelRecorded(model(active=False)), *registered(1))) == [([TINY], [])]


async def test_nothing_is_told_of_what_is_no_registry_nor_of_states_that_are_equal() -> None:
    other = state_of(*BEFORE, CollateralDeposited(account(1), TokenAmount(1)), group_set(4, {1: 1}))
    assert await told(state_of(*BEFORE), state_of(*BEFORE), other) == []


async def test_a_line_names_a_few_however_many_there_are() -> None:
    many = [ModelRecorded(model(ModelId(f"model-{number:02}"))) for number in range(2 * NAMED_MAX)]
    ((models, _),) = await told(state_of(*BEFORE), state_of(*BEFORE, *many))
    assert models == [f"model-{number:02}" for number in range(NAMED_MAX)]
