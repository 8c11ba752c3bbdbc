"""What a tree of nodes will be on disk: directories, files, and where in them each leaf belongs. Blocking code.

Made from verified nodes before the first leaf is fetched, so that a hostile tree is refused before it takes disk: every
size is held against what its parent promised, and entries, leaves, rows and bytes are bounded. A subtree that is linked
many times counts as often as it would be written.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from p2p.content.cid import Cid, Codec
from p2p.content.tree import DEPTH_MAX, ReadBlock, TreeReader, file_bytes
from p2p.content.unixfs import (
    BLOCK_BYTES_MAX,
    DirectoryNode,
    FileNode,
    Leaf,
    ShardNode,
    UnixFsError,
    UnixFsNode,
)
from p2p.content.unixfs_export import EXPORT_ENTRIES_MAX

LEAVES_MAX = 1_000_000
"""A tebibyte in chunks of 1 MiB, and about 200 MB of plan; models with more want larger chunks."""
NODE_READS_MAX = 1_000_000
"""Nodes read while planning, one that is linked twice twice: bounds the work for trees that bring no bytes."""
NODES_KNOWN_MAX = 64


@dataclass(frozen=True, slots=True)
class Segment:
    """A leaf in a file. `size` None is known when the leaf comes: a file of one raw block."""

    cid: Cid
    offset: int
    size: int | None


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file below the root; the path of a root that is a file itself is `.`."""

    path: PurePosixPath
    size: int | None
    """None for a file of one raw block, at most BLOCK_BYTES_MAX."""
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class TreePlan:
    """A whole tree."""

    root: Cid
    is_directory: bool
    directories: tuple[PurePosixPath, ...]
    """Below the root, parents first."""
    files: tuple[PlannedFile, ...]
    file_bytes: int
    """Of all files, those of unknown size as their directory claims."""


@dataclass(slots=True)
class KnownNodes:
    """The nodes read last: a tree that links one of them again and again is planned at the speed of counting."""

    nodes: OrderedDict[Cid, UnixFsNode] = field(default_factory=OrderedDict)

    def find(self, cid: Cid) -> UnixFsNode | None:
        """Return a node if it is known."""
        return self.nodes.get(cid)

    def note(self, cid: Cid, node: UnixFsNode) -> None:
        """Take down that a node was read or looked at."""
        self.nodes[cid] = node
        self.nodes.move_to_end(cid)
        if len(self.nodes) > NODES_KNOWN_MAX:
            self.nodes.popitem(last=False)


def plan_tree(root: Cid, read: ReadBlock, *, bytes_max: int, known: KnownNodes | None = None) -> TreePlan:
    """Plan the tree below `root`. Raises UnixFsError, CorruptBlockError, and what `read` raises for a missing node.

    Nodes that are `known` are not read again.
    """
    planner = _Planner(read, bytes_max, known or KnownNodes())
    node = None if root.codec is Codec.RAW else planner.node(root)
    is_directory = isinstance(node, DirectoryNode | ShardNode)
    planner.add(root, node, PurePosixPath(), 0, 0)
    return TreePlan(root, is_directory, tuple(planner.directories), tuple(planner.files), planner.file_bytes)


@dataclass(slots=True)
class _Planner:
    read: ReadBlock
    bytes_max: int
    known: KnownNodes
    directories: list[PurePosixPath] = field(default_factory=list)
    files: list[PlannedFile] = field(default_factory=list)
    file_bytes: int = 0
    leaves: int = 0
    reads: int = 0
    reader: TreeReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = TreeReader(self._read_counted, self.bytes_max)

    def node(self, cid: Cid) -> UnixFsNode:
        node = self.known.find(cid) or self.reader.node(cid)
        self.known.note(cid, node)
        return node

    def _read_counted(self, cid: Cid) -> bytes:
        self.reads += 1
        if self.reads > NODE_READS_MAX:
            raise UnixFsError(f"a tree of more than {NODE_READS_MAX} nodes")
        return self.read(cid)

    def add(self, cid: Cid, node: UnixFsNode | None, path: PurePosixPath, depth: int, claimed_bytes: int) -> None:
        """Plan a file or directory; `node` None is a raw block that is not here yet."""
        if len(self.files) + len(self.directories) >= EXPORT_ENTRIES_MAX:
            raise UnixFsError(f"more than {EXPORT_ENTRIES_MAX} files and directories")
        if isinstance(node, DirectoryNode | ShardNode):
            self._add_directory(node, path, depth)
        elif node is None:
            self._count(min(claimed_bytes, BLOCK_BYTES_MAX))
            self.leaves += 1
            self.files.append(PlannedFile(path, None, (Segment(cid, 0, None),)))
        else:
            size = file_bytes(node)
            self._count(size)  # before its rows are read: a lie about size costs nothing
            self.files.append(PlannedFile(path, size, tuple(self._segments(cid, node, 0, 0))))

    def _add_directory(self, node: DirectoryNode | ShardNode, path: PurePosixPath, depth: int) -> None:
        if depth == DEPTH_MAX:
            raise UnixFsError(f"more than {DEPTH_MAX} directories deep")
        if depth:
            self.directories.append(path)
        for entry in self.reader.entries(node):
            below = None if entry.cid.codec is Codec.RAW else self.node(entry.cid)
            self.add(entry.cid, below, path / entry.name, depth + 1, entry.total_bytes)

    def _segments(self, cid: Cid, node: Leaf | FileNode, offset: int, depth: int) -> Iterator[Segment]:
        if isinstance(node, Leaf):
            yield self._segment(cid, offset, len(node.data))
            return
        if depth == DEPTH_MAX:
            raise UnixFsError(f"a file tree of more than {DEPTH_MAX} rows")
        for part in node.parts:
            if part.cid.codec is Codec.RAW:
                if part.file_bytes > BLOCK_BYTES_MAX:
                    raise UnixFsError(f"block {cid} promises a leaf of {part.file_bytes} bytes")
                yield self._segment(part.cid, offset, part.file_bytes)
            else:
                below = self.node(part.cid)
                if isinstance(below, DirectoryNode | ShardNode):
                    raise UnixFsError(f"{part.cid} is a directory where a file was expected")
                size = file_bytes(below)
                if size != part.file_bytes:
                    raise UnixFsError(f"block {part.cid} brings {size} bytes where {part.file_bytes} were promised")
                yield from self._segments(part.cid, below, offset, depth + 1)
            offset += part.file_bytes

    def _segment(self, cid: Cid, offset: int, size: int) -> Segment:
        self.leaves += 1
        if self.leaves > LEAVES_MAX:
            raise UnixFsError(f"a tree of more than {LEAVES_MAX} leaves")
        return Segment(cid, offset, size)

    def _count(self, size: int) -> None:
        self.file_bytes += size
        if self.file_bytes > self.bytes_max:
            raise UnixFsError(f"{self.file_bytes} bytes are over the limit of {self.bytes_max}")
