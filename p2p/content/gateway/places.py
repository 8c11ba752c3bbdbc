"""Where the blocks lie that are asked for: a bounded memory, so that a hot block is found without a worker thread.

A place is used through `open_block`, which sees a file that was changed, replaced or deleted since.
"""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from p2p.content.blockstore import BlockMissingError, BlockPlace
from p2p.content.cid import Cid

RUN_BLOCKS = 256
"""Blocks that follow in the same file, looked up with one that was asked for: a fetch asks for them next."""
PLACES_MAX = 16_384
"""Blocks remembered, about 400 bytes each: 16 GiB of a model are served without asking the index twice."""

_Identity = tuple[int, int, int, int, int]


class LocatesBlocks(Protocol):
    """The part of the block store that serving needs. Blocking and thread-safe."""

    def locate_run(self, cid: Cid, limit: int) -> list[tuple[Cid, BlockPlace]]:
        """Return where a block is, and what follows it in the same file; raise BlockMissingError."""

    def read(self, cid: Cid) -> bytes:
        """Return a block's bytes, unverified; raise BlockMissingError."""

    def remove(self, cid: Cid) -> None:
        """Forget a block that was found damaged."""


@dataclass(frozen=True, slots=True)
class _Known:
    place: BlockPlace
    identity: _Identity


@dataclass(slots=True)
class OpenBlock:
    """A block whose file is open: the descriptor, and where in it the bytes are. Close it."""

    path: Path
    descriptor: int
    offset: int
    size: int

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


class BlockPlaces:
    """Finds blocks of one store. `open_block` is for tasks, the others for any thread."""

    def __init__(self, store: LocatesBlocks, places_max: int = PLACES_MAX) -> None:
        self._store = store
        self._places_max = places_max
        self._changing = threading.Lock()
        self._known: OrderedDict[Cid, _Known] = OrderedDict()
        """Behind the lock."""

    async def open_block(self, cid: Cid, before: OpenBlock | None = None) -> OpenBlock:
        """Open the file that holds `cid`. Raises BlockMissingError. Not always a checkpoint.

        `before` is taken over: its file is used again if it is the same, and closed otherwise.
        """
        known = self._look_up(cid)
        if before is not None:
            if known is not None and known.place.path == before.path and _identity(before.descriptor) == known.identity:
                before.offset, before.size = known.place.offset, known.place.size
                return before
            before.close()
        if known is not None:
            opened = _open_if_same(known)
            if opened is not None:
                return opened
            self.forget(cid)
        found, fresh = await trio.to_thread.run_sync(self._find, cid)
        with self._changing:
            # In reverse, so that what is needed last is forgotten first.
            for following, known in reversed(found):
                self._known[following] = known
                self._known.move_to_end(following)
            while len(self._known) > self._places_max:
                self._known.popitem(last=False)
        return fresh

    def reopen(self, cid: Cid, before: OpenBlock | None, *, size_min: int) -> OpenBlock | None:
        """Open a block of that size or more whose place is known; None if it is not, or its file was changed.

        `before` is taken over unless this returns None.
        """
        known = self._look_up(cid)
        if known is None or known.place.size < size_min:
            return None
        if before is not None and known.place.path == before.path and _identity(before.descriptor) == known.identity:
            before.offset, before.size = known.place.offset, known.place.size
            return before
        opened = _open_if_same(known)
        if opened is not None and before is not None:
            before.close()
        return opened

    def forget(self, cid: Cid) -> None:
        """Ask the store again for this block."""
        with self._changing:
            self._known.pop(cid, None)

    def _look_up(self, cid: Cid) -> _Known | None:
        with self._changing:
            known = self._known.get(cid)
            if known is not None:
                self._known.move_to_end(cid)
            return known

    def _find(self, cid: Cid) -> tuple[list[tuple[Cid, _Known]], OpenBlock]:
        run = self._store.locate_run(cid, RUN_BLOCKS)
        place = run[0][1]
        try:
            descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BlockMissingError(f"block {cid} cannot be read: {error}") from error
        identity = _identity(descriptor)
        if identity[2] < place.offset + place.size:
            os.close(descriptor)
            raise BlockMissingError(f"block {cid} is cut off in {place.path}")
        known = [(following, _Known(found, identity)) for following, found in run]
        return known, OpenBlock(place.path, descriptor, place.offset, place.size)


def _open_if_same(known: _Known) -> OpenBlock | None:
    try:
        descriptor = os.open(known.place.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if _identity(descriptor) != known.identity:
        os.close(descriptor)
        return None
    return OpenBlock(known.place.path, descriptor, known.place.offset, known.place.size)


def _identity(descriptor: int) -> _Identity:
    """Return what changes when a file is written to, replaced, or deleted while it is open."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_nlink
