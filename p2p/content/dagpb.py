"""dag-pb: nodes with links, encoded as the IPLD specification orders them and decoded strictly."""

from dataclasses import dataclass

from p2p.content.cid import Cid, CidError
from p2p.content.protobuf import ProtobufError, encode_bytes, encode_integer, read_fields

LINKS_MAX = 16_384
"""Links in one node. Importers make 174 or 1,024, plain directories stay below 6,000; more is an attack."""

_NODE_DATA, _NODE_LINKS = 1, 2
_LINK_HASH, _LINK_NAME, _LINK_TSIZE = 1, 2, 3


class DagPbError(ValueError):
    """Not a dag-pb node, or one beyond our limits."""


@dataclass(frozen=True, slots=True)
class Link:
    """An edge to another block."""

    cid: Cid
    name: bytes
    """UTF-8 in directories, empty in files; unchecked here."""
    total_bytes: int
    """Encoded bytes of all blocks below, as the author of the node claims (`Tsize`): a hint, never trusted."""


@dataclass(frozen=True, slots=True)
class Node:
    """A dag-pb block."""

    links: tuple[Link, ...]
    data: bytes


def encode_node(node: Node) -> bytes:
    """Return the block of a node whose links the caller has put in order."""
    return b"".join(encode_bytes(_NODE_LINKS, _encode_link(link)) for link in node.links) + encode_bytes(
        _NODE_DATA, node.data
    )


def decode_node(block: bytes) -> Node:
    """Read a block; raise DagPbError."""
    links: list[Link] = []
    data: bytes | None = None
    links_ended = False
    try:
        for field, value in read_fields(block):
            if not isinstance(value, bytes):
                raise DagPbError(f"field {field} of a node is a number")
            if field == _NODE_DATA:
                if data is not None:
                    raise DagPbError("a node has data twice")
                data = value
                links_ended = bool(links)
            elif field == _NODE_LINKS:
                # Both orders are in the wild (data first in old writers), but links come in one run.
                if links_ended:
                    raise DagPbError("links on both sides of the data")
                if len(links) == LINKS_MAX:
                    raise DagPbError(f"more than {LINKS_MAX} links in one node")
                links.append(_decode_link(value))
            else:
                raise DagPbError(f"a node has no field {field}")
    except (ProtobufError, CidError) as error:
        raise DagPbError(f"not a dag-pb node: {error}") from error
    return Node(tuple(links), data if data is not None else b"")


def _encode_link(link: Link) -> bytes:
    return (
        encode_bytes(_LINK_HASH, link.cid.to_bytes())
        + encode_bytes(_LINK_NAME, link.name)
        + encode_integer(_LINK_TSIZE, link.total_bytes)
    )


def _decode_link(data: bytes) -> Link:
    cid: Cid | None = None
    name, total_bytes, previous = b"", 0, 0
    for field, value in read_fields(data):
        if field <= previous:
            raise DagPbError("fields of a link are out of order or repeated")
        previous = field
        if field == _LINK_HASH and isinstance(value, bytes):
            cid = Cid.from_bytes(value)
        elif field == _LINK_NAME and isinstance(value, bytes):
            name = value
        elif field == _LINK_TSIZE and isinstance(value, int):
            total_bytes = value
        else:
            raise DagPbError(f"a link has no such field {field}")
    if cid is None:
        raise DagPbError("a link without a CID")
    return Link(cid, name, total_bytes)
