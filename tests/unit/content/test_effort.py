"""How long threads were at work: work under way included, waiting not."""

import threading
from collections.abc import Callable

import pytest

from p2p.content.retrieval import effort
from p2p.content.retrieval.effort import Effort


class Clocks:
    """Both clocks of a thread, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.processor = 5.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.processor


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(effort, "time", made)
    return made


def test_work_counts_as_far_as_it_is_and_waiting_between_does_not(clocks: Clocks) -> None:
    made = Effort()
    for so_far in (0, 3):
        clocks.now += 100
        assert made.seconds == so_far
        made.begin()
        clocks.now += 2
        assert made.seconds == so_far + 2
        clocks.now += 1
        made.end()
    assert made.seconds == 6


def test_what_a_thread_did_between_blocks_counts_but_no_more_than_the_blocks(clocks: Clocks) -> None:
    made = Effort()
    made.begin()  # what it did before its first block is not known
    clocks.now += 1
    made.end()
    assert made.seconds == 1
    for received, counted in ((0.5, 1), (0.75, 1), (40.0, 1)):
        before = made.seconds
        clocks.processor += received
        clocks.now += 100
        made.begin()
        clocks.now += 1
        made.end()
        assert made.seconds == before + counted + min(received, 1)


def test_threads_add_up(clocks: Clocks) -> None:
    def in_a_thread(work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def begin_and_end() -> None:
        made.begin()
        made.end()

    def work() -> None:
        made.begin()
        clocks.now += 1
        in_a_thread(begin_and_end)
        made.end()

    made = Effort()
    made.begin()
    in_a_thread(work)
    in_a_thread(made.begin)  # has not ended
    clocks.now += 1
    assert made.seconds == 1 + 1 + 2
    made.end()
    assert made.seconds == 4
    clocks.now += 1
    assert made.seconds == 5


def test_what_threads_did_that_are_no_more_counts_and_takes_no_room(clocks: Clocks) -> None:
    made = Effort()

    def work() -> None:
        made.begin()
        clocks.now += 2
        made.end()

    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert made.seconds == made.seconds == 40
    assert made._threads == []
