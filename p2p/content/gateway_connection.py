"""One connection to a gateway, with a thread of its own: it receives blocks and does what is to be done with each.

Purpose: a block is received by one call, and hashed and written by the thread that received it, while its bytes are in
that core's cache. Requests are made in lots, and the event loop is woken when a whole lot is answered
(docs/decisions/0020, 0057).

Detail: replies come in the order of requests, which are sent ahead by the event loop's thread. A lot that is cancelled
before its replies are whole takes the connection with it (the rest would have to be read), and all others of that
connection fail with ConnectionLostError, to be asked again on a new one. Work on a block is never broken off. Only the
thread closes the socket, so that its number is not another's while the kernel still receives into it.
"""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
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

Work = Callable[[bytearray], None]
"""What the thread does with a block that came whole. The buffer is used again as soon as this returns."""


class ConnectionLostError(Exception):
    """The connection ended before the whole reply had come; another may do."""


@dataclass(slots=True, eq=False)
class Ask:
    """A request, what is to be done with the body of its reply if its status is 200, and what became of it."""

    request: bytes
    name: bytes
    """Of what is asked for, as it may stand in the head of the reply, which otherwise is like others."""
    work: Work
    head: ReplyHead | None = None
    error: BaseException | None = None
    """ConnectionLostError, ReplyError, or what `work` raised."""


