"""Which blocks a CAR holds, in depth-first order: those of a path, and those below its end. Blocking code.

Nodes are verified as they are read, for they decide what is sent next; leaves are only named.
"""

from collections.abc import Callable, Iterator

from p2p.content.blockstore import BlockMissingError
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import decode_node
from p2p.content.gateway.ranges import EntityBytes, Span
from p2p.content.gateway.request import RequestError
from p2p.content.gateway.wanted import Scope, WantedCar
from p2p.content.unixfs import DirectoryNode, FileNode, UnixFsError, read_block

DEPTH_MAX = 64
"""Rows of directories and of a file's tree together; imports make 32 and 4."""

ReadBlock = Callable[[Cid], bytes]
"""Returns the unverified bytes of a block; raises BlockMissingError."""


def select_blocks(wanted: WantedCar, read: ReadBlock) -> Iterator[Cid]:
    """Yield the blocks of a CAR. Raises RequestError(404) before the first if the path leads nowhere.

    Raises BlockMissingError where something below is not held: the stream must then be broken off.
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

    def _verified(self, cid: Cid) -> bytes:
        data = self._read(cid)
        if not cid.matches(data):
            raise BlockMissingError(f"block {cid} is damaged here")
        return data

    def along(self, cid: Cid, path: tuple[str, ...]) -> list[Cid]:
        try:
            self._read_if_node(cid)
            found = [cid]
            for name in path:
                node = None if cid.codec is Codec.RAW else read_block(cid, self._verified(cid))
                if not isinstance(node, DirectoryNode):
                    raise RequestError(404, f"no {name!r}: what is above it is not a directory")
                entry = next((entry for entry in node.entries if entry.name == name), None)
                if entry is None:
                    raise RequestError(404, f"the directory has no {name!r}")
                cid = entry.cid
                found.append(cid)
            self._read_if_node(cid)
        except BlockMissingError as error:
            raise RequestError(404, "not held here") from error
        except UnixFsError as error:
            raise RequestError(404, str(error)) from error
        return found

    def _read_if_node(self, cid: Cid) -> None:
        if cid.codec is Codec.DAG_PB:
            self._verified(cid)

    def all_below(self, cid: Cid, depth: int) -> Iterator[Cid]:
        yield cid
        if cid.codec is Codec.RAW:
            return
        if depth == DEPTH_MAX:
            raise UnixFsError(f"more than {DEPTH_MAX} rows")
        for link in decode_node(self._verified(cid)).links:
            yield from self.all_below(link.cid, depth + 1)

    def entity(self, cid: Cid, part: EntityBytes) -> Iterator[Cid]:
        node = None if cid.codec is Codec.RAW else read_block(cid, self._verified(cid))
        if isinstance(node, FileNode):
            yield from self._file_part(cid, node, part.within(node.file_bytes), 0)
        else:
            yield cid

    def _file_part(self, cid: Cid, node: FileNode, span: Span, depth: int) -> Iterator[Cid]:
        yield cid
        if depth == DEPTH_MAX:
            raise UnixFsError(f"more than {DEPTH_MAX} rows")
        start = 0
        for part in node.parts:
            end = start + part.file_bytes
            if start < span.end and span.start < end:
                below = None if part.cid.codec is Codec.RAW else read_block(part.cid, self._verified(part.cid))
                if isinstance(below, FileNode):
                    within = Span(max(span.start - start, 0), min(span.end, end) - start)
                    yield from self._file_part(part.cid, below, within, depth + 1)
                else:
                    yield part.cid
            start = end
