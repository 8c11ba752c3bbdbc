"""Work that is done once for all nodes leaves no trace: a run is the same as when each does it by itself."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest

from netsim.scenario import Outcome, run_scenario
from netsim.shared_work import remembering, shared_work
from node.protocol import codec
from node.protocol.codec import SchemaError
from node.services import bundle_fetching

CALLS_KEPT = 2


def run() -> Outcome:
    return run_scenario(nodes=6, epochs=3, seed=3)


def test_a_run_with_shared_work_is_the_run_without(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = run()
    monkeypatch.setattr("netsim.clock.shared_work", nullcontext)
    assert run() == shared
    assert [len(epoch.weights) for epoch in shared.epochs] == [5, 5, 5]


def test_work_is_shared_within_and_not_after() -> None:
    own = codec.from_bytes
    with shared_work():
        assert codec.from_bytes is not own
        assert bundle_fetching.from_bytes is codec.from_bytes
    assert codec.from_bytes is own
    assert bundle_fetching.from_bytes is own


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
