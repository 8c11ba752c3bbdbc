"""The network port over real libp2p hosts on loopback."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from node.network.adapter import LibP2PNetwork
from node.ports import Call, CallFailedError, Validity
from node.protocol.identifiers import PeerId
from node.protocol.messages import Message, Presence, Topic
from p2p.gossip import Verdict
from p2p.gossip.batch import MESSAGE_BYTES_MAX
from p2p.host import PortInUseError
from p2p.streams import PROTOCOLS
from tests.integration.p2p.nodes import open_node

TOPIC_PATH = "/quern/1/test/presence"


@asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[LibP2PNetwork]]:
    """`count` nodes that know only the first at their start, all connected to all."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_node(1))
        rest = [await stack.enter_async_context(open_node(number, first.addresses)) for number in range(2, count + 1)]
        everyone = [first, *rest]
        with trio.fail_after(40):
            while any(len(network.peers()) < count - 1 for network in everyone):
                await trio.sleep(0.1)
        yield everyone


def presence(network: LibP2PNetwork, load: int = 0) -> Presence:
    return Presence(network.peer_id, "127.0.0.1", 4802, (), load, "test", int(time.time()) + 60)


def accept(_peer: PeerId, _message: Message) -> Validity:
    return Validity.ACCEPT


async def echo(call: Call) -> None:
    await call.send(call.payload)
    while True:
        try:
            await call.send(await call.receive())
        except CallFailedError:
            return


async def test_nodes_that_know_one_peer_get_to_know_all_and_gossip_reaches_them() -> None:
    async with nodes(3) as everyone, AsyncExitStack() as stack:
        inboxes = [await stack.enter_async_context(n.subscribe(Topic.PRESENCE, accept)) for n in everyone]
        with trio.fail_after(30):
            for index, inbox in enumerate(inboxes):
                received: set[int] = set()
                while received < {100, 101, 102}:
                    with trio.move_on_after(1):  # a mesh takes a heartbeat or two to form
                        for number, network in enumerate(everyone):
                            await network.publish(presence(network, 100 + number))
                        async for message in inbox:
                            assert isinstance(message.body, Presence)
                            received.add(message.body.load)
                            if received >= {100, 101, 102}:
                                break
                assert received >= {100, 101, 102}, index


async def test_a_peer_that_sends_malformed_and_oversized_messages_is_not_heard_and_finally_banned() -> None:
    async with nodes(2) as (honest, liar), honest.subscribe(Topic.PRESENCE, accept) as inbox:
        async with liar._gossip.join(TOPIC_PATH, lambda *_: Verdict.ACCEPT):
            with trio.fail_after(30):
                while not honest._gossip.pubsub.is_peer_blacklisted(liar._gossip.pubsub.my_id):
                    for number in range(10):
                        nonsense = b"nonsense %d %d" % (number, time.time_ns())
                        oversized = nonsense + bytes(MESSAGE_BYTES_MAX * (number % 2))
                        liar._gossip.pubsub.send_own(TOPIC_PATH, oversized)
                    await trio.sleep(0.3)
            with trio.fail_after(10):
                while honest.peers():
                    await trio.sleep(0.1)
        await honest.publish(presence(honest, 7))  # it still works
        with trio.fail_after(5):
            async for message in inbox:
                assert isinstance(message.body, Presence)
                assert message.body.load == 7
                break


async def test_an_unwanted_message_is_not_delivered() -> None:
    async with nodes(2) as (one, other):
        judged = trio.Event()

        def refuse(_peer: PeerId, _message: Message) -> Validity:
            judged.set()
            return Validity.IGNORE

        async with one.subscribe(Topic.PRESENCE, refuse) as inbox, other.subscribe(Topic.PRESENCE, accept):
            with trio.fail_after(20):
                while not judged.is_set():
                    await other.publish(presence(other))
                    await trio.sleep(0.3)
            with trio.move_on_after(0.5) as nothing:
                async for _ in inbox:
                    pytest.fail("an ignored message was delivered")
            assert nothing.cancelled_caught


async def test_calls_stream_both_ways_in_order_past_their_credit() -> None:
    async with nodes(2) as (client, server):
        server.serve("echo", echo, concurrency=4)
        async with client.call(server.peer_id, "echo", b"first", deadline_seconds=30) as call:
            assert await call.receive() == b"first"
            for number in range(500):
                await call.send(b"%d" % number)
                assert await call.receive() == b"%d" % number


