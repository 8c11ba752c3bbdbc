"""Writes the heads of answers. Pure."""

from collections.abc import Sequence

from p2p.content.gateway.request import Request
from p2p.content.gateway.wanted import RAW_TYPE

CACHE_CONTROL = "public, max-age=29030400, immutable"
REASONS = {
    200: "OK",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
    503: "Service Unavailable",
}

Headers = Sequence[tuple[str, str]]


def answer_head(status: int, headers: Headers, size: int | None, *, says_close: bool, says_keep_alive: bool) -> bytes:
    """Return a head with its empty line; `size` is the length of the body, None to say nothing of it."""
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", *(f"{name}: {value}" for name, value in headers)]
    if size is not None:
        lines.append(f"Content-Length: {size}")
    if says_close:
        lines.append("Connection: close")
    elif says_keep_alive:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def head_for(request: Request | None, status: int, headers: Headers, size: int | None) -> bytes:
    """Return the head of an answer to `request`; None is one that was not understood, after which the end comes."""
    return answer_head(
        status,
        headers,
        size,
        says_close=request is None or not request.keep_alive,
        says_keep_alive=request is not None and not request.reads_chunks and size is not None,
    )


def etag_of(text: str) -> str:
    """Return the tag of the raw block of this CID: it never changes."""
    return f'"{text}.raw"'


def block_headers(text: str) -> list[tuple[str, str]]:
    """Return what is said of the raw block of this CID besides its length."""
    return [
        ("Content-Type", RAW_TYPE),
        ("Content-Disposition", f'attachment; filename="{text}.bin"'),
        ("Etag", etag_of(text)),
        ("Cache-Control", CACHE_CONTROL),
        ("X-Content-Type-Options", "nosniff"),
        ("Accept-Ranges", "bytes"),
    ]


_NAME, _LENGTH = "@", 7
"""Stand for a CID and a length; what is said of a block holds neither otherwise."""
_BLOCK_HEAD = (
    answer_head(200, block_headers(_NAME), _LENGTH, says_close=False, says_keep_alive=False)
    .replace(b"%", b"%%")
    .replace(_NAME.encode(), b"%(name)b")
    .replace(f"Length: {_LENGTH}".encode(), b"Length: %(size)d")
)


def whole_block_head(text: bytes, size: int) -> bytes:
    """Return what `head_for` returns for a whole raw block on a connection that stays, without building it anew."""
    return _BLOCK_HEAD % {b"name": text, b"size": size}
