"""CIDs between text and bytes: CIDv1, base32 text, SHA-256, raw or dag-pb. Nothing else is spoken here."""

import base64
import binascii

from node.protocol.identifiers import Cid

RAW_PREFIX = b"\x01\x55\x12\x20"
"""CIDv1, codec raw (0x55), multihash SHA-256 (0x12) of 32 bytes (0x20)."""
DAG_PB_PREFIX = b"\x01\x70\x12\x20"
"""As above with codec dag-pb (0x70)."""
CID_BYTES = 36
CID_TEXT_LENGTH = 59
"""`b` and 58 base32 digits."""


class CidError(ValueError):
    """Not a CID this network uses."""


def cid_from_bytes(data: bytes) -> Cid:
    """Return the text of a binary CID; raise CidError if it is of another kind."""
    if len(data) != CID_BYTES or data[:4] not in (RAW_PREFIX, DAG_PB_PREFIX):
        raise CidError("expected CIDv1, raw or dag-pb, SHA-256")
    return Cid("b" + base64.b32encode(data).decode().lower().rstrip("="))


def cid_to_bytes(cid: Cid) -> bytes:
    """Return the binary form of `cid`; raise CidError unless it is the one text of such a CID."""
    if len(cid) != CID_TEXT_LENGTH or not cid.startswith("b"):
        raise CidError(f"expected {CID_TEXT_LENGTH} characters beginning with b")
    try:
        data = base64.b32decode(cid[1:].upper() + "=" * (-(len(cid) - 1) % 8))
    except (binascii.Error, ValueError) as error:
        raise CidError(f"not base32: {error}") from error
    if cid_from_bytes(data) != cid:
        raise CidError("not the canonical text of a CID")
    return data
