"""Runs long computations (node/protocol/slices.py) on the event loop, a slice at a time.

No worker thread: its timing would make simulations irreproducible.
"""

import trio

from node.protocol.slices import Found, Slices


class Slicer:
    """Runs one computation at a time: with many side by side, all of their slices would come before anybody's turn."""

    def __init__(self) -> None:
        self._turn = trio.Lock()

    async def run(self, computation: Slices[Found]) -> Found:
        """Run a computation to its end; other tasks run between its slices. Raises what it raises."""
        async with self._turn:
            while True:
                await trio.lowlevel.checkpoint()
                try:
                    next(computation)
                except StopIteration as end:
                    found: Found = end.value
                    return found
