"""The mesh: libp2p's GossipSub, with its message path and its handling of control lists replaced.

Kept from the library: how meshes are grown, pruned and mended, and whom to tell by IHAVE. Replaced, each with a reason
found by measurement or in its source (0.8.1):

- The sender's signed record of addresses went with every RPC, built anew each time and verified twice by its receiver.
  It is neither sent nor read: addresses are exchanged by identify. And a forwarded message is serialised once, not once
  per peer.
- IDONTWANT went to every peer of the mesh for every message, an RPC for an RPC; it is for large messages only.
- Lists of control entries had no bound, GRAFTs meant for one peer went to the next too, a PRUNE named strangers to
  dial, and what it named was remembered for ever.
- Scores cost more than they did: they only gate. Conduct is judged in p2p/standing.py, and offenders are disconnected.
"""

import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog
import trio
from libp2p.custom_types import MessageID
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2

from p2p.gossip.budget import Budget
from p2p.gossip.framing import encode_frame
from p2p.gossip.metrics import Counters, Drop
from p2p.gossip.outgoing import Outgoing

log = structlog.get_logger(__name__)

DEGREE = 6
DEGREE_LOW = 4
DEGREE_HIGH = 12
ROTATION_HEARTBEATS = 60
HEARTBEAT_SECONDS = 1
"""The library's 120 s leave a mesh broken for minutes."""
BACK_OFF_SECONDS_MAX = 600
"""How long a peer may ask to be left alone; what it asks for beyond that is remembered for so long only."""
ENTRIES_MAX = 64
"""Entries of each kind of control that are read from one RPC: a node follows a handful of topics."""
IDS_PER_RPC_MAX = 512
"""Message ids read from, and written into, one RPC."""
ID_BYTES_MAX = 128
"""A peer id and a sequence number are 46."""
WANTED_PER_HEARTBEAT_MAX = 512
"""Ids asked of one peer in a second: it may be inventing them."""
SERVED_PER_HEARTBEAT_MAX = 256
"""Messages given to one peer on IWANT in a second: at 64 KiB each more than a slow link carries."""
UNWANTED_IDS_MAX = 1024
"""IDONTWANT ids kept per peer, until the next heartbeat."""
IDONTWANT_BYTES_MIN = 8 * 1024
"""Below this a duplicate costs less than being told not to send it."""
RECENT_BYTES_MAX = 16 << 20
"""Messages kept for IWANT, five heartbeats long."""
FORWARDED_PER_SECOND = 160
FORWARDED_BURST = 320
"""What one peer is sent at most; below what a receiver accepts (pubsub.py), so that honest haste is never a flood."""


class RecentMessages(MessageCache):
    """The library's cache of messages for IWANT, bounded by bytes: a peer chooses how much comes in a heartbeat."""

    def __init__(self, window_size: int, history_size: int) -> None:
        super().__init__(window_size, history_size)
        self._bytes = 0

    def put(self, msg: rpc_pb2.Message) -> None:
        """Keep `msg` if there is room."""
        size = len(msg.data)
        if self._bytes + size <= RECENT_BYTES_MAX:
            super().put(msg)
            self._bytes += size

    def shift(self) -> None:
        """Forget the oldest heartbeat's messages."""
        super().shift()
        self._bytes = sum(len(message.data) for message in self.msgs.values())


