"""The DHT between real hosts on loopback: our own, and the library's as an independent implementation."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from libp2p.kad_dht import KadDHT
from libp2p.kad_dht import common as kad_common
from libp2p.kad_dht.kad_dht import DHTMode
from libp2p.kad_dht.pb.kademlia_pb2 import Message as _Message
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2p.content.cid import Cid, Codec
from p2p.discovery.addresses import Surroundings, parse_address
from p2p.discovery.control_streams import ControlError, open_stream, receive_message, send_message
from p2p.discovery.dht import INBOUND_STREAMS_PER_PEER_MAX, PROVIDED_MAX, Dht, ProvideLimitError
from p2p.discovery.dialer import Dialer
from p2p.discovery.peerbook import Origin, PeerBook
from p2p.host import open_host
from p2p.identity import Identity
from p2p.standing import Standing

PROTOCOL = "/quern/test/kad/1.0.0"
Message: Any = _Message
LISTEN = ["/ip4/127.0.0.1/tcp/0"]
CID = str(Cid.of(Codec.DAG_PB, b"a model"))


@dataclass
class Node:
    host: Any
    book: PeerBook
    dialer: Dialer
    dht: Dht
    standing: Standing

    @property
    def peer_id(self) -> str:
        return str(self.host.get_id())

    async def join(self, other: "Node") -> None:
        address = parse_address(str(other.host.get_addrs()[0]))
        self.book.learn(address, Origin.OPERATOR)
        await self.dialer.connect(address.peer_id)


@asynccontextmanager
async def open_node(number: int, protocol: str = PROTOCOL, serve: bool = True) -> AsyncIterator[Node]:
    identity = Identity(number.to_bytes(32))
    async with open_host(identity, LISTEN, []) as host, trio.open_nursery() as nursery:
        book = PeerBook(identity.peer_id, time.time)
        dialer = Dialer(host, book, Surroundings(loopback=True))
        standing = Standing(time.time)
        dht = Dht(host, book, dialer, protocol=protocol, clock=time.time, standing=standing)
        dht.serve(serve)
        nursery.start_soon(dht.run)
        yield Node(host, book, dialer, dht, standing)
        nursery.cancel_scope.cancel()


async def test_content_is_found_through_peers_that_know_each_other_only_by_the_dht() -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(number)) for number in range(1, 9)]
        for node, before in zip(nodes[1:], nodes, strict=False):
            await node.join(before)  # a chain: nobody knows more than two
        provider, seeker = nodes[0], nodes[-1]
        provider.dht.provide(CID)
        with trio.fail_after(60):
            while not provider.dht.status().announced:
                await trio.sleep(0.1)
            found = await seeker.dht.find_providers(CID)
        assert [each.peer_id for each in found] == [provider.peer_id]
        assert found[0].addresses == (parse_address(str(provider.host.get_addrs()[0])),)
        addresses = await seeker.dht.find_peer(provider.peer_id)
        assert addresses == found[0].addresses


async def test_peers_around_one_they_joined_through_find_each_other() -> None:
    """The one in the middle never dialled them: it knows their addresses because they identified themselves."""
    async with AsyncExitStack() as stack:
        middle, *others = [await stack.enter_async_context(open_node(number)) for number in range(1, 6)]
        for node in others:
            await node.join(middle)
        with trio.fail_after(60):
            while any(node.dht.status().peers < len(others) for node in (middle, *others)):
                await trio.sleep(0.1)
            others[0].dht.provide(CID)
            while not (found := await others[-1].dht.find_providers(CID)):
                await trio.sleep(0.1)
        assert [each.peer_id for each in found] == [others[0].peer_id]


async def test_a_client_finds_and_provides_without_being_in_anybodys_table() -> None:
    async with open_node(1) as server, open_node(2, serve=False) as client, open_node(3) as seeker:
        await client.join(server)
        await seeker.join(server)
        client.dht.provide(CID)
        with trio.fail_after(60):
            while not (found := await seeker.dht.find_providers(CID)):
                await trio.sleep(0.2)
        assert [each.peer_id for each in found] == [client.peer_id]
        assert server.dht.status().records == 1
        assert client.dht.status().peers >= 1
        assert server.dht.status().peers == 1  # the seeker only


async def test_what_nobody_provides_is_not_found_and_does_not_take_long() -> None:
    async with open_node(1) as one, open_node(2) as other:
        await other.join(one)
        with trio.fail_after(20):
            assert await other.dht.find_providers(CID) == []
            assert await one.dht.find_providers(CID) == []


async def test_a_peer_speaks_for_itself_only() -> None:
    async with open_node(1) as server, open_node(2) as liar:
        await liar.join(server)
        victim = Identity(b"\7" * 32).peer_id
        message = Message(type=Message.MessageType.ADD_PROVIDER, key=b"\x12\x20" + bytes(32))
        entry = message.providerPeers.add()
        entry.id = ID.from_base58(victim).to_bytes()
        entry.addrs.append(Multiaddr("/ip4/8.8.8.8/tcp/25").to_bytes())
        async with open_stream(liar.host, server.peer_id, PROTOCOL, deadline_seconds=5) as stream:
            await send_message(stream, message, deadline_seconds=5)
            await send_message(stream, Message(type=Message.MessageType.PING), deadline_seconds=5)
            await receive_message(stream, Message, bytes_max=100, deadline_seconds=5)
        assert server.dht.status().records == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 12,
        b"\x80\x80\x80\x80\x10",
        b"\x04\xff\xff\xff\xff",
        b"\x02\x08\x04",
        b"\x06\x08\x02\x12\x00\x4a\x00",
        b"\x02\x08\x63",
    ],
)
async def test_malformed_questions_end_their_stream_and_nothing_else(data: bytes) -> None:
    async with open_node(1) as server, open_node(2) as liar:
        await liar.join(server)
        with trio.fail_after(30):
            with pytest.raises(ControlError):
                async with open_stream(liar.host, server.peer_id, PROTOCOL, deadline_seconds=5) as stream:
                    await stream.write(data)
                    await receive_message(stream, Message, bytes_max=100, deadline_seconds=20)
            async with open_stream(liar.host, server.peer_id, PROTOCOL, deadline_seconds=5) as stream:
                await send_message(stream, Message(type=Message.MessageType.PING), deadline_seconds=5)
                answer = await receive_message(stream, Message, bytes_max=100, deadline_seconds=5)
        assert answer.type == Message.MessageType.PING


async def test_one_peer_cannot_take_all_places_of_the_server() -> None:
    async with open_node(1) as server, open_node(2) as greedy, open_node(3) as honest, AsyncExitStack() as stack:
        await greedy.join(server)
        await honest.join(server)
        opened = 0
        for _ in range(INBOUND_STREAMS_PER_PEER_MAX + 2):
            with suppress(ControlError):  # those beyond the limit are reset, some of them while they are opened
                opened += 1
                await stack.enter_async_context(open_stream(greedy.host, server.peer_id, PROTOCOL, deadline_seconds=5))
        assert opened > INBOUND_STREAMS_PER_PEER_MAX
        async with open_stream(honest.host, server.peer_id, PROTOCOL, deadline_seconds=5) as stream:
            await send_message(stream, Message(type=Message.MessageType.PING), deadline_seconds=5)
            await receive_message(stream, Message, bytes_max=100, deadline_seconds=5)


async def test_the_number_of_announced_contents_is_bounded() -> None:
    async with open_node(1) as node:
        for number in range(PROVIDED_MAX):
            node.dht.provide(str(Cid.of(Codec.RAW, number.to_bytes(4))))
        with pytest.raises(ProvideLimitError):
            node.dht.provide(CID)
        node.dht.withdraw(str(Cid.of(Codec.RAW, bytes(4))))
        node.dht.provide(CID)


async def test_the_librarys_dht_and_ours_find_what_the_other_provides() -> None:
    """An independent implementation; it always speaks /ipfs/kad/1.0.0, so ours does here."""
    protocol = str(kad_common.PROTOCOL_ID)
    theirs = Identity(b"\5" * 32)
    other = str(Cid.of(Codec.DAG_PB, b"another model"))
    async with open_node(1, protocol) as ours, open_host(theirs, LISTEN, []) as host:
        library = KadDHT(host, DHTMode.SERVER, strict_validation=True)
        async with background_trio_service(library):
            own = parse_address(str(ours.host.get_addrs()[0]))
            await host.connect(PeerInfo(ID.from_base58(own.peer_id), [Multiaddr(own.transport)]))
            ours.dht.provide(CID)
            with trio.fail_after(60):
                while not ours.dht.status().announced:
                    await trio.sleep(0.1)
                found = await library.find_providers(CID)
                assert str(found[0].peer_id) == ours.peer_id
                assert await library.provide(other)
                while not (providers := await ours.dht.find_providers(other)):
                    await trio.sleep(0.1)
            assert [each.peer_id for each in providers] == [theirs.peer_id]
