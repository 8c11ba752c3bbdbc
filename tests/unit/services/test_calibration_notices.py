"""That a calibration counts as none, or has no band for a node of one's own, is told once, with what to do."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import structlog.testing

from node.ports import Head
from node.protocol.bands import Calibration, HonestBand
from node.protocol.calibration import calibration_bytes
from node.protocol.canonical import encode
from node.protocol.chain_state import ChainState
from node.protocol.codec import to_value
from node.protocol.events import EventBody, ModelCalibrated, ModelRecorded
from node.protocol.identifiers import BlockNumber, ModelId
from node.services.calibration_notices import log_unmeasured_hardware, log_void_calibrations
from tests.builders import NODE, TINY, account, model, registered, state_of

GOOD = Calibration(TINY, 1, (HonestBand("vllm", "", 1, 0, 0, 0, 0, 0),))
OTHER = ModelId("other")


class Past:
    """As much of the Chain port as is looked at: one state for each head."""

    def __init__(self, *states: ChainState) -> None:
        self._states = states
        self.account = account(1)
        self.state = states[0]

    async def heads(self) -> AsyncIterator[Head]:
        for number, state in enumerate(self._states):
            self.state = state
            yield Head(BlockNumber(number), BlockNumber(number))


def before_winners() -> bytes:
    """A calibration from before bands said whether they know winners (decision 0064)."""
    value = cast(dict[str, Any], to_value(GOOD))
    for band in value["bands"]:
        del band["knows_winners"]
    return encode(value)


def set_to(data: bytes, *after: EventBody) -> ChainState:
    return state_of(ModelRecorded(model()), ModelCalibrated(TINY, 1, data), *after)


async def told(*states: ChainState) -> list[tuple[str, str, str, str]]:
    with structlog.testing.capture_logs() as lines:
        await log_void_calibrations(cast(Any, Past(*states)))
    return [(line["log_level"], line["model"], line["reason"], line["event"]) for line in lines]


async def test_a_calibration_of_an_older_shape_is_told_once_with_its_reason_and_what_to_do() -> None:
    old = set_to(before_winners())
    [(level, model_id, reason, event)] = await told(old, old, set_to(before_winners()))
    assert (level, model_id) == ("warning", TINY)
    assert "knows_winners: missing" in reason
    assert "counts as none" in event and "quern calibrate" in event


async def test_each_model_is_told_of_and_another_fault_of_the_same_one_again() -> None:
    other = (ModelRecorded(model(OTHER)), ModelCalibrated(OTHER, 1, b"\x00"))
    lines = await told(set_to(b"\x00"), set_to(b"\x00", *other), set_to(before_winners(), *other))
    assert [model_id for _, model_id, _, _ in lines] == [TINY, OTHER, TINY]


async def test_nothing_is_said_of_good_ones_of_none_and_of_models_that_are_not_served() -> None:
    good = set_to(calibration_bytes(GOOD))
    inactive = ModelRecorded(replace(model(), active=False))
    assert await told(good, set_to(b""), state_of(ModelRecorded(model())), set_to(before_winners(), inactive)) == []


async def unmeasured(*states: ChainState) -> list[dict[str, Any]]:
    with structlog.testing.capture_logs() as lines:
        await log_unmeasured_hardware(cast(Any, Past(*states)))
    return [dict(line) for line in lines]


def measured_on(*hardware: str) -> bytes:
    bands = (HonestBand("vllm", name, 1, 0, 0, 0, 0, 0) for name in hardware)
    return calibration_bytes(Calibration(TINY, 1, tuple(bands)))


async def test_hardware_without_a_band_is_told_before_it_mines_once_with_what_it_may_cost() -> None:
    mine = registered(1)  # on a "cpu"
    elsewhere = set_to(measured_on("nvidia h200"), *mine)
    [line] = await unmeasured(set_to(measured_on("nvidia h200")), elsewhere, elsewhere)
    assert (line["log_level"], line["node"], line["model"], line["hardware"]) == ("warning", NODE, TINY, "cpu")
    assert "earn nothing" in line["event"] and "collateral" in line["event"] and "quern calibrate" in line["event"]
    again = await unmeasured(elsewhere, set_to(measured_on("cpu"), *mine), elsewhere)
    assert len(again) == 2


async def test_nothing_is_said_of_hardware_that_has_a_band_of_others_and_of_models_without_calibration() -> None:
    mine = registered(1)
    covered = (set_to(measured_on("cpu"), *mine), set_to(measured_on("", "nvidia h200"), *mine))
    without = (set_to(b"", *mine), set_to(measured_on("nvidia h200"), *registered(2)))
    assert await unmeasured(*covered, *without) == []
