"""What is done with content for an operator: the control socket's content methods over the block store.

The daemon runs them with its network. Without a daemon the command line runs them itself, on the same store: several
processes may share it, and only what is missing cannot be had.
"""

import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

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
    EntryView,
    FoundView,
    GarbageView,
    ListingView,
    PinsView,
    PinView,
    ScrubView,
    StatView,
    UsageView,
)
from node.control.jsonrpc import ErrorCode, RpcError
from node.ports import ContentUnavailableError
from p2p.content.blockstore import BlockMissingError, BlockStore, FileChangedError, StoreFullError
from p2p.content.cid import Cid, CidError, Codec
from p2p.content.dagpb import DagPbError, decode_node
from p2p.content.held import is_held
from p2p.content.tree import CorruptBlockError, PathError, TreeReader, file_bytes
from p2p.content.unixfs import DirectoryNode, Entry, FileNode, Leaf, ShardNode, UnixFsError, UnixFsNode
from p2p.content.unixfs_export import export
from p2p.content.unixfs_import import Layout, import_path

TREE_BYTES_MAX = 4 * 1024**4
"""4 TiB, as for models: keeps a hostile root from filling any disk without end."""
ENTRIES_SHOWN_MAX = 1000
"""On one page: an answer over the control socket is at most a mebibyte, and a name may have 255 bytes."""
PINS_SHOWN_MAX = 2000
DAMAGES_SHOWN_MAX = 200
WALK_BLOCKS_MAX = 4_000_000
"""Blocks that `stat` looks at. A terabyte has a million."""
FETCHES_MAX = 3
"""Attempts to have a tree whole: a damaged block is found only while reading, and is then fetched again."""
EMIT_SECONDS = 0.2
"""Between two reports of progress."""
ADDED_PIN_NAME = "added"
"""Pin of what `quern ipfs add` took in."""

Result = TypeVar("Result")
EmitProgress = Callable[[ContentProgress], Awaitable[None]]


class Trees(Protocol):
    """Whole trees from the network. Methods raise ContentUnavailableError, ValueError for hostile trees, OSError."""

    async def fetch(self, cid: Cid, *, with_leaves: bool) -> None:
        """Have the store hold the nodes below `cid`, and with `with_leaves` all else too."""

    async def get(self, cid: Cid, destination: Path, progress: Callable[[int, int | None], None]) -> None:
        """Make `destination` the file or directory `cid`."""


