"""GossipSub, hardened: bounded, judged before it is forwarded, and alive after any message.

Judges are synchronous, because with libp2p 0.8.1 asynchronous ones let duplicates through; and every settings below
that differs from the library's default has a measured reason.
"""

import hashlib
import time
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any

import structlog
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

log = structlog.get_logger(__name__)

RPC_BYTES_MAX = 1 << 20
"""One RPC carries several messages; anything larger ends its stream."""
OFFENCES_MAX = 10
"""Refused messages before a peer is banned: it forwards what an honest peer would have refused too."""
SEEN_MAX = 8192
"""Content hashes remembered, so that a message re-published under another id counts once."""
MESSAGES_PER_SECOND_MAX = 200
"""Budget per forwarding peer; what is above costs us processing power that our own work needs."""
HEARTBEAT_SECONDS = 1
"""The library's 120 s leave a mesh broken for minutes."""


class Verdict(Enum):
    """What a judge makes of a message."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


Judge = Callable[[str, bytes], Verdict]
"""Given the forwarding peer and the bytes. Must not block. An accepted message is forwarded."""


class HardenedPubsub(Pubsub):
    """A Pubsub that no message can end."""

    async def push_msg(self, msg_forwarder: ID, msg: Any) -> None:
        """As the library's, but a failure concerns this message only."""
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:
            log.info("a gossip message could not be processed", peer=str(msg_forwarder), reason=repr(error))


class Gossip:
    """Topics with one judge each."""

    def __init__(self, host: Any, pubsub: HardenedPubsub, message_bytes_max: int) -> None:
        self._host = host
        self._pubsub = pubsub
        self._message_bytes_max = message_bytes_max
        self._own_id = str(host.get_id())
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._offences: defaultdict[str, int] = defaultdict(int)
        self._budgets: dict[str, tuple[float, float]] = {}
        self._banned: list[str] = []
        self.banned_count = 0

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to the network and to one's own judge. Raises ValueError if `data` is too large."""
        if len(data) > self._message_bytes_max:
            raise ValueError(f"a message of {len(data)} bytes is over {self._message_bytes_max}")
        await self._pubsub.publish(topic, data)

    @asynccontextmanager
    async def join(self, topic: str, judge: Judge) -> AsyncIterator[None]:
        """Take part in a topic: `judge` sees each message once; those it accepts are forwarded."""

        def validate(forwarder: ID, message: Any) -> bool:
            try:
                return self._judge(str(forwarder), bytes(message.data), judge)
            except Exception as error:  # a judge's fault must not end the library's service
                log.error("a judge failed; the message is dropped", topic=topic, reason=repr(error))
                return False

        self._pubsub.set_topic_validator(topic, validate, is_async_validator=False)
        subscription = await self._pubsub.subscribe(topic)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drain, subscription)
                yield
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self._pubsub.unsubscribe(topic)
            self._pubsub.remove_topic_validator(topic)

    async def enforce_bans(self) -> None:
        """Disconnect banned peers, for ever: the library's blacklist alone leaves them connected."""
        while True:
            while self._banned:
                peer = self._banned.pop()
                log.warning("a peer is banned for refused messages", peer=peer)
                try:
                    await self._host.disconnect(ID.from_base58(peer))
                except Exception as error:
                    log.debug("the peer was gone already", peer=peer, reason=repr(error))
            await trio.sleep(HEARTBEAT_SECONDS)

    def _judge(self, forwarder: str, data: bytes, judge: Judge) -> bool:
        own = forwarder == self._own_id
        if not own and not self._within_budget(forwarder):
            return False
        if len(data) > self._message_bytes_max:
            self._note_offence(forwarder)
            return False
        digest = hashlib.sha256(data).digest()
        if digest in self._seen:
            return False
        self._seen[digest] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        verdict = judge(forwarder, data)
        if verdict is Verdict.REJECT and not own:
            self._note_offence(forwarder)
        return verdict is Verdict.ACCEPT

    def _note_offence(self, peer: str) -> None:
        self._offences[peer] += 1
        if self._offences[peer] == OFFENCES_MAX:
            self._pubsub.add_to_blacklist(ID.from_base58(peer))
            self._banned.append(peer)
            self.banned_count += 1

    def _within_budget(self, peer: str) -> bool:
        now = trio.current_time()
        tokens, at = self._budgets.get(peer, (float(MESSAGES_PER_SECOND_MAX), now))
        tokens = min(float(MESSAGES_PER_SECOND_MAX), tokens + (now - at) * MESSAGES_PER_SECOND_MAX)
        allowed = tokens >= 1
        self._budgets[peer] = (tokens - 1 if allowed else tokens, now)
        return allowed


@asynccontextmanager
async def open_gossip(host: Any, *, message_bytes_max: int) -> AsyncIterator[Gossip]:
    """Run GossipSub on `host` until the context is left."""
    router = GossipSub(
        [PROTOCOL_ID_V12, PROTOCOL_ID_V11],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=HEARTBEAT_SECONDS,
        heartbeat_initial_delay=0.1,
        spam_protection_enabled=False,  # drops above 10 messages a second; our own budget is per peer
        eclipse_protection_enabled=False,
        adaptive_gossip_enabled=False,
    )
    pubsub = HardenedPubsub(host, router, strict_signing=True, max_inbound_rpc_size=RPC_BYTES_MAX)
    pubsub.counter = time.time_ns()  # seconds, the library's choice, repeat after a quick restart
    async with background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        async with trio.open_nursery() as nursery:
            gossip = Gossip(host, pubsub, message_bytes_max)
            nursery.start_soon(gossip.enforce_bans)
            yield gossip
            nursery.cancel_scope.cancel()


async def _drain(subscription: Any) -> None:
    """The judge has had every message: the library's own queue only needs to stay empty."""
    while True:
        await subscription.get()
