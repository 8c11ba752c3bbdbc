"""Content of the block store as an operator sees it. What reads blocks belongs in a thread."""

from node.control.content_views import EntryView, FoundView, PinsView, PinView, StatView
from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import DagPbError, decode_node
from p2p.content.tree import CorruptBlockError, TreeReader, file_bytes
from p2p.content.unixfs import DirectoryNode, Entry, FileNode, Leaf, ShardNode, UnixFsError, UnixFsNode

PINS_SHOWN_MAX = 2000
WALK_BLOCKS_MAX = 4_000_000
"""Blocks that `stat` looks at. A terabyte has a million."""


def found_view(store: BlockStore, cid: Cid, node: UnixFsNode) -> FoundView:
    """Return what was found at a path."""
    return FoundView(
        cid=str(cid), kind=kind_of(node), file_bytes=file_bytes_of(node), store=str(store.directory.absolute())
    )


def entry_view(store: BlockStore, entry: Entry) -> EntryView:
    """Return an entry of a directory, as far as its own node is held."""
    kind: str | None = None
    size: int | None = None
    if entry.cid.codec is Codec.RAW:
        kind, size = "file", entry.total_bytes
    else:
        try:
            node = TreeReader(store.read, 0).node(entry.cid)
        except (BlockMissingError, CorruptBlockError, UnixFsError):
            pass  # a listing must not fail for one entry; `stat` says what is wrong with it
        else:
            kind, size = kind_of(node), file_bytes_of(node)
    return EntryView(name=entry.name, cid=str(entry.cid), kind=kind, file_bytes=size, total_bytes=entry.total_bytes)


def pins_view(store: BlockStore, root: Cid | None) -> PinsView:
    """Return the pins of `root`, or all."""
    pins = [pin for pin in store.pins() if root in (None, pin.root)]
    return PinsView(pins=[PinView(cid=str(pin.root), name=pin.name, since=pin.since) for pin in pins[:PINS_SHOWN_MAX]])


def stat_view(store: BlockStore, cid: Cid, node: UnixFsNode) -> StatView:
    """Return what is known and held of a tree; its root is held."""
    seen = {cid}
    queue = [cid]
    held_blocks = held_bytes = 0
    while queue:
        block = queue.pop()
        size = store.size(block)
        if size is None:
            continue
        held_blocks += 1
        held_bytes += size
        if block.codec is Codec.DAG_PB:
            for below in _links(store, block):
                if below not in seen and len(seen) < WALK_BLOCKS_MAX:
                    seen.add(below)
                    queue.append(below)
    root = store.read(cid)
    links = decode_node(root).links if cid.codec is Codec.DAG_PB else ()
    return StatView(
        cid=str(cid),
        kind=kind_of(node),
        file_bytes=file_bytes_of(node),
        total_bytes=len(root) + sum(link.total_bytes for link in links),
        blocks=len(seen),
        held_blocks=held_blocks,
        held_bytes=held_bytes,
        whole=held_blocks == len(seen),
        pins=sorted(pin.name for pin in store.pins() if pin.root == cid),
    )


def kind_of(node: UnixFsNode) -> str:
    """Return whether it is a file or a directory, in a word."""
    return "directory" if isinstance(node, DirectoryNode | ShardNode) else "file"


def file_bytes_of(node: UnixFsNode) -> int | None:
    """Return the size of a file; None of a directory, which is not known without its entries."""
    return file_bytes(node) if isinstance(node, Leaf | FileNode) else None


def _links(store: BlockStore, cid: Cid) -> list[Cid]:
    try:
        return [link.cid for link in decode_node(store.read(cid)).links]
    except (BlockMissingError, DagPbError):
        return []