async def test_a_sender_waits_for_a_slow_reader() -> None:
    sent = 0

    async def flood(call: Call) -> None:
        nonlocal sent
        for _ in range(200):
            await call.send(bytes(10_000))
            sent += 1

    async with nodes(2) as (client, server):
        server.serve("flood", flood, concurrency=1)
        async with client.call(server.peer_id, "flood", b"", deadline_seconds=30) as call:
            await call.receive()
            seen = 0
            while seen != sent:  # until it waits
                seen = sent
                await trio.sleep(0.5)
            assert sent < 200
            count = 1
            with pytest.raises(trio.EndOfChannel):
                while True:
                    await call.receive()
                    count += 1
            assert count == 200


async def test_leaving_a_call_cancels_its_handler() -> None:
    cancelled = trio.Event()

    async def wait(call: Call) -> None:
        await call.send(b"here")
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with nodes(2) as (client, server):
        server.serve("wait", wait, concurrency=1)
        async with client.call(server.peer_id, "wait", b"", deadline_seconds=30) as call:
            await call.receive()
        with trio.fail_after(5):
            await cancelled.wait()


async def test_failures_have_their_words() -> None:
    async def refuse(_call: Call) -> None:
        raise CallFailedError("not-serving", "no such model")

    async def wait(call: Call) -> None:
        await call.send(b"here")
        await trio.sleep_forever()

    async with nodes(2) as (client, server):
        server.serve("refuse", refuse, concurrency=1)
        server.serve("wait", wait, concurrency=1)

        async def code_of(peer: PeerId, method: str, seconds: float = 10) -> str:
            with pytest.raises(CallFailedError) as caught:
                async with client.call(peer, method, b"", deadline_seconds=seconds) as call:
                    while True:
                        await call.receive()
            return caught.value.code

        assert await code_of(server.peer_id, "refuse") == "not-serving"
        assert await code_of(server.peer_id, "absent") == "no-method"
        assert await code_of(server.peer_id, "wait", 0.5) == "deadline"
        async with client.call(server.peer_id, "wait", b"", deadline_seconds=10) as call:
            await call.receive()
            assert await code_of(server.peer_id, "wait") == "busy"
        nobody = PeerId("12D3KooWGRUVh7FcjoRbUKBdTvRFDxDHDkJXaJ1gMBoRyGWHAJhV")
        assert await code_of(nobody, "echo") == "unreachable"


async def test_a_call_is_lost_when_its_peer_dies() -> None:
    async def wait(call: Call) -> None:
        await call.send(b"here")
        await trio.sleep_forever()

    async def serve(task_status: Any) -> None:
        with trio.CancelScope() as life:
            async with open_node(2) as server:
                server.serve("wait", wait, concurrency=1)
                task_status.started((server, life))
                await trio.sleep_forever()

    async with open_node(1) as client, trio.open_nursery() as nursery:
        server, life = await nursery.start(serve)
        await client.connect(server.addresses[0])
        with pytest.raises(CallFailedError) as caught, trio.fail_after(20):
            async with client.call(server.peer_id, "wait", b"", deadline_seconds=30) as call:
                await call.receive()
                life.cancel()
                await call.receive()
        assert caught.value.code == "lost"


async def test_a_peer_that_was_away_is_reached_as_soon_as_it_is_back() -> None:
    async with open_node(2) as later:
        address = later.addresses[0]
    async with open_node(1) as client:
        with pytest.raises(CallFailedError):
            await client.connect(address)
        async with open_node(2, listen=[address.split("/p2p/")[0]]):
            await client.connect(address)


async def test_a_node_that_listens_everywhere_names_an_address_that_can_be_dialled() -> None:
    async with open_node(1) as client, open_node(2, listen=["/ip4/0.0.0.0/tcp/0"]) as server:
        assert server.addresses
        assert not any("0.0.0.0" in address for address in server.addresses)
        await client.connect(server.addresses[0])


async def test_a_port_in_use_is_named() -> None:
    async with open_node(1) as first:
        address = first.addresses[0].split("/p2p/")[0]
        with pytest.raises(PortInUseError, match="in use"):
            async with open_node(2, listen=[address]):
                pass


async def test_a_peer_of_another_version_is_told_apart_from_one_that_is_gone() -> None:
    async with open_node(1) as here, open_node(2) as elsewhere:
        spoken = elsewhere.host.get_mux().handlers
        handler = next(spoken.pop(protocol) for protocol in PROTOCOLS)
        spoken["/quern/requests/999"] = handler
        await here.connect(elsewhere.addresses[0])
        with pytest.raises(CallFailedError) as caught:
            async with here.call(elsewhere.peer_id, "echo", b"", deadline_seconds=10):
                pass
        assert caught.value.code == "unsupported-version"
        assert elsewhere.peer_id in {peer.peer_id for peer in here.peers()}  # refused, and no worse
