"""Two nodes that do not dial each other: one keeps to loopback, the other dials no loopback addresses.

Between them a relay with an address on both sides; everything else is found out by the nodes themselves. That no hole
can be punched here is the point: each refuses the other's addresses, as routers would.
"""

import pytest
import trio

from node.network.adapter import LibP2PNetwork
from node.ports import Call, CallFailedError
from p2p.discovery.addresses import Reach, parse_address
from p2p.discovery.connections import has_direct_connection
from p2p.discovery.service import DiscoveryOptions
from p2p.host import outward_address
from tests.integration.p2p.nodes import LOOPBACK, open_node

OUTSIDE = f"/ip4/{outward_address()}/tcp/0"
needs_network = pytest.mark.skipif("127.0.0.1" in OUTSIDE, reason="this machine has no address but loopback")


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
        open_node(1, listen=[LOOPBACK, OUTSIDE], discovery=DiscoveryOptions(relay_server=True)) as relay,
        open_node(2, of_reach(relay, Reach.LOOPBACK)) as hidden,
        open_node(3, of_reach(relay, Reach.PRIVATE), listen=[OUTSIDE]) as outside,
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
