"""Keeps the stored bans equal to the book of conduct: at most one write a second, however many are banned."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from node.ports import WallClock
from p2p.standing import Ban, Standing

WRITE_SECONDS = 1.0
"""A crash loses the bans of so long; who earned them will earn them again."""


class BanStore(Protocol):
    """Where bans outlive the daemon."""

    def load(self) -> tuple[Ban, ...]:
        """All bans that were stored."""

    def replace(self, bans: tuple[Ban, ...]) -> None:
        """Store these, and no others."""


@asynccontextmanager
async def open_standing(store: BanStore, wall_clock: WallClock) -> AsyncIterator[Standing]:
    """A book of conduct whose bans are stored, until the context is left."""
    standing = Standing(wall_clock, store.load())
    stored = standing.version

    def write() -> None:
        nonlocal stored
        if standing.version != stored:
            stored = standing.version
            store.replace(standing.bans())

    async def keep() -> None:
        while True:
            await trio.sleep(WRITE_SECONDS)
            write()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        try:
            yield standing
        finally:
            write()
            nursery.cancel_scope.cancel()
