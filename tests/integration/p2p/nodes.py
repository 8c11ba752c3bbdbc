"""Real nodes on this machine: each has a number, of which its peer id and its account are made."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from coincurve import PrivateKey

from node.network.adapter import LibP2PNetwork, open_network
from node.protocol.signatures import address_of, sign
from p2p.discovery.dht import DhtStatus
from p2p.discovery.service import Discovery, DiscoveryOptions
from p2p.standing import Standing

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@asynccontextmanager
async def open_node(
    number: int,
    bootstrap: Sequence[str] = (),
    *,
    listen: Sequence[str] = (LOOPBACK,),
    standing: Standing | None = None,
    discovery: DiscoveryOptions | None = None,
) -> AsyncIterator[LibP2PNetwork]:
    """Yield the network of node `number`, which knows `bootstrap` at its start."""
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
        standing=standing,
        discovery=discovery,
    ) as network:
        yield network


def dht_of(discovery: Discovery) -> DhtStatus:
    """What the DHT of a node says of itself; the node has one."""
    status = discovery.status().dht
    assert status is not None
    return status
