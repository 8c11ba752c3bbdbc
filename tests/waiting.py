"""Waiting for what other tasks bring about, under a deadline."""

from collections.abc import Callable
from typing import TypeVar

import trio

Found = TypeVar("Found")
SECONDS_MAX = 20.0


async def until(look: Callable[[], Found | None], seconds_max: float = SECONDS_MAX) -> Found:
    """Look again and again until something is there, or holds, and return it. Fails the test after `seconds_max`."""
    with trio.fail_after(seconds_max):
        while not (found := look()):
            await trio.sleep(0.02)
    return found
