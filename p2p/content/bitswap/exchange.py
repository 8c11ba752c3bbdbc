"""Bitswap on a libp2p host: gives our blocks to whoever wants them, fetches those we want, believes nobody.

*Detail.* Wants and answers each have an outbound stream of their own per peer (Helia ignores what comes back on its
own). Inbound messages are read within a budget of memory; a peer that owes us no block may only send lists. A block is
taken if its hash is one that we asked this peer for; any other is counted, blamed and dropped.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio
from libp2p.abc import INotifee

from p2p.content.bitswap.answers import HeldBlocks, WantList, answer
from p2p.content.bitswap.budget import Budget
from p2p.content.bitswap.messages import (
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    PROTOCOL_WITHOUT_PRESENCES,
    Message,
    MessageError,
    decode_message,
)
from p2p.content.bitswap.requests import Requests
from p2p.content.bitswap.wire import MessageReader, Outbox, StalledError, StreamEndedError
from p2p.content.cid import Cid
from p2p.content.source import SourceFailedError
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

PEERS_MAX = 512
"""Peers with state here: more than the host has connections."""
STREAMS_PER_PEER_MAX = 64
"""Helia opens one per message, up to fifty at once."""
LIST_BYTES_MAX = 256 * 1024
"""A message of a peer that owes us no blocks: some 6,000 wants. Kubo and Helia keep 1,024 of a peer's."""
BUFFER_BYTES_PER_PEER_MAX = 4 * MESSAGE_BYTES_MAX
BUFFER_BYTES_MAX = 128 * 1024 * 1024
"""Messages being received, of one peer and of all: what strangers can make us hold."""
MESSAGE_SECONDS_MAX = 60.0
"""From the first to the last byte of a message."""
STREAM_IDLE_SECONDS_MAX = 60.0
READ_PER_SECOND_MAX = 200
READ_AT_ONCE_MAX = 400
"""Messages of one peer, of so many list entries each; beyond that it is read more slowly. Costs us 3 % of a core."""
ENTRIES_PER_UNIT = 16
FLOOD_SECONDS = 1.0
"""A peer that has to wait so long for us to read on sends far more than an honest one."""
PEERS_ANSWERED_AT_ONCE_MAX = 64
"""Each holds a message of blocks, a few megabytes with what is being encrypted; more wait, message by message."""
READERS_MAX = 4
"""Threads that read and hash blocks for answers."""
GIVEN_BYTES_PER_SECOND_MAX = 64 * 1024 * 1024
"""To one peer: above half of what one core can encrypt, so that the daemon's own duties go on."""
ASK_AGAIN_SECONDS = 6.0
"""Helia does not send one block twice within five seconds."""
SWEEP_SECONDS = 1.0


@dataclass(slots=True)
class Counters:
    """What this exchange has done."""

    given_blocks: int = 0
    given_bytes: int = 0
    taken_blocks: int = 0
    taken_bytes: int = 0
    unsolicited_blocks: int = 0
    malformed_messages: int = 0
    refused_streams: int = 0


@dataclass(eq=False, slots=True)
class _Peer:
    peer_id: str
    wants_out: Outbox
    answers_out: Outbox
    given: Budget
    read: Budget
    requests: Requests = field(default_factory=Requests)
    wanted: WantList = field(default_factory=WantList)
    streams: int = 0
    buffered_bytes: int = 0
    answering: bool = False
    telling: bool = False


