"""Work that is done once for all nodes leaves no trace: a run is the same as when each does it by itself."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from netsim.scenario import Outcome, run_scenario
from netsim.shared_work import remembering, shared_work
from node.protocol import codec, results, slices
from node.protocol.codec import SchemaError
from node.protocol.records import EpochResult
from node.protocol.slices import Slices
from node.services import result_inputs, validating

CALLS_KEPT = 2


def run(tell: Callable[[str], None] | None = None) -> Outcome:
    return run_scenario(nodes=6, epochs=3, seed=3, tell=tell)


@pytest.mark.parametrize("items", [slices.ITEMS_PER_SLICE, 1])
def test_a_run_with_shared_work_is_the_run_without(monkeypatch: pytest.MonkeyPatch, items: int) -> None:
    monkeypatch.setattr(slices, "ITEMS_PER_SLICE", items)
    lines: list[str] = []
    formed = count_calls(monkeypatch)
    shared = run(lines.append)
    assert [line.partition(",")[0] for line in lines] == [
        f"epoch {epoch} is over: its result is posted" for epoch in range(3)
    ]
    once = len(formed)
    formed.clear()
    monkeypatch.setattr("netsim.clock.shared_work", nullcontext)
    assert run() == shared
    assert [len(epoch.weights) for epoch in shared.epochs] == [5, 5, 5]
    assert len(formed) > 3 * once


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note every epoch for which a result is formed, by whomever."""
    form, formed = results.form_epoch_result_in_slices, list[object]()

    def counted(*args: Any, **kwargs: Any) -> Slices[EpochResult | None]:
        formed.append(args[0])
        return form(*args, **kwargs)

    monkeypatch.setattr(results, "form_epoch_result_in_slices", counted)
    monkeypatch.setattr(result_inputs, "form_epoch_result_in_slices", counted)
    return formed


def test_work_is_shared_within_and_not_after() -> None:
    own = codec.from_bytes
    with shared_work():
        assert codec.from_bytes is not own
        assert vars(validating)["from_bytes"] is codec.from_bytes
    assert codec.from_bytes is own
    assert vars(validating)["from_bytes"] is own


def counting() -> tuple[list[int], Callable[[int], int]]:
    asked: list[int] = []

    def double(number: int) -> int:
        asked.append(number)
        if number < 0:
            raise SchemaError(f"{number} is below zero")
        return 2 * number

    return asked, remembering(double, lambda number: number, entries_max=CALLS_KEPT)


def test_an_outcome_is_computed_once_and_forgotten_when_newer_ones_need_its_place() -> None:
    asked, double = counting()
    assert [double(1), double(1), double(2), double(3), double(1)] == [2, 2, 4, 6, 2]
    assert asked == [1, 2, 3, 1]


def test_a_refusal_is_remembered_with_its_kind_and_words() -> None:
    asked, double = counting()
    for _ in range(2):
        with pytest.raises(SchemaError, match=r"^-1 is below zero$"):
            double(-1)
    assert asked == [-1]