class StoreOperations:
    """Implements node.control.content_methods.ContentOperations."""

    def __init__(self, store: BlockStore, network: Trees | None) -> None:
        """Without `network` only what is held can be read."""
        self._store = store
        self._network = network

    async def add(self, params: AddParams, emit: EmitProgress) -> AddedView:
        """Take in a file or directory, and pin it."""
        path = Path(params.path)
        meter = _Meter("adding", await _in_thread(lambda: _bytes_below(path)), emit)
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

        return await _in_thread(run)

    async def find(self, params: FindParams, emit: EmitProgress) -> FoundView:
        """Have the store hold what a path leads to."""
        cid, node = await self._resolve(params.path)
        if params.whole:
            await emit(ContentProgress(what="fetching", done_bytes=0, total_bytes=_file_bytes(node)))
            await self._have(cid)
        return self._found(cid, node)

    async def entries(self, params: ListParams) -> ListingView:
        """Return a page of a directory; a file is its own only entry."""
        cid, node = await self._resolve(params.path)
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
                entries=[self._entry_view(entry) for entry in shown],
                more=len(entries) > len(shown),
            )

        return await self._with_nodes(cid, run)

    async def stat(self, params: PathParams) -> StatView:
        """Return what is known and held of a tree."""
        cid, node = await self._resolve(params.path)
        return await _in_thread(lambda: self._stat(cid, node))

    async def get(self, params: GetParams, emit: EmitProgress) -> FoundView:
        """Write a file or directory to disk: copied if it is held, else fetched straight to where it shall be."""
        cid, node = await self._resolve(params.path)
        destination = Path(params.destination)
        if await trio.Path(destination).exists():
            raise RpcError(
                ErrorCode.REFUSED, f"{destination} exists", "Nothing was written. Name another with --output."
            )
        network = self._network
        if network is None or await _in_thread(lambda: is_held(self._store, cid)):
            meter = _Meter("writing", _file_bytes(node), emit)
            read = self._store.read
            with suppress(BlockMissingError):  # found damaged only now: it is fetched below
                await self._reading(
                    lambda: export(cid, read, destination, limit_bytes=TREE_BYTES_MAX, advance=meter.advance)
                )
                return self._found(cid, node)
        if network is not None:
            await self._get(network, cid, destination, emit)
        return self._found(cid, node)

    async def _get(self, network: Trees, cid: Cid, destination: Path, emit: EmitProgress) -> None:
        failure: RpcError | None = None
        async with trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[ContentProgress](1)
            nursery.start_soon(_forward, receive, emit)

            def progress(done: int, total: int | None) -> None:
                with suppress(trio.WouldBlock):  # the next report says more than this one
                    send.send_nowait(ContentProgress(what="fetching", done_bytes=done, total_bytes=total))

            try:
                await _from_network(network.get(cid, destination, progress))
            except RpcError as error:
                failure = error  # outside of the nursery, which would wrap it
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def pin(self, params: PinParams, emit: EmitProgress) -> FoundView:
        """Keep a tree, and fetch what is missing of it."""
        cid, node = await self._resolve(params.path)
        await _in_thread(lambda: self._store.pin(cid, params.name))  # first, so that nothing of it is evicted
        await emit(ContentProgress(what="fetching", done_bytes=0, total_bytes=_file_bytes(node)))
        await self._have(cid)
        return self._found(cid, node)

    async def unpin(self, params: PinParams) -> PinsView:
        """Remove a pin; return those of the same root that are left."""
        cid, names = _parse(params.path)
        if names:
            cid, _ = await self._resolve(params.path)

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
            return self._pins(cid)

        return await _in_thread(run)

    async def pins(self) -> PinsView:
        """Return all pins."""
        return await _in_thread(lambda: self._pins(None))

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

        return await _in_thread(run)

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

        return await _in_thread(run)

    async def verify(self, params: VerifyParams, emit: EmitProgress) -> ScrubView:
        """Hash all that is held."""

        def run() -> ScrubView:
            meter: _Meter | None = None
            damages: list[DamageView] = []
            blocks = checked = damaged = 0
            for step in self._store.verify(remove=params.repair):
                meter = meter or _Meter("checking", step.total_bytes, emit)
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

        return await _in_thread(run)

    async def _resolve(self, path: str) -> tuple[Cid, UnixFsNode]:
        """Return what is at a path, and its node; fetches the nodes on the way."""
        root, names = _parse(path)

        reader = TreeReader(self._store.read, 0)
        cid = await self._with_nodes(root, lambda: reader.resolve(root, names)) if names else root
        return cid, await self._with_nodes(cid, lambda: reader.node(cid))

    async def _with_nodes(self, root: Cid, read: Callable[[], Result]) -> Result:
        """Run `read`, fetching the nodes below `root` if it misses one."""
        for _ in range(FETCHES_MAX):
            try:
                return await self._reading(read)
            except BlockMissingError:
                await self._fetch(root, with_leaves=root.codec is Codec.RAW)
        return await self._reading(read)

    async def _have(self, cid: Cid) -> None:
        """Have the store hold all of a tree."""
        if not await _in_thread(lambda: is_held(self._store, cid)):
            await self._fetch(cid, with_leaves=True)

    async def _fetch(self, cid: Cid, *, with_leaves: bool) -> None:
        if self._network is None:
            raise RpcError(
                ErrorCode.UNAVAILABLE,
                f"not all of {cid} is held here",
                "Start the daemon (quernd), or leave out --offline: it fetches the rest from peers.",
            )
        await _from_network(self._network.fetch(cid, with_leaves=with_leaves))

    async def _reading(self, read: Callable[[], Result]) -> Result:
        """Run `read` in a thread; what it finds damaged is removed and counts as missing."""

        def run() -> Result:
            try:
                return read()
            except CorruptBlockError as error:
                self._store.remove(error.cid)
                raise BlockMissingError(str(error)) from error

        try:
            return await _in_thread(run)
        except BlockMissingError:
            if self._network is None:
                raise RpcError(
                    ErrorCode.UNAVAILABLE,
                    "not all of it is held here",
                    "Start the daemon (quernd), or leave out --offline: it fetches the rest from peers.",
                ) from None
            raise

    def _found(self, cid: Cid, node: UnixFsNode) -> FoundView:
        return FoundView(
            cid=str(cid), kind=_kind(node), file_bytes=_file_bytes(node), store=str(self._store.directory.absolute())
        )

    def _entry_view(self, entry: Entry) -> EntryView:
        kind: str | None = None
        size: int | None = None
        if entry.cid.codec is Codec.RAW:
            kind, size = "file", entry.total_bytes
        else:
            try:
                node = TreeReader(self._store.read, 0).node(entry.cid)
            except (BlockMissingError, CorruptBlockError, UnixFsError):
                pass  # a listing must not fail for one entry; `stat` says what is wrong with it
            else:
                kind, size = _kind(node), _file_bytes(node)
        return EntryView(name=entry.name, cid=str(entry.cid), kind=kind, file_bytes=size, total_bytes=entry.total_bytes)

    def _pins(self, root: Cid | None) -> PinsView:
        pins = [pin for pin in self._store.pins() if root in (None, pin.root)]
        return PinsView(
            pins=[PinView(cid=str(pin.root), name=pin.name, since=pin.since) for pin in pins[:PINS_SHOWN_MAX]]
        )

    def _stat(self, cid: Cid, node: UnixFsNode) -> StatView:
        seen = {cid}
        queue = [cid]
        held_blocks = held_bytes = 0
        while queue:
            block = queue.pop()
            size = self._store.size(block)
            if size is None:
                continue
            held_blocks += 1
            held_bytes += size
            if block.codec is Codec.DAG_PB:
                for below in self._links(block):
                    if below not in seen and len(seen) < WALK_BLOCKS_MAX:
                        seen.add(below)
                        queue.append(below)
        root = self._store.read(cid)
        links = decode_node(root).links if cid.codec is Codec.DAG_PB else ()
        return StatView(
            cid=str(cid),
            kind=_kind(node),
            file_bytes=_file_bytes(node),
            total_bytes=len(root) + sum(link.total_bytes for link in links),
            blocks=len(seen),
            held_blocks=held_blocks,
            held_bytes=held_bytes,
            whole=held_blocks == len(seen),
            pins=sorted(pin.name for pin in self._store.pins() if pin.root == cid),
        )

    def _links(self, cid: Cid) -> list[Cid]:
        try:
            return [link.cid for link in decode_node(self._store.read(cid)).links]
        except (BlockMissingError, DagPbError):
            return []