class Bitswap:
    """Made by `open_bitswap`."""

    def __init__(self, host: Any, held: HeldBlocks, standing: Standing, nursery: trio.Nursery) -> None:
        self._host = host
        self._held = held
        self._standing = standing
        self._nursery = nursery
        self._peers: dict[str, _Peer] = {}
        self._buffered_bytes = 0
        self._answering = trio.Semaphore(PEERS_ANSWERED_AT_ONCE_MAX)
        self._readers = trio.CapacityLimiter(READERS_MAX)
        self.counters = Counters()

    def speakers(self) -> tuple[str, ...]:
        """Peer ids of connected peers that said they speak Bitswap, and are not banned; sorted."""
        found = []
        for peer in self._host.get_connected_peers():
            try:
                speaks = self._host.get_peerstore().supports_protocols(peer, [PROTOCOL])
            except Exception as error:  # a peer without a record: nothing is known of it yet
                log.debug("what a peer speaks is not known", peer=str(peer), reason=repr(error))
                continue
            if speaks and not self._standing.is_banned(str(peer)):
                found.append(str(peer))
        return tuple(sorted(found))

    async def get(self, peer_id: str, cid: Cid, *, bytes_max: int) -> bytes | None:
        """Return the verified bytes of a block from a peer; None if it lacks it. Raises SourceFailedError.

        Waits for ever for a peer that does not answer: deadlines are the caller's.
        """
        if self._standing.is_banned(peer_id):
            raise SourceFailedError(f"{peer_id} is banned")
        peer = self._peer(peer_id)
        if peer is None:
            raise SourceFailedError(f"more than {PEERS_MAX} peers at once")
        waiter = peer.requests.add(cid)
        try:
            while True:
                self._tell(peer)
                with trio.move_on_after(ASK_AGAIN_SECONDS) as patience:
                    await waiter.done.wait()
                if not patience.cancelled_caught:
                    break
                peer.requests.want_again(cid)
        finally:
            peer.requests.remove(cid, waiter)
            self._tell(peer)
        data = peer.requests.result(waiter)
        if data is not None and len(data) > bytes_max:
            raise SourceFailedError(f"{cid} has {len(data)} bytes, more than the {bytes_max} there is room for")
        return data

    async def accept(self, stream: Any) -> None:
        """Read a peer's messages from a stream until it ends. Never raises: a peer's faults are its own."""
        peer_id = str(stream.muxed_conn.peer_id)
        peer = None if self._standing.is_banned(peer_id) else self._peer(peer_id)
        if peer is None or peer.streams >= STREAMS_PER_PEER_MAX:
            self.counters.refused_streams += 1
            await _reset(stream)
            return
        peer.streams += 1
        try:
            await self._listen(peer, stream)
        finally:
            peer.streams -= 1
        await _close(stream)

    def forget(self, peer_id: str) -> None:
        """The peer is no longer connected."""
        peer = self._peers.pop(peer_id, None)
        if peer is not None:
            peer.requests.fail(f"the connection to {peer_id} ended")

    async def sweep(self) -> None:
        """Close idle streams and forget peers that are gone, for ever."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            connected = {str(peer) for peer in self._host.get_connected_peers()}
            for peer in list(self._peers.values()):
                await peer.wants_out.close_if_idle()
                await peer.answers_out.close_if_idle()
                if peer.peer_id not in connected and not peer.requests.is_waiting:
                    self.forget(peer.peer_id)

    def _peer(self, peer_id: str) -> _Peer | None:
        """Return the state of a peer, new if need be; None if there are too many."""
        peer = self._peers.get(peer_id)
        if peer is None and len(self._peers) < PEERS_MAX:
            peer = self._peers[peer_id] = _Peer(
                peer_id,
                Outbox(self._host, peer_id, self._accept_soon),
                Outbox(self._host, peer_id, self._accept_soon),
                Budget(GIVEN_BYTES_PER_SECOND_MAX, GIVEN_BYTES_PER_SECOND_MAX),
                Budget(READ_PER_SECOND_MAX, READ_AT_ONCE_MAX),
            )
        return peer

    def _accept_soon(self, stream: Any) -> None:
        """Read our own outbound stream too: some peers answer on it, and nothing may pile up unread."""
        self._nursery.start_soon(self._drain, stream)

    async def _drain(self, stream: Any) -> None:
        peer = self._peer(str(stream.muxed_conn.peer_id))
        if peer is not None:
            await self._listen(peer, stream)

    async def _listen(self, peer: _Peer, stream: Any) -> None:
        """Take in messages until the stream ends; one whose rest cannot be trusted is reset."""
        try:
            await self._read(peer, MessageReader(stream))
        except MessageError as error:
            self.counters.malformed_messages += 1
            self._standing.blame(peer.peer_id, Offence.MALFORMED, f"bitswap: {error}")
            await _reset(stream)
        except (StreamEndedError, trio.TooSlowError) as error:
            log.debug("a bitswap stream is given up", peer=peer.peer_id, reason=repr(error))
            await _reset(stream)

    async def _read(self, peer: _Peer, reader: MessageReader) -> None:
        while True:
            with trio.fail_after(STREAM_IDLE_SECONDS_MAX):
                length = await reader.next_length()
            if length is None:
                return
            await peer.read.spend(0)  # what the peer sent on other streams is read, and paid for, first
            self._reserve(peer, length)
            try:
                with trio.fail_after(MESSAGE_SECONDS_MAX):
                    data = await reader.body(length)
                message = decode_message(data)
                del data
                self._process(peer, message)
            finally:
                peer.buffered_bytes -= length
                self._buffered_bytes -= length
            entries = len(message.wants) + len(message.presences)
            if await peer.read.spend(1 + entries / ENTRIES_PER_UNIT) > FLOOD_SECONDS:
                self._standing.blame(peer.peer_id, Offence.FLOOD, "bitswap: more lists than we can read")

    def _reserve(self, peer: _Peer, length: int) -> None:
        if length > LIST_BYTES_MAX and not peer.requests.expects_blocks:
            self._standing.blame(peer.peer_id, Offence.FLOOD, f"bitswap: {length} bytes that we did not ask for")
            raise StreamEndedError(f"a message of {length} bytes from a peer that owes us nothing")
        if peer.buffered_bytes + length > BUFFER_BYTES_PER_PEER_MAX or self._buffered_bytes + length > BUFFER_BYTES_MAX:
            raise StreamEndedError("too many messages at once")
        peer.buffered_bytes += length
        self._buffered_bytes += length

    def _process(self, peer: _Peer, message: Message) -> None:
        unsolicited = 0
        for block in message.blocks:
            if peer.requests.receive_block(block):
                self.counters.taken_blocks += 1
                self.counters.taken_bytes += len(block.data)
            else:
                unsolicited += 1
        for presence in message.presences:
            peer.requests.receive_presence(presence)
        if unsolicited:
            self.counters.unsolicited_blocks += unsolicited
            detail = f"bitswap: {unsolicited} blocks that are none we asked for"
            self._standing.blame(peer.peer_id, Offence.OVERFLOW, detail)
            # Damaged answers look the same: what it still owes us is better got elsewhere at once.
            peer.requests.fail(f"{peer.peer_id} sent blocks that are none we asked for")
        if message.wants or message.full:
            peer.wanted.update(message.wants, full=message.full)
            if peer.wanted and not peer.answering:
                peer.answering = True
                self._nursery.start_soon(self._answer, peer)

    async def _answer(self, peer: _Peer) -> None:
        """Answer until the peer wants nothing more."""
        try:
            while self._peers.get(peer.peer_id) is peer and not self._standing.is_banned(peer.peer_id):
                wants = peer.wanted.take()
                if not wants:
                    return
                async with self._answering:
                    async with self._readers:
                        message, count = await trio.to_thread.run_sync(answer, self._held, wants)
                    peer.wanted.settle(wants[:count])
                    given = sum(len(block.data) for block in message.blocks)
                    if message.blocks or message.presences:
                        await peer.answers_out.send(message)
                self.counters.given_blocks += len(message.blocks)
                self.counters.given_bytes += given
                await peer.given.spend(given)
        except StreamEndedError as error:
            log.debug("a peer could not be answered", peer=peer.peer_id, reason=str(error))
            if isinstance(error, StalledError):
                self._standing.blame(peer.peer_id, Offence.STALLED, f"bitswap: {error}")
            peer.wanted = WantList()
        except Exception as error:  # a fault of the disk, or ours: it costs this peer its answers, not the daemon
            log.error("wants of a peer could not be answered", peer=peer.peer_id, reason=repr(error), exc_info=error)
            peer.wanted = WantList()
        finally:
            peer.answering = False

    def _tell(self, peer: _Peer) -> None:
        """Have the peer told what we want, unless somebody is about to."""
        if peer.requests.has_unsent and not peer.telling:
            peer.telling = True
            self._nursery.start_soon(self._tell_all, peer)

    async def _tell_all(self, peer: _Peer) -> None:
        try:
            while wants := peer.requests.take_unsent():
                await peer.wants_out.send(Message(wants=wants))
        except StreamEndedError as error:
            peer.requests.fail(str(error))
        finally:
            peer.telling = False


class _Departures(INotifee):
    """Tells the exchange of peers whose last connection ended."""

    def __init__(self, bitswap: Bitswap) -> None:
        self._bitswap = bitswap

    async def disconnected(self, network: Any, conn: Any) -> None:
        """Called by libp2p for each connection."""
        peer = conn.muxed_conn.peer_id
        if not network.get_connections(peer):
            self._bitswap.forget(str(peer))

    async def connected(self, network: Any, conn: Any) -> None:
        """Nothing to do: peers have state when they say something."""

    async def opened_stream(self, network: Any, stream: Any) -> None:
        """Nothing to do."""

    async def closed_stream(self, network: Any, stream: Any) -> None:
        """Nothing to do."""

    async def listen(self, network: Any, multiaddr: Any) -> None:
        """Nothing to do."""

    async def listen_close(self, network: Any, multiaddr: Any) -> None:
        """Nothing to do."""


@asynccontextmanager
async def open_bitswap(host: Any, held: HeldBlocks, standing: Standing) -> AsyncIterator[Bitswap]:
    """Speak Bitswap on `host` until the context is left, and give what `held` has."""
    async with trio.open_nursery() as nursery:
        bitswap = Bitswap(host, held, standing, nursery)
        departures = _Departures(bitswap)
        protocols = (PROTOCOL, PROTOCOL_WITHOUT_PRESENCES)
        for protocol in protocols:
            host.set_stream_handler(protocol, bitswap.accept)
        host.get_network().register_notifee(departures)
        nursery.start_soon(bitswap.sweep)
        try:
            yield bitswap
        finally:
            for protocol in protocols:
                host.remove_stream_handler(protocol)
            host.get_network().remove_notifee(departures)
            nursery.cancel_scope.cancel()


async def _reset(stream: Any) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(1):
        try:
            await stream.reset()
        except Exception as error:
            log.debug("a bitswap stream could not be reset", reason=repr(error))


async def _close(stream: Any) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(1):
        try:
            await stream.close()
        except Exception as error:
            log.debug("a bitswap stream could not be closed", reason=repr(error))
