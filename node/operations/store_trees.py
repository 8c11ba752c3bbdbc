"""Trees of the block store: what a path leads to, and whatever is missing on the way fetched from the network."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from node.content_paths import parse_content_path
from node.control.jsonrpc import ErrorCode, RpcError
from node.operations.store_work import Result, from_network, in_thread
from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid, CidError, Codec
from p2p.content.held import is_held
from p2p.content.tree import CorruptBlockError, TreeReader
from p2p.content.unixfs import UnixFsNode

TREE_BYTES_MAX = 4 * 1024**4
"""4 TiB, as for models: keeps a hostile root from filling any disk without end."""
FETCHES_MAX = 3
"""Attempts to have a tree whole: a damaged block is found only while reading, and is then fetched again."""


class Trees(Protocol):
    """Whole trees from the network. Methods raise ContentUnavailableError, ValueError for hostile trees, OSError."""

    async def fetch(self, cid: Cid, *, with_leaves: bool) -> None:
        """Have the store hold the nodes below `cid`, and with `with_leaves` all else too."""

    async def get(self, cid: Cid, destination: Path, progress: Callable[[int, int | None], None]) -> None:
        """Make `destination` the file or directory `cid`."""


class StoreTrees:
    """Reads trees of `store`. Without `network` only what is held can be read. Methods raise RpcError."""

    def __init__(self, store: BlockStore, network: Trees | None) -> None:
        self._store = store
        self.network = network

    async def resolve(self, path: str) -> tuple[Cid, UnixFsNode]:
        """Return what is at a path, and its node; fetches the nodes on the way."""
        root, names = parse_path(path)
        reader = TreeReader(self._store.read, 0)
        cid = await self.with_nodes(root, lambda: reader.resolve(root, names)) if names else root
        return cid, await self.with_nodes(cid, lambda: reader.node(cid))

    async def with_nodes(self, root: Cid, read: Callable[[], Result]) -> Result:
        """Run `read`, fetching the nodes below `root` if it misses one."""
        for _ in range(FETCHES_MAX):
            try:
                return await self.reading(read)
            except BlockMissingError:
                await self._fetch(root, with_leaves=root.codec is Codec.RAW)
        return await self.reading(read)

    async def have(self, cid: Cid) -> None:
        """Have the store hold all of a tree."""
        if not await in_thread(lambda: is_held(self._store, cid)):
            await self._fetch(cid, with_leaves=True)

    async def _fetch(self, cid: Cid, *, with_leaves: bool) -> None:
        if self.network is None:
            raise RpcError(
                ErrorCode.UNAVAILABLE,
                f"not all of {cid} is held here",
                "Start the daemon (quernd), or leave out --offline: it fetches the rest from peers.",
            )
        await from_network(self.network.fetch(cid, with_leaves=with_leaves))

    async def reading(self, read: Callable[[], Result]) -> Result:
        """Run `read` in a thread; what it finds damaged is removed and counts as missing."""

        def run() -> Result:
            try:
                return read()
            except CorruptBlockError as error:
                self._store.remove(error.cid)
                raise BlockMissingError(str(error)) from error

        try:
            return await in_thread(run)
        except BlockMissingError:
            if self.network is None:
                raise RpcError(
                    ErrorCode.UNAVAILABLE,
                    "not all of it is held here",
                    "Start the daemon (quernd), or leave out --offline: it fetches the rest from peers.",
                ) from None
            raise


def parse_path(path: str) -> tuple[Cid, tuple[str, ...]]:
    """Return the root and the names of a path. Raises RpcError."""
    try:
        return parse_content_path(path)
    except CidError as error:
        raise RpcError(ErrorCode.INVALID_PARAMS, f"{path!r} is no path to content: {error}") from error