class Router(GossipSub):
    """Forwards admitted messages and keeps the mesh. Synchronous but for the library's own interface."""

    def __init__(self, counters: Counters, seen: Callable[[bytes], bool]) -> None:
        """`seen` tells whether a message id was processed before."""
        super().__init__(
            [PROTOCOL_ID_V12, PROTOCOL_ID_V11],
            degree=DEGREE,
            degree_low=DEGREE_LOW,
            degree_high=DEGREE_HIGH,
            heartbeat_interval=HEARTBEAT_SECONDS,
            heartbeat_initial_delay=0.1,
            spam_protection_enabled=False,  # drops above 10 messages a second and topic; budgets are in pubsub.py
            eclipse_protection_enabled=False,
            adaptive_gossip_enabled=False,
            max_idontwant_messages=UNWANTED_IDS_MAX,
        )
        self.scorer = None
        self.mcache = RecentMessages(window_size=3, history_size=5)
        self.outgoing: dict[ID, Outgoing] = {}
        self._counters = counters
        self._seen = seen
        self._send_budget = Budget(FORWARDED_PER_SECOND, FORWARDED_BURST, trio.current_time)
        self._wanted: dict[ID, int] = {}
        self._asked: set[bytes] = set()
        self._served: dict[ID, int] = {}
        self._told: set[tuple[ID, str]] = set()
        """What is kept for the present heartbeat only: no peer gets more out of asking more often."""
        self._beats = 0

    # --- Messages ---

    def forward(self, message: rpc_pb2.Message, message_id: bytes, *, source: ID, maker: ID, own: bool) -> None:
        """Send an admitted message on to the mesh, except to where it comes from."""
        topic = message.topicIDs[0]
        self.mcache.put(message)
        mesh = self.mesh.get(topic)
        peers = (
            set(self._get_peers_to_send([topic], source, maker))  # a topic this node does not follow
            if mesh is None
            else mesh - {source, maker}
        )
        if own:  # not to the mesh alone, for others may have filled it to silence this node
            peers |= self._others_on(topic, DEGREE, peers)
        if not peers:
            return
        frame = encode_frame(rpc_pb2.RPC(publish=[message]).SerializeToString())
        large = len(message.data) >= IDONTWANT_BYTES_MIN
        for peer in peers:
            if message_id in self.dont_send_message_ids.get(peer, ()):
                continue
            self.send_message(peer, frame)
        if large and mesh and not own:
            unwanted = rpc_pb2.ControlMessage(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=[message_id])])
            for peer in mesh - {source, maker}:
                if self.peer_protocol.get(peer) == PROTOCOL_ID_V12:
                    self.send_control(peer, unwanted)
        if mesh is None:
            self.time_since_last_publish[topic] = int(time.time())

    def send_message(self, peer: ID, frame: bytes) -> None:
        """Queue a frame with a message for `peer`, within what a peer may be sent."""
        queue = self.outgoing.get(peer)
        if queue is None:
            return
        if not self._send_budget.take(str(peer)):
            self._counters.drop(Drop.OUTGOING)
            return
        self._counters.forwarded_frames += 1
        self._counters.drop(Drop.OUTGOING, queue.push(frame, control=False))

    def send_control(self, peer: ID, control: rpc_pb2.ControlMessage) -> None:
        """Queue control entries for `peer`."""
        queue = self.outgoing.get(peer)
        if queue is not None:
            frame = encode_frame(rpc_pb2.RPC(control=control).SerializeToString())
            self._counters.drop(Drop.OUTGOING, queue.push(frame, control=True))

    def tell_recent(self, peer: ID, topic: str) -> None:
        """Tell a new subscriber what it may have missed; it asks for what it lacks."""
        ids = self.mcache.window(topic)[-IDS_PER_RPC_MAX:]
        if ids and (peer, topic) not in self._told:
            self._told.add((peer, topic))
            have = rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids)
            self.send_control(peer, rpc_pb2.ControlMessage(ihave=[have]))

    def graft_if_thin(self, peer: ID, topic: str) -> None:
        """Take a new subscriber into a mesh that needs peers, without waiting for the heartbeat."""
        mesh = self.mesh.get(topic)
        if mesh is None or peer in mesh or len(mesh) >= DEGREE_LOW or peer not in self.peer_protocol:
            return
        if not self._check_back_off(peer, topic):
            mesh.add(peer)
            self.send_control(peer, rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=topic)]))

    # --- Control ---

    def take_control(self, control: rpc_pb2.ControlMessage, peer: ID) -> None:
        """Act on what a peer says of meshes and messages. What is beyond the bounds above is not read."""
        for have in control.ihave[:ENTRIES_MAX]:
            if have.topicID in self.mesh:
                self._take_have(have.messageIDs[:IDS_PER_RPC_MAX], peer)
        for want in control.iwant[:ENTRIES_MAX]:
            self._take_want(want.messageIDs[:IDS_PER_RPC_MAX], peer)
        for graft in control.graft[:ENTRIES_MAX]:
            if graft.topicID in self.mesh:
                self._take_graft(graft.topicID, peer)
        for prune in control.prune[:ENTRIES_MAX]:
            if prune.topicID in self.mesh:
                seconds = min(prune.backoff or self.prune_back_off, BACK_OFF_SECONDS_MAX)
                self._add_back_off(peer, prune.topicID, False, seconds)
                self.mesh[prune.topicID].discard(peer)
        unwanted = self.dont_send_message_ids.get(peer)
        if unwanted is not None:
            for refusal in control.idontwant[:ENTRIES_MAX]:
                room = UNWANTED_IDS_MAX - len(unwanted)
                unwanted.update(i for i in refusal.messageIDs[:room] if len(i) <= ID_BYTES_MAX)

    def _take_have(self, ids: Iterable[bytes], peer: ID) -> None:
        room = WANTED_PER_HEARTBEAT_MAX - self._wanted.get(peer, 0)
        wanted = [i for i in ids if len(i) <= ID_BYTES_MAX and i not in self._asked and not self._seen(i)][:room]
        if wanted:
            self._wanted[peer] = self._wanted.get(peer, 0) + len(wanted)
            self._asked.update(wanted)
            want = rpc_pb2.ControlIWant(messageIDs=[MessageID(i) for i in wanted])
            self.send_control(peer, rpc_pb2.ControlMessage(iwant=[want]))

    def _take_want(self, ids: Iterable[bytes], peer: ID) -> None:
        for message_id in dict.fromkeys(ids):
            message = self.mcache.get(message_id)
            if message is None:
                continue
            if self._served.get(peer, 0) >= SERVED_PER_HEARTBEAT_MAX:
                return
            self._served[peer] = self._served.get(peer, 0) + 1
            self.send_message(peer, encode_frame(rpc_pb2.RPC(publish=[message]).SerializeToString()))

    def _take_graft(self, topic: str, peer: ID) -> None:
        mesh = self.mesh[topic]
        if peer in mesh:
            return
        if self._check_back_off(peer, topic) or len(mesh) >= DEGREE_HIGH:
            prune = rpc_pb2.ControlPrune(topicID=topic, backoff=self.prune_back_off)
            self.send_control(peer, rpc_pb2.ControlMessage(prune=[prune]))
        elif peer in self.peer_protocol:
            mesh.add(peer)

    # --- Heartbeat ---

    async def heartbeat(self) -> None:
        """As the library's, but a failure concerns one beat only."""
        await trio.sleep(self.heartbeat_initial_delay)
        while True:
            try:
                await self._beat()
            except Exception as error:
                log.error("a heartbeat of gossip failed; the next follows", reason=repr(error))
            await trio.sleep(self.heartbeat_interval)

    async def _beat(self) -> None:
        for topic in self.mesh:
            self.mesh[topic] &= self._subscribers(topic)  # the library leaves those who unsubscribed
        self._beats += 1
        if self._beats % ROTATION_HEARTBEATS == 0:
            self._rotate()
        graft, prune = self.mesh_heartbeat()
        self.fanout_heartbeat()
        await self._emit_control_msgs(graft, prune, self.gossip_heartbeat())
        self.mcache.shift()
        self._prune_idontwant_entries()
        self._wanted.clear()
        self._asked.clear()
        self._served.clear()
        self._told.clear()
        self._send_budget.sweep()
        now = int(time.time())
        for topic, peers in list(self.back_off.items()):
            self.back_off[topic] = {peer: until for peer, until in peers.items() if until > now}

    def _rotate(self) -> None:
        """Take one more peer into each mesh; if that is one too many, the library prunes by chance.

        Peers that fill a mesh and forward nothing are so replaced in time, though nobody can prove it to them.
        """
        for topic, mesh in self.mesh.items():
            for peer in self._others_on(topic, 1, mesh):
                if not self._check_back_off(peer, topic):
                    mesh.add(peer)
                    self.send_control(peer, rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=topic)]))

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        """Send each peer what is meant for it, and nothing of what is meant for others."""
        for peer, topics in peers_to_prune.items():
            for topic in topics:
                self._add_back_off(peer, topic, False)  # both ends wait; the library's asks again at once
        for peer in {*peers_to_graft, *peers_to_prune, *peers_to_gossip}:
            control = rpc_pb2.ControlMessage(
                graft=[rpc_pb2.ControlGraft(topicID=topic) for topic in peers_to_graft.get(peer, ())],
                prune=[
                    rpc_pb2.ControlPrune(topicID=topic, backoff=self.prune_back_off)
                    for topic in peers_to_prune.get(peer, ())
                ],
                ihave=[
                    rpc_pb2.ControlIHave(topicID=topic, messageIDs=random.sample(ids, min(len(ids), IDS_PER_RPC_MAX)))
                    for topic, ids in peers_to_gossip.get(peer, {}).items()
                ],
            )
            self.send_control(peer, control)

    # --- The library's interface, on the queues above ---

    def remove_peer(self, peer_id: ID) -> None:
        """Forget a peer, its queue included."""
        super().remove_peer(peer_id)
        self._wanted.pop(peer_id, None)
        self._served.pop(peer_id, None)
        queue = self.outgoing.pop(peer_id, None)
        if queue is not None:
            queue.close()

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        """Queue control entries, without a signed record beside them."""
        self.send_control(to_peer, control_msg)

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Act on the control part of an RPC."""
        self.take_control(rpc.control, sender_peer_id)

    async def flush_pending_messages(self, peer_id: ID) -> None:
        """Nothing is held back for peers whose topics are not known yet: see tell_recent."""

    def _others_on(self, topic: str, count: int, but: set[ID]) -> set[ID]:
        candidates = sorted(self._subscribers(topic) & self.peer_protocol.keys() - but, key=ID.to_bytes)
        return set(random.sample(candidates, min(count, len(candidates))))

    def _subscribers(self, topic: str) -> set[ID]:
        pubsub: Any = self.pubsub
        peers: set[ID] = pubsub.peer_topics.get(topic, set())
        return peers
