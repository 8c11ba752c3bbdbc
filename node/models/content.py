"""The content port: a store of blocks on disk, a gateway that serves it, and verified fetches from peers."""

import io
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from node.models.provider_health import ProviderHealth
from node.ports import BadContentError, ContentNotHeldError, ContentUnavailableError, Provider
from node.protocol.identifiers import Cid, EpochNumber
from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid as BlockCid
from p2p.content.cid import CidError
from p2p.content.gateway.admission import GatewayLimits
from p2p.content.gateway.server import GatewayServer, serve_blocks
from p2p.content.gateway_source import GatewaySource
from p2p.content.held import is_held
from p2p.content.rate import ByteRate
from p2p.content.retrieval.directory import DirectoryFetch, NotTheContentError, Progress, hold_directory
from p2p.content.retrieval.nodes import FetchFailedError, fetch_nodes
from p2p.content.retrieval.race import BlockRace, RaceCounts
from p2p.content.retrieval.staging import FetchInProgressError
from p2p.content.source import BlockSource
from p2p.content.unixfs import UnixFsError
from p2p.content.unixfs_export import CorruptBlockError, file_chunks
from p2p.content.unixfs_import import import_file, import_path
from p2p.standing import Standing

log = structlog.get_logger(__name__)

TREE_OVERHEAD_BYTES = 1024 * 1024
"""Nodes of a file's tree come on top of its bytes."""
MODEL_BYTES_MAX = 4 * 1024**4
"""4 TiB; keeps a hostile registry entry from filling any disk without end."""
PIN_NAME = "fetched"
"""The pin that keeps the nodes of a fetched directory from being evicted, so that its files stay held and served."""
KEPT_PREFIX = "until-epoch-"
"""Pins of what rules need for a time are named so, and by the last epoch in which they do."""
FREE_BYTES_MIN = 32 * 1024 * 1024
"""What content leaves free of its disk: the books, in which money is, are most often on the same one. Half of what the
fetch of a model leaves, so that it does not stop proofs.
"""
SOURCES_COUNTED_MAX = 1024
OTHERS = "others"
"""Stands for the sources that are no longer counted one by one."""
DESTINATIONS_MAX = 1024
"""Destinations whose lock is remembered."""

MoreSources = Callable[[BlockCid], Awaitable[Sequence[BlockSource]]]
"""Finds sources for a tree beyond the providers that peers announce: Bitswap peers, Kubo, web gateways, by rank."""


@dataclass(frozen=True, slots=True)
class ContentExchange:
    """How content is exchanged with others. The defaults suit a tool without peers of its own."""

    limits: GatewayLimits = field(default_factory=GatewayLimits)
    """What our gateway gives to whom."""
    token: str = ""
    """What our gateway asks for; empty is open."""
    provider_tokens: Mapping[str, str] = field(default_factory=dict)
    """By `host:port`, what theirs ask for."""
    download_bytes_per_second: int = 0
    """0 is no limit."""
    standing: Standing | None = None
    """Where a provider that lies or stalls is blamed."""
    more_sources: MoreSources | None = None
    """Asked once per fetch, and only for what providers lack."""


