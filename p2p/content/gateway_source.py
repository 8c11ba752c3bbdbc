"""Gets blocks from a trustless gateway over plain TCP: few connections, kept alive, with requests sent ahead.

Detail: each connection has a few requests under way, so that the server always knows what comes next. No redirect is
ever followed: where a peer points to is not where its operator said it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from p2p.content.cid import Cid
from p2p.content.gateway_connection import Ask, ConnectionLostError, GatewayConnection
from p2p.content.http_reply import ReplyError, ReplyHead
from p2p.content.loop_calls import LoopCalls
from p2p.content.source import Rank, SourceFailedError

CONNECTIONS_MAX = 3
"""To one gateway: several share a long, lossy path better than one. Each has a thread and a block's buffer."""
REQUESTS_PER_CONNECTION = 8
"""Two lots of a fast source: the next is in line while one is answered. More would be asked elsewhere too when the line
gets slower: a block behind many others looks late."""
ATTEMPTS_MAX = 4
"""For one block: a kept connection may have been closed by the server meanwhile, or by a neighbour's cancellation."""
BUSY_ATTEMPTS_MAX = 5
BUSY_SECONDS_MAX = 5.0
"""Between attempts when the gateway says that it is busy."""

_LACKS = frozenset((404, 410, 451))
_BUSY = frozenset((429, 503))


class GatewaySource:
    """A gateway at a host and port; see `p2p.content.source.HandlingSource`. Made in an event loop."""

    rank = Rank.GATEWAY

    def __init__(self, host: str, port: int, *, token: str = "", connections_max: int = CONNECTIONS_MAX) -> None:
        """`token` is sent with each request, if there is one."""
        self._host = host
        self._port = port
        shown = f"[{host}]" if ":" in host else host
        self.name = f"{shown}:{port}"
        """`host:port`."""
        self._headers = _headers(self.name, token)
        """What follows the CID in a request, or why there can be none."""
        self.threads_max = self.threads = connections_max
        """See `HandlingSource`: a thread is a connection."""
        self._calls = LoopCalls()
        self._connections: list[GatewayConnection] = []
        self._is_closed = False

    @property
    def window(self) -> int:
        """See `BlockSource`."""
        return self.threads * REQUESTS_PER_CONNECTION

    def use_threads(self, count: int) -> None:
        """Have so many connections from now on; what others have under way is brought to its end first."""
        self.threads = max(1, min(count, self.threads_max))
        self._close_surplus()

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        """Return the unverified bytes of a block; None if the gateway lacks it. Raises SourceFailedError."""
        got: list[bytes] = []

        def handle(_cid: Cid, data: bytearray) -> None:
            got.append(bytes(data))

        lacked = await self.handle([cid], handle, bytes_max=bytes_max, seconds_max=math.inf)
        return None if lacked else got[-1]

    async def handle(
        self, cids: Sequence[Cid], handle: Callable[[Cid, bytearray], None], *, bytes_max: int, seconds_max: float
    ) -> Sequence[Cid]:
        """Have `handle` called with the unverified bytes of each block, in a worker thread; return those it lacks.

        All of them are asked of one connection. Raises SourceFailedError, trio.TooSlowError, and what `handle` raises.
        `seconds_max` is for all attempts together.
        """
        deadline = trio.current_time() + seconds_max
        lacked: list[Cid] = []
        left = cids
        losses = refusals = 0
        while True:
            if trio.current_time() >= deadline:
                raise trio.TooSlowError
            asks = [self._ask(cid, handle) for cid in left]
            connection = self._connection(len(asks))
            worked_before = connection.worked_seconds
            lost: ConnectionLostError | None = None
            try:
                await connection.ask(asks, bytes_max, deadline - trio.current_time())
            except ConnectionLostError as error:  # before anything was asked
                lost = error
            finally:  # our own work on blocks before it does not count against the gateway
                deadline += connection.worked_seconds - worked_before
                self._close_surplus()
            answers = _read_answers(left, asks)
            lacked += answers.lacked
            if not answers.left:
                return lacked
            if len(answers.left) < len(left):
                losses = refusals = 0
            left, lost = answers.left, answers.lost or lost
            if lost is not None:
                losses += 1
                if losses == ATTEMPTS_MAX:
                    raise SourceFailedError(f"it closes connections: {lost}") from lost
            if answers.busy is not None:
                refusals += 1
                if refusals == BUSY_ATTEMPTS_MAX:
                    raise SourceFailedError(_refusal(answers.busy.status))
                with trio.fail_at(deadline):
                    await trio.sleep(min(max(answers.busy.retry_seconds, 0.2 * refusals), BUSY_SECONDS_MAX))

    def _ask(self, cid: Cid, handle: Callable[[Cid, bytearray], None]) -> Ask:
        """Return what asks for a block. Raises SourceFailedError: whoever named the host may have named anything."""
        if isinstance(self._headers, str):
            raise SourceFailedError(self._headers)
        name = str(cid).encode("ascii")
        return Ask(b"GET /ipfs/" + name + self._headers, name, partial(handle, cid))

    def close(self) -> None:
        """Close all connections soon, for good. Work that is begun is brought to its end."""
        self._is_closed = True
        for connection in self._connections:
            connection.close()

    async def aclose(self) -> None:
        """Close all connections for good and wait for their threads."""
        self.close()

        def join() -> None:
            for connection in self._connections:
                connection.join()

        await trio.to_thread.run_sync(join)

    def _connection(self, requests: int) -> GatewayConnection:
        """Return the connection with the fewest requests, these counted in. Raises SourceFailedError when closed."""
        if self._is_closed:
            raise SourceFailedError("it was closed")
        self._connections = [known for known in self._connections if not known.is_closed]
        best = min(self._connections[: self.threads], key=lambda known: known.pending, default=None)
        if best is None or (best.pending and len(self._connections) < self.threads):
            best = GatewayConnection(self._host, self._port, self._calls)
            self._connections.append(best)
        best.pending += requests
        return best

    def _close_surplus(self) -> None:
        """Close connections that there are too many of and that have nothing under way."""
        for connection in self._connections[self.threads :]:
            if not connection.pending:
                connection.close()


