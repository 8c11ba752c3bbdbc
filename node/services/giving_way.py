"""Gives way to what another member has on its way to a block: once, for a few blocks, and never near the end.

*Detail.* Whoever sees another's transaction on its way saves the price of its own. But what is on its way costs its
sender nothing until it is in a block: it may be replaced before each, or pay too little for any. Were it given way to
for as long as it is seen, one sender could keep a whole group silent until it is too late. A second transaction costs
gas; an epoch without a result, or a false one that nobody voids, costs everything. A restart gives way anew, for as
many blocks again and never near the end either: so nothing of it is written down.
"""

from dataclasses import dataclass

from node.ports import Chain
from node.protocol.actions import ChainAction


@dataclass(slots=True)
class GivingWay:
    """How long this node gives way in one matter."""

    patience_blocks: int
    """For how long, from the first sight on."""
    seen_at: int | None = None
    """Block at which another was first seen to do the same."""

    async def is_overtaken(self, chain: Chain, action: ChainAction, block: int, late: int | None = None) -> bool:
        """Whether to leave `action` to another at `block`: another did it, or this node still gives way.

        From block `late` on, and after `patience_blocks`, only what is in a block counts.
        """
        is_patient = self.seen_at is None or block < self.seen_at + self.patience_blocks
        if not is_patient or (late is not None and block >= late):
            return await chain.is_overtaken(action, in_a_block=True)
        if not await chain.is_overtaken(action):
            return False
        self.seen_at = block if self.seen_at is None else self.seen_at
        return True