class ContentAdapter:
    """`node.ports.Content`, and directories. Made by `open_content`."""

    def __init__(
        self, store: BlockStore, server: GatewayServer | None, port: int, exchange: ContentExchange | None = None
    ) -> None:
        self.store = store
        self.exchange = exchange or ContentExchange()
        self._server = server
        self.port = port
        """Where the gateway listens; 0 if it does not."""
        self.fetched_bytes: Counter[str] = Counter()
        """Verified bytes by source (for providers `host:port`); those that gave least are forgotten."""
        self.duplicate_bytes = 0
        """Of blocks that came whole a second time."""
        self.sources_dropped = 0
        """Sources that lied, stalled or failed within a fetch."""
        self._more_sources = self.exchange.more_sources
        self._rate = ByteRate(self.exchange.download_bytes_per_second)
        self._health = ProviderHealth(trio.current_time)
        self._destinations: OrderedDict[Path, trio.Lock] = OrderedDict()

    @property
    def server(self) -> GatewayServer | None:
        """The gateway, if this serves."""
        return self._server

    @property
    def served_bytes(self) -> int:
        """Bytes of blocks given to peers."""
        return 0 if self._server is None else self._server.served_bytes

    def use_more_sources(self, more_sources: MoreSources) -> None:
        """Have fetches ask there too from now on; for parts that are made after this one."""
        self._more_sources = more_sources

    async def add_bytes(self, data: bytes) -> Cid:
        """Store `data` and return its CID."""
        imported = await trio.to_thread.run_sync(import_file, io.BytesIO(data), self.store.put)
        return Cid(str(imported.cid))

    async def keep(self, cid: Cid, until: EpochNumber) -> None:
        """Pin `cid` until `forget` is called for a later epoch than `until`; see `node.ports.Content`."""
        root = _parsed(cid)
        if root is None:
            return  # somebody else named it: nothing of that name is held

        def run() -> None:
            # A pin on what is not here would leave open what else it reaches.
            if is_held(self.store, root):
                self.store.pin(root, f"{KEPT_PREFIX}{until}")

        await trio.to_thread.run_sync(run)

    async def forget(self, epoch: EpochNumber, named: Collection[Cid]) -> None:
        """Remove what was kept for epochs before `epoch`, and fetched content; see `node.ports.Content`."""
        roots = [root for cid in named if (root := _parsed(cid)) is not None]

        def run() -> int:
            over = [pin for pin in self.store.pins() if (until := _kept_until(pin.name)) is not None and until < epoch]
            for pin in over:
                self.store.unpin(pin.root, pin.name)
            removed = self.store.discard([pin.root for pin in over], own=True)
            return removed + self.store.discard(roots, own=False)

        removed = await trio.to_thread.run_sync(run)
        if removed:
            log.info("content of old epochs is removed", before_epoch=epoch, removed_bytes=removed)

    async def import_directory(
        self, path: Path, advance: Callable[[int], None] | None = None, *, in_place: bool = False
    ) -> tuple[Cid, int]:
        """Store a directory; return its CID and the bytes of its files.

        `in_place` copies nothing: the files are held and served where they are, until they are changed or deleted.
        """
        reference = self.store.reference_file if in_place else None

        def run() -> tuple[Cid, int]:
            imported = import_path(path, self.store.put, include_hidden=False, advance=advance, reference=reference)
            return Cid(str(imported.cid)), imported.file_bytes

        return await trio.to_thread.run_sync(run)

    async def read_bytes(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        """Return the file `cid`, fetching what is missing; see `node.ports.Content`."""
        try:
            return await self._read_file(BlockCid.parse(cid), cid, providers, limit_bytes)
        except (CidError, UnixFsError) as error:
            raise BadContentError(str(error)) from error
        except ValueError as error:  # a fault of a source or of ours: nothing may be concluded of the content
            log.exception("content could not be read for an unforeseen reason", cid=cid)
            raise ContentUnavailableError(f"{cid}: {error}") from error
        except OSError as error:
            log.error("content cannot be stored on this node's disk; it is tried again", cid=cid, reason=str(error))
            raise ContentNotHeldError(f"{cid} cannot be stored here: {error}") from error

    async def _read_file(self, block_cid: BlockCid, cid: Cid, providers: Sequence[Provider], limit_bytes: int) -> bytes:

        def read() -> bytes:
            return b"".join(file_chunks(block_cid, self.store.read, limit_bytes=limit_bytes))

        with self.store.holding(block_cid):  # a lack of room is then told as one
            for _ in range(3):  # a damaged block is found while reading: fetch it again
                try:
                    return await trio.to_thread.run_sync(read)
                except CorruptBlockError as error:
                    await trio.to_thread.run_sync(self.store.remove, error.cid)
                except BlockMissingError:
                    pass
                async with self._race(cid, providers) as race:
                    bytes_max = limit_bytes + TREE_OVERHEAD_BYTES
                    await fetch_nodes(self.store, race, block_cid, bytes_max=bytes_max, with_leaves=True)
        # Its sources gave it, and every byte was checked: nobody else is to blame.
        raise ContentNotHeldError(f"{cid}: blocks on disk are damaged or gone again and again")

    async def fetch_tree(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int, with_leaves: bool) -> None:
        """Have the store hold all nodes below `cid`, and with `with_leaves` all else too."""
        root = BlockCid.parse(cid)
        with self.store.holding(root):
            async with self._race(cid, providers) as race:
                await fetch_nodes(self.store, race, root, bytes_max=limit_bytes, with_leaves=with_leaves)

    async def has(self, cid: Cid) -> bool:
        """Whether all of `cid` is held, as far as its nodes and the sizes and times of files tell."""
        return await trio.to_thread.run_sync(is_held, self.store, BlockCid.parse(cid))

    async def ensure_directory(
        self,
        cid: Cid,
        providers: Sequence[Provider],
        destination: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Make `destination` the directory `cid`, fetching what is missing. At once if it exists already.

        A fetch that was stopped or killed goes on where it was. The files are then served from where they lie; whoever
        deletes them calls `forget_directory`. Raises ContentUnavailableError, ValueError for what is not ours to write,
        OSError if the disk refuses.
        """
        block_cid = BlockCid.parse(cid)
        async with self._lock(destination), self._race(cid, providers) as race:
            await trio.to_thread.run_sync(lambda: destination.parent.mkdir(parents=True, exist_ok=True))
            fetch = DirectoryFetch(self.store, race, block_cid, destination, MODEL_BYTES_MAX, progress)
            if not await trio.Path(destination).exists():
                await trio.to_thread.run_sync(self.store.pin, block_cid, PIN_NAME)
            try:
                await fetch.run()
            except ValueError:  # it never can be written: its nodes need not be kept
                await trio.to_thread.run_sync(self.store.unpin, block_cid, PIN_NAME)
                raise

    async def hold_directory(self, cid: Cid, directory: Path) -> None:
        """Serve `cid` from the files of `directory`, if it is not held by now: `ensure_directory` made them elsewhere.

        Cheap for files that were renamed; others are read and hashed. Raises ContentUnavailableError if the nodes are
        not held or the files are others, OSError.
        """
        root = BlockCid.parse(cid)

        def run() -> None:
            if not is_held(self.store, root):
                hold_directory(self.store, root, directory, bytes_max=MODEL_BYTES_MAX)
                self.store.pin(root, PIN_NAME)

        try:
            await trio.to_thread.run_sync(run)
        except (BlockMissingError, NotTheContentError, ValueError) as error:
            raise ContentUnavailableError(f"{cid} cannot be served from {directory}: {error}") from error

    async def forget_directory(self, cid: Cid, destination: Path) -> None:
        """Unpin what `ensure_directory` made and that is being deleted, and serve its files no more."""

        def run() -> None:
            self.store.forget_files(destination)
            self.store.unpin(BlockCid.parse(cid), PIN_NAME)

        await trio.to_thread.run_sync(run)

    @asynccontextmanager
    async def _race(self, cid: Cid, providers: Sequence[Provider]) -> AsyncIterator[BlockRace]:
        """Open a session with providers and whoever else may have `cid`; what it learnt is kept."""
        more_sources = self._more_sources
        sources = [self.source(provider) for provider in dict.fromkeys(providers)]
        race = BlockRace(
            [source for source in sources if not self._health.has_failed(source.name)],
            in_reserve=[source for source in sources if self._health.has_failed(source.name)],
            more_sources=None if more_sources is None else lambda: more_sources(BlockCid.parse(cid)),
            standing=self.exchange.standing,
            rate=self._rate,
        )
        try:
            yield race
        except (FetchFailedError, FetchInProgressError) as error:
            raise ContentUnavailableError(f"{cid}: {error}") from error
        finally:
            self._count(race.counts)
            self._health.note(race.counts.failed, race.counts.fetched_bytes)
            with trio.CancelScope(shield=True):
                await race.aclose()

    def _count(self, counts: RaceCounts) -> None:
        self.fetched_bytes.update(counts.fetched_bytes)
        if len(self.fetched_bytes) > SOURCES_COUNTED_MAX:
            least = self.fetched_bytes.most_common()[SOURCES_COUNTED_MAX // 2 :]
            for name, _ in least:
                del self.fetched_bytes[name]
            self.fetched_bytes[OTHERS] += sum(count for _, count in least)
        self.duplicate_bytes += counts.duplicate_bytes
        self.sources_dropped += len(counts.failed)

    def source(self, provider: Provider) -> GatewaySource:
        """A source for one fetch: the content gateway of a peer."""
        token = self.exchange.provider_tokens.get(_name(provider), "")
        return GatewaySource(provider.host, provider.port, token=token)

    @asynccontextmanager
    async def _lock(self, destination: Path) -> AsyncIterator[None]:
        """Let one task at a time make a destination; the others find it made."""
        lock = self._destinations.setdefault(destination, trio.Lock())
        self._destinations.move_to_end(destination)
        async with lock:
            yield
        if len(self._destinations) > DESTINATIONS_MAX:
            idle = next((path for path, known in self._destinations.items() if not known.statistics().locked), None)
            if idle is not None:
                del self._destinations[idle]


def _parsed(cid: Cid) -> BlockCid | None:
    """Return a CID that somebody else named; None for one of a kind that is never held here."""
    try:
        return BlockCid.parse(cid)
    except CidError:
        return None


def _kept_until(name: str) -> int | None:
    number = name.removeprefix(KEPT_PREFIX)
    return int(number) if name != number and number.isascii() and number.isdecimal() else None


def _name(provider: Provider) -> str:
    host = f"[{provider.host}]" if ":" in provider.host else provider.host
    return f"{host}:{provider.port}"


@asynccontextmanager
async def open_content(
    directory: Path,
    *,
    host: str,
    port: int,
    cache_bytes_max: int,
    serve: bool = True,
    exchange: ContentExchange | None = None,
) -> AsyncIterator[ContentAdapter]:
    """Open the store in `directory` and serve it until the context is left.

    Without `serve` nothing listens: for tools that put content where a daemon serves it. Raises
    p2p.content.gateway.server.GatewayPortError.
    """
    exchange = exchange or ContentExchange()
    store = await trio.to_thread.run_sync(
        lambda: BlockStore(directory, bytes_max=cache_bytes_max, free_bytes_min=FREE_BYTES_MIN)
    )
    try:
        if not serve:
            yield ContentAdapter(store, None, 0, exchange)
            return
        async with serve_blocks(store, host=host, port=port, limits=exchange.limits, token=exchange.token) as (
            server,
            bound_port,
        ):
            yield ContentAdapter(store, server, bound_port, exchange)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)