class _Meter:
    """Reports progress from a worker thread, and stops its work when the caller has gone."""

    def __init__(self, what: str, total_bytes: int | None, emit: EmitProgress) -> None:
        self._what = what
        self._total_bytes = total_bytes
        self._emit = emit
        self._done_bytes = 0
        self._told = 0.0

    def advance(self, size: int) -> None:
        """Count bytes; tells at most every EMIT_SECONDS. Raises trio.Cancelled."""
        trio.from_thread.check_cancelled()
        self._done_bytes += size
        now = time.monotonic()
        if now - self._told >= EMIT_SECONDS or self._done_bytes == self._total_bytes:
            self._told = now
            trio.from_thread.run(
                self._emit,
                ContentProgress(what=self._what, done_bytes=self._done_bytes, total_bytes=self._total_bytes),
            )


async def _forward(receive: trio.MemoryReceiveChannel[ContentProgress], emit: EmitProgress) -> None:
    async with receive:
        async for progress in receive:
            await emit(progress)
            await trio.sleep(EMIT_SECONDS)


async def _in_thread(run: Callable[[], Result]) -> Result:
    """Run blocking work; what an operator can act on becomes an RpcError."""
    try:
        return await trio.to_thread.run_sync(run)
    except (PathError, FileChangedError, FileExistsError, FileNotFoundError, PermissionError) as error:
        raise RpcError(ErrorCode.REFUSED, str(error)) from error
    except (UnixFsError, DagPbError) as error:
        raise RpcError(ErrorCode.REFUSED, str(error), "Nothing was written.") from error
    except (StoreFullError, OSError) as error:
        raise RpcError(ErrorCode.UNAVAILABLE, str(error)) from error


async def _from_network(fetching: Awaitable[None]) -> None:
    try:
        await fetching
    except ContentUnavailableError as error:
        raise RpcError(
            ErrorCode.UNAVAILABLE, str(error), "Are there peers that hold it? (quern peers) A retry goes on from here."
        ) from error
    except ValueError as error:
        raise RpcError(ErrorCode.REFUSED, str(error), "It is not a tree that is written to disk.") from error
    except OSError as error:
        raise RpcError(ErrorCode.UNAVAILABLE, str(error)) from error


def _parse(path: str) -> tuple[Cid, tuple[str, ...]]:
    try:
        return parse_content_path(path)
    except CidError as error:
        raise RpcError(ErrorCode.INVALID_PARAMS, f"{path!r} is no path to content: {error}") from error


def _kind(node: UnixFsNode) -> str:
    return "directory" if isinstance(node, DirectoryNode | ShardNode) else "file"


def _file_bytes(node: UnixFsNode) -> int | None:
    return file_bytes(node) if isinstance(node, Leaf | FileNode) else None


def _bytes_below(path: Path) -> int:
    """Return the bytes of files, for a progress bar; what cannot be read is said when it is taken in."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(below.lstat().st_size for below in path.rglob("*") if not below.is_dir())
