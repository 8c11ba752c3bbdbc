"""Fetches a whole tree of blocks from several providers at once; every block is verified before it counts.

Providers share one list of wanted blocks, so that each gives what it can and none is waited for. One that lies or
stalls is dropped for the session; one that lacks a block is only not asked for it again. Blocks held already are not
fetched: an interrupted session goes on where it stopped.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
import structlog
import trio

from p2p.content.blockstore import BLOCK_BYTES_MAX, BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import decode_node
from p2p.content.unixfs import UnixFsError, read_block

log = structlog.get_logger(__name__)

REQUESTS_PER_PROVIDER = 4
"""In flight to one provider: hides its latency. Bounds memory to so many blocks per provider."""
PROVIDERS_MAX = 16
REQUEST_SECONDS_MAX = 30.0
"""One block; a provider slower than 70 kB/s is of no use."""
BLOCKS_MAX = 4_000_000
"""Blocks of one tree: 4 TB. A tree with more is hostile."""

Progress = Callable[[int, int | None], None]
"""Told (bytes held so far, bytes in all if known)."""


class FetchFailedError(Exception):
    """Blocks are missing that no provider gave; the message names what was tried."""


@dataclass(frozen=True, slots=True)
class Source:
    """A trustless gateway."""

    host: str
    port: int

    @property
    def name(self) -> str:
        """For logs and counters."""
        return f"{self.host}:{self.port}"

    def url(self, cid: Cid) -> str:
        """Where it has a block."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/ipfs/{cid}?format=raw"


@dataclass(slots=True)
class FetchSession:
    """One tree. `bytes_max` bounds what it may bring."""

    store: BlockStore
    client: httpx.AsyncClient
    sources: Sequence[Source]
    bytes_max: int
    progress: Progress | None = None
    request_seconds: float = REQUEST_SECONDS_MAX
    fetched_bytes: Counter[str] = field(default_factory=Counter)
    _wanted: dict[Cid, set[Source]] = field(default_factory=dict)
    """Blocks to fetch, each with the sources that were asked in vain."""
    _running: set[Cid] = field(default_factory=set)
    _seen: set[Cid] = field(default_factory=set)
    _changed: trio.Event = field(default_factory=trio.Event)
    _held_bytes: int = 0
    _total_bytes: int | None = None
    _reasons: dict[str, str] = field(default_factory=dict)

    async def fetch(self, root: Cid) -> None:
        """Fetch everything below `root`. Raises FetchFailedError, UnixFsError, StoreFullError."""
        await self._want([root])
        if self._wanted:
            active = list(dict.fromkeys(self.sources))[:PROVIDERS_MAX]
            await self._race(active)
        if self._wanted:
            tried = "; ".join(f"{name}: {reason}" for name, reason in self._reasons.items()) or "nobody has it"
            missing = next(iter(self._wanted))
            raise FetchFailedError(f"{len(self._wanted)} blocks are missing, e.g. {missing} ({tried})")

    async def _race(self, sources: Sequence[Source]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for source in sources:
                    nursery.start_soon(self._use, source)
        except BaseExceptionGroup as group:
            leaf: BaseException = group
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            raise leaf from group

    async def _use(self, source: Source) -> None:
        """Fetch from one source until nothing is left for it, or it is dropped."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(REQUESTS_PER_PROVIDER):
                    nursery.start_soon(self._work, source, scope)
        self._notify()

    async def _work(self, source: Source, scope: trio.CancelScope) -> None:
        while True:
            cid = next((cid for cid, tried in self._wanted.items() if source not in tried), None)
            if cid is None:
                if not self._running:
                    return
                await self._changed.wait()  # what runs elsewhere may fail, or lead to more blocks
                continue
            tried = self._wanted.pop(cid)
            self._running.add(cid)
            try:
                data = await self._get(source, cid, scope)
            finally:
                self._running.discard(cid)
                self._wanted[cid] = tried
                self._notify()
            if data is None:
                tried.add(source)
                continue
            del self._wanted[cid]
            self._running.add(cid)
            try:
                await self._take(source, cid, data)
            except BaseException:
                self._wanted[cid] = tried
                raise
            finally:
                self._running.discard(cid)
                self._notify()

    async def _get(self, source: Source, cid: Cid, scope: trio.CancelScope) -> bytes | None:
        """Return verified bytes, or None if the source lacks the block; cancels `scope` if it lies or fails."""
        try:
            with trio.fail_after(self.request_seconds):
                data = await self._download(source, cid)
        except (httpx.HTTPError, trio.TooSlowError, UnixFsError) as error:
            self._drop(source, scope, repr(error))
            return None
        if data is not None and not cid.matches(data):
            self._drop(source, scope, f"sent other bytes for {cid}")
            return None
        return data

    async def _download(self, source: Source, cid: Cid) -> bytes | None:
        async with self.client.stream("GET", source.url(cid)) as response:
            if response.status_code == httpx.codes.NOT_FOUND:
                self._reasons.setdefault(source.name, "lacks blocks")
                return None
            response.raise_for_status()
            pieces, size = [], 0
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > BLOCK_BYTES_MAX:
                    raise UnixFsError(f"a block of more than {BLOCK_BYTES_MAX} bytes")
                pieces.append(piece)
            return b"".join(pieces)

    def _drop(self, source: Source, scope: trio.CancelScope, reason: str) -> None:
        log.warning("a content provider is dropped", provider=source.name, reason=reason)
        self._reasons[source.name] = reason
        scope.cancel()

    async def _take(self, source: Source, cid: Cid, data: bytes) -> None:
        children = self._children(cid, data)
        await trio.to_thread.run_sync(self.store.put_verified, cid, data)
        self.fetched_bytes[source.name] += len(data)
        self._count(cid, data)
        await self._want(children)

    async def _want(self, cids: Sequence[Cid]) -> None:
        """Add what is not held to the wanted blocks, and look below what is held."""
        queue = list(cids)
        while queue:
            cid = queue.pop()
            if cid in self._seen:
                continue
            self._seen.add(cid)
            if len(self._seen) > BLOCKS_MAX:
                raise UnixFsError(f"a tree of more than {BLOCKS_MAX} blocks")
            data = await trio.to_thread.run_sync(self._read_held, cid)
            if data is None:
                self._wanted[cid] = set()
            else:
                self._count(cid, data)
                queue.extend(self._children(cid, data))
        self._notify()

    def _read_held(self, cid: Cid) -> bytes | None:
        if not self.store.has(cid):
            return None
        data = self.store.read(cid)
        if cid.matches(data):
            return data
        self.store.remove(cid)
        return None

    def _children(self, cid: Cid, data: bytes) -> list[Cid]:
        if cid.codec is not Codec.DAG_PB:
            return []
        read_block(cid, data)  # not UnixFS: refused before anything below it is fetched
        return [link.cid for link in decode_node(data).links]

    def _count(self, cid: Cid, data: bytes) -> None:
        if self._total_bytes is None:  # the root comes first
            links = decode_node(data).links if cid.codec is Codec.DAG_PB else ()
            self._total_bytes = len(data) + sum(link.total_bytes for link in links)
            if self._total_bytes > self.bytes_max:
                raise UnixFsError(f"{self._total_bytes} bytes are over the limit of {self.bytes_max}")
        self._held_bytes += len(data)
        if self._held_bytes > self.bytes_max:
            raise UnixFsError(f"more bytes than the limit of {self.bytes_max}")
        if self.progress is not None:
            self.progress(self._held_bytes, self._total_bytes)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
