"""When Python looks for rubbish that holds itself: not while everything is loaded, and never again in what was loaded.

Modules, classes and functions are 300,000 objects that live as long as the process. To go through them takes a fifth of
a second, in which no token moves; while they are loaded it happens a dozen times.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS_MAX = 5_000
"""Made and not yet freed, between two looks at the youngest. Python's 700 are a tenth of a second's work here."""
GENERATION_LOOKS = 10
"""Looks at one generation before the next older one is looked at; Python's own."""


@contextmanager
def loading() -> Iterator[None]:
    """Load everything within this context: nothing is collected before its end, and what is there then never."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS_MAX, GENERATION_LOOKS, GENERATION_LOOKS)
        gc.enable()
