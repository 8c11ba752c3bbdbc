"""The content port: a store of blocks on disk, a gateway that serves it, and verified fetches from peers."""

import io
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import structlog
import trio

from node.ports import ContentUnavailableError, Provider
from node.protocol.identifiers import Cid
from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid as BlockCid
from p2p.content.fetch import FetchFailedError, FetchSession, Progress, Source
from p2p.content.server import GatewayServer, serve_blocks
from p2p.content.unixfs_export import CorruptBlockError, export, file_chunks
from p2p.content.unixfs_import import import_file, import_path

log = structlog.get_logger(__name__)

TREE_OVERHEAD_BYTES = 1024 * 1024
"""Nodes of a file's tree come on top of its bytes."""
MODEL_BYTES_MAX = 4 * 1024**4
"""4 TiB; keeps a hostile registry entry from filling any disk without end."""


class ContentAdapter:
    """`node.ports.Content`, and directories. Made by `open_content`."""

    def __init__(self, store: BlockStore, client: httpx.AsyncClient, server: GatewayServer | None, port: int) -> None:
        self._store = store
        self._client = client
        self._server = server
        self.port = port
        """Where the gateway listens; 0 if it does not."""
        self.fetched_bytes: Counter[str] = Counter()
        """Verified bytes by provider (`host:port`)."""

    @property
    def served_bytes(self) -> int:
        """Bytes of blocks given to peers."""
        return 0 if self._server is None else self._server.served_bytes

    async def add_bytes(self, data: bytes) -> Cid:
        """Store `data` and return its CID."""
        imported = await trio.to_thread.run_sync(import_file, io.BytesIO(data), self._store.put)
        return Cid(str(imported.cid))

    async def import_directory(self, path: Path, advance: Callable[[int], None] | None = None) -> tuple[Cid, int]:
        """Store a directory; return its CID and the bytes of its files."""

        def run() -> tuple[Cid, int]:
            imported = import_path(path, self._store.put, include_hidden=False, advance=advance)
            return Cid(str(imported.cid)), imported.file_bytes

        return await trio.to_thread.run_sync(run)

    async def read_bytes(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        """Return the file `cid`, fetching what is missing."""
        block_cid = BlockCid.parse(cid)
        for _ in range(2):  # a damaged block is found while reading: fetch it again, once
            await self._fetch(block_cid, providers, limit_bytes + TREE_OVERHEAD_BYTES, None)

            def read() -> bytes:
                return b"".join(file_chunks(block_cid, self._store.read, limit_bytes=limit_bytes))

            try:
                return await trio.to_thread.run_sync(read)
            except CorruptBlockError as error:
                self._store.remove(error.cid)
            except BlockMissingError:
                continue
        raise ContentUnavailableError(f"{cid}: blocks on disk are damaged again and again")

    async def has(self, cid: Cid) -> bool:
        """Whether all of `cid` is held and whole."""
        session = FetchSession(self._store, self._client, (), MODEL_BYTES_MAX)
        try:
            await session.fetch(BlockCid.parse(cid))
        except FetchFailedError:
            return False
        return True

    async def ensure_directory(
        self,
        cid: Cid,
        providers: Sequence[Provider],
        destination: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Make `destination` the directory `cid`, fetching what is missing. At once if it exists already.

        Raises ContentUnavailableError, ValueError for what is not ours to write, OSError if the disk refuses.
        """
        if await trio.Path(destination).exists():
            return
        block_cid = BlockCid.parse(cid)
        await self._fetch(block_cid, providers, MODEL_BYTES_MAX, progress)

        def write() -> None:
            destination.parent.mkdir(parents=True, exist_ok=True)
            export(block_cid, self._store.read, destination, limit_bytes=MODEL_BYTES_MAX)

        await trio.to_thread.run_sync(write)

    async def _fetch(
        self, cid: BlockCid, providers: Sequence[Provider], bytes_max: int, progress: Progress | None
    ) -> None:
        sources = [Source(provider.host, provider.port) for provider in providers]
        session = FetchSession(self._store, self._client, sources, bytes_max, progress)
        try:
            await session.fetch(cid)
        except FetchFailedError as error:
            raise ContentUnavailableError(f"{cid}: {error}") from error
        finally:
            self.fetched_bytes.update(session.fetched_bytes)


@asynccontextmanager
async def open_content(
    directory: Path, *, host: str, port: int, cache_bytes_max: int, serve: bool = True
) -> AsyncIterator[ContentAdapter]:
    """Open the store in `directory` and serve it until the context is left. Raises p2p.content.server.GatewayPortError.

    Without `serve` nothing listens: for tools that put content where a daemon serves it.
    """
    store = await trio.to_thread.run_sync(lambda: BlockStore(directory, bytes_max=cache_bytes_max))
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:  # noqa: S113 - by session
        if not serve:
            yield ContentAdapter(store, client, None, 0)
            return
        async with serve_blocks(store, host=host, port=port) as (server, bound_port):
            yield ContentAdapter(store, client, server, bound_port)
