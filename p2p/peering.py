"""Whom to be connected to: the operator's peers, the peers met before, and those that they know."""

import json
from collections.abc import Sequence
from typing import Any

import structlog
import trio
from pydantic_core import from_json

from p2p.call_errors import CallError
from p2p.calls import CallEnd
from p2p.discovery.addresses import AddressError, PeerAddress, Reach, parse_address, reach_of, worth_telling
from p2p.discovery.connections import remote_ip
from p2p.discovery.dialer import Dialer, DialError
from p2p.discovery.peerbook import Origin, PeerBook
from p2p.host import listening_addresses
from p2p.standing import Standing
from p2p.streams import Streams

log = structlog.get_logger(__name__)

METHOD = "peers"
ADDRESSES_TOLD_MAX = 128
"""In one exchange. Discovery beyond that is the DHT's task."""
EXCHANGE_BYTES_MAX = 64 * 1024
CONNECTED_ENOUGH = 64
DIALS_AT_ONCE = 8
"""Each dial may last its whole deadline: more at once would be a port scan on behalf of whoever fills the book."""
ROUND_SECONDS = 2.0
EXCHANGE_SECONDS = 20.0
EXCHANGE_SECONDS_OF_FEW = 5.0
FEW_PEERS = 8
"""With so few the node is new or lonely, and asks oftener."""
BACKOFF_SECONDS_MAX = 60.0
BACKOFF_SECONDS_MAX_OF_STRANGERS = 1800.0
"""A peer that was never reached and is not the operator's is tried ever more seldom until its address expires."""
REPLY_SECONDS_MAX = 5.0


