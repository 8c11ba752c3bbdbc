"""The Network port of simulated nodes: sealed messages and calls over links with latency.

Gossip reaches every node that is up, after the latency of the pair, as verified wire bytes: each receiver unseals and
judges as it would from libp2p. Items go together, at most one message per topic, node and second, urgent ones at once,
as from the real layer. What arrives within a millisecond arrives at its end, in the order in which it was sent: one
task hands over all of it, where one for each message and receiver would cost more than all that receivers do with it.
Meshes, budgets and bans belong to that layer and are tested there.
"""

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from netsim.clock import wall_clock
from netsim.ledger import simulated_consent
from netsim.ticks import tick_after, until_tick
from netsim.trace import Trace
from node.ports import CallFailedError, CallHandler, MessageValidator, PeerStatus, TakeChunk, Validity
from node.protocol.identifiers import Address, PeerId
from node.protocol.messages import Message, MessageBody, MessageError, Topic, seal, unseal
from node.protocol.signatures import DigestSigner

NETWORK_ID = "simulated"
INBOX_MESSAGES_MAX = 4096
"""Messages waiting for a subscriber; more are dropped and counted in the trace, as the real layer does."""
MESSAGE_SECONDS = 1.0
GATHER_SECONDS = 0.05
"""As in the real layer: a message goes so long after its first item, and a second after the topic's last message."""
CALL_CHUNKS_MAX = 64
"""Chunks in flight in one direction of a call: the credit of the real layer."""


class Switchboard:
    """All links of the simulated network. Latency of a pair is drawn once, from the seed."""

    def __init__(self, nursery: trio.Nursery, seed: int, trace: Trace) -> None:
        self.nursery = nursery
        self.trace = trace
        self._seed = seed
        self._nodes: dict[PeerId, SimulatedNetwork] = {}
        self._latencies: dict[tuple[PeerId, PeerId], float] = {}
        """Of each pair that met, both ways."""
        self._arriving: dict[int, list[tuple[SimulatedNetwork, PeerId, Topic, list[bytes]]]] = {}
        """By tick: receiver, sender and items."""
        self.changes = 0
        """How often a node came up or went down."""

    def join(self, node: "SimulatedNetwork") -> None:
        """Bring a node up."""
        self._nodes[node.peer_id] = node
        self.changes += 1

    def leave(self, peer_id: PeerId) -> None:
        """Take a node down: messages and calls to it are lost, those that it was answering as well."""
        node = self._nodes.pop(peer_id, None)
        if node is not None:
            node.drop_calls()
        self.changes += 1

    def nodes(self) -> tuple["SimulatedNetwork", ...]:
        """Nodes that are up, in the order they joined."""
        return tuple(self._nodes.values())

    def find(self, peer_id: PeerId) -> "SimulatedNetwork | None":
        """Return the node with `peer_id` if it is up."""
        return self._nodes.get(peer_id)

    def latency_seconds(self, one: PeerId, other: PeerId) -> float:
        """5 to 105 ms, the same both ways."""
        known = self._latencies.get((one, other))
        if known is None:
            drawn = random.Random(f"{self._seed}/{min(one, other)}/{max(one, other)}").random()
            known = self._latencies[one, other] = 0.0 if one == other else 0.005 + 0.1 * drawn
        return known

    def send(self, sender: "SimulatedNetwork", topic: Topic, items: list[bytes]) -> None:
        """Have everyone else who is up, now and at arrival, take the items."""
        for node in self._nodes.values():
            if node is sender:
                continue
            tick = tick_after(self.latency_seconds(sender.peer_id, node.peer_id))
            if tick not in self._arriving:
                self._arriving[tick] = []
                self.nursery.start_soon(self._hand_over, tick)
            self._arriving[tick].append((node, sender.peer_id, topic, items))

    async def _hand_over(self, tick: int) -> None:
        await until_tick(tick)
        for node, sender, topic, items in self._arriving.pop(tick):
            if self._nodes.get(node.peer_id) is node:
                for data in items:
                    node.accept(sender, topic, data)


