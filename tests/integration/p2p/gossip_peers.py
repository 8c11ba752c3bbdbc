"""Hosts for gossip tests: the library's own, unguarded; ours; and an attacker that writes what it likes."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from libp2p import new_host
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2p.gossip import Gossip, Verdict, open_gossip
from p2p.gossip.batch import encode_batch
from p2p.gossip.framing import encode_frame
from p2p.gossip.signatures import sign_message
from p2p.host import listening_addresses, open_host
from p2p.identity import Identity
from p2p.standing import Standing
from tests.waiting import until

TOPIC = "/test/topic"
VICTIM, ATTACKER = 1, 99


@asynccontextmanager
async def plain_host(number: int) -> AsyncIterator[Any]:
    """A host of the library without any guard of ours."""
    host: Any = new_host(
        key_pair=Identity(bytes([number]) * 32).key_pair,
        connection_config=ConnectionConfig(min_connections=0, low_watermark=0),
    )
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        try:
            yield host
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await host.close()


async def connect(one: Any, other: Any) -> None:
    """Have `one` dial `other`."""
    await one.connect(info_from_p2p_addr(Multiaddr(listening_addresses(other)[0])))


@asynccontextmanager
async def stock_pubsub(host: Any, kind: type[Pubsub] = Pubsub, **settings: Any) -> AsyncIterator[Pubsub]:
    """The library's Pubsub and GossipSub, which has joined TOPIC."""
    chosen: dict[str, Any] = {"degree": 6, "degree_low": 4, "degree_high": 12, "heartbeat_interval": 1, **settings}
    router = GossipSub([PROTOCOL_ID_V12, PROTOCOL_ID_V11], **chosen)
    pubsub = kind(host, router)
    try:
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            yield pubsub
    finally:
        pubsub.seen_messages.stop()


@dataclass(slots=True)
class Member:
    """A node of ours that takes part in TOPIC, and the items it was given by others."""

    host: Any
    gossip: Gossip
    standing: Standing
    items: list[bytes] = field(default_factory=list)
    verdict: Callable[[bytes], Verdict] = lambda _item: Verdict.ACCEPT

    def judge(self, forwarder: str, item: bytes) -> Verdict:
        """Judge by `verdict`, note what is accepted."""
        verdict = self.verdict(item)
        if verdict is Verdict.ACCEPT and forwarder != str(self.host.get_id()):
            self.items.append(item)
        return verdict

    def follows(self, *others: "Member") -> bool:
        """Whether this node knows that all the others follow the topic, and can write to them."""
        followers = self.gossip.pubsub.peer_topics.get(TOPIC, set())
        ids = {other.host.get_id() for other in others}
        return ids <= followers and ids <= self.gossip.pubsub.peers.keys()


@asynccontextmanager
async def member(number: int, *, guarded: bool = True) -> AsyncIterator[Member]:
    """Our gossip on a host of ours, or on the library's: what does not end that needs no guard."""
    standing = Standing(time.time)
    identity = Identity(bytes([number]) * 32)
    ground = open_host(identity, ["/ip4/127.0.0.1/tcp/0"], [], standing=standing) if guarded else plain_host(number)
    async with ground as host, open_gossip(host, standing=standing) as gossip:
        made = Member(host, gossip, standing)
        async with gossip.join(TOPIC, made.judge):
            yield made


@asynccontextmanager
async def members(count: int, links: Iterable[tuple[int, int]]) -> AsyncIterator[list[Member]]:
    """`count` nodes, connected by `links` (indices), that know what their neighbours follow."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(member(number + 1)) for number in range(count)]
        for one, other in links:
            await connect(made[one].host, made[other].host)
            await until(lambda a=made[one], b=made[other]: a.follows(b) and b.follows(a))
        yield made


@dataclass(slots=True)
class Attacker:
    """Writes RPCs to a victim; reads nothing but what its host reads by itself."""

    host: Any
    stream: Any
    identity: Identity
    numbers: int = 0

    async def write(self, data: bytes) -> None:
        """Write bytes; the victim may have reset the stream."""
        await self.stream.write(data)

    async def send(self, rpc: rpc_pb2.RPC) -> None:
        """Write one RPC."""
        await self.write(encode_frame(rpc.SerializeToString()))

    def message(self, data: bytes, *, topics: tuple[str, ...] = (TOPIC,), signed: bool = True) -> rpc_pb2.Message:
        """A message of its own."""
        self.numbers += 1
        message = rpc_pb2.Message(
            from_id=self.host.get_id().to_bytes(), data=data, seqno=self.numbers.to_bytes(8), topicIDs=topics
        )
        if signed:
            sign_message(message, self.identity.key_pair.private_key)
        else:
            message.signature = bytes(64)
        return message

    def batch(self, *items: bytes) -> rpc_pb2.Message:
        """A well-formed message with items."""
        return self.message(encode_batch(items))


@asynccontextmanager
async def attacker_of(victim: Any, number: int = ATTACKER) -> AsyncIterator[Attacker]:
    """A host connected to `victim`, with an open gossip stream to it."""
    async with plain_host(number) as host:

        async def swallow(stream: Any) -> None:
            while await stream.read(65536):
                pass

        host.set_stream_handler(PROTOCOL_ID_V12, swallow)
        await connect(host, victim)
        stream = await host.new_stream(victim.get_id(), [PROTOCOL_ID_V12])
        yield Attacker(host, stream, Identity(bytes([number]) * 32))
