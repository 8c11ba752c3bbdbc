"""Sessions by peer: opens one on the first call, keeps it, serves those that peers open."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from p2p.call_errors import CallError
from p2p.calls import CallEnd, Handler
from p2p.credit import ALL_HELD_BYTES_MAX, HeldBytes
from p2p.repairs.negotiation import UnsupportedProtocolError
from p2p.session import Served, Session
from p2p.standing import Standing

log = structlog.get_logger(__name__)

PROTOCOL = TProtocol("/quern/requests/2")
"""A version is a name of its own: the peers agree on one, or learn at once that there is none."""
PROTOCOLS = (PROTOCOL,)
"""Those that are spoken here, the one we like best first."""
OPEN_SECONDS_MAX = 10.0
INBOUND_SESSIONS_PER_PEER_MAX = 2
"""One, and one more while the old one of a restarted peer has not been noticed to be dead."""


class BareStream:
    """A stream of the library's without its locks, of which it takes one for each reading and writing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.read = stream.muxed_stream.read
        self.write = stream.muxed_stream.write
        self.reset = stream.reset


class Streams:
    """Calls to and from peers. Tables by peer shrink when the peer's sessions end."""

    def __init__(self, host: Any, nursery: trio.Nursery, standing: Standing) -> None:
        self._host = host
        self._nursery = nursery
        self._standing = standing
        self._held = HeldBytes(ALL_HELD_BYTES_MAX)
        self._methods: dict[str, Served] = {}
        self._sessions: dict[str, Session] = {}
        self._opening: dict[str, trio.Lock] = {}
        self._inbound: dict[str, int] = {}
        for protocol in PROTOCOLS:
            host.set_stream_handler(protocol, self._accept)

    def serve(self, method: str, handler: Handler, *, concurrency: int) -> None:
        """Answer calls of `method`, at most `concurrency` at once."""
        if method in self._methods:
            raise ValueError(f"{method} is served already")
        self._methods[method] = Served(handler, concurrency)

    @asynccontextmanager
    async def call(
        self, peer_id: str, method: str, payload: bytes, *, deadline_seconds: float
    ) -> AsyncIterator[CallEnd]:
        """Open a call. Raises CallError.

        `unreachable`, `unsupported-version`, `lost`, `deadline`, or what the handler said.
        """
        with trio.move_on_after(deadline_seconds) as deadline:
            session = await self._session(peer_id)
            left = deadline.deadline - trio.current_time()
            async with session.call(method, payload, deadline_seconds=left) as call:
                yield call
        if deadline.cancelled_caught:
            raise CallError("deadline", f"{method} took longer than {deadline_seconds} s")

    def latency_seconds(self, peer_id: str) -> float | None:
        """Round-trip time of the newest ping, if a session exists."""
        session = self._sessions.get(peer_id)
        if session is None or math.isnan(session.latency_seconds):
            return None
        return session.latency_seconds

    async def _session(self, peer_id: str) -> Session:
        known = self._sessions.get(peer_id)
        if known is not None and known.is_open:
            return known  # nearly always
        lock = self._opening.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                session = self._sessions.get(peer_id)
                if session is not None and session.is_open:
                    return session
                session = Session(BareStream(await self._open(peer_id)), peer_id, {}, self._standing, self._held)
                self._sessions[peer_id] = session
                self._nursery.start_soon(self._run, session)
                return session
        finally:
            if not lock.locked() and self._opening.get(peer_id) is lock:
                del self._opening[peer_id]

    async def _open(self, peer_id: str) -> Any:
        try:
            with trio.fail_after(OPEN_SECONDS_MAX):
                return await self._host.new_stream(ID.from_base58(peer_id), list(PROTOCOLS))
        except Exception as error:
            if _is_unsupported(error):
                spoken = ", ".join(PROTOCOLS)
                raise CallError(
                    "unsupported-version", f"{peer_id} speaks none of {spoken}: one of us has to be updated"
                ) from error
            raise CallError("unreachable", f"{peer_id}: {error!r}") from error

    async def _run(self, session: Session) -> None:
        await session.run()
        if self._sessions.get(session.peer_id) is session:
            del self._sessions[session.peer_id]

    async def _accept(self, stream: Any) -> None:
        peer_id = str(stream.muxed_conn.peer_id)
        if self._inbound.get(peer_id, 0) >= INBOUND_SESSIONS_PER_PEER_MAX:
            log.info("a peer opens too many request streams", peer=peer_id)
            await stream.reset()
            return
        self._inbound[peer_id] = self._inbound.get(peer_id, 0) + 1
        try:
            await Session(BareStream(stream), peer_id, self._methods, self._standing, self._held).run()
        finally:
            self._inbound[peer_id] -= 1
            if self._inbound[peer_id] == 0:
                del self._inbound[peer_id]


def _is_unsupported(error: BaseException | None) -> bool:
    """Whether the peer answered that it speaks none of the protocols: the library wraps its errors in others."""
    while error is not None:
        if isinstance(error, UnsupportedProtocolError):
            return True
        error = error.__cause__
    return False