class Inbox:
    """What a subscriber has not taken yet. Who takes waits only where nothing is there."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._waiting = trio.lowlevel.ParkingLot()

    def put(self, message: Message) -> bool:
        """Add a message; False if there is no room."""
        if len(self._messages) >= INBOX_MESSAGES_MAX:
            return False
        self._messages.append(message)
        self._waiting.unpark()
        return True

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        while not self._messages:
            await self._waiting.park()
        return self._messages.popleft()


@dataclass(slots=True)
class SimulatedCall:
    """One end of a call."""

    peer_id: PeerId
    payload: bytes
    latency_seconds: float
    outgoing: trio.MemorySendChannel[tuple[float, bytes]]
    incoming: trio.MemoryReceiveChannel[tuple[float, bytes]]
    failure: "CallFailure"
    take_now: TakeChunk | None = None

    async def send(self, data: bytes) -> None:
        """Send a chunk; it arrives after the link's latency."""
        try:
            await self.outgoing.send((trio.current_time() + self.latency_seconds, data))
        except trio.BrokenResourceError as error:
            raise self.failure.error or CallFailedError("lost", "the other end is gone") from error

    @property
    def may_send_now(self) -> bool:
        """Whether the link has room for a chunk."""
        statistics = self.outgoing.statistics()
        has_room = statistics.current_buffer_used < statistics.max_buffer_size
        return has_room and statistics.open_receive_channels > 0 and self.failure.error is None

    def send_now(self, data: bytes) -> None:
        """Send a chunk without waiting."""
        self.outgoing.send_nowait((trio.current_time() + self.latency_seconds, data))

    async def receive(self) -> bytes:
        """Return the next chunk."""
        while True:
            try:
                arrives_at, data = await self.incoming.receive()
            except trio.EndOfChannel:
                if self.failure.error is not None:
                    raise self.failure.error from None
                raise
            await trio.sleep_until(max(arrives_at, trio.current_time()))
            if self.take_now is None or not self.take_now(data):
                return data

    def hand_to(self, take_now: TakeChunk) -> None:
        """Offer chunks to `take_now` first."""
        self.take_now = take_now


@dataclass(slots=True)
class CallFailure:
    """Why the handler ended a call, shared by both ends."""

    error: CallFailedError | None = None


@dataclass(slots=True)
class Served:
    """A method, its handler and how many calls it serves at once."""

    handler: CallHandler
    concurrency: int
    running: int = 0
    calls: dict[trio.CancelScope, "SimulatedCall"] = field(default_factory=dict)
    """Those that are being served."""


