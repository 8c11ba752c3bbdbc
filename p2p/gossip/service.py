"""Topics with one judge each: what is published goes in batches, what comes is judged item by item.

*Purpose.* The one thing the rest of the node uses of gossip. *Detail.* An item is what a service says; a message is
what travels, signed by its maker's libp2p key, with the items of about a second. A message is forwarded if it brought
an item that is accepted and was not forwarded yet, and none that is refused; so a message cannot be silenced by handing
its items around in another one, and old items cannot be kept travelling by wrapping them anew.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import structlog
import trio
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service

from p2p.gossip.batch import MESSAGE_BYTES_MAX, decode_batch, item_bytes_max
from p2p.gossip.budget import Budget
from p2p.gossip.memory import Memory
from p2p.gossip.metrics import Counters, Drop, GossipMetrics
from p2p.gossip.outbox import Outbox
from p2p.gossip.pubsub import HardenedPubsub
from p2p.gossip.router import HEARTBEAT_SECONDS
from p2p.gossip.verdict import Judge, MalformedError, Verdict
from p2p.standing import Ban, Standing

log = structlog.get_logger(__name__)

ITEMS_PER_SECOND_MAX = 500
ITEMS_BURST = 1000
"""New items judged for one forwarding peer: each may cost a signature check of 0.1 ms."""
SEEN_ITEMS_MAX = 16384
"""Per topic: content hashes remembered, so that an item counts once however it is wrapped."""


class _Fate(Enum):
    """What became of an item."""

    UNWANTED = "unwanted"
    HELD = "held"
    """Accepted, and not forwarded yet: its message was refused for another item."""
    FORWARDED = "forwarded"


@dataclass(slots=True)
class _Topic:
    judge: Judge
    seen: Memory[_Fate] = field(default_factory=lambda: Memory(SEEN_ITEMS_MAX))


class Gossip:
    """Publishes and receives. Made by `open_gossip`."""

    def __init__(self, host: Any, *, standing: Standing, message_bytes_max: int) -> None:
        self._own_name = str(host.get_id())
        self._topics: dict[str, _Topic] = {}
        self._counters = Counters()
        self._outbox = Outbox(message_bytes_max)
        self._outbox_wake = trio.Event()
        self._item_bytes_max = item_bytes_max(message_bytes_max)
        self._items = Budget(ITEMS_PER_SECOND_MAX, ITEMS_BURST, trio.current_time)
        self.pubsub = HardenedPubsub(
            host,
            standing=standing,
            counters=self._counters,
            judge=self._judge_message,
            message_bytes_max=message_bytes_max,
        )
        standing.on_ban(self._expel)

    def metrics(self) -> GossipMetrics:
        """What was done so far, and at what cost."""
        self._counters.dropped[Drop.OUTBOX] = self._outbox.dropped
        mesh = {topic: len(self.pubsub.router.mesh.get(topic, ())) for topic in self._topics}
        return self._counters.snapshot(peers=len(self.pubsub.peers), mesh=mesh)

    async def publish(self, topic: str, item: bytes, *, urgent: bool = False) -> None:
        """Say something: to one's own judge at once, to peers with the topic's next message.

        That goes within a second, or, if it is `urgent`, now. What one's own judge does not accept goes nowhere, and
        neither do the same bytes again. Raises ValueError if `item` is empty or too large.
        """
        await trio.lowlevel.checkpoint()
        if not 0 < len(item) <= self._item_bytes_max:
            raise ValueError(f"an item of {len(item)} bytes: 1 to {self._item_bytes_max} fit into a message")
        joined = self._topics.get(topic)
        if joined is not None:
            digest = hashlib.sha256(item).digest()
            if digest in joined.seen or self._judge_item(topic, joined, self._own_name, item) is not Verdict.ACCEPT:
                return
            joined.seen.put(digest, _Fate.FORWARDED)
        self._counters.published_items += 1
        now = trio.current_time()
        if urgent and self._outbox.may_hurry(topic, now):
            message = self._outbox.take(topic, now, first=item)
            if message is not None:
                self.pubsub.send_own(topic, message)
            return
        self._outbox.add(topic, item, now)
        self._outbox_wake.set()

    @asynccontextmanager
    async def join(self, topic: str, judge: Judge) -> AsyncIterator[None]:
        """Take part in a topic: `judge` sees each item once, and delivers those it accepts."""
        if topic in self._topics:
            raise ValueError(f"{topic} has a judge already")
        self._topics[topic] = _Topic(judge)
        try:
            await self.pubsub.subscribe(topic)
            yield
        finally:
            del self._topics[topic]
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self.pubsub.unsubscribe(topic)

    async def run(self) -> None:
        """Send what is due, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_batches)
            nursery.start_soon(self._keep_house)

    async def _send_batches(self) -> None:
        while True:
            self._outbox_wake = trio.Event()
            due_at = self._outbox.next_due_at()
            with trio.move_on_at(due_at):
                await self._outbox_wake.wait()
            now = trio.current_time()
            for topic in self._outbox.due(now):
                message = self._outbox.take(topic, now)
                if message is not None:
                    self.pubsub.send_own(topic, message)

    async def _keep_house(self) -> None:
        """Let tables shrink."""
        while True:
            await trio.sleep(HEARTBEAT_SECONDS)
            self._items.sweep()
            self.pubsub.sweep()

    def _expel(self, ban: Ban) -> None:
        """Out of every mesh at once; the host disconnects it in a moment."""
        try:
            peer = ID.from_base58(ban.peer)
        except ValueError:  # an address
            return
        self.pubsub.expel(peer)

    def _judge_message(self, topic: str, forwarder: str, data: bytes) -> Verdict:
        joined = self._topics.get(topic)
        items = decode_batch(data)
        if joined is None or items is None:
            return Verdict.IGNORE
        held: list[bytes] = []
        for item in items:
            digest = hashlib.sha256(item).digest()
            fate = joined.seen.get(digest)
            if fate is None:
                if not self._items.take(forwarder):
                    self._counters.drop(Drop.BUDGET)
                    continue
                verdict = self._judge_item(topic, joined, forwarder, item)
                if verdict is Verdict.REJECT:
                    return Verdict.REJECT
                fate = _Fate.HELD if verdict is Verdict.ACCEPT else _Fate.UNWANTED
                joined.seen.put(digest, fate)
                self._counters.delivered_items += verdict is Verdict.ACCEPT
            if fate is _Fate.HELD:
                held.append(digest)
        for digest in held:
            joined.seen.put(digest, _Fate.FORWARDED)
        return Verdict.ACCEPT if held else Verdict.IGNORE

    def _judge_item(self, topic: str, joined: _Topic, forwarder: str, item: bytes) -> Verdict:
        try:
            return joined.judge(forwarder, item)
        except MalformedError:
            raise
        except Exception as error:  # a judge's fault must neither end a stream nor be blamed on a peer
            self._counters.drop(Drop.FAILED)
            log.error("a judge failed; the item is dropped", topic=topic, reason=repr(error))
            return Verdict.IGNORE


@asynccontextmanager
async def open_gossip(
    host: Any, *, standing: Standing, message_bytes_max: int = MESSAGE_BYTES_MAX
) -> AsyncIterator[Gossip]:
    """Run GossipSub on `host` until the context is left; who offends is blamed in `standing`."""
    gossip = Gossip(host, standing=standing, message_bytes_max=message_bytes_max)
    async with background_trio_service(gossip.pubsub), background_trio_service(gossip.pubsub.router):
        await gossip.pubsub.wait_until_ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gossip.run)
            yield gossip
            nursery.cancel_scope.cancel()
