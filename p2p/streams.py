"""Sessions by peer: opens one on the first call, keeps it, serves those that peers open."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from libp2p.peer.id import ID

from p2p.session import CallEnd, CallError, Handler, Served, Session
from p2p.standing import Standing

log = structlog.get_logger(__name__)

PROTOCOL = "/quern/requests/1"
OPEN_SECONDS_MAX = 10.0
INBOUND_SESSIONS_PER_PEER_MAX = 2
"""One, and one more while the old one of a restarted peer has not been noticed to be dead."""


class Streams:
    """Calls to and from peers."""

    def __init__(self, host: Any, nursery: trio.Nursery, standing: Standing) -> None:
        self._host = host
        self._standing = standing
        self._nursery = nursery
        self._methods: dict[str, Served] = {}
        self._sessions: dict[str, Session] = {}
        self._opening: dict[str, trio.Lock] = {}
        self._inbound: dict[str, int] = {}
        host.set_stream_handler(PROTOCOL, self._accept)

    def serve(self, method: str, handler: Handler, *, concurrency: int) -> None:
        """Answer calls of `method`, at most `concurrency` at once."""
        if method in self._methods:
            raise ValueError(f"{method} is served already")
        self._methods[method] = Served(handler, concurrency)

    @asynccontextmanager
    async def call(
        self, peer_id: str, method: str, payload: bytes, *, deadline_seconds: float
    ) -> AsyncIterator[CallEnd]:
        """Open a call. Raises CallError: `unreachable`, `lost`, `deadline`, or what the handler said."""
        with trio.move_on_after(deadline_seconds) as deadline:
            session = await self._session(peer_id)
            async with session.call(method, payload) as call:
                yield call
        if deadline.cancelled_caught:
            raise CallError("deadline", f"{method} took longer than {deadline_seconds} s")

    def latency_seconds(self, peer_id: str) -> float | None:
        """Round-trip time of the newest ping, if a session exists."""
        session = self._sessions.get(peer_id)
        if session is None or session.latency_seconds != session.latency_seconds:
            return None
        return session.latency_seconds

    async def _session(self, peer_id: str) -> Session:
        lock = self._opening.setdefault(peer_id, trio.Lock())
        async with lock:
            session = self._sessions.get(peer_id)
            if session is not None and session.is_open:
                return session
            try:
                with trio.fail_after(OPEN_SECONDS_MAX):
                    stream = await self._host.new_stream(ID.from_base58(peer_id), [PROTOCOL])
            except Exception as error:
                raise CallError("unreachable", f"{peer_id}: {error!r}") from error
            session = Session(
                stream, peer_id, {}, self._standing
            )  # the opener calls; its peer's calls come on the peer's stream
            self._sessions[peer_id] = session
            self._nursery.start_soon(self._run, session)
            return session

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
            await Session(stream, peer_id, self._methods, self._standing).run()
        finally:
            self._inbound[peer_id] -= 1
            if self._inbound[peer_id] == 0:
                del self._inbound[peer_id]