@dataclass(slots=True, eq=False)
class SimulatedNetwork:
    """The Network port of one node."""

    switchboard: Switchboard
    peer_id: PeerId
    account: Address
    sign: DigestSigner
    _validators: dict[Topic, MessageValidator] = field(default_factory=dict)
    _inboxes: dict[Topic, Inbox] = field(default_factory=dict)
    _served: dict[str, Served] = field(default_factory=dict)
    _waiting: dict[Topic, list[bytes]] = field(default_factory=dict)
    _sent_at: dict[Topic, float] = field(default_factory=dict)
    _peers: tuple[PeerStatus, ...] = ()
    _peers_as_of: int = -1
    """The switchboard's count of changes when they were gathered."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """A made-up address: nothing dials it."""
        return (f"/memory/{self.peer_id}",)

    def peers(self) -> tuple[PeerStatus, ...]:
        """Everyone else who is up."""
        if self._peers_as_of != self.switchboard.changes:
            self._peers_as_of = self.switchboard.changes
            self._peers = tuple(
                PeerStatus(
                    node.peer_id,
                    node.addresses[0],
                    round(2000 * self.switchboard.latency_seconds(self.peer_id, node.peer_id)),
                )
                for node in self.switchboard.nodes()
                if node is not self
            )
        return self._peers

    def sign_as_peer(self, data: bytes) -> bytes:
        """Consent to anything, by a stand-in for an Ed25519 signature."""
        return simulated_consent(self.peer_id)

    async def publish(self, body: MessageBody, *, urgent: bool = False) -> None:
        """Seal, judge oneself, and deliver to everyone else with the topic's next message, or now."""
        await trio.lowlevel.checkpoint()
        topic, data = seal(NETWORK_ID, self.account, wall_clock(), body, self.sign)
        if self.switchboard.find(self.peer_id) is not self:
            return  # a node that is down reaches nobody
        if topic in self._inboxes and not self.accept(self.peer_id, topic, data):
            return
        waiting = self._waiting.setdefault(topic, [])
        waiting.append(data)
        if urgent:
            self._send(topic)
        elif len(waiting) == 1:
            self.switchboard.nursery.start_soon(self._send_later, topic)

    async def _send_later(self, topic: Topic) -> None:
        await trio.sleep_until(max(trio.current_time() + GATHER_SECONDS, self._next_at(topic)))
        if trio.current_time() >= self._next_at(topic):  # else an urgent message took it along meanwhile
            self._send(topic)

    def _next_at(self, topic: Topic) -> float:
        return self._sent_at.get(topic, float("-inf")) + MESSAGE_SECONDS

    def _send(self, topic: Topic) -> None:
        items = self._waiting.pop(topic, [])
        if not items or self.switchboard.find(self.peer_id) is not self:
            return
        self._sent_at[topic] = trio.current_time()
        self.switchboard.trace.record("gossip", self.peer_id, topic.value, sum(map(len, items)))
        self.switchboard.send(self, topic, items)

    def accept(self, sender: PeerId, topic: Topic, data: bytes) -> bool:
        """Take an item as it comes from a peer: verify, judge, queue; return whether it was accepted."""
        if topic not in self._inboxes:
            return False
        try:
            message = unseal(NETWORK_ID, topic, data)
        except MessageError as error:
            self.switchboard.trace.record("malformed", self.peer_id, sender, str(error))
            return False
        validity = self._validators[topic](sender, message)
        if validity is not Validity.ACCEPT:
            self.switchboard.trace.record("unwanted", self.peer_id, sender, topic.value, validity.value)
            return False
        if not self._inboxes[topic].put(message):
            self.switchboard.trace.record("dropped", self.peer_id, topic.value)
        return True

    @asynccontextmanager
    async def subscribe(self, topic: Topic, validator: MessageValidator) -> AsyncIterator[AsyncIterator[Message]]:
        """Deliver verified messages of `topic`."""
        if topic in self._inboxes:
            raise ValueError(f"{topic.value} has a subscriber already")
        inbox = Inbox()
        self._validators[topic], self._inboxes[topic] = validator, inbox
        try:
            yield inbox
        finally:
            del self._inboxes[topic], self._validators[topic]

    def serve(self, method: str, handler: CallHandler, *, concurrency: int) -> None:
        """Answer calls of `method`."""
        self._served[method] = Served(handler, concurrency)

    def drop_calls(self) -> None:
        """End all calls that are being answered here, as if the machine had gone."""
        for served in self._served.values():
            for scope, call in served.calls.items():
                call.failure.error = CallFailedError("lost", f"{self.peer_id} is gone")
                scope.cancel()

    @asynccontextmanager
    async def call(
        self, peer: PeerId, method: str, payload: bytes, *, deadline_seconds: float
    ) -> AsyncIterator[SimulatedCall]:
        """Open a call to `peer`."""
        latency = self.switchboard.latency_seconds(self.peer_id, peer)
        target = self.switchboard.find(peer)
        await trio.sleep(latency)
        if target is None:
            raise CallFailedError("unreachable", f"{peer} is not up")
        served = target._served.get(method)
        if served is None:
            raise CallFailedError("no-method", method)
        if served.running >= served.concurrency:
            raise CallFailedError("busy", f"{served.running} calls of {method} are running")
        to_server, from_client = trio.open_memory_channel[tuple[float, bytes]](CALL_CHUNKS_MAX)
        to_client, from_server = trio.open_memory_channel[tuple[float, bytes]](CALL_CHUNKS_MAX)
        failure = CallFailure()
        here = SimulatedCall(peer, payload, latency, to_server, from_server, failure)
        there = SimulatedCall(self.peer_id, payload, latency, to_client, from_client, failure)
        scope = trio.CancelScope()
        finished = trio.Event()
        self.switchboard.nursery.start_soon(_run_handler, served, there, scope, finished)
        timed_out = False
        try:
            with trio.move_on_after(deadline_seconds) as limit:
                yield here
            timed_out = limit.cancelled_caught
        finally:
            scope.cancel()
            to_server.close()
            from_server.close()
            with trio.CancelScope(shield=True):
                await finished.wait()
        if timed_out:
            raise CallFailedError("deadline", f"{method} took longer than {deadline_seconds} s")


async def _run_handler(served: Served, call: SimulatedCall, scope: trio.CancelScope, finished: trio.Event) -> None:
    served.running += 1
    served.calls[scope] = call
    try:
        with scope:
            await _guarded(served.handler, call)
    finally:
        served.running -= 1
        del served.calls[scope]
        call.outgoing.close()
        call.incoming.close()
        finished.set()


async def _guarded(handler: Callable[[SimulatedCall], Awaitable[None]], call: SimulatedCall) -> None:
    try:
        await handler(call)
    except CallFailedError as error:
        call.failure.error = error
    except Exception as error:  # a peer's bug reaches the caller as a word, never as a traceback
        call.failure.error = CallFailedError("internal", type(error).__name__)
