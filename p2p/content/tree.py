"""Reading trees of blocks: nodes that were verified, entries of directories however they are laid out, paths, bytes.

Blocking code. Everything is bounded by the caller's budget of bytes and by depth, so that a small hostile tree cannot
keep a reader busy for ever.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from p2p.content.cid import Cid
from p2p.content.hamt import find_in_shards, walk_shards
from p2p.content.unixfs import (
    DirectoryNode,
    Entry,
    FileNode,
    Leaf,
    ShardNode,
    UnixFsError,
    UnixFsNode,
    check_name,
    read_block,
)

DEPTH_MAX = 32
"""Directories within directories; also, separately, rows of a file tree (4 rows of 1,024 hold an exbibyte)."""

ReadBlock = Callable[[Cid], bytes]
"""Returns the bytes of a block; raises if they are not held."""


class CorruptBlockError(Exception):
    """Stored bytes are not those that their CID names."""

    def __init__(self, cid: Cid) -> None:
        super().__init__(f"block {cid} is damaged: its bytes have another hash")
        self.cid = cid


class PathError(UnixFsError):
    """A path does not lead to anything in a tree."""


@dataclass(slots=True)
class TreeReader:
    """Reads within a budget of file bytes, counted over all that is read through it.

    Raises UnixFsError for what is not a file or directory of ours, CorruptBlockError, and whatever `read` raises.
    """

    read: ReadBlock
    bytes_left: int

    def node(self, cid: Cid) -> UnixFsNode:
        """Return a verified node."""
        block = self.read(cid)
        if not cid.matches(block):
            raise CorruptBlockError(cid)
        return read_block(cid, block)

    def entries(self, node: DirectoryNode | ShardNode) -> Iterator[Entry]:
        """Yield the entries of a directory; their names are unique and safe."""
        if isinstance(node, DirectoryNode):
            yield from node.entries
        else:
            yield from walk_shards(node, self._shard)

    def find(self, node: DirectoryNode | ShardNode, name: str) -> Entry | None:
        """Return the entry of a name, None if the directory has none."""
        if isinstance(node, DirectoryNode):
            return next((entry for entry in node.entries if entry.name == name), None)
        return find_in_shards(node, name, self._shard)

    def resolve(self, root: Cid, names: tuple[str, ...]) -> Cid:
        """Return what is at a path below `root`. Raises PathError if nothing is."""
        cid = root
        if len(names) > DEPTH_MAX:
            raise PathError(f"a path of more than {DEPTH_MAX} names")
        for depth, name in enumerate(names):
            check_name(name.encode())
            node = self.node(cid)
            if isinstance(node, Leaf | FileNode):
                raise PathError(f"{'/'.join((str(root), *names[:depth]))} is a file: there is no {name!r} in it")
            entry = self.find(node, name)
            if entry is None:
                raise PathError(f"there is no {name!r} in {'/'.join((str(root), *names[:depth]))}")
            cid = entry.cid
        return cid

    def chunks(self, cid: Cid, promised_bytes: int | None = None, depth: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a file, or of a part that its parent promised to have so many bytes."""
        node = self.node(cid)
        if isinstance(node, DirectoryNode | ShardNode):
            raise UnixFsError(f"{cid} is a directory where a file was expected")
        yield from self.chunks_of(cid, node, promised_bytes, depth)

    def chunks_of(
        self, cid: Cid, node: Leaf | FileNode, promised_bytes: int | None = None, depth: int = 0
    ) -> Iterator[bytes]:
        """Yield the bytes below a node that was already read."""
        size = file_bytes(node)
        if promised_bytes is not None and size != promised_bytes:
            raise UnixFsError(f"block {cid} brings {size} bytes where {promised_bytes} were promised")
        self.check_budget(size)  # known from the root, before a byte is written
        if isinstance(node, Leaf):
            self.bytes_left -= size
            yield node.data
            return
        if depth == DEPTH_MAX:
            raise UnixFsError(f"a file tree of more than {DEPTH_MAX} rows")
        for part in node.parts:
            yield from self.chunks(part.cid, part.file_bytes, depth + 1)

    def check_budget(self, size: int) -> None:
        """Raise UnixFsError if so many bytes are more than may still be read."""
        if size > self.bytes_left:
            raise UnixFsError(f"larger than the limit given for it: {size} bytes more")

    def _shard(self, cid: Cid) -> ShardNode:
        node = self.node(cid)
        if not isinstance(node, ShardNode):
            raise UnixFsError(f"block {cid} is no shard of a directory where one was expected")
        return node


def file_bytes(node: Leaf | FileNode) -> int:
    """Return the size of the file below a node, as the node says."""
    return len(node.data) if isinstance(node, Leaf) else node.file_bytes
