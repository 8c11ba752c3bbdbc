"""CPU per delivery of gossip, ours against libp2p's own GossipSub; 16 hosts in one process on loopback, 1 KB messages.

.venv/bin/python -m benchmarks.gossip

Both get the same topology and the same work: every message is judged, forwarded through the mesh and counted where it
arrives. Ours runs on our host (p2p/host.py), the library's on its own, with the settings with which it delivers
everything; without them it loses most of a burst. Ours publishes urgent items, so that one item is one message.
"""

import functools
import gc
import logging
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import trio
from libp2p import new_host
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub import pubsub as library
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2p.gossip import Verdict, open_gossip
from p2p.gossip.outbox import PERIOD_SECONDS, URGENT_PER_SECOND_MAX
from p2p.host import listening_addresses, open_host
from p2p.identity import Identity
from p2p.standing import Standing

HOSTS = 16
NEIGHBOURS = 8
"""Each host dials the next so many on a ring: enough for meshes of six, and not everyone knows everyone."""
MESSAGE_BYTES = 1024
QUEUE_SIZE = 4096
"""Of the library's queues: with its own 32 it loses most of a burst."""
ROUNDS = 3
MESSAGES = 3
"""From each host, the next when the one before has arrived: the library's hosts can bear no pace on a busy machine."""
BUDGET_MESSAGES = 8
"""From each host, as many a second as one topic takes: the stated budget."""
SETTLE_SECONDS = 3.0
"""Heartbeats in which meshes form."""
IDLE_SECONDS = 3.0
CONNECT_SECONDS_MAX = 60.0
QUIET_SECONDS = 10.0
"""Without a delivery for so long, what is missing is lost."""
TOPIC = "/benchmark"
LISTEN = "/ip4/127.0.0.1/tcp/0"

Deliver = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Node:
    """A host that takes part."""

    publish: Callable[[bytes], Awaitable[None]]
    pubsub: library.Pubsub

    def knows(self, count: int) -> bool:
        """Whether so many peers are known to follow the topic."""
        return len(self.pubsub.peer_topics.get(TOPIC, ())) >= count and len(self.pubsub.peers) >= count


@dataclass(slots=True)
class Tally:
    """What arrived, by host."""

    delivered: int = 0
    last_at: float = 0.0

    def take(self, _data: bytes) -> None:
        """Count a message that arrived."""
        self.delivered += 1
        self.last_at = trio.current_time()

    async def wait_for(self, expected: int) -> None:
        """Wait until so many arrived, or the rest is lost."""
        self.last_at = trio.current_time()
        # Polled: an event for each delivery would be a cost of the benchmark's own.
        while self.delivered < expected and trio.current_time() < self.last_at + QUIET_SECONDS:  # noqa: ASYNC110
            await trio.sleep(0.02)


@asynccontextmanager
async def ours(host: Any, deliver: Deliver) -> AsyncIterator[Node]:
    """Run our gossip on `host`."""
    own = str(host.get_id())

    def judge(forwarder: str, data: bytes) -> Verdict:
        if forwarder != own:
            deliver(data)
        return Verdict.ACCEPT

    async with open_gossip(host, standing=Standing(time.time)) as gossip, gossip.join(TOPIC, judge):

        async def publish(data: bytes) -> None:
            await gossip.publish(TOPIC, data, urgent=True)

        yield Node(publish, gossip.pubsub)


@asynccontextmanager
async def stock(host: Any, deliver: Deliver) -> AsyncIterator[Node]:
    """Run libp2p's GossipSub on `host`, set up so that it delivers everything."""
    own = host.get_id()
    router = GossipSub(
        [PROTOCOL_ID_V12, PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        spam_protection_enabled=False,
        eclipse_protection_enabled=False,
        adaptive_gossip_enabled=False,
    )
    pubsub = library.Pubsub(host, router, strict_signing=True, max_inbound_rpc_size=1 << 20)
    pubsub.counter = time.time_ns()

    def validate(forwarder: ID, message: Any) -> bool:
        if forwarder != own:
            deliver(message.data)
        return True

    async def drain(subscription: Any) -> None:
        while True:
            await subscription.get()

    async with background_trio_service(pubsub), background_trio_service(router), trio.open_nursery() as nursery:
        await pubsub.wait_until_ready()
        pubsub.set_topic_validator(TOPIC, validate, is_async_validator=False)
        nursery.start_soon(drain, await pubsub.subscribe(TOPIC))

        async def publish(data: bytes) -> None:
            await pubsub.publish(TOPIC, data)

        yield Node(publish, pubsub)
        nursery.cancel_scope.cancel()
        pubsub.seen_messages.stop()


@asynccontextmanager
async def our_host(identity: Identity) -> AsyncIterator[Any]:
    """A host of ours."""
    async with open_host(identity, [LISTEN], []) as host:
        yield host


@asynccontextmanager
async def stock_host(identity: Identity) -> AsyncIterator[Any]:
    """A host of the library."""
    quiet = ConnectionConfig(min_connections=0, low_watermark=0)
    host: Any = new_host(key_pair=identity.key_pair, connection_config=quiet)
    async with host.run([Multiaddr(LISTEN)]):
        try:
            yield host
        finally:
            await host.close()


KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "ours": (our_host, ours),
    "libp2p": (stock_host, stock),
}


