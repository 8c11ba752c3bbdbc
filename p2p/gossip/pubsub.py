"""Admits what peers send: size, form, budget, signature, judgement, in that order; and says who is to blame.

Everything a peer sends is processed in the task that reads its stream, one RPC after the other, without a queue or a
task per message: a peer that sends faster than it is read waits, and one that sends more than its share is not heard.
Nothing that a peer sends ends anything but its own stream.

The library's Pubsub is kept for who is connected and who follows which topic.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import trio
from google.protobuf.message import DecodeError
from libp2p.abc import INetStream
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub

from p2p.gossip.budget import Budget
from p2p.gossip.framing import READ_BYTES, FrameReader, encode_frame
from p2p.gossip.memory import Memory
from p2p.gossip.metrics import Counters, Drop
from p2p.gossip.outgoing import Outgoing
from p2p.gossip.router import Router
from p2p.gossip.signatures import Verifier, sign_message
from p2p.gossip.verdict import MalformedError, Verdict
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

RPC_BYTES_MAX = 1 << 20
"""One RPC of another implementation carries several messages; anything larger ends its stream."""
MESSAGES_PER_SECOND_MAX = 200
MESSAGES_BURST = 400
"""Budget of a forwarding peer, duplicates included; what is above costs processing power that our own work needs."""
BYTES_PER_SECOND_MAX = 2 << 20
BYTES_BURST = 8 << 20
"""Budget of a peer's RPCs. The burst holds 128 messages of the largest size."""
CONTROL_PER_SECOND_MAX = 200
CONTROL_BURST = 1000
"""Budget of a peer's control entries and subscriptions."""
MAKER_MESSAGES_PER_SECOND_MAX = 30
MAKER_MESSAGES_BURST = 120
"""Budget of a message's maker, whoever forwards it. A node makes one per topic and second and four urgent ones
(outbox.py), so 20 on four topics; a burst is what a mended mesh brings back."""
ALL_MESSAGES_PER_SECOND_MAX = 1000
ALL_MESSAGES_BURST = 2000
"""New messages of all peers together: about one core, if they are honest ones, of some kilobytes. Of 64 KiB that nobody
knows, which cost up to 28 ms, the budgets of peers and makers let fewer pass."""
SCARCE_PER_SECOND_MAX = 10
SCARCE_BURST = 40
"""What each peer may still bring when all together bring more: the quiet are heard, whatever the others do."""
KNOWN_MESSAGES_MAX = 32768
"""Message ids remembered: half a minute at the fullest budget, hours at the usual pace. Items have their own memory."""
STREAMS_PER_PEER_MAX = 4
"""A peer has one; another while it reconnects."""
TOPICS_PER_PEER_MAX = 64
TOPIC_BYTES_MAX = 256
WRITE_SECONDS_MAX = 20.0
"""A peer that takes nothing for so long is given up."""
REOPEN_SECONDS = 1.0
"""A stream that a peer resets is opened anew so much later; it may go on resetting it."""
REOPEN_SECONDS_MAX = 60.0
"""A peer that speaks no gossip is asked this often whether it does by now."""
FLOOD_SECONDS = 1.0
"""A flood is one offence in so long, however many messages it has."""
MAKER_BYTES_MAX = 64
SEQNO_BYTES_MAX = 32

MessageJudge = Callable[[str, str, bytes], Verdict]
"""Given topic, forwarding peer and the message's data. Raises MalformedError."""