@dataclass(slots=True, eq=False)
class _Lot:
    """Requests whose task is told when all of them are answered, or failed."""

    bytes_max: int
    whole_before: float
    """In trio's time: when its replies must be whole if the thread is never at work."""
    worked_before: float
    """Seconds the thread was at work until this was asked."""
    left: int
    """Requests in line or being worked on. Behind the connection's lock."""
    done: trio.Event = field(default_factory=trio.Event)


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
        self._line: deque[tuple[Ask, _Lot]] = deque()
        """Requests without a reply, the oldest first."""
        self._unsent: deque[Ask] = deque()
        """Its end: requests that were not sent yet."""
        self.is_closed = False
        # Of the thread:
        self._ahead = bytearray()
        """Bytes that came with a head and belong to what follows it."""
        self._buffer = bytearray()
        self._usual_head = b"", ReplyHead(200, 0, False, 0)
        """The last head without the name in it, and what it says."""
        self._worked_seconds = 0.0
        """Spent with blocks that had come."""
        self._at_work_since: float | None = None
        self.pending = 0
        """Requests under way. Counted up by whoever chose this connection."""

    async def ask(self, asks: Sequence[Ask], bytes_max: int, seconds_max: float) -> None:
        """Send requests and have their work done; return when each has a head or an error.

        Raises ConnectionLostError (nothing was asked), SourceFailedError (nobody listens) and trio.TooSlowError: the
        other side had `seconds_max` for all of them, to be connected to as well, without those in which the thread was
        at work on blocks. Then, or when this is cancelled, work that was begun was brought to its end, and none begins
        any more; a head says which was.
        """
        whole_before = trio.current_time() + seconds_max
        try:
            if self._thread is None:
                with trio.fail_at(whole_before):
                    await self._open()
            lot = _Lot(bytes_max, whole_before, self.worked_seconds, len(asks))
            self._put_in_line(asks, lot)
            await self._wait_for(lot)
        finally:
            self.pending -= len(asks)

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

    async def _wait_for(self, lot: _Lot) -> None:
        try:
            while not lot.done.is_set():
                with trio.move_on_at(self._deadline(lot)):
                    await lot.done.wait()
                if not lot.done.is_set() and trio.current_time() >= self._deadline(lot):
                    is_recalled = self._recall(lot)
                    with trio.CancelScope(shield=True):
                        await lot.done.wait()
                    if is_recalled:
                        raise trio.TooSlowError
        except trio.Cancelled:
            is_recalled = self._recall(lot)
            with trio.CancelScope(shield=True):  # what was begun is brought to its end, and counts
                await lot.done.wait()
            if is_recalled:
                raise
            # Everything was answered; whoever cancelled is heeded at the next checkpoint.

    def _deadline(self, lot: _Lot) -> float:
        """Return until when replies may come: time the thread did not listen does not count against the gateway."""
        return lot.whole_before + self.worked_seconds - lot.worked_before

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

    def _put_in_line(self, asks: Sequence[Ask], lot: _Lot) -> None:
        with self._changed:
            self._raise_if_closed()
            is_idle = not self._line
            self._line.extend((ask, lot) for ask in asks)
            self._unsent.extend(asks)
            self._send_enough()
            if is_idle:
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

    def _recall(self, lot: _Lot) -> bool:
        """Take what is left of a lot out of line; return whether there was anything to take."""
        with self._changed:
            recalled = [ask for ask, its_lot in self._line if its_lot is lot]
            if not recalled:
                return False
            self._line = deque(entry for entry in self._line if entry[1] is not lot)
            unsent = deque(ask for ask in self._unsent if ask not in recalled)
            if len(self._unsent) - len(unsent) < len(recalled):
                self._end()
            self._unsent = unsent
            lot.left -= len(recalled)
            is_done = lot.left == 0
        if is_done:
            lot.done.set()
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
            while (entry := self._next()) is not None:
                ask, lot = entry
                try:
                    head, body = self._receive(connected, ask, lot.bytes_max)
                except (OSError, ConnectionLostError) as error:
                    # A new one: that which was raised here knows frames that know the buffer.
                    self._fail(ask, ConnectionLostError(str(error)))
                except Exception as error:
                    self._fail(ask, error)
                else:
                    self._finish(ask, lot, head, body)
            with self._changed:
                self._socket = None
        # Whoever made this connection may keep it for as long as it fetches.
        self._buffer, self._ahead = bytearray(), bytearray()

    def _next(self) -> tuple[Ask, _Lot] | None:
        """Return the request whose reply comes next, None when the connection has ended."""
        with self._changed:
            while not self._line and not self.is_closed:
                self._changed.wait()
            if not self.is_closed:
                return self._line[0]
        self._fail(None, ConnectionLostError("the connection ended with the reply before"))
        return None

    def _fail(self, ask: Ask | None, error: Exception) -> None:
        """End the connection; `ask` fails with `error`, those behind it with ConnectionLostError."""
        with self._changed:
            self._end()
            failed = list(self._line)
            self._line.clear()
            self._unsent.clear()
        for one, lot in failed:
            one.error = error if one is ask else ConnectionLostError("the connection ended with the reply before")
            self._count_off(lot)

    def _finish(self, ask: Ask, lot: _Lot, head: ReplyHead, body: bytearray | None) -> None:
        with self._changed:
            if not head.keep_alive:
                self._end()
            if not self._line or self._line[0][0] is not ask:
                return  # recalled meanwhile, and the connection has ended with it
            self._line.popleft()
            self._send_enough()
        ask.head = head
        if body is not None:
            began = self._at_work_since = time.monotonic()
            try:
                ask.work(body)
            except BaseException as error:
                ask.error = error
            self._at_work_since = None
            self._worked_seconds += time.monotonic() - began
        self._count_off(lot)

    def _count_off(self, lot: _Lot) -> None:
        """Tell the task of a lot when this was its last request."""
        with self._changed:
            lot.left -= 1
            is_done = lot.left == 0
        if is_done:
            self._calls.make(lot.done.set)

    def _receive(self, connected: socket.socket, ask: Ask, bytes_max: int) -> tuple[ReplyHead, bytearray | None]:
        head = self._read_head(self._receive_head(connected), ask.name)
        if head.status == 200:
            if head.body_bytes is None or head.body_bytes > bytes_max:
                raise ReplyError(f"a block of {head.body_bytes} bytes where at most {bytes_max} were possible")
            return head, self._receive_body(connected, head.body_bytes)
        if head.body_bytes is None or head.body_bytes > REFUSAL_BYTES_MAX:
            self.close()
        else:
            self._receive_body(connected, head.body_bytes)
        return head, None

    def _read_head(self, text: bytes, name: bytes) -> ReplyHead:
        """Return what a head says. Almost all differ in nothing but the name of the block."""
        usual = text.replace(name, b"")
        if usual != self._usual_head[0]:
            self._usual_head = usual, parse_reply_head(text)
        return self._usual_head[1]

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