@dataclass(frozen=True, slots=True)
class Result:
    """Of one measurement."""

    milliseconds: float
    """CPU per delivery, without what the hosts need when nothing is said."""
    idle: float
    """Milliseconds of CPU a second when nothing is said, of all hosts together."""
    share: float
    """Of the deliveries that arrived."""


async def measure(name: str, rate: int | None, messages: int, note: Callable[[Result], None]) -> None:
    """Have every host send `messages` and note the result before the hosts are closed.

    They go `rate` a second, or, without a rate, each when the one before has arrived everywhere.
    """
    open_one, kind = KINDS[name]
    tally = Tally()
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(open_one(Identity(bytes([n + 1]) * 32))) for n in range(HOSTS)]
        nodes: list[Node] = [await stack.enter_async_context(kind(host, tally.take)) for host in hosts]
        addresses = [info_from_p2p_addr(Multiaddr(listening_addresses(host)[0])) for host in hosts]
        async with trio.open_nursery() as nursery:
            for number, host in enumerate(hosts):
                for step in range(1, NEIGHBOURS // 2 + 1):
                    nursery.start_soon(host.connect, addresses[(number + step) % HOSTS])
        with trio.fail_after(CONNECT_SECONDS_MAX):
            # Polled: libp2p signals neither connections nor subscriptions.
            while not all(node.knows(NEIGHBOURS) for node in nodes):  # noqa: ASYNC110
                await trio.sleep(0.1)
        await trio.sleep(SETTLE_SECONDS)
        gc.collect()
        idle_begin = time.process_time()
        await trio.sleep(IDLE_SECONDS)
        idle = (time.process_time() - idle_begin) / IDLE_SECONDS
        tally.delivered = 0
        begin, begin_at = time.process_time(), time.perf_counter()
        for number in range(messages):
            for host_number, node in enumerate(nodes):
                text = b"%d/%d/" % (host_number, number)
                await node.publish(text + bytes(MESSAGE_BYTES - len(text)))
            if rate is not None:
                await trio.sleep(PERIOD_SECONDS / rate)
            if rate is None or number == messages - 1:
                await tally.wait_for((number + 1) * HOSTS * (HOSTS - 1))
        expected = messages * HOSTS * (HOSTS - 1)
        spent = time.process_time() - begin - idle * (time.perf_counter() - begin_at)
        note(Result(1000 * spent / max(1, tally.delivered), 1000 * idle, tally.delivered / expected))


def run(name: str, rate: int | None, messages: int) -> Result:
    """Return the result of one measurement, in a run of its own."""
    results: list[Result] = []
    try:
        trio.run(measure, name, rate, messages, results.append)
    except Exception:
        if not results:  # many of the library's hosts cannot be closed at once without an error; that is not measured
            raise
    return results[0]


def main() -> None:
    """Measure both in turns and print the medians."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    library.SUBSCRIPTION_CHANNEL_SIZE = QUEUE_SIZE
    vars(library)["RpcQueue"] = functools.partial(RpcQueue, max_size=QUEUE_SIZE)
    results: dict[str, list[Result]] = {name: [] for name in KINDS}
    for _ in range(ROUNDS):
        for name in KINDS:
            results[name].append(run(name, None, MESSAGES))
    costs = {name: statistics.median(result.milliseconds for result in results[name]) for name in KINDS}
    print(f"{HOSTS} hosts, each sends a message of {MESSAGE_BYTES} bytes, {MESSAGES} times:")
    for name in KINDS:
        share = min(result.share for result in results[name])
        idle = statistics.median(result.idle for result in results[name])
        print(f"  {name:8} {costs[name]:6.2f} ms per delivery, {share:.1%} arrived; idle {idle:.0f} ms a second")
    print(f"  ratio    {costs['ours'] / costs['libp2p']:6.2f}  (aim: 0.60 or less)")
    most = run("ours", URGENT_PER_SECOND_MAX, BUDGET_MESSAGES)
    print(f"{HOSTS} hosts, {URGENT_PER_SECOND_MAX} messages per host and second, the budget of a topic:")
    print(f"  ours     {most.milliseconds:6.2f} ms per delivery, {most.share:.1%} arrived  (aim: 100 %)")


if __name__ == "__main__":
    main()
