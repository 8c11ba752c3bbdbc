"""Two nodes that do not dial each other: one keeps to loopback, the other dials no loopback addresses.

Between them a relay with an address on both sides; everything else is found out by the nodes themselves. That no hole
can be punched here is the point: each refuses the other's addresses, as routers would.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from coincurve import PrivateKey

from node.network.adapter import LibP2PNetwork, open_network
from node.ports import Call, CallFailedError
from node.protocol.signatures import address_of, sign
from p2p.discovery.addresses import Reach, parse_address
from p2p.discovery.connections import has_direct_connection
from p2p.discovery.service import DiscoveryOptions
from p2p.host import outward_address

HERE = "/ip4/127.0.0.1/tcp/0"
OUTSIDE = f"/ip4/{outward_address()}/tcp/0"
needs_network = pytest.mark.skipif("127.0.0.1" in OUTSIDE, reason="this machine has no address but loopback")


@asynccontextmanager
async def node(
    number: int, listen: list[str], bootstrap: list[str], options: DiscoveryOptions
) -> AsyncIterator[LibP2PNetwork]:
    key = PrivateKey(number.to_bytes(32))
    async with open_network(
        seed=bytes([number]) * 32,
        listen=listen,
        announce=[],
        bootstrap=bootstrap,
        network_id="test",
        account=address_of(key.public_key),
        sign=lambda digest: sign(key, digest),
        wall_clock=lambda: int(time.time()),
        discovery=options,
    ) as network:
        yield network


def of_reach(network: LibP2PNetwork, reach: Reach) -> list[str]:
    return [address for address in network.addresses if parse_address(address).reach is reach]


async def echo(call: Call) -> None:
    await call.send(call.payload)


async def ask(network: LibP2PNetwork, other: LibP2PNetwork) -> bytes:
    """Call until it works: sessions of the first moments may go with connections that are replaced."""
    while True:
        try:
            async with network.call(other.peer_id, "echo", b"hello", deadline_seconds=10) as call:
                return await call.receive()
        except (CallFailedError, trio.EndOfChannel):
            await trio.sleep(0.2)


@needs_network
async def test_nodes_that_cannot_dial_each_other_find_each_other_and_answer_calls_through_a_relay() -> None:
    async with (
        node(1, [HERE, OUTSIDE], [], DiscoveryOptions(relay_server=True)) as relay,
        node(2, [HERE], of_reach(relay, Reach.LOOPBACK), DiscoveryOptions()) as hidden,
        node(3, [OUTSIDE], of_reach(relay, Reach.PRIVATE), DiscoveryOptions()) as outside,
    ):
        hidden.serve("echo", echo, concurrency=4)
        outside.serve("echo", echo, concurrency=4)
        with trio.fail_after(90):
            while hidden.peer_id not in {peer.peer_id for peer in outside.peers()}:
                await trio.sleep(0.1)
            assert await ask(outside, hidden) == b"hello"
            assert await ask(hidden, outside) == b"hello"
        assert not has_direct_connection(outside.host, hidden.peer_id)
        status = hidden.discovery.status()
        assert (status.relay_places, status.relayed) == ((relay.peer_id,), 1)
