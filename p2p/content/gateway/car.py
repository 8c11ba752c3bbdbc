"""CARv1: how a stream of blocks is written (https://ipld.io/specs/transport/car/carv1/). Pure."""

from p2p.content.cid import Cid
from p2p.content.protobuf import encode_varint

_CID_TAG = b"\xd8\x2a"
"""dag-cbor tag 42, a link; its byte string begins with a zero."""
PROBE_CID_BYTES = b"\x01\x55\x00\x00"
"""`bafkqaaa`: CIDv1, raw, identity hash of nothing."""


def car_header(root: Cid | None) -> bytes:
    """Return the header of a CAR of one root, framed; without a root, of the probe's."""
    cid = PROBE_CID_BYTES if root is None else root.to_bytes()
    link = b"\x00" + cid
    length = bytes((0x40 + len(link),)) if len(link) < 24 else bytes((0x58, len(link)))
    roots = b"\x81" + _CID_TAG + length + link
    header = b"\xa2" + b"\x65roots" + roots + b"\x67version" + b"\x01"
    return encode_varint(len(header)) + header


def section_head(cid: Cid, size: int) -> bytes:
    """Return what precedes the `size` bytes of a block."""
    name = cid.to_bytes()
    return encode_varint(len(name) + size) + name


def probe_car() -> bytes:
    """Return a CAR of the one empty block of the probe."""
    return car_header(None) + encode_varint(len(PROBE_CID_BYTES)) + PROBE_CID_BYTES
