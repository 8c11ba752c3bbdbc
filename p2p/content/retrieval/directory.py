"""Fetches a tree to a place on disk: leaves go straight into its files, nodes into the block store.

In order: nodes, plan, staged files, what is there already, the rest from the sources, fsync, rename; then the store
learns that it holds those leaves in the files themselves, so nothing is stored twice and all of it is served again.
Killed anywhere, it goes on at the next call; nothing that is not whole ever appears at the destination.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.retrieval.nodes import FetchFailedError, describe_missing, fetch_nodes
from p2p.content.retrieval.plan import KnownNodes, PlannedFile, TreePlan, plan_tree
from p2p.content.retrieval.race import BlockRace
from p2p.content.retrieval.staging import Staging
from p2p.content.unixfs import BLOCK_BYTES_MAX, Leaf, UnixFsError, read_block

log = structlog.get_logger(__name__)

Progress = Callable[[int, int | None], None]
"""Told (file bytes held so far, file bytes in all if known), in the trio thread. May raise to stop."""


@dataclass(slots=True)
class DirectoryFetch:
    """One tree to one destination."""

    store: BlockStore
    race: BlockRace
    root: Cid
    destination: Path
    bytes_max: int
    progress: Progress | None = None
    _held_bytes: int = 0
    _plan: TreePlan | None = field(default=None)

    async def run(self) -> None:
        """Make the destination. At once if it is there and known to the store.

        Raises FetchFailedError, UnixFsError, StoreFullError, FetchInProgressError, OSError.
        """
        staging = Staging(self.destination, self.root)
        if await trio.Path(self.destination).exists() and not staging.exists:
            return
        with staging.locked():
            if staging.is_published:
                log.info("a fetch that was cut off after its last step is brought to its end", path=self.destination)
                plan = await self._make_plan()
            elif await trio.Path(self.destination).exists():
                await trio.to_thread.run_sync(staging.discard)
                return
            else:
                try:
                    plan = await self._make_plan()
                    await self._fill(staging, plan)
                except UnixFsError:
                    await trio.to_thread.run_sync(staging.discard)  # it will never be whole
                    raise
                await trio.to_thread.run_sync(staging.publish)
            await trio.to_thread.run_sync(self._reference, plan)
            await trio.to_thread.run_sync(staging.discard)

    async def _make_plan(self) -> TreePlan:
        known: KnownNodes | None = None
        if self.root.codec is Codec.DAG_PB:
            known = await fetch_nodes(self.store, self.race, self.root, bytes_max=self.bytes_max, with_leaves=False)
        return await trio.to_thread.run_sync(
            lambda: plan_tree(self.root, self.store.read, bytes_max=self.bytes_max, known=known)
        )

    async def _fill(self, staging: Staging, plan: TreePlan) -> None:
        self._plan = plan
        await trio.to_thread.run_sync(staging.prepare, plan)
        held = await trio.to_thread.run_sync(self._find_held, staging)
        wanted = [cid for cid in staging.leaves() if cid not in held]

        def taken(cid: Cid, size: int) -> None:
            self._advance(staging.bytes_of(cid, size))

        missing = await self.race.run(wanted, staging.write, taken=taken)
        if missing:
            raise FetchFailedError(describe_missing(self.race, missing))
        if self.progress is not None:
            self.progress(self._held_bytes, self._held_bytes)

    def _find_held(self, staging: Staging) -> set[Cid]:
        """Find leaves that are in the staged files, or can be copied there from the store."""
        held: set[Cid] = set()
        for cid, size in staging.held():
            held.add(cid)
            self._advance_from_thread(staging.bytes_of(cid, size))
        for cid in self.store.perhaps_held(cid for cid in staging.leaves() if cid not in held):
            trio.from_thread.check_cancelled()
            try:
                data = self.store.read(cid)
            except BlockMissingError:
                continue
            if not cid.matches(data):
                self.store.remove(cid)
                continue
            if cid.codec is Codec.DAG_PB:
                node = read_block(cid, data)
                data = node.data if isinstance(node, Leaf) else b""  # the plan has only leaves here
            staging.write(cid, data)
            held.add(cid)
            self._advance_from_thread(staging.bytes_of(cid, len(data)))
        return held

    def _reference(self, plan: TreePlan) -> None:
        for file in plan.files:
            path = (self.destination / file.path).absolute()
            self.store.reference_file(path, _blocks_of(file, path))

    def _advance_from_thread(self, count: int) -> None:
        trio.from_thread.run_sync(self._advance, count)

    def _advance(self, count: int) -> None:
        self._held_bytes += count
        if self.progress is not None:
            total = None if self._plan is None else max(self._plan.file_bytes, self._held_bytes)
            self.progress(self._held_bytes, total)


class NotTheContentError(Exception):
    """A directory is not what its CID says."""


def hold_directory(store: BlockStore, root: Cid, directory: Path, *, bytes_max: int) -> None:
    """Hold the leaves below `root` in the files of `directory`, where they were moved or copied to. Blocking.

    Files that were renamed are only looked at, others are read and hashed. Raises BlockMissingError if the nodes are
    not held, NotTheContentError, UnixFsError, OSError.
    """
    plan = plan_tree(root, store.read, bytes_max=bytes_max)
    for file in plan.files:
        path = (directory / file.path).absolute()
        if not store.follow_file(path):
            store.reference_file(path, _checked_blocks_of(file, path))


def _blocks_of(file: PlannedFile, path: Path) -> Iterator[tuple[Cid, int, int]]:
    for segment in file.segments:
        if segment.cid.codec is Codec.RAW:
            yield segment.cid, segment.offset, path.stat().st_size if segment.size is None else segment.size


def _checked_blocks_of(file: PlannedFile, path: Path) -> Iterator[tuple[Cid, int, int]]:
    with path.open("rb", buffering=0) as opened:
        for cid, offset, size in _blocks_of(file, path):
            opened.seek(offset)
            if size > BLOCK_BYTES_MAX or not cid.matches(opened.read(size)):
                raise NotTheContentError(f"{path} is not the file that its CID names")
            yield cid, offset, size
