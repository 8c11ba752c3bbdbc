"""The network port over libp2p: messages sealed and unsealed, calls over the peers' request streams."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

from node.network.clock_skew import ClockSkews
from node.ports import Call, CallFailedError, CallHandler, MessageValidator, PeerStatus, TakeChunk, Validity, WallClock
from node.protocol.identifiers import Address, PeerId
from node.protocol.messages import (
    Message,
    MessageBody,
    MessageError,
    Topic,
    UnknownVersionError,
    seal,
    unseal,
)
from node.protocol.signatures import DigestSigner
from p2p.call_errors import CallError, find_error
from p2p.calls import CallEnd
from p2p.discovery.service import Discovery, DiscoveryOptions
from p2p.gossip import Gossip, GossipMetrics, Verdict, open_gossip
from p2p.host import listening_addresses, open_host
from p2p.identity import Identity
from p2p.peering import Peering
from p2p.standing import Standing
from p2p.streams import Streams

log = structlog.get_logger(__name__)

INBOX_MESSAGES_MAX = 4096
"""Messages waiting for a slow subscriber; then the oldest are dropped, for newer ones replace them."""
CLOCK_SKEW_SECONDS_MAX = 120
"""Older and newer messages are ignored: replays, and clocks that cannot be trusted."""
VERDICTS = {
    Validity.ACCEPT: Verdict.ACCEPT,
    Validity.IGNORE: Verdict.IGNORE,
    Validity.REJECT: Verdict.REJECT,
}


class LibP2PCall:
    """A call end with the port's errors and names."""

    def __init__(self, end: CallEnd) -> None:
        self._end = end
        self.send_now = end.send_now
        """Sends a chunk without waiting. Handed on as it is: there is one call of it for nearly every token."""

    @property
    def peer_id(self) -> PeerId:
        """The other end."""
        return PeerId(self._end.peer_id)

    @property
    def payload(self) -> bytes:
        """What the call was opened with."""
        return self._end.payload

    async def send(self, data: bytes) -> None:
        """Send a chunk."""
        try:
            await self._end.send(data)
        except CallError as error:
            raise CallFailedError(error.code, error.message) from error

    @property
    def may_send_now(self) -> bool:
        """Whether a chunk can be sent without waiting."""
        return self._end.may_send_now

    async def receive(self) -> bytes:
        """Return the next chunk."""
        try:
            return await self._end.receive()
        except CallError as error:
            raise CallFailedError(error.code, error.message) from error

    def hand_to(self, take_now: TakeChunk) -> None:
        """Offer chunks to `take_now` first."""
        self._end.take_now = take_now


