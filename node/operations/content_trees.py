"""Whole trees of content for an operator, from the peers that are here: what the daemon adds to its store."""

from collections.abc import Callable, Sequence
from pathlib import Path

from node.models.content import ContentAdapter
from node.operations.store_trees import TREE_BYTES_MAX
from node.ports import Provider
from node.protocol.identifiers import Cid
from p2p.content.cid import Cid as BlockCid


class NetworkTrees:
    """Implements node.operations.store_trees.Trees."""

    def __init__(self, content: ContentAdapter, providers: Callable[[], Sequence[Provider]]) -> None:
        """`providers` tells whose gateways are to be asked, at each fetch anew."""
        self._content = content
        self._providers = providers

    async def fetch(self, cid: BlockCid, *, with_leaves: bool) -> None:
        """Have the store hold the nodes below `cid`, and with `with_leaves` all else too."""
        await self._content.fetch_tree(
            Cid(str(cid)), self._providers(), limit_bytes=TREE_BYTES_MAX, with_leaves=with_leaves
        )

    async def get(self, cid: BlockCid, destination: Path, progress: Callable[[int, int | None], None]) -> None:
        """Make `destination` the file or directory `cid`."""
        await self._content.ensure_directory(Cid(str(cid)), self._providers(), destination, progress=progress)
