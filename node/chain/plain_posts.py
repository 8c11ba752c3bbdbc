"""POSTs to a chain endpoint that is plain HTTP, without httpx's layers: the chain is asked every second, for ever.

Only for addresses without TLS, credentials or a proxy before them; whoever answers in a way that this does not read is
to be asked through httpx. Limits and errors are the same.
"""

import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpx

from node.http1.connection import Connection, KeptConnections, connect
from node.http1.replies import ChunkedBody, Head, LengthBody, ReplyError, body_of

RESPONSE_BYTES_MAX = 32 * 1024 * 1024
"""A block of logs may be large; anything larger is a faulty or hostile endpoint."""
REQUEST_SECONDS_MAX = 10.0
"""To connect, to send, and from one part of the reply to the next."""
USER_AGENT = b"quern"
"""Fronts of public endpoints refuse whoever names none, with a status that looks like the endpoint's own."""
KEPT_SECONDS_MAX = 5.0
KEPT_MAX = 8
"""Each is for one batch; more are under way only where ranges of logs are fetched."""


class StrangeReplyError(Exception):
    """The reply is within HTTP, perhaps, but not within what is read here."""


class PlainPosts:
    """POSTs of JSON to one URL. Safe for any number of tasks at once."""

    def __init__(self, url: str) -> None:
        parsed = httpx.URL(url)
        self._place = parsed.host, parsed.port or 80
        self._head = (
            b"POST %b HTTP/1.1\r\nhost: %b\r\naccept: */*\r\naccept-encoding: identity\r\n"
            b"user-agent: %b\r\ncontent-type: application/json\r\ncontent-length: "
            % (parsed.raw_path, parsed.netloc, USER_AGENT)
        )
        self._kept = KeptConnections[Connection](seconds_max=KEPT_SECONDS_MAX, count_max=KEPT_MAX)

    async def post(self, content: bytes) -> bytes:
        """Return the reply's body. Raises httpx.HTTPError, StrangeReplyError, ValueError if it is too large."""
        data = self._head + b"%d\r\n\r\n" % len(content) + content
        while True:
            connection = self._kept.take(self._place)
            is_kept = connection is not None
            if connection is None:
                connection = Connection(await connect(self._place, REQUEST_SECONDS_MAX), self._place)
                connection.read_seconds = REQUEST_SECONDS_MAX
            is_clean = False
            try:
                await connection.send(data, REQUEST_SECONDS_MAX)
                head = await connection.receive_head()
                body = _body_of(head)
                reply = await _read(connection, body)
                is_clean = head.keeps_connection and not body.has_surplus
                return reply
            except ReplyError as error:
                raise StrangeReplyError(str(error)) from error
            except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                if not is_kept or connection.has_heard:
                    raise
                # The server ended it while it was idle, and has not read the question.
            finally:
                if is_clean:
                    self._kept.keep(connection)
                else:
                    connection.close()

    def close(self) -> None:
        """End the connections that are kept."""
        self._kept.close()


@contextmanager
def open_plain_posts(urls: Sequence[str]) -> Iterator[Mapping[str, PlainPosts]]:
    """Open the short way to those of `urls` that it can reach."""
    posts = {url: PlainPosts(url) for url in urls if is_plain(url)}
    try:
        yield posts
    finally:
        for each in posts.values():
            each.close()


def is_plain(url: str) -> bool:
    """Whether there is nothing to an endpoint but HTTP."""
    proxies = urllib.request.getproxies()
    if "http" in proxies or "all" in proxies:
        return False  # httpx knows which addresses are excepted
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme == "http" and bool(parsed.host) and not parsed.userinfo


def status_error(url: str, status: int) -> httpx.HTTPStatusError:
    """Return the error of a reply that is none. It does not show the URL, which may have a secret in it."""
    response = httpx.Response(status)
    return httpx.HTTPStatusError(
        f"the answer is HTTP status {status} {response.reason_phrase}",
        request=httpx.Request("POST", url),
        response=response,
    )


async def _read(connection: Connection, body: LengthBody | ChunkedBody) -> bytes:
    chunks, size = [], 0
    while not body.is_complete:
        chunk = body.feed(await connection.receive())
        size += len(chunk)
        if size > RESPONSE_BYTES_MAX:
            raise ValueError(f"the reply is larger than {RESPONSE_BYTES_MAX} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _body_of(head: Head) -> LengthBody | ChunkedBody:
    """Raises httpx.HTTPStatusError, ReplyError."""
    if not 200 <= head.status < 300:
        raise status_error("http://endpoint", head.status)
    if any(value.lower() != b"identity" for value in head.values(b"content-encoding")):
        raise ReplyError("it is compressed, which was not asked for")
    return body_of(head)
