"""One connection to a gateway, with a thread of its own: it receives blocks and does what is to be done with each.

Purpose: a block is received by one call, and hashed and written by the thread that received it, while its bytes are in
that core's cache. The event loop is woken when there is something to ask for, once for several blocks if they come fast
(docs/decisions/0020, 0052).

Detail: replies come in the order of requests, which are sent ahead by the event loop's thread. A request that is
cancelled before its reply is whole takes the connection with it (the rest would have to be read), and all others of
that connection fail with ConnectionLostError, to be asked again on a new one. Work on a block is never broken off. Only
the thread closes the socket, so that its number is not another's while the kernel still receives into it.
"""

import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2p.content.http_reply import HEAD_BYTES_MAX, HEAD_END, ReplyError, ReplyHead, parse_reply_head
from p2p.content.loop_calls import LoopCalls
from p2p.content.source import SourceFailedError

CONNECT_SECONDS_MAX = 10.0
REFUSAL_BYTES_MAX = 64 * 1024
"""Text beside a refusal is read and thrown away up to here; beyond, the connection is closed instead."""
READ_BYTES = 16 * 1024
KNOWN_REQUESTS_MIN = 2
"""When a gateway has no more than these left, it is sent all others at once: each time it has to look for requests
costs it as much as answering one."""
QUIET_SECONDS_MAX = 0.05
"""While the gateway has more to do than that, the event loop need not know of a block that came: it would send nothing.
It is told of several at once, but at least this often as long as blocks come."""

Work = Callable[[bytearray], None]
"""What the thread does with a block that came whole. The buffer is used again as soon as this returns."""


class ConnectionLostError(Exception):
    """The connection ended before the whole reply had come; another may do."""


@dataclass(slots=True, eq=False)
class _Ask:
    request: bytes
    bytes_max: int
    work: Work
    whole_before: float
    """In trio's time: when its reply must be whole if the thread is never at work."""
    worked_before: float
    """Seconds the thread was at work until this was asked."""
    done: trio.Event = field(default_factory=trio.Event)
    head: ReplyHead | None = None
    error: BaseException | None = None
    is_beyond_recall: bool = False
    """Whether it is no longer in line: its work is begun, or it failed. Its task will be told."""


