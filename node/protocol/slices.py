"""Long computations cut into slices, so that whoever runs them lets others have their turn in between.

A computation is a generator that yields after every few milliseconds of work, and returns what it found. Rules have no
event loop: a service runs it by node/services/slicing.py, everybody else by `finish`.
"""

from collections.abc import Generator
from typing import TypeVar

Found = TypeVar("Found")
Slices = Generator[None, None, Found]
ITEMS_PER_SLICE = 1024
"""Items, of some microseconds each, between two looks at what else there is to do."""


class Pace:
    """Says when a slice is long enough, by the items of work that are done."""

    def __init__(self) -> None:
        self._done = 0

    def is_over(self, items: int) -> bool:
        """Count `items` more; True if that ends the slice, and the next one begins."""
        self._done += items
        if self._done < ITEMS_PER_SLICE:
            return False
        self._done = 0
        return True


def finish(computation: Slices[Found]) -> Found:
    """Run a computation to its end, at once."""
    while True:
        try:
            next(computation)
        except StopIteration as end:
            found: Found = end.value
            return found
