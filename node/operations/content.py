"""What is done with content for an operator: the control socket's content methods over the block store.

The daemon runs them with its network. Without a daemon the command line runs them itself, on the same store: several
processes may share it, and only what is missing cannot be had.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import trio

from node.content_paths import parse_content_path
from node.control.content_methods import (
    AddParams,
    FindParams,
    GarbageParams,
    GetParams,
    ListParams,
    PathParams,
    PinParams,
    VerifyParams,
)
from node.control.content_views import (
    AddedView,
    ContentProgress,
    DamageView,
    FoundView,
    GarbageView,
    ListingView,
    PinsView,
    ScrubView,
    StatView,
    UsageView,
)
from node.control.jsonrpc import ErrorCode, RpcError
from node.operations.content_showing import entry_view, file_bytes_of, found_view, pins_view, stat_view
from node.operations.store_trees import TREE_BYTES_MAX, StoreTrees, Trees, parse_path
from node.operations.store_work import EmitProgress, Meter, forward, from_network, in_thread
from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid
from p2p.content.held import is_held
from p2p.content.tree import TreeReader, file_bytes
from p2p.content.unixfs import Entry, FileNode, Leaf
from p2p.content.unixfs_export import export
from p2p.content.unixfs_import import Layout, import_path

ENTRIES_SHOWN_MAX = 1000
"""On one page: an answer over the control socket is at most a mebibyte, and a name may have 255 bytes."""
DAMAGES_SHOWN_MAX = 200
ADDED_PIN_NAME = "added"
"""Pin of what `quern ipfs add` took in."""


class StoreOperations:
    """Implements node.control.content_methods.ContentOperations."""

    def __init__(self, store: BlockStore, network: Trees | None) -> None:
        """Without `network` only what is held can be read."""
        self._store = store
        self._trees = StoreTrees(store, network)

    async def add(self, params: AddParams, emit: EmitProgress) -> AddedView:
        """Take in a file or directory, and pin it."""
        path = Path(params.path)
        meter = Meter("adding", await in_thread(lambda: _bytes_below(path)), emit)
        layout = Layout(params.chunk_bytes, params.width)

        def run() -> AddedView:
            imported = import_path(
                path,
                self._store.put,
                layout,
                include_hidden=params.hidden,
                advance=meter.advance,
                reference=None if params.copy_files else self._store.reference_file,
            )
            self._store.pin(imported.cid, ADDED_PIN_NAME)
            return AddedView(
                cid=str(imported.cid),
                file_bytes=imported.file_bytes,
                total_bytes=imported.total_bytes,
                in_place=not params.copy_files,
            )

        return await in_thread(run)

    async def find(self, params: FindParams, emit: EmitProgress) -> FoundView:
        """Have the store hold what a path leads to."""
        cid, node = await self._trees.resolve(params.path)
        if params.whole:
            await emit(ContentProgress(what="fetching", done_bytes=0, total_bytes=file_bytes_of(node)))
            await self._trees.have(cid)
        return found_view(self._store, cid, node)

    async def entries(self, params: ListParams) -> ListingView:
        """Return a page of a directory; a file is its own only entry."""
        cid, node = await self._trees.resolve(params.path)
        names = parse_content_path(params.path)[1]

        def run() -> ListingView:
            if isinstance(node, Leaf | FileNode):
                name = names[-1] if names else str(cid)
                entries = [Entry(name, cid, file_bytes(node))]
            else:
                reader = TreeReader(self._store.read, 0)
                entries = []
                for number, entry in enumerate(reader.entries(node)):
                    if number >= params.after:
                        entries.append(entry)
                    if len(entries) > ENTRIES_SHOWN_MAX:
                        break
            shown = entries[:ENTRIES_SHOWN_MAX]
            return ListingView(
                cid=str(cid),
                entries=[entry_view(self._store, entry) for entry in shown],
                more=len(entries) > len(shown),
            )

        return await self._trees.with_nodes(cid, run)

    async def stat(self, params: PathParams) -> StatView:
        """Return what is known and held of a tree."""
        cid, node = await self._trees.resolve(params.path)
        return await in_thread(lambda: stat_view(self._store, cid, node))

    async def get(self, params: GetParams, emit: EmitProgress) -> FoundView:
        """Write a file or directory to disk: copied if it is held, else fetched straight to where it shall be."""
        cid, node = await self._trees.resolve(params.path)
        destination = Path(params.destination)
        if await trio.Path(destination).exists():
            raise RpcError(
                ErrorCode.REFUSED, f"{destination} exists", "Nothing was written. Name another with --output."
            )
        network = self._trees.network
        if network is None or await in_thread(lambda: is_held(self._store, cid)):
            meter = Meter("writing", file_bytes_of(node), emit)
            read = self._store.read
            with suppress(BlockMissingError):  # found damaged only now: it is fetched below
                await self._trees.reading(
                    lambda: export(cid, read, destination, limit_bytes=TREE_BYTES_MAX, advance=meter.advance)
                )
                return found_view(self._store, cid, node)
        if network is not None:
            await self._get(network, cid, destination, emit)
        return found_view(self._store, cid, node)

    async def _get(self, network: Trees, cid: Cid, destination: Path, emit: EmitProgress) -> None:
        failure: RpcError | None = None
        async with trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[ContentProgress](1)
            nursery.start_soon(forward, receive, emit)

            def progress(done: int, total: int | None) -> None:
                with suppress(trio.WouldBlock):  # the next report says more than this one
                    send.send_nowait(ContentProgress(what="fetching", done_bytes=done, total_bytes=total))

            try:
                await from_network(network.get(cid, destination, progress))
            except RpcError as error:
                failure = error  # outside of the nursery, which would wrap it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def pin(self, params: PinParams, emit: EmitProgress) -> FoundView:
        """Keep a tree, and fetch what is missing of it."""
        cid, node = await self._trees.resolve(params.path)
        await in_thread(lambda: self._store.pin(cid, params.name))  # first, so that nothing of it is evicted
        await emit(ContentProgress(what="fetching", done_bytes=0, total_bytes=file_bytes_of(node)))
        await self._trees.have(cid)
        return found_view(self._store, cid, node)

    async def unpin(self, params: PinParams) -> PinsView:
        """Remove a pin; return those of the same root that are left."""
        cid, names = parse_path(params.path)
        if names:
            cid, _ = await self._trees.resolve(params.path)

        def run() -> PinsView:
            held = [pin for pin in self._store.pins() if pin.root == cid]
            if params.name not in [pin.name for pin in held]:
                others = ", ".join(sorted(pin.name for pin in held)) or "none"
                raise RpcError(
                    ErrorCode.REFUSED,
                    f"{cid} has no pin named {params.name!r}; its pins: {others}",
                    "Name one with --name. Pins of models are removed with the model.",
                )
            self._store.unpin(cid, params.name)
            return pins_view(self._store, cid)

        return await in_thread(run)

    async def pins(self) -> PinsView:
        """Return all pins."""
        return await in_thread(lambda: pins_view(self._store, None))

    async def usage(self) -> UsageView:
        """Return what the store holds."""

        def run() -> UsageView:
            usage = self._store.usage()
            return UsageView(
                directory=str(self._store.directory),
                blocks=usage.blocks,
                block_bytes=usage.block_bytes,
                bytes_max=usage.bytes_max,
                files=usage.files,
                leaves=usage.leaves,
                leaf_bytes=usage.leaf_bytes,
                pins=usage.pins,
                duplicates=usage.duplicates,
                duplicate_bytes=usage.duplicate_bytes,
                free_bytes=shutil.disk_usage(self._store.directory).free,
            )

        return await in_thread(run)

    async def collect_garbage(self, params: GarbageParams) -> GarbageView:
        """Remove what no pin keeps."""

        def run() -> GarbageView:
            garbage = self._store.collect_garbage(grace_seconds=params.grace_seconds)
            return GarbageView(
                blocks=garbage.blocks,
                block_bytes=garbage.block_bytes,
                files=garbage.files,
                leftovers=garbage.leftovers,
                missing=garbage.missing,
            )

        return await in_thread(run)

    async def verify(self, params: VerifyParams, emit: EmitProgress) -> ScrubView:
        """Hash all that is held."""

        def run() -> ScrubView:
            meter: Meter | None = None
            damages: list[DamageView] = []
            blocks = checked = damaged = 0
            for step in self._store.verify(remove=params.repair):
                meter = meter or Meter("checking", step.total_bytes, emit)
                meter.advance(step.checked_bytes - checked)
                blocks, checked = step.blocks, step.checked_bytes
                if step.damage is not None:
                    damaged += 1
                    place = step.damage.place
                    if len(damages) < DAMAGES_SHOWN_MAX:
                        damages.append(
                            DamageView(
                                cid=str(step.damage.cid),
                                path=str(place.path),
                                offset=place.offset,
                                size=place.size,
                                reason=step.damage.reason,
                            )
                        )
            roots = dict.fromkeys(pin.root for pin in self._store.pins())
            return ScrubView(
                blocks=blocks,
                checked_bytes=checked,
                damaged=damaged,
                damages=damages,
                removed=params.repair and damaged > 0,
                incomplete=[str(root) for root in roots if not is_held(self._store, root)][:DAMAGES_SHOWN_MAX],
            )

        return await in_thread(run)


def _bytes_below(path: Path) -> int:
    """Return the bytes of files, for a progress bar; what cannot be read is said when it is taken in."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(below.lstat().st_size for below in path.rglob("*") if not below.is_dir())