class GatewayConnection:
    """Opened by the first request. All but the thread's part is for the tasks of one event loop."""

    def __init__(self, host: str, port: int, calls: LoopCalls) -> None:
        self._address = host, port
        self._calls = calls
        self._opening = trio.Lock()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition(threading.Lock())
        # Behind the condition's lock:
        self._line: deque[_Ask] = deque()
        """Requests without a reply, the oldest first."""
        self._unsent: deque[_Ask] = deque()
        """Its end: requests that were not sent yet."""
        self.is_closed = False
        # Of the thread:
        self._ahead = bytearray()
        """Bytes that came with a head and belong to what follows it."""
        self._buffer = bytearray()
        self._worked_seconds = 0.0
        """Spent with blocks that had come."""
        self._at_work_since: float | None = None
        self._told_at = -math.inf
        """When the event loop was told of a block, by the clock of `time`."""
        self._is_urgent = False
        """Whether a task waits for work to end and for nothing else. Set by the event loop, once."""
        self.pending = 0
        """Requests under way. Counted up by whoever chose this connection."""

    async def ask(self, request: bytes, bytes_max: int, seconds_max: float, work: Work) -> ReplyHead:
        """Send a request and have `work` done with the body of its reply, if its status is 200; return its head.

        Raises ConnectionLostError, ReplyError, SourceFailedError (nobody listens), what `work` raises, and
        trio.TooSlowError: the other side had `seconds_max`, to be connected to as well, without those in which the
        thread was at work on blocks before. Cancelled only before the work is begun.
        """
        whole_before = trio.current_time() + seconds_max
        try:
            if self._thread is None:
                with trio.fail_at(whole_before):
                    await self._open()
            ask = _Ask(request, bytes_max, work, whole_before, self.worked_seconds)
            self._put_in_line(ask)
            await self._wait_for(ask)
        finally:
            self.pending -= 1
        if ask.error is not None:
            raise ask.error
        if ask.head is None:
            raise RuntimeError("a request was answered without a reply")
        return ask.head

    @property
    def unsent(self) -> int:
        """Requests that wait until the gateway has less to do."""
        return len(self._unsent)

    @property
    def worked_seconds(self) -> float:
        """Seconds the thread spent with blocks that had come."""
        since = self._at_work_since  # read without the lock: at worst one block's work counts twice or not at all
        return self._worked_seconds + (0.0 if since is None else time.monotonic() - since)

    def close(self) -> None:
        """Close soon; requests under way fail, unless their work is begun."""
        with self._changed:
            self._end()

    def join(self) -> None:
        """Wait until the thread has ended. Blocking; after `close`."""
        if self._thread is not None:
            self._thread.join()

    async def _wait_for(self, ask: _Ask) -> None:
        try:
            while not ask.done.is_set():
                with trio.move_on_at(self._deadline(ask)):
                    await ask.done.wait()
                if not ask.done.is_set() and trio.current_time() >= self._deadline(ask):
                    if self._recall(ask):
                        raise trio.TooSlowError
                    self._hurry()
                    await ask.done.wait()
        except trio.Cancelled:
            if self._recall(ask):
                raise
            # What was begun is brought to its end, and counts; whoever cancelled is heeded at the next checkpoint.
            self._hurry()
            with trio.CancelScope(shield=True):
                await ask.done.wait()

    def _hurry(self) -> None:
        """From now on be told of each block as soon as its work is done."""
        self._is_urgent = True  # first: the thread looks at it after it has put its call in line
        self._calls.hurry()

    def _deadline(self, ask: _Ask) -> float:
        """Return until when a reply may come: time the thread did not listen does not count against the gateway."""
        return ask.whole_before + self.worked_seconds - ask.worked_before

    async def _open(self) -> None:
        async with self._opening:
            if self._thread is not None:
                return
            self._raise_if_closed()
            try:
                with trio.fail_after(CONNECT_SECONDS_MAX):
                    stream = await trio.open_tcp_stream(*self._address)
            except (OSError, ValueError, trio.TooSlowError) as error:  # ValueError: no name that can be looked up
                self.is_closed = True
                reason = "no answer" if isinstance(error, trio.TooSlowError) else str(error)
                raise SourceFailedError(f"cannot be reached: {reason}") from error
            connected = _take_over(stream)
            if self.is_closed:
                connected.close()
            self._raise_if_closed()
            thread = threading.Thread(target=self._converse, args=(connected,), name="content connection", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                connected.close()
                self.is_closed = True
                raise SourceFailedError(f"this process cannot have a thread more for it: {error}") from error
            # Only now, for nobody can wait for a thread that never began; it does nothing before the first request.
            self._socket, self._thread = connected, thread

    def _raise_if_closed(self) -> None:
        if self.is_closed:
            raise ConnectionLostError("closed meanwhile")

    def _put_in_line(self, ask: _Ask) -> None:
        with self._changed:
            self._raise_if_closed()
            self._line.append(ask)
            self._unsent.append(ask)
            self._send_enough()
            if len(self._line) == 1:
                self._changed.notify()

    def _send_enough(self) -> None:
        """Send all that is unsent, unless the gateway has enough to do. With the lock.

        A gateway that does not even read its few requests is lost.
        """
        if self._socket is None or not self._unsent or len(self._line) - len(self._unsent) > KNOWN_REQUESTS_MIN:
            return
        requests = b"".join([ask.request for ask in self._unsent])
        self._unsent.clear()
        try:
            sent = self._socket.send(requests, socket.MSG_DONTWAIT)
        except OSError:
            sent = 0
        if sent < len(requests):
            self._end()

    def _recall(self, ask: _Ask) -> bool:
        """Take a request out of line; return whether that was still possible."""
        with self._changed:
            if ask.is_beyond_recall:
                return False
            self._line.remove(ask)
            if ask in self._unsent:
                self._unsent.remove(ask)
            else:
                self._end()
            return True

    def _end(self) -> None:
        """Have the thread end and wake it. With the lock."""
        if self.is_closed:
            return
        self.is_closed = True
        self._changed.notify()
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # gone already: the thread is told by the kernel

    # --- In the thread ------------------------------------------------------------------------------------------------

    def _converse(self, connected: socket.socket) -> None:
        with connected:
            while (ask := self._next()) is not None:
                try:
                    head, body = self._receive(connected, ask)
                except (OSError, ConnectionLostError) as error:
                    # A new one: that which was raised here knows frames that know the buffer.
                    self._fail(ask, ConnectionLostError(str(error)))
                except Exception as error:
                    self._fail(ask, error)
                else:
                    self._finish(ask, head, body)
            with self._changed:
                self._socket = None
            self._calls.hurry()
        # Whoever made this connection may keep it for as long as it fetches.
        self._buffer, self._ahead = bytearray(), bytearray()

    def _next(self) -> _Ask | None:
        """Return the request whose reply comes next, None when the connection has ended."""
        with self._changed:
            while not self._line and not self.is_closed:
                self._changed.wait()
            if not self.is_closed:
                return self._line[0]
        self._fail(None, ConnectionLostError("the connection ended with the reply before"))
        return None

    def _fail(self, ask: _Ask | None, error: Exception) -> None:
        """End the connection; `ask` fails with `error`, those behind it with ConnectionLostError."""
        with self._changed:
            self._end()
            failed = list(self._line)
            self._line.clear()
            self._unsent.clear()
            for one in failed:
                one.is_beyond_recall = True
        for one in failed:
            one.error = error if one is ask else ConnectionLostError("the connection ended with the reply before")
            self._calls.make(one.done.set)

    def _finish(self, ask: _Ask, head: ReplyHead, body: bytearray | None) -> None:
        with self._changed:
            if not head.keep_alive:
                self._end()
            if not self._line or self._line[0] is not ask:  # recalled meanwhile, and the connection has ended with it
                return
            self._line.popleft()
            ask.is_beyond_recall = True
            self._send_enough()
            has_more = len(self._line) > KNOWN_REQUESTS_MIN
        ask.head = head
        if body is not None:
            began = self._at_work_since = time.monotonic()
            try:
                ask.work(body)
            except BaseException as error:
                ask.error = error
            self._at_work_since = None
            self._worked_seconds += time.monotonic() - began
        now = time.monotonic()
        may_wait = has_more and ask.error is None and now - self._told_at < QUIET_SECONDS_MAX
        self._calls.make(ask.done.set, may_wait=may_wait)
        if not may_wait:
            self._told_at = now
        elif self._is_urgent:
            self._calls.hurry()

    def _receive(self, connected: socket.socket, ask: _Ask) -> tuple[ReplyHead, bytearray | None]:
        head = parse_reply_head(self._receive_head(connected))
        if head.status == 200:
            if head.body_bytes is None or head.body_bytes > ask.bytes_max:
                raise ReplyError(f"a block of {head.body_bytes} bytes where at most {ask.bytes_max} were possible")
            return head, self._receive_body(connected, head.body_bytes)
        if head.body_bytes is None or head.body_bytes > REFUSAL_BYTES_MAX:
            self.close()
        else:
            self._receive_body(connected, head.body_bytes)
        return head, None

    def _receive_head(self, connected: socket.socket) -> bytes:
        searched = 0
        while (end := self._ahead.find(HEAD_END, searched)) < 0:
            if len(self._ahead) > HEAD_BYTES_MAX:
                raise ReplyError(f"a reply head of more than {HEAD_BYTES_MAX} bytes")
            searched = max(0, len(self._ahead) - len(HEAD_END) + 1)
            data = connected.recv(READ_BYTES)
            if not data:
                raise ConnectionLostError("the connection ended")
            self._ahead += data
        head = bytes(self._ahead[:end])
        del self._ahead[: end + len(HEAD_END)]
        return head

    def _receive_body(self, connected: socket.socket, size: int) -> bytearray:
        if len(self._buffer) != size:  # almost all leaves of a model have one size
            self._buffer = bytearray(size)
        body = self._buffer
        filled = min(size, len(self._ahead))
        with memoryview(body) as view:
            view[:filled] = self._ahead[:filled]
            del self._ahead[:filled]
            while filled < size:
                received = connected.recv_into(view[filled:], 0, socket.MSG_WAITALL)
                if received == 0:
                    raise ConnectionLostError("the connection ended within a block")
                filled += received
        return body


def _take_over(stream: trio.SocketStream) -> socket.socket:
    """Return the socket of `stream`, which is closed; its calls block."""
    connected = socket.socket(fileno=os.dup(stream.socket.fileno()))
    connected.setblocking(True)
    stream.socket.close()
    return connected