class HardenedPubsub(Pubsub):
    """Made by `service.open_gossip`."""

    router: Router

    def __init__(
        self,
        host: Any,
        *,
        standing: Standing,
        counters: Counters,
        judge: MessageJudge,
        message_bytes_max: int,
    ) -> None:
        self._known: Memory[Verdict] = Memory(KNOWN_MESSAGES_MAX)
        super().__init__(
            host,
            Router(counters, self._known.__contains__),
            strict_signing=True,
            max_inbound_rpc_size=RPC_BYTES_MAX,
            max_subscriptions_per_peer=TOPICS_PER_PEER_MAX,
        )
        self.seen_messages.stop()  # the library's memory is a thread for ever; ours is `_known`
        self.counter = time.time_ns()  # seconds, the library's choice, repeat after a quick restart
        self._standing = standing
        self._counters = counters
        self._judge_message = judge
        self._message_bytes_max = message_bytes_max
        self._own = self.my_id
        self._own_name = str(self._own)
        self._verifier = Verifier()
        self._messages = Budget(MESSAGES_PER_SECOND_MAX, MESSAGES_BURST, trio.current_time)
        self._bytes = Budget(BYTES_PER_SECOND_MAX, BYTES_BURST, trio.current_time)
        self._control = Budget(CONTROL_PER_SECOND_MAX, CONTROL_BURST, trio.current_time)
        self._makers = Budget(MAKER_MESSAGES_PER_SECOND_MAX, MAKER_MESSAGES_BURST, trio.current_time)
        self._all = Budget(ALL_MESSAGES_PER_SECOND_MAX, ALL_MESSAGES_BURST, trio.current_time)
        self._scarce = Budget(SCARCE_PER_SECOND_MAX, SCARCE_BURST, trio.current_time)
        self._floods = Budget(1 / FLOOD_SECONDS, 1, trio.current_time)
        self._readers: dict[ID, set[trio.CancelScope]] = {}

    # --- Own messages ---

    async def publish(self, topic_id: str | list[str], data: bytes) -> None:
        """Sign and send, to peers only. One topic."""
        await trio.lowlevel.checkpoint()
        self.send_own(topic_id if isinstance(topic_id, str) else topic_id[0], data)

    def send_own(self, topic: str, data: bytes) -> None:
        """As `publish`, at once."""
        message = rpc_pb2.Message(from_id=self._own.to_bytes(), data=data, seqno=self._next_seqno(), topicIDs=[topic])
        sign_message(message, self.host.get_private_key())
        message_id = message.from_id + message.seqno
        self._known.put(message_id, Verdict.ACCEPT)
        self._counters.published_messages += 1
        self.router.forward(message, message_id, source=self._own, maker=self._own, own=True)

    # --- What peers send ---

    async def stream_handler(self, stream: INetStream) -> None:
        """Read a peer's stream to its end; what is wrong in it ends it."""
        peer = stream.muxed_conn.peer_id
        name = str(peer)
        if self._standing.is_banned(name) or len(self._readers.get(peer, ())) >= STREAMS_PER_PEER_MAX:
            await _reset(stream)
            return
        readers = self._readers.setdefault(peer, set())
        scope = trio.CancelScope()
        readers.add(scope)
        try:
            with scope:
                await self._read(stream, peer, name)
        except MalformedError as error:
            self._counters.drop(Drop.MALFORMED)
            self._standing.blame(name, Offence.MALFORMED, str(error))
            scope.cancel()
        except Exception as error:  # the library has no common base for ends of streams
            log.debug("a gossip stream ended", peer=name, reason=repr(error))
        finally:
            readers.discard(scope)
            if not readers:
                self._readers.pop(peer, None)
                self._forget_all_subscriptions(peer)  # it greets again on the next stream
            if scope.cancel_called:
                with trio.CancelScope(shield=True):
                    await _reset(stream)

    async def _read(self, stream: INetStream, peer: ID, name: str) -> None:
        reader = FrameReader(stream, self.max_inbound_rpc_size)
        while (frame := await reader.next()) is not None:
            rpc = rpc_pb2.RPC()
            with self._processing(name):
                self._take_rpc(rpc, frame, peer, name)
            await trio.lowlevel.checkpoint()
            for message in rpc.publish:
                with self._processing(name):
                    self._take_message(message, peer, name)
                # Judging one message's items is enough to do at once. If the peer is banned by now, it ends here.
                await trio.lowlevel.checkpoint()

    @contextmanager
    def _processing(self, name: str) -> Iterator[None]:
        """Count what it costs; what fails in a peer's bytes is MalformedError, what fails in ours is logged."""
        begin = time.thread_time()
        try:
            yield
        except MalformedError:
            raise
        except (DecodeError, UnicodeDecodeError) as error:
            raise MalformedError("a gossip RPC that does not parse") from error
        except Exception as error:
            self._counters.drop(Drop.FAILED)
            log.error("a gossip RPC could not be processed", peer=name, reason=repr(error))
        finally:
            self._counters.cpu_seconds += time.thread_time() - begin

    def _take_rpc(self, rpc: rpc_pb2.RPC, frame: bytes, peer: ID, name: str) -> None:
        """Parse `frame` into `rpc` and act on all but its messages; it stays empty where it is not to be heard."""
        self._counters.bytes_received += len(frame)
        if not self._bytes.take(name, len(frame)):
            self._blame_flood(name, "more bytes of gossip than its share")
            return
        rpc.ParseFromString(frame)
        entries = len(rpc.subscriptions)
        if rpc.HasField("control"):
            control = rpc.control
            entries += len(control.ihave) + len(control.iwant) + len(control.graft) + len(control.prune)
            entries += len(control.idontwant)
        if not entries:
            return
        if not self._control.take(name, entries):
            self._blame_flood(name, "more control entries of gossip than its share")
            return
        for subscription in rpc.subscriptions:
            self.handle_subscription(peer, subscription)
        if rpc.HasField("control"):
            self.router.take_control(rpc.control, peer)

    def _take_message(self, message: rpc_pb2.Message, peer: ID, name: str) -> None:
        self._counters.received_messages += 1
        if not self._messages.take(name):
            self._counters.drop(Drop.BUDGET)
            self._blame_flood(name, "more gossip messages than its share")
            return
        _require_form(message, self._message_bytes_max)
        topic = message.topicIDs[0]
        if topic not in self.topic_ids:
            self._counters.drop(Drop.UNWANTED)
            return
        message_id = message.from_id + message.seqno
        known = self._known.get(message_id)
        if known is not None:
            self._counters.duplicates += 1
            if known is Verdict.REJECT:
                self._blame_refused(name, topic)
            return
        if not self._all.take("all") and not self._scarce.take(name):
            self._counters.drop(Drop.OVERLOAD)
            return
        maker = self._verifier.maker_of(message)
        if maker is None:
            self._counters.drop(Drop.FORGED)
            self._standing.blame(name, Offence.FORGED, "a gossip message whose signature is not its maker's")
            return
        self._take_signed(message, message_id, maker, peer, name)

    def _take_signed(self, message: rpc_pb2.Message, message_id: bytes, maker: ID, peer: ID, name: str) -> None:
        """From here on the message id is its maker's word, so that what becomes of it may be remembered."""
        if maker == self._own:
            self._known.put(message_id, Verdict.IGNORE)  # from before a restart
            return
        if self._standing.is_banned(str(maker)):
            self._counters.drop(Drop.BANNED)
            return
        if not self._makers.take(str(maker)):
            self._counters.drop(Drop.ORIGIN_BUDGET)
            return
        topic = message.topicIDs[0]
        try:
            verdict = self._judge_message(topic, name, message.data)
        except MalformedError as error:
            self._known.put(message_id, Verdict.REJECT)
            self._counters.drop(Drop.MALFORMED)
            self._standing.blame(name, Offence.MALFORMED, str(error))
            return
        self._known.put(message_id, verdict)
        if verdict is Verdict.REJECT:
            self._blame_refused(name, topic)
        elif verdict is Verdict.IGNORE:
            self._counters.drop(Drop.UNWANTED)
        elif self._standing.is_banned(name):
            self._counters.drop(Drop.BANNED)
        else:
            self._counters.delivered_messages += 1
            self.router.forward(message, message_id, source=peer, maker=maker, own=False)

    def _blame_refused(self, name: str, topic: str) -> None:
        self._counters.drop(Drop.REFUSED)
        self._standing.blame(name, Offence.REFUSED, f"a message on {topic} that the rules refuse")

    def _blame_flood(self, name: str, detail: str) -> None:
        if self._floods.take(name):
            self._standing.blame(name, Offence.FLOOD, detail)

    # --- Who is connected, who follows what ---

    def expel(self, peer: ID) -> None:
        """Take a peer out of every mesh and table and end its streams, at once. It stays connected."""
        for scope in tuple(self._readers.get(peer, ())):
            scope.cancel()
        stream: Any = self.peers.get(peer)
        self._handle_dead_peer(peer)
        if stream is not None and self.manager.is_running:
            self.manager.run_task(_reset, stream)

    def is_peer_blacklisted(self, peer_id: ID) -> bool:
        """Whether the peer is banned now."""
        return self._standing.is_banned(str(peer_id))

    def sweep(self) -> None:
        """Forget budgets that are full."""
        for budget in (self._messages, self._bytes, self._control, self._makers, self._scarce, self._floods):
            budget.sweep()

    def handle_subscription(self, origin_id: ID, sub_message: rpc_pb2.RPC.SubOpts) -> None:
        """Note what a peer follows, within bounds, and draw it into a mesh that needs it."""
        topic = sub_message.topicid
        if len(topic) > TOPIC_BYTES_MAX:
            return
        if not sub_message.subscribe:
            self._forget_subscription(origin_id, topic)
            self.router.mesh.get(topic, set()).discard(origin_id)
            return
        followers = self.peer_topics.get(topic, set())
        if origin_id in followers or self._peer_subscription_count.get(origin_id, 0) >= TOPICS_PER_PEER_MAX:
            return
        self.peer_topics.setdefault(topic, followers).add(origin_id)
        self._peer_subscription_count[origin_id] = self._peer_subscription_count.get(origin_id, 0) + 1
        waiting = self._subscription_events.pop((origin_id, topic), None)
        if waiting is not None:
            waiting.set()
        self._welcome(origin_id, topic)

    def _welcome(self, peer: ID, topic: str) -> None:
        self.router.graft_if_thin(peer, topic)
        self.router.tell_recent(peer, topic)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Open our stream to a peer and greet it. Raises what the library raises."""
        if peer_id in self.peers or self.is_peer_blacklisted(peer_id):
            return
        stream = await self.host.new_stream(peer_id, list(self.protocols))
        if peer_id in self.peers or self.is_peer_blacklisted(peer_id):
            await _reset(stream)  # another connection to it was faster, or it was banned meanwhile
            return
        self.router.add_peer(peer_id, stream.get_protocol())
        self.peers[peer_id] = stream
        queue = Outgoing()
        # First the greeting, then whatever is announced from now on: the library lost what came between.
        greeting = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=t) for t in self.topic_ids])
        queue.push(encode_frame(greeting.SerializeToString()), control=True)
        self.router.outgoing[peer_id] = queue
        self.manager.run_task(self._send, peer_id, stream, queue)
        waiting = self._peer_added_events.pop(peer_id, None)
        if waiting is not None:
            waiting.set()
        for topic in [topic for topic, followers in self.peer_topics.items() if peer_id in followers]:
            self._welcome(peer_id, topic)

    async def _send(self, peer: ID, stream: Any, queue: Outgoing) -> None:
        """Write what is queued for a peer, until it is gone or takes nothing."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_close_at_reset, stream, queue)
            try:
                while (data := await queue.take()) is not None:
                    with trio.fail_after(WRITE_SECONDS_MAX):
                        await stream.write(data)
                    self._counters.bytes_sent += len(data)
            except Exception as error:  # the library has no common base for ends of streams
                log.debug("a gossip stream to a peer ended", peer=str(peer), reason=repr(error))
            nursery.cancel_scope.cancel()
        await _reset(stream)
        if self.peers.get(peer) is stream:
            self._drop_stream_to(peer)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        self._forget_all_subscriptions(peer_id)
        self._drop_stream_to(peer_id)

    def _drop_stream_to(self, peer: ID) -> None:
        """Our stream to a peer is gone. What it follows is still true: that came on its stream to us."""
        self.peers.pop(peer, None)
        self.router.remove_peer(peer)
        if self._peer_is_connected(peer) and not self.is_peer_blacklisted(peer):
            self._schedule_peer_stream_retry(peer)

    async def _peer_stream_retry_task(self, peer_id: ID) -> None:
        await trio.sleep(REOPEN_SECONDS)
        await super()._peer_stream_retry_task(peer_id)

    async def _handle_new_peer_with_retry(  # the library names its parameters
        self,
        peer_id: ID,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> None:
        """Greet a peer; try again while it is connected, whatever failed. The library gives up at some failures."""
        pause = REOPEN_SECONDS
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            while True:
                try:
                    await self._handle_new_peer(peer_id)
                except Exception as error:  # the library has no common base for failures to open a stream
                    log.debug("a peer cannot be greeted", peer=str(peer_id), reason=repr(error))
                else:
                    return
                await trio.sleep(pause)
                if not self._peer_is_connected(peer_id):
                    return
                pause = min(2 * pause, REOPEN_SECONDS_MAX)

    def _build_announce_rpc(self, topic_id: str, subscribe: bool) -> tuple[rpc_pb2.RPC, rpc_pb2.RPC.SubOpts]:
        change = rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=topic_id)
        return rpc_pb2.RPC(subscriptions=[change]), change

    async def message_all_peers(self, raw_msg: bytes, announce: rpc_pb2.RPC.SubOpts | None = None) -> None:
        """Queue an announcement for every peer."""
        await trio.lowlevel.checkpoint()
        frame = encode_frame(raw_msg)
        for queue in self.router.outgoing.values():
            self._counters.drop(Drop.OUTGOING, queue.push(frame, control=True))

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Process one message as if it came from `msg_forwarder`."""
        await trio.lowlevel.checkpoint()
        self._take_message(msg, msg_forwarder, str(msg_forwarder))


def _require_form(message: rpc_pb2.Message, message_bytes_max: int) -> None:
    """Raises MalformedError. Checked before anything of the message is remembered."""
    if len(message.data) > message_bytes_max:
        raise MalformedError(f"a gossip message of {len(message.data)} bytes")
    if len(message.topicIDs) != 1:
        raise MalformedError(f"a gossip message on {len(message.topicIDs)} topics")
    if not 0 < len(message.from_id) <= MAKER_BYTES_MAX or not 0 < len(message.seqno) <= SEQNO_BYTES_MAX:
        raise MalformedError("a gossip message without a maker or a number")


async def _close_at_reset(stream: Any, queue: Outgoing) -> None:
    """Notice the end of a stream on which nothing is ever read: else the next message would go into the void."""
    try:
        while await stream.read(READ_BYTES):
            pass
    except StreamEOF:  # its other half was closed, which is its right
        return
    except Exception as error:  # the library has no common base for ends of streams
        log.debug("a gossip stream to a peer ended", reason=repr(error))
    queue.close()


async def _reset(stream: Any) -> None:
    try:
        await stream.reset()
    except Exception as error:  # it may be gone already, with its connection
        log.debug("a gossip stream could not be reset", reason=repr(error))
