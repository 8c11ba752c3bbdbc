"""Reads the head of an HTTP/1.1 request, strictly: what is not plainly a request for content is refused.

By hand and not by h11, because the head of a request is most of what serving a block from the page cache costs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from p2p.content.cid import CID_TEXT_LENGTH

HEAD_BYTES_MAX = 8 * 1024
"""A request is a CID, a path and a few headers; browsers add perhaps 2 KiB."""
HEADERS_MAX = 64
HEADERS_REMEMBERED = 32
"""A client sends the same headers with every request for a block: so many clients' headers and queries are parsed once.
At most 512 KiB."""
HEAD_END = b"\r\n\r\n"

BLOCK_REQUEST_BEGIN = b"GET /ipfs/"
CID_END = len(BLOCK_REQUEST_BEGIN) + CID_TEXT_LENGTH
"""Where the CID ends in a head that begins so."""

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")


class RequestError(Exception):
    """The request is answered with this status and text. `close` if its end cannot be trusted."""

    def __init__(self, status: int, text: str, *, close: bool = False, retry_seconds: int = 0) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.close = close
        self.retry_seconds = retry_seconds
        """For 429 and 503; 0 says nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed request without a body."""

    method: str
    path: tuple[str, ...]
    """Segments between slashes, percent-decoded; a trailing slash adds none."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case; repeated headers are joined by commas."""
    keep_alive: bool
    reads_chunks: bool
    """Whether the client is recent enough for a body in chunks (HTTP/1.1)."""

    @property
    def is_head(self) -> bool:
        """Whether only the head of the answer is wanted."""
        return self.method == "HEAD"


def parse_request(head: bytes) -> Request:
    """Read a head up to and without its empty line; raise RequestError(400) for anything malformed."""
    line, _, header_lines = head.partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise RequestError(400, "not an HTTP/1.1 request", close=True)
    method, target, is_recent = match.group(1).decode(), match.group(2), match.group(3) == b"1"
    headers = _parse_headers(header_lines)
    if is_recent and "host" not in headers.values:
        raise RequestError(400, "an HTTP/1.1 request needs a Host header", close=True)
    keep_alive = headers.keeps_alive if is_recent else headers.asks_to_keep_alive
    path, _, query = target.partition(b"?")
    return Request(method, _parse_path(path), _parse_query(query), headers.values, keep_alive, is_recent)


_UNLIKE_OTHERS = frozenset(("range", "if-range", "if-none-match"))
"""Headers whose meaning depends on the CID, or that want less than a whole block."""


def common_end(request: Request, head: bytes) -> bytes | None:
    """Return what follows the CID in `head`, if a request with the same end means the same for any other CID.

    That is a GET of a whole block on a connection that stays: the same form, the same token. `head` is what `request`
    was read from.
    """
    if (
        request.method != "GET"
        or not request.keep_alive
        or not request.reads_chunks
        or not head.startswith(BLOCK_REQUEST_BEGIN)
        or not _UNLIKE_OTHERS.isdisjoint(request.headers)
    ):
        return None
    end = head[CID_END:]
    return end if end.startswith((b"?", b" ")) else None


class RequestReader:
    """Reads the requests of one connection. A client asks for block after block, and only the CID differs."""

    def __init__(self) -> None:
        self._last: Request | None = None
        self._last_end = b""

    def read(self, head: bytes) -> Request:
        """Do what `parse_request` does."""
        end = head[CID_END:]
        last = self._last
        if last is not None and end == self._last_end and head.startswith(BLOCK_REQUEST_BEGIN):
            segment = head[len(BLOCK_REQUEST_BEGIN) : CID_END]
            if segment.isalnum():
                path = "ipfs", segment.decode("ascii")
                return Request("GET", path, last.query, last.headers, last.keep_alive, last.reads_chunks)
        request = parse_request(head)
        if (
            head.startswith(BLOCK_REQUEST_BEGIN)
            and end.startswith((b"?", b" "))
            and head[len(BLOCK_REQUEST_BEGIN) : CID_END].isalnum()
        ):
            self._last, self._last_end = request, end
        return request


@dataclass(frozen=True, slots=True)
class _Headers:
    values: Mapping[str, str]
    keeps_alive: bool
    asks_to_keep_alive: bool


@lru_cache(HEADERS_REMEMBERED)
def _parse_headers(text: bytes) -> _Headers:
    lines = text.split(b"\r\n") if text else []
    if len(lines) > HEADERS_MAX:
        raise RequestError(400, f"more than {HEADERS_MAX} headers", close=True)
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise RequestError(400, "a malformed header", close=True)
        name, value = match.group(1).decode().lower(), match.group(2).decode("latin-1").rstrip()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if headers.get("content-length", "0").strip() != "0" or "transfer-encoding" in headers:
        raise RequestError(400, "nothing here takes a body", close=True)
    connection = {token.strip().lower() for token in headers.get("connection", "").split(",")}
    stays = "close" not in connection
    return _Headers(headers, stays, stays and "keep-alive" in connection)


def _parse_path(path: bytes) -> tuple[str, ...]:
    segments = path.removeprefix(b"/").removesuffix(b"/").split(b"/")
    return tuple(_decode(segment) for segment in segments)


@lru_cache(HEADERS_REMEMBERED)
def _parse_query(query: bytes) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for pair in query.split(b"&") if query else ():
        name, _, value = pair.partition(b"=")
        found.setdefault(_decode(name), _decode(value))
    return found


def _decode(text: bytes) -> str:
    try:
        return (unquote_to_bytes(text) if b"%" in text else text).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(400, "percent-encoded text that is not UTF-8") from None
