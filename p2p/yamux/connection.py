"""One connection: reads frames for its streams, writes theirs, and ends when the peer breaks a rule or falls silent.

Answers and window updates wait in a bounded buffer and leave with the next write, so the reading task never waits for a
peer that does not read. What ends the connection ends it at once and once; `start` then tells whoever asked to know.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio
from libp2p.abc import IMuxedConn
from libp2p.connection_types import ConnectionType
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from multiaddr import Multiaddr

from p2p.standing import Offence
from p2p.yamux.budget import Budget
from p2p.yamux.stream import WINDOW_SLACK_BYTES, YamuxStream
from p2p.yamux.wire import (
    HEADER_BYTES,
    WINDOW_BYTES_INITIAL,
    Flag,
    Header,
    Reason,
    Type,
    WireError,
    decode_header,
    encode_header,
)

log = structlog.get_logger(__name__)

STREAMS_INBOUND_MAX = 128
"""Gossip, requests, identify, a few searches of the DHT: honest peers have about ten open."""
STREAMS_OUTBOUND_MAX = 256
STREAMS_PER_SECOND = 200.0
STREAMS_BURST = 800.0
"""A new stream costs a negotiation, some 2 ms of ours. Bitswap of js-libp2p opens one per message."""
CONTROL_BYTES_MAX = 256 * 1024
"""Frames that wait to be sent, other than data. Whoever asks for more does not read the answers."""
SMALL_FRAME_BYTES = 32
SMALL_FRAMES_PER_SECOND = 2000
"""Frames that carry next to nothing; what is above waits for the next second, and is blamed."""
WRITE_SECONDS_MAX = 30.0
"""For one frame to leave: then the peer does not read at all."""
PING_SECONDS = 15.0
SILENCE_SECONDS_MAX = 45.0
"""Every implementation answers a ping; one that says nothing for three of them is gone."""
HALF_CLOSED_SECONDS_MAX = 60.0
"""Streams that only we have ended; their peers forget them, or wait for our memory to fill."""
GOODBYE_SECONDS_MAX = 1.0

Blame = Callable[[str, Offence, str], None]
"""Told of a broken rule: peer id, offence, detail."""


class Yamux(IMuxedConn):
    """A multiplexed connection."""

    def __init__(self, conn: Any, peer_id: Any, *, blame: Blame | None = None, budget: Budget | None = None) -> None:
        self.secured_conn = conn
        self._begin_write: Callable[[bytes], bytes] | None = getattr(conn, "begin_write", None)
        self.peer_id = peer_id
        self.budget = budget or Budget()
        self.held_bytes = 0
        self.streams: dict[int, YamuxStream] = {}
        self.on_close: Callable[[], Awaitable[Any]] | None = None
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.ended_because = ""
        self._blame = blame
        self._is_initiator = bool(conn.is_initiator)
        self._next_stream = 1 if self._is_initiator else 2
        self._inbound = 0
        self._outbound = 0
        self._stray_bytes_left = 0
        self._new_streams, self._accepted = trio.open_memory_channel[YamuxStream](STREAMS_INBOUND_MAX)
        self._stream_tokens = STREAMS_BURST
        self._stream_tokens_at = 0.0
        self._stream_flood_at = -math.inf
        self._small_frames = 0
        self._small_frames_since = 0.0
        self._ended = False
        self._scope: trio.CancelScope | None = None
        self._write_lock = trio.Lock()
        self._control = bytearray()
        self._control_waits = trio.Event()
        self._received = bytearray()
        self._heard_at = 0.0
        self._pinged_at: float | None = None
        self._round_trip_seconds = 0.0

    # --- what libp2p asks ---

    @property
    def is_initiator(self) -> bool:
        """Whether this side dialled."""
        return self._is_initiator

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self._ended

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._ended

    def rtt(self) -> float:
        """Seconds of the newest ping's round trip; 0 before the first."""
        return self._round_trip_seconds

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Addresses of the layer below."""
        addresses: list[Multiaddr] = self.secured_conn.get_transport_addresses()
        return addresses

    def get_connection_type(self) -> ConnectionType:
        """Direct or relayed."""
        kind: ConnectionType = self.secured_conn.get_connection_type()
        return kind

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's address, if it is known."""
        address: tuple[str, int] | None = self.secured_conn.get_remote_address()
        return address

    async def start(self) -> None:
        """Run until the connection has ended. Raises nothing: whoever runs this would end the host with it."""
        now = trio.current_time()
        self._heard_at = self._stream_tokens_at = self._small_frames_since = now
        self.budget.holders.add(self)
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                self.event_started.set()
                if not self._ended:
                    nursery.start_soon(self._send_control_frames)
                    nursery.start_soon(self._watch)
                    await self._read_frames()
                nursery.cancel_scope.cancel()
        except Exception as error:
            log.error("a connection ended by a fault of ours", peer=str(self.peer_id), exc_info=error)
        finally:
            self.budget.holders.discard(self)
            self.fail("its task was cancelled")
            await self._hang_up()
        if self.on_close is not None:
            try:
                await self.on_close()
            except Exception as error:
                log.warning("the end of a connection could not be told", reason=repr(error))

    async def close(self, error_code: int = Reason.NORMAL) -> None:
        """Say goodbye and end the connection."""
        if not self._ended:
            goodbye = encode_header(Type.GO_AWAY, 0, 0, error_code)
            with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_SECONDS_MAX):
                try:
                    await self._write(lambda: goodbye)
                except MuxedStreamError as error:
                    log.debug("a connection ended without a goodbye", reason=str(error))
        self.fail("closed here")
        await self._hang_up()

    async def open_stream(self) -> YamuxStream:
        """Open a stream. Raises MuxedStreamError."""
        if self._ended:
            raise MuxedStreamError(f"the connection has ended: {self.ended_because}")
        if self._outbound >= STREAMS_OUTBOUND_MAX:
            raise MuxedStreamError(f"{STREAMS_OUTBOUND_MAX} streams are open on this connection already")
        stream = YamuxStream(self, self._next_stream, is_initiator=True)
        self._next_stream += 2
        self._outbound += 1
        self.streams[stream.stream_id] = stream
        self.send_control(encode_header(Type.WINDOW, Flag.SYN, stream.stream_id, 0))
        return stream

    async def accept_stream(self) -> YamuxStream:
        """Return the next stream that the peer opens. Raises MuxedConnUnavailable at the connection's end."""
        try:
            return await self._accepted.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable("the connection has ended") from None

    # --- what streams ask ---

    def send_control(self, frame: bytes) -> None:
        """Have a frame without data sent, soon."""
        if self._ended:
            return
        if len(self._control) > CONTROL_BYTES_MAX:
            self._offend(Offence.FLOOD, "it asks for answers that it does not read")
            return
        self._control += frame
        self._control_waits.set()

    async def write_data(self, stream: YamuxStream, data: memoryview) -> int:
        """Send as much of `data` as one frame and the stream's window take; return how much."""
        sent = 0

        def frame() -> bytes:
            nonlocal sent
            sent = stream.spend(len(data))
            if sent == 0:
                return b""
            return encode_header(Type.DATA, 0, stream.stream_id, sent) + data[:sent]

        await self._write(frame)
        return sent

    def forget(self, stream: YamuxStream) -> None:
        """A stream has ended. What its peer had the right to send before it heard of that is not held against it."""
        if self.streams.pop(stream.stream_id, None) is not None:
            self._stray_bytes_left += stream.window
            if stream.is_initiator:
                self._outbound -= 1
            else:
                self._inbound -= 1

    # --- the end ---

    def shed(self, reason: str) -> None:
        """End it and throw away what is unread; takes effect at once."""
        self.fail(reason, keep_unread=False)

    def fail(self, reason: str, *, keep_unread: bool = True) -> None:
        """End it; takes effect at once. Only the first reason counts."""
        if self._ended:
            return
        self._ended = True
        self.ended_because = reason
        log.debug("a connection ends", peer=str(self.peer_id), reason=reason)
        self._new_streams.close()
        for stream in tuple(self.streams.values()):
            stream.abandon(keep_unread=keep_unread)
        if self._scope is not None:
            self._scope.cancel()

    def _offend(self, offence: Offence, detail: str) -> None:
        if self._blame is not None:
            self._blame(str(self.peer_id), offence, detail)
        self.shed(detail)

    async def _hang_up(self) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_SECONDS_MAX):
            try:
                await self.secured_conn.close()
            except Exception as error:  # it may be gone already
                log.debug("a connection could not be closed", reason=repr(error))
        self.event_closed.set()

    # --- writing ---

    async def _write(self, make_frame: Callable[[], bytes]) -> None:
        """Send what waits and the frame that `make_frame` returns once it is its turn.

        Shielded, for half a frame would make everything after it unreadable.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._write_lock.locked():
            await self._write_lock.acquire()
        else:  # a checkpoint would be a turn of the scheduler for each frame
            self._write_lock.acquire_nowait()
        try:
            if self._ended:
                raise MuxedStreamError(f"the connection has ended: {self.ended_because}")
            data = make_frame()
            if self._control:
                # First: an opened stream must be known before its data, and credit is what the peer waits for.
                data = bytes(self._control) + data
                self._control.clear()
            if not data:
                return
            finish: Callable[[bytes], Awaitable[None]] = self.secured_conn.write
            if self._begin_write is not None:
                finish, data = self.secured_conn.end_write, self._begin_write(data)
                if not data:
                    return  # nearly always; a deadline would cost more than the write
            with trio.CancelScope(shield=True), trio.move_on_after(WRITE_SECONDS_MAX) as limit:
                try:
                    await finish(data)
                except Exception as error:  # the layers below have no common base
                    self.fail(f"cannot write: {error!r}")
                    raise MuxedStreamError(f"the connection has ended: {error!r}") from error
            if limit.cancelled_caught:
                self.fail(f"the peer read nothing for {WRITE_SECONDS_MAX:.0f} s")
                raise MuxedStreamError(self.ended_because)
        finally:
            self._write_lock.release()

    async def _send_control_frames(self) -> None:
        while True:
            await self._control_waits.wait()
            self._control_waits = trio.Event()
            try:
                await self._write(bytes)
            except MuxedStreamError:
                return

    # --- reading ---

    async def _read_frames(self) -> None:
        try:
            while not self._ended:
                header = decode_header(await self._take(HEADER_BYTES))
                await self._pace(header)
                await self._handle(header)
        except WireError as error:
            self._offend(Offence.MALFORMED, str(error))
        except Exception as error:  # reset, closed, bad encryption: the layers below have no common base
            self.fail(f"cannot read: {error!r}")

    async def _take(self, count: int) -> bytearray:
        """Return the next `count` bytes; few, for they are kept here meanwhile."""
        while len(self._received) < count:
            await self._receive()
        data = self._received[:count]
        del self._received[:count]
        return data

    async def _receive(self) -> None:
        data = await self.secured_conn.read()
        if not data:
            raise EOFError("the peer has hung up")
        self._heard_at = trio.current_time()
        self._received += data

    async def _handle(self, header: Header) -> None:
        match header.type:
            case Type.PING:
                self._handle_ping(header)
            case Type.GO_AWAY:
                self.fail(f"the peer said goodbye ({header.length})")
            case Type.WINDOW | Type.DATA:
                flags = header.flags  # none, nearly always; to look at one takes as long as all the rest here
                stream = self._open(header) if flags and flags & Flag.SYN else self.streams.get(header.stream)
                if header.type is Type.DATA:
                    await self._handle_data(stream, header.length)
                elif stream is not None:
                    stream.accept_credit(header.length)
                if stream is None or not flags:
                    return
                if flags & Flag.RST:
                    stream.accept_reset()
                elif flags & Flag.FIN:
                    stream.accept_end()

    def _open(self, header: Header) -> YamuxStream | None:
        """A peer opens a stream: return it, or None if it is refused."""
        if (header.stream % 2 == 1) == self._is_initiator:
            raise WireError(f"stream {header.stream} is not the peer's to open")
        if header.stream in self.streams:
            raise WireError(f"stream {header.stream} is open already")
        if self._inbound >= STREAMS_INBOUND_MAX or not self._stream_token():
            # What it sends before it hears of the reset is within the window of a new stream.
            self._stray_bytes_left += WINDOW_BYTES_INITIAL
            self.send_control(encode_header(Type.WINDOW, Flag.RST, header.stream, 0))
            return None
        stream = YamuxStream(self, header.stream, is_initiator=False)
        self._inbound += 1
        self.streams[stream.stream_id] = stream
        self.send_control(encode_header(Type.WINDOW, Flag.ACK, stream.stream_id, 0))
        try:
            self._new_streams.send_nowait(stream)
        except trio.WouldBlock:  # ended streams may still wait there to be accepted
            stream.reset_now()
        return stream

    def _stream_token(self) -> bool:
        now = trio.current_time()
        earned = (now - self._stream_tokens_at) * STREAMS_PER_SECOND
        self._stream_tokens = min(STREAMS_BURST, self._stream_tokens + earned)
        self._stream_tokens_at = now
        if self._stream_tokens < 1:
            if now - self._stream_flood_at >= 1 and self._blame is not None:
                self._stream_flood_at = now
                self._blame(str(self.peer_id), Offence.FLOOD, f"over {STREAMS_PER_SECOND:.0f} new streams a second")
            return False
        self._stream_tokens -= 1
        return True

    async def _handle_data(self, stream: YamuxStream | None, length: int) -> None:
        """Hand `length` bytes to their stream as they arrive; refuse them before the first if they are too many."""
        allowed = self._stray_bytes_left if stream is None else stream.window
        if length > allowed + WINDOW_SLACK_BYTES:
            self._offend(Offence.OVERFLOW, f"it sent {length} bytes where it had credit for {max(allowed, 0)}")
            return
        if stream is None:
            self._stray_bytes_left -= length
        left = length
        while left and not self._ended:
            if not self._received:
                await self._receive()
            part = self._received[:left]
            del self._received[: len(part)]
            left -= len(part)
            if stream is not None:
                # It may have been reset while the rest was awaited: then its window was given to the stray bytes.
                stray = stream.is_closed and stream.stream_id not in self.streams
                stream.accept_data(part)
                if stray:
                    self._stray_bytes_left -= len(part)

    def _handle_ping(self, header: Header) -> None:
        if header.flags & Flag.SYN:
            self.send_control(encode_header(Type.PING, Flag.ACK, 0, header.length))
        elif header.flags & Flag.ACK and self._pinged_at is not None:
            self._round_trip_seconds = trio.current_time() - self._pinged_at
            self._pinged_at = None

    async def _pace(self, header: Header) -> None:
        """Make a peer that sends many frames about nothing wait: its own connection is what stands still."""
        if header.type is Type.DATA and header.length > SMALL_FRAME_BYTES:
            return
        now = trio.current_time()
        if now - self._small_frames_since >= 1:
            self._small_frames, self._small_frames_since = 0, now
        self._small_frames += 1
        if self._small_frames > SMALL_FRAMES_PER_SECOND:
            if self._blame is not None:
                self._blame(str(self.peer_id), Offence.FLOOD, f"over {SMALL_FRAMES_PER_SECOND} empty frames a second")
            await trio.sleep(max(0.0, self._small_frames_since + 1 - now))

    async def _watch(self) -> None:
        """Ping; end what is silent, and streams whose peer never ends them."""
        while True:
            self._pinged_at = trio.current_time()
            self.send_control(encode_header(Type.PING, Flag.SYN, 0, int(self._pinged_at) & 0xFFFFFFFF))
            await trio.sleep(PING_SECONDS)
            now = trio.current_time()
            if now - self._heard_at > SILENCE_SECONDS_MAX:
                self.fail(f"the peer was silent for {SILENCE_SECONDS_MAX:.0f} s")
                return
            for stream in tuple(self.streams.values()):
                if stream.half_closed_at is not None and now - stream.half_closed_at > HALF_CLOSED_SECONDS_MAX:
                    stream.reset_now()
