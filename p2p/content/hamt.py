"""HAMT directories: too many names for one block are spread over shards by the hash of each name.

A shard links 256 positions; the position of a name is the next byte of its hash. A position with one name links its
entry, a position with more links a further shard. Every name that is read is held against its hash: a name can be in
one position only, so that a hostile directory cannot bring it twice, and looking one up reads one shard per level.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import Link, Node, encode_node
from p2p.content.murmur import murmur3_64
from p2p.content.unixfs import Entry, ShardNode, UnixFsError, encode_shard_data

FANOUT_BITS = 8
"""Of shards that we make: 256 positions, as every importer does."""
HASH_BITS = 64


@dataclass(frozen=True, slots=True)
class ShardPath:
    """Where a shard is in its directory: positions from the root shard down."""

    bits: int
    """Hash bits that one level takes."""
    positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that was read: names that end here, and shards below."""

    entries: tuple[Entry, ...]
    shards: tuple[tuple[Cid, ShardPath], ...]


def positions_of(name: bytes, bits: int, levels: int) -> tuple[int, ...]:
    """Return the positions of a name in the shards from the root down."""
    hashed = murmur3_64(name)
    mask = (1 << bits) - 1
    return tuple(hashed >> HASH_BITS - (level + 1) * bits & mask for level in range(levels))


def open_shard(node: ShardNode, path: ShardPath | None) -> Shard:
    """Read a shard at `path` (None for the root); raise UnixFsError for names that do not belong there."""
    if path is None:
        path = ShardPath(node.fanout_bits)
    elif path.bits != node.fanout_bits:
        raise UnixFsError("shards of one directory have different widths")
    levels = len(path.positions) + 1
    if levels * path.bits > HASH_BITS:
        raise UnixFsError("a sharded directory is deeper than its hash is long")
    for position, entry in node.entries:
        if positions_of(entry.name.encode(), path.bits, levels) != (*path.positions, position):
            raise UnixFsError(f"the name {entry.name!r} is in a shard where it does not belong")
    shards = tuple((cid, ShardPath(path.bits, (*path.positions, position))) for position, cid in node.shards)
    return Shard(tuple(entry for _, entry in node.entries), shards)


def walk_shards(root: ShardNode, read: Callable[[Cid], ShardNode]) -> Iterator[Entry]:
    """Yield all entries of a sharded directory, with one shard per level in memory."""
    yield from _walk(open_shard(root, None), read)


def _walk(shard: Shard, read: Callable[[Cid], ShardNode]) -> Iterator[Entry]:
    yield from shard.entries
    for cid, path in shard.shards:
        yield from _walk(open_shard(read(cid), path), read)


def find_in_shards(root: ShardNode, name: str, read: Callable[[Cid], ShardNode]) -> Entry | None:
    """Return the entry of a name, None if the directory has none; reads only the shards on its way."""
    shard = open_shard(root, None)
    positions = positions_of(name.encode(), root.fanout_bits, HASH_BITS // root.fanout_bits)
    while True:
        found = next((entry for entry in shard.entries if entry.name == name), None)
        if found is not None:
            return found
        below = next(
            ((cid, path) for cid, path in shard.shards if path.positions == positions[: len(path.positions)]), None
        )
        if below is None:
            return None
        cid, path = below
        shard = open_shard(read(cid), path)


def build_shards(links: Iterable[Link], put: Callable[[Codec, bytes], Cid]) -> Link:
    """Store the shards of a directory with these links; return a nameless link to the root shard.

    Raises UnixFsError if names share all 64 bits of their hashes: made on purpose, and nobody could read it.
    """
    placed = [(positions_of(link.name, FANOUT_BITS, HASH_BITS // FANOUT_BITS), link) for link in links]
    return _build(placed, 0, put)


def _build(placed: Sequence[tuple[tuple[int, ...], Link]], level: int, put: Callable[[Codec, bytes], Cid]) -> Link:
    if level == HASH_BITS // FANOUT_BITS:
        raise UnixFsError(f"names in one directory have equal hashes, e.g. {placed[0][1].name!r}: rename one of them")
    buckets: dict[int, list[tuple[tuple[int, ...], Link]]] = {}
    for item in placed:
        buckets.setdefault(item[0][level], []).append(item)
    links: list[Link] = []
    for position in sorted(buckets):
        bucket = buckets[position]
        label = b"%02X" % position
        below = bucket[0][1] if len(bucket) == 1 else _build(bucket, level + 1, put)
        links.append(Link(below.cid, label + below.name, below.total_bytes))
    block = encode_node(Node(tuple(links), encode_shard_data(sorted(buckets), FANOUT_BITS)))
    return Link(put(Codec.DAG_PB, block), b"", len(block) + sum(link.total_bytes for link in links))
