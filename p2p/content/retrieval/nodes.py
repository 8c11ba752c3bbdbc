"""Brings the nodes of a tree into the block store, row by row; every row is fetched from all sources at once.

Nodes are a twentieth of a thousandth of a model. Having them all before the first leaf tells the whole size before
disk is taken, and puts leaves in order.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.retrieval.plan import KnownNodes
from p2p.content.retrieval.race import BlockRace
from p2p.content.tree import DEPTH_MAX
from p2p.content.unixfs import FileNode, Leaf, UnixFsError, UnixFsNode, blocks_below, read_block

ROWS_MAX = 4 * DEPTH_MAX
"""Directories, shards of large ones and rows of a file's tree together. A deeper chain of nodes is hostile."""
NODES_MAX = 200_000
"""Different nodes of one tree; a terabyte has a thousand."""
NODE_BYTES_EXPECTED = 64 * 1024
REASONS_SHOWN_MAX = 8


class FetchFailedError(Exception):
    """Blocks are missing that no source gave; the message names what was tried."""


async def fetch_nodes(
    store: BlockStore, race: BlockRace, root: Cid, *, bytes_max: int, with_leaves: bool
) -> KnownNodes:
    """Make the store hold all nodes below `root`, and with `with_leaves` all else too, at most `bytes_max` bytes.

    Returns the nodes seen last, for whoever plans the tree. Raises FetchFailedError, UnixFsError (hostile, or over the
    limit), StoreFullError.
    """
    walk = _Walk(store, bytes_max, with_leaves)
    row = walk.unseen([root])
    for _ in range(ROWS_MAX):
        if not row:
            return walk.known
        wanted = await trio.to_thread.run_sync(walk.take_held, row)
        missing = await race.run(wanted, walk.take, bytes_expected=NODE_BYTES_EXPECTED)
        if missing:
            raise FetchFailedError(describe_missing(race, missing))
        row = walk.next_row()
    raise UnixFsError(f"a tree of more than {ROWS_MAX} rows")


def describe_missing(race: BlockRace, missing: list[Cid]) -> str:
    """Say what is missing and who was asked."""
    reasons = list(race.counts.reasons.items())
    tried = "; ".join(f"{name}: {reason}" for name, reason in reasons[:REASONS_SHOWN_MAX]) or "nobody has it"
    return f"{len(missing)} blocks are missing, e.g. {missing[0]} ({tried})"


@dataclass(slots=True)
class _Walk:
    """Blocking; `take` comes in several threads at once."""

    store: BlockStore
    bytes_max: int
    with_leaves: bool
    seen: set[Cid] = field(default_factory=set)
    below: list[Cid] = field(default_factory=list)
    taken_bytes: int = 0
    known: KnownNodes = field(default_factory=KnownNodes)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def unseen(self, cids: Iterable[Cid]) -> list[Cid]:
        fresh = [
            cid
            for cid in dict.fromkeys(cids)
            if cid not in self.seen and (self.with_leaves or cid.codec is Codec.DAG_PB)
        ]
        self.seen.update(fresh)
        if len(self.seen) > NODES_MAX:
            raise UnixFsError(f"a tree of more than {NODES_MAX} nodes")
        return fresh

    def next_row(self) -> list[Cid]:
        below, self.below = self.below, []
        return self.unseen(below)

    def take_held(self, row: list[Cid]) -> list[Cid]:
        """Look below blocks that are held; return those that are not."""
        missing: list[Cid] = []
        for cid in row:
            trio.from_thread.check_cancelled()
            try:
                data = self.store.read(cid)
            except BlockMissingError:
                missing.append(cid)
                continue
            if cid.matches(data):
                self._look(cid, data)
            else:
                self.store.remove(cid)
                missing.append(cid)
        return missing

    def take(self, cid: Cid, data: bytes | bytearray) -> None:
        """Look below a block that came, and store it."""
        block = bytes(data)
        self._look(cid, block)
        self.store.put_verified(cid, block)

    def _look(self, cid: Cid, block: bytes) -> None:
        node: UnixFsNode | None = None
        if cid.codec is Codec.DAG_PB:
            node = read_block(cid, block)  # not UnixFS: refused before anything below it is fetched
            if isinstance(node, FileNode) and node.file_bytes > self.bytes_max:
                raise UnixFsError(f"a file of {node.file_bytes} bytes is over the limit of {self.bytes_max}")
        below = [] if node is None else blocks_below(node)
        with self.lock:
            if node is not None and not isinstance(node, Leaf):  # file bytes are not kept in memory
                self.known.note(cid, node)
            self.taken_bytes += len(block)
            if self.taken_bytes > self.bytes_max:
                raise UnixFsError(f"more bytes than the limit of {self.bytes_max}")
            self.below += [child for child in below if self.with_leaves or child.codec is Codec.DAG_PB]
            if len(self.below) > 2 * NODES_MAX:
                # Children repeat only in trees that link one block again and again.
                self.below = list(dict.fromkeys(self.below))
                if len(self.below) > NODES_MAX:
                    raise UnixFsError(f"a tree of more than {NODES_MAX} nodes")