class Peering:
    """Dials what it knows and is not connected to; asks connected peers whom they know."""

    def __init__(
        self,
        host: Any,
        streams: Streams,
        book: PeerBook,
        dialer: Dialer,
        bootstrap: Sequence[str],
        standing: Standing | None = None,
    ) -> None:
        self._host = host
        self._streams = streams
        self._book = book
        self._dialer = dialer
        self._standing = standing
        self._backoff: dict[str, tuple[float, float]] = {}
        self._asked_at: dict[str, float] = {}
        self._dialling: set[str] = set()
        for address in bootstrap:
            try:
                book.learn(parse_address(address), Origin.OPERATOR)
            except AddressError as error:
                log.error("a bootstrap address is left out", reason=str(error), remedy="correct [p2p] bootstrap")
        streams.serve(METHOD, self._tell, concurrency=16)

    async def connect(self, address: str) -> None:
        """Dial an address with peer id, as the operator asks, and keep to it. Raises CallError `unreachable`."""
        try:
            parsed = parse_address(address)
            self._book.learn(parsed, Origin.OPERATOR)
            await self._dialer.connect(parsed.peer_id, [parsed])
        except (AddressError, DialError) as error:
            raise CallError("unreachable", str(error)) from error

    def connected(self) -> list[str]:
        """Peer ids of connected peers, sorted."""
        return self._dialer.connected()

    def address_of(self, peer_id: str) -> str:
        """The best address by which a peer is known, or an empty text."""
        return next(map(str, self._book.addresses(peer_id)), "")

    async def run(self) -> None:
        """Keep connected for ever."""
        told: tuple[str, ...] = ()
        async with trio.open_nursery() as nursery:
            while True:
                connected = set(self.connected())
                now = trio.current_time()
                if (own := listening_addresses(self._host)) != told:
                    told = own
                    self._asked_at.clear()  # asking tells them as well
                pause = EXCHANGE_SECONDS_OF_FEW if len(connected) <= FEW_PEERS else EXCHANGE_SECONDS
                self._asked_at = {peer: at for peer, at in self._asked_at.items() if peer in connected}
                self._backoff = {peer: until for peer, until in self._backoff.items() if peer in self._book}
                for peer_id in sorted(connected):
                    if now - self._asked_at.get(peer_id, float("-inf")) >= pause:
                        self._asked_at[peer_id] = now
                        nursery.start_soon(self._ask, peer_id)
                for peer_id in self._due(connected, now):
                    self._dialling.add(peer_id)
                    nursery.start_soon(self._dial, peer_id)
                await trio.sleep(ROUND_SECONDS)

    def _due(self, connected: set[str], now: float) -> list[str]:
        """Whom to dial now, best first."""
        room = min(CONNECTED_ENOUGH - len(connected), DIALS_AT_ONCE) - len(self._dialling)
        due = [
            peer_id
            for peer_id in self._book.peers()
            if peer_id not in connected
            and peer_id not in self._dialling
            and self._backoff.get(peer_id, (0.0, 0.0))[0] <= now
            and not self._is_banned(peer_id)
            and any(map(self._dialer.allows, self._book.addresses(peer_id)))
        ]
        return due[: max(room, 0)]

    async def _dial(self, peer_id: str) -> None:
        try:
            await self._dialer.connect(peer_id)
        except DialError as error:
            known = self._book.known(peer_id)
            trusted = any(each.origin is Origin.OPERATOR or each.reached_at for each in known)
            longest = BACKOFF_SECONDS_MAX if trusted else BACKOFF_SECONDS_MAX_OF_STRANGERS
            pause = min(2 * self._backoff.get(peer_id, (0.0, ROUND_SECONDS / 2))[1], longest)
            self._backoff[peer_id] = (trio.current_time() + pause, pause)
            report = log.info if trusted else log.debug
            report("a peer cannot be dialled", peer=peer_id, again_in_seconds=pause, reason=str(error))
        else:
            self._backoff.pop(peer_id, None)
            self._asked_at.pop(peer_id, None)
            log.info("connected to a peer", peer=peer_id)
        finally:
            self._dialling.discard(peer_id)

    async def _ask(self, peer_id: str) -> None:
        own = json.dumps(self._own_addresses(peer_id)).encode()
        try:
            async with self._streams.call(peer_id, METHOD, own, deadline_seconds=REPLY_SECONDS_MAX) as call:
                self._learn(peer_id, await call.receive(), others=True)
        except (CallError, trio.EndOfChannel) as error:
            log.debug("a peer did not say whom it knows", peer=peer_id, reason=str(error))

    async def _tell(self, call: CallEnd) -> None:
        """Learn the caller's addresses; tell ours, and those of peers that we are connected to or have reached."""
        self._learn(call.peer_id, call.payload, others=False)
        asker = remote_ip(self._host, call.peer_id)
        connected = set(self.connected())
        known = [
            str(each.address)
            for peer_id in self._book.peers()
            if peer_id != call.peer_id and not self._is_banned(peer_id)
            for each in self._book.known(peer_id)
            if (peer_id in connected or each.reached_at) and worth_telling(each.address, asker)
        ]
        told = [*self._own_addresses(call.peer_id), *known][:ADDRESSES_TOLD_MAX]
        await call.send(json.dumps(told).encode())

    def _own_addresses(self, asker: str) -> list[str]:
        """Our addresses that the asker could dial."""
        ip = remote_ip(self._host, asker)
        parsed = map(_parsed, listening_addresses(self._host))
        return [str(address) for address in parsed if address is not None and worth_telling(address, ip)]

    def _learn(self, teller: str, data: bytes, *, others: bool) -> None:
        """Note what a peer says of itself and, if `others`, of other peers."""
        if len(data) > EXCHANGE_BYTES_MAX:
            return
        try:
            texts = from_json(data)
        except ValueError:
            return
        if not isinstance(texts, list):
            return
        read = [_parsed(text) for text in texts[:ADDRESSES_TOLD_MAX] if isinstance(text, str)]
        addresses = [address for address in read if address is not None]
        self._book.claim(teller, addresses, self._source(teller))
        if others:
            for address in addresses:
                if address.peer_id != teller:
                    self._book.learn(address, Origin.TOLD, teller)

    def _source(self, peer_id: str) -> str:
        """Who answers for a claim: the network the peer comes from, for keys are free and addresses are not."""
        ip = remote_ip(self._host, peer_id)
        if ip is None or reach_of(ip) is not Reach.PUBLIC:
            return ""
        return str(ip) if ip.version == 4 else ":".join(ip.exploded.split(":")[:4])

    def _is_banned(self, peer_id: str) -> bool:
        return self._standing is not None and self._standing.is_banned(peer_id)


def _parsed(text: str) -> PeerAddress | None:
    try:
        return parse_address(text)
    except AddressError:
        return None
