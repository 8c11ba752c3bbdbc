"""What peers want of us: one bounded list per peer, answered in the order it came, within a budget of bytes.

Wants for blocks that we lack are answered (DONT_HAVE) where the peer asks for that, and forgotten: remembering them
would let strangers fill our memory, and whoever still wants a block asks again.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import structlog

from p2p.content.bitswap.messages import Block, Message, Presence, Want, cid_of_name, prefix_of_name
from p2p.content.blockstore import BlockMissingError
from p2p.content.cid import Cid

log = structlog.get_logger(__name__)

WANTS_PER_PEER_MAX = 4096
"""Four times what Kubo and Helia keep; what is above is dropped, as they do. Less than a megabyte per peer."""
ANSWERED_AT_ONCE_MAX = 256
"""Wants looked up for one message."""
ANSWER_BYTES = 1024 * 1024
"""A message is full with this much: one block of ours, many small ones. Bounds what an answer holds in memory."""


class HeldBlocks(Protocol):
    """The blocks that are given; p2p.content.blockstore.BlockStore. Blocking calls."""

    def has(self, cid: Cid) -> bool:
        """Whether the block is held."""

    def read(self, cid: Cid) -> bytes:
        """Return a block's bytes, unverified. Raises BlockMissingError."""

    def remove(self, cid: Cid) -> None:
        """Forget a block that was found damaged."""


class NothingHeld:
    """Gives nothing: for who fetches over Bitswap but keeps its blocks to those it knows."""

    def has(self, cid: Cid) -> bool:
        """Never."""
        return False

    def read(self, cid: Cid) -> bytes:
        """Never."""
        raise BlockMissingError(f"block {cid} is not given to strangers")

    def remove(self, cid: Cid) -> None:
        """Nothing to forget."""


class WantList:
    """What one peer wants, by CID."""

    def __init__(self) -> None:
        self._wants: dict[bytes, Want] = {}
        self.dropped = 0
        """Wants over the limit."""

    def __len__(self) -> int:
        return len(self._wants)

    def update(self, wants: Iterable[Want], *, full: bool) -> None:
        """Take over a message's list."""
        if full:
            self._wants.clear()
        for want in wants:
            if want.cancel:
                self._wants.pop(want.name, None)
            elif want.name in self._wants or len(self._wants) < WANTS_PER_PEER_MAX:
                # A question after HAVE never takes back that the block itself is wanted.
                known = self._wants.get(want.name)
                if known is None or not want.have:
                    self._wants[want.name] = want
            else:
                self.dropped += 1

    def take(self) -> tuple[Want, ...]:
        """Return the oldest wants, for one message; they stay listed until `settle`, so that they can be cancelled."""
        return tuple(want for want, _ in zip(self._wants.values(), range(ANSWERED_AT_ONCE_MAX), strict=False))

    def settle(self, wants: Sequence[Want]) -> None:
        """Forget wants that were answered, unless the peer has changed them since."""
        for want in wants:
            if self._wants.get(want.name) is want:
                del self._wants[want.name]


def answer(held: HeldBlocks, wants: Sequence[Want]) -> tuple[Message, int]:
    """Return a message that answers the first of `wants`, and how many it answers. Reads and hashes: for a thread.

    Damaged blocks are not given: the giver would be taken for a liar.
    """
    blocks: list[Block] = []
    presences: list[Presence] = []
    bytes_taken = 0
    for count, want in enumerate(wants):
        cid = cid_of_name(want.name)
        if want.have:
            has = cid is not None and held.has(cid)
        else:
            data = None if cid is None else _read_whole(held, cid)
            has = data is not None
            if data is not None:
                if blocks and bytes_taken + len(data) > ANSWER_BYTES:
                    return Message(blocks=tuple(blocks), presences=tuple(presences)), count
                blocks.append(Block(prefix_of_name(want.name), data))
                bytes_taken += len(data)
        if want.have if has else want.send_dont_have:
            presences.append(Presence(want.name, has))
        if bytes_taken >= ANSWER_BYTES:
            return Message(blocks=tuple(blocks), presences=tuple(presences)), count + 1
    return Message(blocks=tuple(blocks), presences=tuple(presences)), len(wants)


def _read_whole(held: HeldBlocks, cid: Cid) -> bytes | None:
    try:
        data = held.read(cid)
    except BlockMissingError:
        return None
    if not cid.matches(data):
        log.error("a stored block is damaged and is removed; it will be fetched again", cid=str(cid))
        held.remove(cid)
        return None
    return data
