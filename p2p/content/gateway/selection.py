"""Which blocks a CAR holds, in depth-first order: those of a path, and those below its end. Blocking code.

Nodes are verified as they are read, for they decide what is sent next; leaves are only named.
"""

from collections.abc import Iterator

from p2p.content.blockstore import BlockMissingError
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import decode_node
from p2p.content.gateway.ranges import EntityBytes, Span
from p2p.content.gateway.request import RequestError
from p2p.content.gateway.wanted import Scope, WantedCar
from p2p.content.tree import DEPTH_MAX, CorruptBlockError, ReadBlock, TreeReader
from p2p.content.unixfs import FileNode, ShardNode, UnixFsError, UnixFsNode

ROWS_MAX = 4 * DEPTH_MAX
"""Directories, shards of large ones and rows of a file's tree together."""


def select_blocks(wanted: WantedCar, read: ReadBlock) -> Iterator[Cid]:
    """Yield the blocks of a CAR. Raises RequestError(404) before the first if the path leads nowhere.

    Raises BlockMissingError, CorruptBlockError or UnixFsError where something below is not held or not UnixFS: the
    stream must then be broken off.
    """
    blocks = _Blocks(read)
    *above, last = blocks.along(wanted.cid, wanted.path)
    yield from above
    if wanted.entity_bytes is not None:
        yield from blocks.entity(last, wanted.entity_bytes)
    elif wanted.scope is Scope.BLOCK:
        yield last
    elif wanted.scope is Scope.ENTITY:
        yield from blocks.entity(last, EntityBytes(0, None))
    else:
        yield from blocks.all_below(last, 0)


class _Blocks:
    def __init__(self, read: ReadBlock) -> None:
        self._read = read

    def _node(self, cid: Cid) -> UnixFsNode | None:
        """Return a verified node, None for a raw block."""
        return None if cid.codec is Codec.RAW else TreeReader(self._read, 0).node(cid)

    def along(self, cid: Cid, path: tuple[str, ...]) -> list[Cid]:
        """Return the blocks that lead to the end of the path, shards of large directories among them, and that end."""
        found: list[Cid] = []

        def read(node: Cid) -> bytes:
            block = self._read(node)
            if node not in found:
                found.append(node)
            return block

        try:
            last = TreeReader(read, 0).resolve(cid, path)
            self._node(last)
        except (BlockMissingError, CorruptBlockError) as error:
            raise RequestError(404, "not held here") from error
        except UnixFsError as error:
            raise RequestError(404, str(error)) from error
        return [*(node for node in found if node != last), last]

    def all_below(self, cid: Cid, row: int) -> Iterator[Cid]:
        yield cid
        if cid.codec is Codec.RAW:
            return
        _check_row(row)
        block = self._read(cid)
        if not cid.matches(block):
            raise CorruptBlockError(cid)
        for link in decode_node(block).links:
            yield from self.all_below(link.cid, row + 1)

    def entity(self, cid: Cid, part: EntityBytes) -> Iterator[Cid]:
        node = self._node(cid)
        if isinstance(node, FileNode):
            yield from self._file_part(cid, node, part.within(node.file_bytes), 0)
        elif isinstance(node, ShardNode):
            yield from self._shards(cid, node, 0)
        else:
            yield cid

    def _shards(self, cid: Cid, node: ShardNode, row: int) -> Iterator[Cid]:
        yield cid
        _check_row(row)
        for _, shard in node.shards:
            below = self._node(shard)
            if isinstance(below, ShardNode):
                yield from self._shards(shard, below, row + 1)

    def _file_part(self, cid: Cid, node: FileNode, span: Span, row: int) -> Iterator[Cid]:
        yield cid
        _check_row(row)
        start = 0
        for part in node.parts:
            end = start + part.file_bytes
            if start < span.end and span.start < end:
                below = self._node(part.cid)
                if isinstance(below, FileNode):
                    within = Span(max(span.start - start, 0), min(span.end, end) - start)
                    yield from self._file_part(part.cid, below, within, row + 1)
                else:
                    yield part.cid
            start = end


def _check_row(row: int) -> None:
    if row == ROWS_MAX:
        raise UnixFsError(f"more than {ROWS_MAX} rows")