@dataclass(slots=True)
class _Answers:
    """To the requests of one lot."""

    lacked: list[Cid] = field(default_factory=list)
    left: list[Cid] = field(default_factory=list)
    """To be asked again."""
    lost: ConnectionLostError | None = None
    busy: ReplyHead | None = None


def _read_answers(cids: Sequence[Cid], asks: Sequence[Ask]) -> _Answers:
    """Raises SourceFailedError and what the work raised."""
    answers = _Answers()
    for cid, ask in zip(cids, asks, strict=True):
        if isinstance(ask.error, ReplyError):
            raise SourceFailedError(str(ask.error)) from ask.error
        if ask.error is not None and not isinstance(ask.error, ConnectionLostError):
            raise ask.error
        if ask.head is None:
            answers.lost = ask.error
            answers.left.append(cid)
        elif ask.head.status in _LACKS:
            answers.lacked.append(cid)
        elif ask.head.status in _BUSY:
            answers.busy = ask.head
            answers.left.append(cid)
        elif ask.head.status != 200:
            raise SourceFailedError(_refusal(ask.head.status))
    return answers


def _headers(host: str, token: str) -> bytes | str:
    if any(mark in f"{host}{token}" for mark in "\r\n"):
        return "a line break in its host or token"
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    try:
        return f"?format=raw HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n".encode("ascii")
    except UnicodeEncodeError:
        return "its host or token is not ASCII"


def _refusal(status: int) -> str:
    if status in (401, 403):
        return f"it refuses us (HTTP {status}): it wants a token, see [content] provider_tokens"
    if 300 <= status < 400:
        return f"it points elsewhere (HTTP {status}), which is never followed"
    return f"it answers HTTP {status}"
