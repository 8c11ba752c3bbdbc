"""Runs a blocking function in a thread that a cancelled task leaves behind, so that cancelling never waits for it."""

from collections.abc import Callable
from typing import TypeVar

import trio

Result = TypeVar("Result")


async def run_abandonable(function: Callable[[], Result], *, limiter: trio.CapacityLimiter | None = None) -> Result:
    """Return what `function` returns. It must do no harm when it runs on although nobody waits for it."""
    # The stubs beside trio know the older name of this argument only.
    return await trio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)  # type: ignore[call-arg]