class LibP2PNetwork:
    """`node.ports.Network`. Made by `open_network`."""

    def __init__(
        self,
        host: Any,
        identity: Identity,
        gossip: Gossip,
        streams: Streams,
        peering: Peering,
        discovery: Discovery,
        *,
        network_id: str,
        account: Address,
        sign: DigestSigner,
        wall_clock: WallClock,
    ) -> None:
        self._host = host
        self._identity = identity
        self._gossip = gossip
        self._streams = streams
        self._peering = peering
        self._skews = ClockSkews()
        self.discovery = discovery
        """How this node finds and is found; `provide` and `find_providers` are there."""
        self._network_id = network_id
        self._account = account
        self._sign = sign
        self._wall_clock = wall_clock
        self.dropped_messages = 0
        """Messages dropped because a subscriber was slow."""

    @property
    def peer_id(self) -> PeerId:
        """This node's peer id."""
        return PeerId(self._identity.peer_id)

    @property
    def host(self) -> Any:
        """The libp2p host, for protocols beside our own (Bitswap)."""
        return self._host

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddresses, with peer id, at which this node can be dialled."""
        return listening_addresses(self._host)

    def peers(self) -> tuple[PeerStatus, ...]:
        """Connected peers."""
        statuses = []
        for peer_id in self._peering.connected():
            latency = self._streams.latency_seconds(peer_id)
            milliseconds = None if latency is None else round(1000 * latency)
            statuses.append(PeerStatus(PeerId(peer_id), self._peering.address_of(peer_id), milliseconds))
        return tuple(statuses)

    def sign_as_peer(self, data: bytes) -> bytes:
        """Sign with the libp2p key."""
        return self._identity.sign(data)

    async def connect(self, address: str) -> None:
        """Dial a peer and keep to it. Raises CallFailedError."""
        try:
            await self._peering.connect(address)
        except CallError as error:
            raise CallFailedError(error.code, error.message) from error

    async def publish(self, body: MessageBody, *, urgent: bool = False) -> None:
        """Seal and gossip a message."""
        topic, data = seal(self._network_id, self._account, self._wall_clock(), body, self._sign)
        await self._gossip.publish(self._topic(topic), data, urgent=urgent)

    def gossip_metrics(self) -> GossipMetrics:
        """What gossip did since start."""
        return self._gossip.metrics()

    @asynccontextmanager
    async def subscribe(self, topic: Topic, validator: MessageValidator) -> AsyncIterator[AsyncIterator[Message]]:
        """Deliver verified messages of `topic`."""
        send, receive = trio.open_memory_channel[Message](INBOX_MESSAGES_MAX)

        def judge(forwarder: str, data: bytes) -> Verdict:
            try:
                message = unseal(self._network_id, topic, data)
            except UnknownVersionError:
                return Verdict.IGNORE
            except MessageError as error:
                log.info("a peer forwarded a bad message", peer=forwarder, topic=topic.value, reason=str(error))
                return Verdict.REJECT
            self._skews.note(message.sender, message.at - self._wall_clock())
            if abs(self._wall_clock() - message.at) > CLOCK_SKEW_SECONDS_MAX:
                return Verdict.IGNORE
            verdict = VERDICTS[validator(PeerId(forwarder), message)]
            if verdict is Verdict.ACCEPT:
                self._put(send, receive, message)
            return verdict

        async with receive, self._gossip.join(self._topic(topic), judge):
            yield receive

    def serve(self, method: str, handler: CallHandler, *, concurrency: int) -> None:
        """Answer calls of `method`."""

        async def handle(end: CallEnd) -> None:
            try:
                await handler(LibP2PCall(end))
            except Exception as error:
                failure = find_error(error, CallFailedError)
                if failure is None:
                    raise
                raise CallError(failure.code, failure.message) from error

        self._streams.serve(method, handle, concurrency=concurrency)

    @asynccontextmanager
    async def call(self, peer: PeerId, method: str, payload: bytes, *, deadline_seconds: float) -> AsyncIterator[Call]:
        """Open a call to `peer`."""
        try:
            async with self._streams.call(peer, method, payload, deadline_seconds=deadline_seconds) as end:
                yield LibP2PCall(end)
        except CallError as error:
            raise CallFailedError(error.code, error.message) from error

    def clock_skew_seconds(self) -> float | None:
        """How far other participants' clocks are ahead of this one, in the median; None while none was heard."""
        return self._skews.median()

    def refused_connections(self) -> dict[str, int]:
        """Connections turned away since the start, by reason."""
        refused = self._host.get_network().doorkeeper.refused
        return {refusal.value: count for refusal, count in refused.items()}

    def _topic(self, topic: Topic) -> str:
        return f"/quern/1/{self._network_id}/{topic.value}"

    def _put(
        self,
        send: trio.MemorySendChannel[Message],
        receive: trio.MemoryReceiveChannel[Message],
        message: Message,
    ) -> None:
        try:
            send.send_nowait(message)
        except trio.WouldBlock:
            receive.receive_nowait()
            send.send_nowait(message)
            self.dropped_messages += 1


@asynccontextmanager
async def open_network(
    *,
    seed: bytes,
    listen: Sequence[str],
    announce: Sequence[str],
    bootstrap: Sequence[str],
    network_id: str,
    account: Address,
    sign: DigestSigner,
    wall_clock: WallClock,
    standing: Standing | None = None,
    discovery: DiscoveryOptions | None = None,
) -> AsyncIterator[LibP2PNetwork]:
    """Run the host, gossip, discovery and peering until the context is left. Raises p2p.host.PortInUseError.

    Without `standing` the conduct of peers is forgotten when the context is left, without `discovery` its defaults
    hold.
    """
    identity = Identity(seed)
    standing = standing or Standing(wall_clock)
    async with (
        open_host(identity, listen, announce, standing=standing) as host,
        open_gossip(host, standing=standing) as gossip,
        trio.open_nursery() as nursery,
    ):
        streams = Streams(host, nursery, standing)
        found = Discovery(host, listen, announce, discovery or DiscoveryOptions(), standing=standing, clock=wall_clock)
        peering = Peering(host, streams, found.book, found.dialer, bootstrap, standing)
        nursery.start_soon(found.run)
        nursery.start_soon(peering.run)
        yield LibP2PNetwork(
            host,
            identity,
            gossip,
            streams,
            peering,
            found,
            network_id=network_id,
            account=account,
            sign=sign,
            wall_clock=wall_clock,
        )
        nursery.cancel_scope.cancel()
