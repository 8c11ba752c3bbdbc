"""Reads the head of an HTTP/1.1 reply to a request for a block, strictly. Pure.

Only what a trustless gateway sends for a raw block is understood: a status and a length. Bodies in chunks are refused,
for a giver that does not know the size of a block does not have it.
"""

import re
from dataclasses import dataclass

HEAD_BYTES_MAX = 16 * 1024
"""Public gateways add several kilobytes of headers; more is an attack."""
HEAD_END = b"\r\n\r\n"

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")


class ReplyError(ValueError):
    """Not a reply that we understand."""


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What a reply says of itself."""

    status: int
    body_bytes: int | None
    """None if it is not said: then the body ends with the connection."""
    keep_alive: bool
    retry_seconds: int
    """How long to wait before asking again; 0 if it is not said."""


def parse_reply_head(head: bytes) -> ReplyHead:
    """Read a head up to and without its empty line; raise ReplyError."""
    line, *header_lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise ReplyError("it does not speak HTTP/1.1")
    keep_alive = match.group(1) == b"1"
    body_bytes: int | None = None
    retry_seconds = 0
    for header in header_lines:
        name, colon, value = header.partition(b":")
        if not colon:
            raise ReplyError("a malformed header")
        name, value = name.lower(), value.strip()
        if name == b"content-length":
            if not _LENGTH.fullmatch(value) or body_bytes not in (None, int(value)):
                raise ReplyError("a malformed length")
            body_bytes = int(value)
        elif name == b"transfer-encoding":
            raise ReplyError("the length of the block is not said")
        elif name == b"connection":
            keep_alive = keep_alive and value.lower() != b"close"
        elif name == b"retry-after" and _LENGTH.fullmatch(value):
            retry_seconds = int(value)
    return ReplyHead(int(match.group(2)), body_bytes, keep_alive, retry_seconds)
