"""The DHT: finds peers and the providers of content in a network too large to know everybody.

Goals: the Kademlia protocol of libp2p on the wire, so that any libp2p implementation can take part; nothing that a
peer says is believed beyond what that peer may say; every table, answer, lookup and message bounded.
Non-goals: storing values. Nothing of ours needs them, and a stored value is an attack surface; PUT_VALUE and GET_VALUE
are refused.

Detail: libp2p 0.8.1 has a DHT of its own, which is not used: it ignores its protocol prefix and so joins the public
IPFS network, takes peers it never reached into its table and their addresses into the host's store, keeps providers of
any number of contents, repeats for 48 hours what one liar told it, and lets a lookup be led on without end.
See docs/decisions/0022.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import base58
import structlog
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message as _Message
from multiaddr import Multiaddr

from p2p.content.cid import Cid
from p2p.discovery.addresses import (
    ADDRESS_CHARACTERS_MAX,
    AddressError,
    PeerAddress,
    is_peer_id,
    parse_address,
    worth_telling,
)
from p2p.discovery.connections import identified_addresses, remote_endpoint, speaks
from p2p.discovery.control_streams import (
    ControlError,
    EndOfMessagesError,
    MalformedError,
    close_stream,
    open_stream,
    receive_message,
    reset_stream,
    send_message,
)
from p2p.discovery.dialer import Dialer, DialError
from p2p.discovery.kademlia import PARALLEL_QUERIES, Lookup, RoutingTable, key_of
from p2p.discovery.peerbook import Origin, PeerBook
from p2p.discovery.providers import ADDRESSES_MAX, ProviderRecords
from p2p.host import listening_addresses
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

Message: Any = _Message
"""Generated code without types."""

MESSAGE_BYTES_MAX = 64 * 1024
"""20 peers with 8 addresses each take 20 KB."""
KEY_BYTES_MAX = 80
MESSAGES_PER_STREAM_MAX = 64
INBOUND_STREAMS_MAX = 16
"""At once; more are reset. Answering one takes a millisecond."""
INBOUND_STREAMS_PER_PEER_MAX = 4
"""A lookup uses one or two."""
IDLE_SECONDS_MAX = 10.0
QUERY_SECONDS_MAX = 5.0
LOOKUP_SECONDS_MAX = 15.0
PROVIDERS_WANTED = 20
PROVIDED_MAX = 512
"""Contents this node announces: the roots of its models, datasets and batches, not their blocks."""
PROVIDE_SECONDS = 8 * 3600.0
PROVIDE_RETRY_SECONDS = 30.0
REFRESH_SECONDS = 600.0
TABLE_SECONDS = 2.0
"""How often connected peers are looked over for new servers of the DHT."""


@dataclass(frozen=True, slots=True)
class FoundProvider:
    """A peer that says it provides a content. Whether it does is seen when it is asked."""

    peer_id: str
    addresses: tuple[PeerAddress, ...]


@dataclass(frozen=True, slots=True)
class DhtStatus:
    """The DHT at a glance."""

    serving: bool
    peers: int
    """In the routing table."""
    records: int
    """Contents whose providers this node keeps for others."""
    provided: int
    """Contents that this node announces."""
    announced: int
    """Of those, how many at least one peer has taken note of."""


class ProvideLimitError(Exception):
    """More contents are to be announced than PROVIDED_MAX."""


class Dht:
    """One node of the DHT."""

    def __init__(
        self,
        host: Any,
        book: PeerBook,
        dialer: Dialer,
        *,
        protocol: str,
        clock: Callable[[], float],
        standing: Standing | None = None,
    ) -> None:
        """`protocol` such as `/quern/NETWORK/kad/1.0.0`; `clock` gives UNIX seconds."""
        self._host = host
        self._own_id = str(host.get_id())
        self._book = book
        self._dialer = dialer
        self._protocol = protocol
        self._standing = standing
        self._table = RoutingTable(self._own_id)
        self._records = ProviderRecords(clock)
        self._provided: dict[bytes, float] = {}
        self._announced: set[bytes] = set()
        self._wake = trio.Event()
        self._inbound: Counter[str] = Counter()
        self._serving = False

    def serve(self, wanted: bool) -> None:
        """Answer queries of others, or stop: a node that nobody can dial would only hold up their lookups."""
        if wanted and not self._serving:
            self._host.set_stream_handler(self._protocol, self._handle)
        elif self._serving and not wanted:
            self._host.remove_stream_handler(self._protocol)
        self._serving = wanted

    def status(self) -> DhtStatus:
        """The DHT at a glance."""
        return DhtStatus(self._serving, len(self._table), len(self._records), len(self._provided), len(self._announced))

    def provide(self, cid: str) -> None:
        """Announce from now on that this node provides a content; `run` does so at once and again and again.

        Raises ProvideLimitError, and CidError for what is not a CID.
        """
        multihash = multihash_of(cid)
        if multihash not in self._provided:
            if len(self._provided) >= PROVIDED_MAX:
                raise ProvideLimitError(
                    f"{PROVIDED_MAX} contents are announced already: announce the roots only, or unpin what is unused"
                )
            self._provided[multihash] = float("-inf")
            self._wake.set()

    def withdraw(self, cid: str) -> None:
        """Announce a content no longer. Others forget it within a day; asked sooner, this node says it lacks it."""
        multihash = multihash_of(cid)
        self._provided.pop(multihash, None)
        self._announced.discard(multihash)

    async def find_providers(self, cid: str, *, wanted: int = PROVIDERS_WANTED) -> list[FoundProvider]:
        """Search for peers that say they provide a content: up to `wanted`, each once, without this node itself."""
        multihash = multihash_of(cid)
        found: dict[str, FoundProvider] = {}

        def note(peer_id: str, addresses: Sequence[PeerAddress]) -> None:
            if peer_id == self._own_id or self._is_banned(peer_id):
                return
            known = found[peer_id].addresses if peer_id in found else ()
            merged = tuple(dict.fromkeys((*known, *addresses)))[:ADDRESSES_MAX]
            found[peer_id] = FoundProvider(peer_id, merged)

        for record in self._records.get(multihash):
            note(record.peer_id, record.addresses)

        async def ask(peer_id: str) -> list[tuple[str, tuple[PeerAddress, ...]]]:
            answer = await self._query(peer_id, Message.MessageType.GET_PROVIDERS, multihash)
            for provider, addresses in self._read_peers(answer.providerPeers):
                note(provider, addresses)
            return self._read_peers(answer.closerPeers)

        if len(found) < wanted:
            await self._lookup(key_of(multihash), ask, enough=lambda: len(found) >= wanted)
        return list(found.values())[:wanted]

    async def find_peer(self, peer_id: str) -> tuple[PeerAddress, ...]:
        """Search for the addresses of a peer; empty if nobody knows any."""
        found: dict[PeerAddress, None] = {}
        key = base58.b58decode(peer_id)

        async def ask(asked: str) -> list[tuple[str, tuple[PeerAddress, ...]]]:
            closer = self._read_peers((await self._query(asked, Message.MessageType.FIND_NODE, key)).closerPeers)
            found.update(dict.fromkeys(a for peer, addresses in closer if peer == peer_id for a in addresses))
            return closer

        await self._lookup(key_of(key), ask, enough=lambda: bool(found))
        return tuple(found)[:ADDRESSES_MAX]

    async def run(self) -> None:
        """Keep the table fresh and the own contents announced, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_table)
            nursery.start_soon(self._keep_announced)

    async def _keep_table(self) -> None:
        refreshed_at, refreshed_with = float("-inf"), 0
        while True:
            for ban in self._standing.bans() if self._standing is not None else ():
                self._table.remove(ban.peer)
            for peer_id in self._dialer.connected():
                if peer_id not in self._table and speaks(self._host, peer_id, self._protocol):
                    self._table.add(peer_id)
                    for address in identified_addresses(self._host, peer_id):  # for those who ask for it
                        self._book.learn(address, Origin.CLAIMED)
            grown = len(self._table) >= 2 * refreshed_with + 1
            if len(self._table) and (grown or trio.current_time() - refreshed_at >= REFRESH_SECONDS):
                refreshed_at, refreshed_with = trio.current_time(), len(self._table)
                self._records.expire()
                await self._closest(base58.b58decode(self._own_id))
                await self._closest(secrets.token_bytes(32))
                if grown:  # the closest peers of a content may be others now
                    self._provided = dict.fromkeys(self._provided, float("-inf"))
                    self._wake.set()
            await trio.sleep(TABLE_SECONDS)

    async def _keep_announced(self) -> None:
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            for multihash, due in list(self._provided.items()):
                if due <= now and multihash in self._provided and len(self._table):
                    self._provided[multihash] = now + PROVIDE_RETRY_SECONDS
                    if await self._announce(multihash):
                        self._announced.add(multihash)
                        pause = PROVIDE_SECONDS * (80 + secrets.randbelow(20)) / 100
                        if self._provided.get(multihash) == now + PROVIDE_RETRY_SECONDS:
                            self._provided[multihash] = now + pause
            self._announced &= self._provided.keys()
            with trio.move_on_after(PROVIDE_RETRY_SECONDS):
                await self._wake.wait()

    async def _announce(self, multihash: bytes) -> int:
        """Tell the peers closest to a content that this node provides it; return how many took it."""
        own = [_parsed(text) for text in listening_addresses(self._host)]
        told = 0
        for peer_id in await self._closest(multihash):
            message = Message(type=Message.MessageType.ADD_PROVIDER, key=multihash)
            _write_peer(message.providerPeers.add(), self._own_id, [address for address in own if address is not None])
            try:
                async with open_stream(
                    self._host, peer_id, self._protocol, deadline_seconds=QUERY_SECONDS_MAX
                ) as stream:
                    await send_message(stream, message, deadline_seconds=QUERY_SECONDS_MAX)
                told += 1
            except ControlError as error:
                log.debug("a peer took no provider record", peer=peer_id, reason=str(error))
        return told

    async def _closest(self, key: bytes) -> list[str]:
        """The peers closest to a key that answer, closest first."""

        async def ask(peer_id: str) -> list[tuple[str, tuple[PeerAddress, ...]]]:
            answer = await self._query(peer_id, Message.MessageType.FIND_NODE, key)
            return self._read_peers(answer.closerPeers)

        return await self._lookup(key_of(key), ask, enough=lambda: False)

    async def _lookup(self, target: int, ask: Any, *, enough: Callable[[], bool]) -> list[str]:
        """Ask ever closer peers by `ask`, which returns the closer ones they told; return the closest that answered."""
        lookup = Lookup(target, self._own_id)
        for peer_id in self._table.closest(target):
            lookup.add(peer_id)
        progress = trio.Condition()
        running = 0

        async def query(peer_id: str, addresses: tuple[PeerAddress, ...]) -> None:
            nonlocal running
            try:
                with trio.fail_after(QUERY_SECONDS_MAX):
                    await self._dialer.connect(peer_id, addresses)
                    closer = await ask(peer_id)
            except (ControlError, DialError, trio.TooSlowError) as error:
                log.debug("a DHT query failed", peer=peer_id, reason=str(error) or "no answer in time")
                lookup.failed(peer_id)
                self._table.remove(peer_id)
                if isinstance(error, MalformedError) and self._standing is not None:
                    self._standing.blame(peer_id, Offence.MALFORMED, f"DHT answer: {error}")
            else:
                self._table.add(peer_id)
                lookup.answered(peer_id, [each for each in closer if not self._is_banned(each[0])])
                for _peer, told in closer:
                    for address in told[:ADDRESSES_MAX]:
                        self._book.learn(address, Origin.TOLD, peer_id)
            finally:
                running -= 1
                with trio.CancelScope(shield=True):
                    async with progress:
                        progress.notify_all()

        with trio.move_on_after(LOOKUP_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                while not enough():
                    following = lookup.take() if running < PARALLEL_QUERIES else None
                    if following is not None:
                        running += 1
                        nursery.start_soon(query, *following)
                        continue
                    if running == 0:
                        break
                    async with progress:
                        await progress.wait()
                nursery.cancel_scope.cancel()
        return lookup.closest()

    async def _query(self, peer_id: str, kind: int, key: bytes) -> Any:
        """Ask a connected peer. Raises ControlError."""
        async with open_stream(self._host, peer_id, self._protocol, deadline_seconds=QUERY_SECONDS_MAX) as stream:
            await send_message(stream, Message(type=kind, key=key), deadline_seconds=QUERY_SECONDS_MAX)
            answer = await receive_message(
                stream, Message, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=QUERY_SECONDS_MAX
            )
        if answer.type != kind:
            raise MalformedError("it answered another question")
        return answer

    async def _handle(self, stream: Any) -> None:
        """Answer the messages of one stream."""
        peer_id = str(stream.muxed_conn.peer_id)
        if self._inbound.total() >= INBOUND_STREAMS_MAX or self._inbound[peer_id] >= INBOUND_STREAMS_PER_PEER_MAX:
            await reset_stream(stream)
            return
        self._inbound[peer_id] += 1
        try:
            for _ in range(MESSAGES_PER_STREAM_MAX):
                question = await receive_message(
                    stream, Message, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=IDLE_SECONDS_MAX
                )
                answer = self._answer(peer_id, question, stream)
                if answer is not None:
                    await send_message(stream, answer, deadline_seconds=QUERY_SECONDS_MAX)
            await close_stream(stream)
        except EndOfMessagesError:
            await close_stream(stream)
        except ControlError as error:
            log.debug("a DHT stream is reset", peer=peer_id, reason=str(error))
            if isinstance(error, MalformedError) and self._standing is not None:
                self._standing.blame(peer_id, Offence.MALFORMED, f"DHT question: {error}")
            await reset_stream(stream)
        finally:
            self._inbound[peer_id] -= 1
            self._inbound += Counter()  # drops what is zero

    def _answer(self, peer_id: str, question: Any, stream: Any) -> Any | None:
        """What to answer; None for a message that has no answer. Raises MalformedError."""
        kinds = Message.MessageType
        key = bytes(question.key)
        if question.type == kinds.PING:
            return Message(type=kinds.PING)
        if question.type not in (kinds.FIND_NODE, kinds.GET_PROVIDERS, kinds.ADD_PROVIDER):
            raise ControlError("it wants to store or read values, which this DHT does not do")
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise MalformedError(f"its key has {len(key)} bytes")
        if question.type == kinds.ADD_PROVIDER:
            for provider, addresses in self._read_peers(question.providerPeers):
                if provider == peer_id:  # nobody speaks for another
                    self._records.add(key, provider, addresses)
            return None
        endpoint = remote_endpoint(stream.muxed_conn)
        asker = None if endpoint is None else endpoint[0]
        answer = Message(type=question.type, key=key)
        if question.type == kinds.GET_PROVIDERS:
            if key in self._provided:
                own = [a for a in map(_parsed, listening_addresses(self._host)) if a and worth_telling(a, asker)]
                _write_peer(answer.providerPeers.add(), self._own_id, own)
            for record in self._records.get(key):
                told = [address for address in record.addresses if worth_telling(address, asker)]
                _write_peer(answer.providerPeers.add(), record.peer_id, told)
        for closer in self._table.closest(key_of(key)):
            if closer != peer_id:
                known = [each for each in self._book.addresses(closer) if worth_telling(each, asker)]
                _write_peer(answer.closerPeers.add(), closer, known)
        return answer

    def _read_peers(self, entries: Any) -> list[tuple[str, tuple[PeerAddress, ...]]]:
        """Peers of a message with the addresses that can be read; entries beyond an honest number are left out."""
        peers = []
        for entry in entries[: 2 * PROVIDERS_WANTED]:
            peer_id = base58.b58encode(entry.id).decode() if len(entry.id) <= 64 else ""
            if is_peer_id(peer_id) and peer_id != self._own_id:
                peers.append((peer_id, _read_addresses(peer_id, entry.addrs)))
        return peers

    def _is_banned(self, peer_id: str) -> bool:
        return self._standing is not None and self._standing.is_banned(peer_id)


def multihash_of(cid: str) -> bytes:
    """The multihash in a CID, by which the DHT knows a content whatever its codec. Raises CidError."""
    return Cid.parse(cid).to_bytes()[2:]


def _write_peer(entry: Any, peer_id: str, addresses: Sequence[PeerAddress]) -> None:
    entry.id = base58.b58decode(peer_id)
    entry.addrs.extend(Multiaddr(address.transport).to_bytes() for address in addresses[:ADDRESSES_MAX])


def _read_addresses(peer_id: str, encoded: Any) -> tuple[PeerAddress, ...]:
    addresses = []
    for data in encoded[: 2 * ADDRESSES_MAX]:
        if len(data) <= ADDRESS_CHARACTERS_MAX:
            try:
                addresses.append(parse_address(str(Multiaddr(bytes(data))), peer_id))
            except Exception as error:  # AddressError, or whatever the library raises for bytes that are no address
                log.debug("an address of another kind is left out", peer=peer_id, reason=repr(error))
    return tuple(addresses[:ADDRESSES_MAX])


def _parsed(text: str) -> PeerAddress | None:
    try:
        return parse_address(text)
    except AddressError:
        return None
