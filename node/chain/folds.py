"""The state of the chain at the newest confirmed block, and at those before it.

*Purpose.* Services ask what the chain said at the end of a stage, several of them for the same block. To fold all
events anew takes 17 s after a year of a large network. *Detail.* On the way to the newest block, copies of the state
are kept; a question is answered by folding on from the copy before the block, and the newest answers are kept as well.
Copies lie the closer together the newer they are, so that the events to fold are a part of those that came since the
block that is asked for. Only confirmed blocks are folded, so no reorganisation touches a copy; a restart makes them
anew, for it folds all events anyway.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import trio

from node.chain.event_codec import event_from_bytes
from node.protocol.chain_state import ChainState
from node.protocol.events import ChainEvent
from node.protocol.identifiers import BlockNumber
from node.store.chain_tables import ChainTables

EVENTS_BETWEEN_COPIES = 4096
"""They take some 70 ms to fold; a copy takes a few milliseconds."""
COPIES_MAX = 24
COPIES_MIN = 4
"""Kept however large they are: with fewer, most questions would fold for long."""
ANSWERS_MAX = 8
"""In an epoch four or so blocks are asked for."""
ANSWERS_MIN = 2
ENTRIES_MAX = 1_000_000
"""Of all copies and answers together, about 100 bytes each. A year of a large network: some ten thousands in each."""
EVENTS_PER_TURN = 128
"""Folded, in some 2 ms, before others have their turn."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """The state at the end of `block`."""

    block: BlockNumber
    state: ChainState
    entries: int


class Folds:
    """Folds the confirmed events that `tables` holds from `first_block` on."""

    def __init__(self, tables: ChainTables, first_block: BlockNumber) -> None:
        self.state = ChainState()
        """The state at `newest`. It changes as blocks come."""
        self.newest = BlockNumber(first_block - 1)
        self._tables = tables
        self._copies: list[_Copy] = []
        """Made on the way, ascending by block."""
        self._copied_at = 0
        """Events applied when the newest copy was made, which may be dropped by now."""
        self._answers: list[_Copy] = []
        """In the order in which they were asked for."""
        self._folding = trio.Lock()

    def advance(self, confirmed: BlockNumber) -> None:
        """Fold up to `confirmed`, which never goes back."""
        folded = self.newest
        for event in self._events(self.newest, confirmed):
            if event.block_number > folded:
                self._keep_on_the_way(folded)
                folded = event.block_number
            self.state.apply(event)
        self.newest = BlockNumber(max(self.newest, confirmed))

    async def at(self, block: BlockNumber) -> ChainState:
        """Return the state at the end of `block`, which must not be after `newest`. Read only: it is kept for others.

        Those who ask while another question is answered wait for it, since many ask for the same block.
        """
        if block > self.newest:
            raise AssertionError(f"block {block} is after {self.newest}, the newest that is folded")
        async with self._folding:
            known = next((answer for answer in self._answers if answer.block == block), None)
            if known is None:
                state = self.state.copy() if block == self.newest else await self._fold(block)
                known = _Copy(block, state, state.entries())
            else:
                self._answers.remove(known)
            self._answers.append(known)
            self._drop_some()
            return known.state

    async def _fold(self, block: BlockNumber) -> ChainState:
        """Fold on from the copy before `block`; return that copy itself if nothing happened since."""
        place = bisect_right(self._copies, block, key=_block_of)
        before = self._copies[place - 1] if place else None
        state = ChainState() if before is None else before.state
        is_copied = before is None
        after = -1 if before is None else before.block
        for number, event in enumerate(self._events(after, block)):
            if not is_copied:
                state, is_copied = state.copy(), True
            state.apply(event)
            if number % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
                await trio.lowlevel.checkpoint()
        return state

    def _events(self, after: int, through: int) -> Iterator[ChainEvent]:
        return (event_from_bytes(record) for record in self._tables.events(after=after, through=through))

    def _keep_on_the_way(self, block: BlockNumber) -> None:
        """Keep a copy of the state at `block`, if enough has happened since the newest one."""
        if self.state.events_applied - self._copied_at >= EVENTS_BETWEEN_COPIES:
            self._copied_at = self.state.events_applied
            self._copies.append(_Copy(block, self.state.copy(), self.state.entries()))
            self._drop_some()

    def _drop_some(self) -> None:
        def is_too_much() -> bool:
            return sum(copy.entries for copy in (*self._copies, *self._answers)) > ENTRIES_MAX

        while len(self._answers) > ANSWERS_MAX or (len(self._answers) > ANSWERS_MIN and is_too_much()):
            del self._answers[0]
        while len(self._copies) > COPIES_MAX or (len(self._copies) > COPIES_MIN and is_too_much()):
            del self._copies[self._least_missed()]

    def _least_missed(self) -> int:
        """Which copy to drop, but the newest: without which the events to fold grow least, as part of those since."""
        applied = [copy.state.events_applied for copy in self._copies]
        ends = [*applied[1:], self.state.events_applied]
        begins = [0, *applied[:-1]]

        def worth(place: int) -> float:
            age = self.state.events_applied - ends[place] + EVENTS_BETWEEN_COPIES
            return (ends[place] - begins[place]) / age

        return min(range(len(applied) - 1), key=worth)


def _block_of(copy: _Copy) -> BlockNumber:
    return copy.block
