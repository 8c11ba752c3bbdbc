"""Who to be connected to: bootstrap peers, kept by redialling, and the peers they know."""

import json
from collections.abc import Sequence
from typing import Any

import structlog
import trio
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr
from pydantic_core import from_json

from p2p.host import listening_addresses
from p2p.session import CallEnd, CallError
from p2p.streams import Streams

log = structlog.get_logger(__name__)

METHOD = "peers"
ADDRESSES_MAX = 128
"""Addresses remembered and told: a small network's worth; discovery at scale is another mechanism's task."""
ADDRESS_LENGTH_MAX = 256
CONNECTED_ENOUGH = 64
ROUND_SECONDS = 2.0
EXCHANGE_SECONDS = 20.0
DIAL_SECONDS_MAX = 10.0
BACKOFF_SECONDS_MAX = 60.0
REPLY_SECONDS_MAX = 5.0


class Peering:
    """Dials what it knows and is not connected to; asks connected peers whom they know."""

    def __init__(self, host: Any, streams: Streams, bootstrap: Sequence[str]) -> None:
        self._host = host
        self._streams = streams
        self._own_id = str(host.get_id())
        self._addresses: dict[str, str] = {}
        self._backoff: dict[str, tuple[float, float]] = {}
        self._asked_at: dict[str, float] = {}
        for address in bootstrap:
            self._remember(address)
        streams.serve(METHOD, self._tell, concurrency=16)

    async def connect(self, address: str) -> None:
        """Dial an address with peer id. Raises CallError `unreachable`."""
        try:
            info = info_from_p2p_addr(Multiaddr(address))
            # The library refuses a peer for a minute after a failed dial; when to try again is decided here.
            self._host.get_network().unblock_peer(info.peer_id)
            with trio.fail_after(DIAL_SECONDS_MAX):
                await self._host.connect(info)
        except Exception as error:
            raise CallError("unreachable", f"{address}: {error!r}") from error
        self._addresses[str(info.peer_id)] = address

    def connected(self) -> list[str]:
        """Peer ids of connected peers, sorted."""
        return sorted(str(peer) for peer in self._host.get_connected_peers())

    def address_of(self, peer_id: str) -> str:
        """The address by which a peer is known, or an empty text."""
        return self._addresses.get(peer_id, "")

    async def run(self) -> None:
        """Keep connected for ever."""
        while True:
            connected = set(self.connected())
            now = trio.current_time()
            async with trio.open_nursery() as nursery:
                for peer_id in sorted(connected):
                    if now - self._asked_at.get(peer_id, float("-inf")) >= EXCHANGE_SECONDS:
                        self._asked_at[peer_id] = now
                        nursery.start_soon(self._ask, peer_id)
                if len(connected) < CONNECTED_ENOUGH:
                    for peer_id, address in sorted(self._addresses.items()):
                        if peer_id not in connected and self._backoff.get(peer_id, (0.0, 0.0))[0] <= now:
                            nursery.start_soon(self._dial, peer_id, address)
            await trio.sleep(ROUND_SECONDS)

    async def _dial(self, peer_id: str, address: str) -> None:
        try:
            await self.connect(address)
        except CallError as error:
            pause = min(2 * self._backoff.get(peer_id, (0.0, ROUND_SECONDS / 2))[1], BACKOFF_SECONDS_MAX)
            self._backoff[peer_id] = (trio.current_time() + pause, pause)
            log.info("a peer cannot be dialled", address=address, again_in_seconds=pause, reason=error.message)
        else:
            self._backoff.pop(peer_id, None)
            self._asked_at.pop(peer_id, None)
            log.info("connected to a peer", peer=peer_id)

    async def _ask(self, peer_id: str) -> None:
        own = json.dumps(list(listening_addresses(self._host))[:ADDRESSES_MAX]).encode()
        try:
            async with self._streams.call(peer_id, METHOD, own, deadline_seconds=REPLY_SECONDS_MAX) as call:
                self._learn(await call.receive())
        except (CallError, trio.EndOfChannel) as error:
            log.debug("a peer did not say whom it knows", peer=peer_id, reason=str(error))

    async def _tell(self, call: CallEnd) -> None:
        """Learn the caller's addresses, tell ours and those we know."""
        self._learn(call.payload, only=call.peer_id)
        known = [*listening_addresses(self._host), *self._addresses.values()]
        await call.send(json.dumps(known[:ADDRESSES_MAX]).encode())

    def _learn(self, data: bytes, *, only: str | None = None) -> None:
        try:
            addresses = from_json(data)
        except ValueError:
            return
        if isinstance(addresses, list):
            for address in addresses[:ADDRESSES_MAX]:
                if isinstance(address, str) and len(address) <= ADDRESS_LENGTH_MAX:
                    self._remember(address, only=only)

    def _remember(self, address: str, *, only: str | None = None) -> None:
        try:
            peer_id = str(info_from_p2p_addr(Multiaddr(address)).peer_id)
        except Exception as error:  # the library has no common base of its errors
            log.debug("not an address of a peer", address=address, reason=repr(error))
            return
        if peer_id == self._own_id or (only is not None and peer_id != only):
            return
        if peer_id in self._addresses or len(self._addresses) < ADDRESSES_MAX:
            self._addresses.setdefault(peer_id, address)
