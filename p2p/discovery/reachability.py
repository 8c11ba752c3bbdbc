"""Can peers dial this node? It asks them to try (AutoNAT v1), and tries for them.

Detail: the library's AutoNAT is not used: it "dials" a peer that it is connected with, is given the existing
connection, and so finds everybody reachable. Here the way back is a new connection whose other end has to prove its
identity, and which is closed at once.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import base58
import structlog
import trio
from libp2p.host.autonat.pb import autonat_pb2
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p.discovery.addresses import PeerAddress, parse_address
from p2p.discovery.announced import Reachability
from p2p.discovery.connections import has_direct_connection, is_relayed, remote_endpoint, remote_ip, speaks
from p2p.discovery.control_streams import (
    ControlError,
    MalformedError,
    close_stream,
    open_stream,
    receive_message,
    reset_stream,
    send_message,
)
from p2p.discovery.dialer import Dialer
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

PROTOCOL = "/libp2p/autonat/1.0.0"
Message: Any = autonat_pb2.Message
"""Any: generated code without types."""

MESSAGE_BYTES_MAX = 8192
MESSAGE_SECONDS_MAX = 15.0
ADDRESSES_TRIED_MAX = 4
DIAL_BACK_SECONDS_MAX = 5.0
DIAL_BACKS_AT_ONCE_MAX = 4
DIAL_BACK_PAUSE_SECONDS = 5.0
"""Between two requests of one peer: nobody makes this node knock at its own door all day."""
PEERS_REMEMBERED_MAX = 1024
VERDICTS_MAX = 16
VERDICT_SECONDS = 3600.0
MARGIN = 2
"""One liar, or one peer behind a broken line, decides nothing."""
ASKED_PER_ROUND = 3
UNKNOWN_ROUND_SECONDS = 20.0
KNOWN_ROUND_SECONDS = 900.0
LOOK_SECONDS = 2.0
"""How often the own addresses are looked over for changes."""
STATUS_OK = 0
STATUS_DIAL_ERROR = 100
STATUS_REFUSED = 101
STATUS_BAD_REQUEST = 200


def judge(successes: int, failures: int, previous: Reachability) -> Reachability:
    """What so many peers that got through and that did not say together."""
    if successes - failures >= MARGIN:
        return Reachability.PUBLIC
    if failures - successes >= MARGIN:
        return Reachability.PRIVATE
    return previous


class DialBackServer:
    """Tries to dial peers that ask for it, at the address they come from only."""

    def __init__(self, host: Any, dialer: Dialer, standing: Standing | None = None) -> None:
        self._host = host
        self._dialer = dialer
        self._standing = standing
        self._served_at: OrderedDict[str, float] = OrderedDict()
        self._running = 0

    def start(self) -> None:
        """Answer from now on."""
        self._host.set_stream_handler(PROTOCOL, self._handle)

    async def _handle(self, stream: Any) -> None:
        peer_id = str(stream.muxed_conn.peer_id)
        try:
            question = await receive_message(
                stream, Message, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=MESSAGE_SECONDS_MAX
            )
            status, text, reached = await self._try(peer_id, question, stream)
            answer = Message(type=Message.DIAL_RESPONSE)
            answer.dialResponse.status = status
            answer.dialResponse.statusText = text
            if reached is not None:
                answer.dialResponse.addr = Multiaddr(reached.transport).to_bytes()
            await send_message(stream, answer, deadline_seconds=MESSAGE_SECONDS_MAX)
            await close_stream(stream)
        except ControlError as error:
            if isinstance(error, MalformedError) and self._standing is not None:
                self._standing.blame(peer_id, Offence.MALFORMED, f"AutoNAT request: {error}")
            await reset_stream(stream)

    async def _try(self, peer_id: str, question: Any, stream: Any) -> tuple[int, str, PeerAddress | None]:
        if question.type != Message.DIAL:
            return STATUS_BAD_REQUEST, "expected a request to dial", None
        if is_relayed(stream.muxed_conn) or (endpoint := remote_endpoint(stream.muxed_conn)) is None:
            return STATUS_REFUSED, "through a relay nobody knows where you are", None
        if bytes(question.dial.peer.id) not in (b"", base58.b58decode(peer_id)):
            return STATUS_REFUSED, "ask for yourself", None
        now = trio.current_time()
        if (
            self._running >= DIAL_BACKS_AT_ONCE_MAX
            or now - self._served_at.get(peer_id, float("-inf")) < DIAL_BACK_PAUSE_SECONDS
        ):
            return STATUS_REFUSED, "too often", None
        self._served_at[peer_id] = now
        self._served_at.move_to_end(peer_id)
        while len(self._served_at) > PEERS_REMEMBERED_MAX:
            self._served_at.popitem(last=False)
        wanted = [
            address for address in _read_addresses(peer_id, question.dial.peer.addrs) if address.ip == endpoint[0]
        ]
        allowed = [address for address in wanted if self._dialer.allows(address)][:ADDRESSES_TRIED_MAX]
        if not allowed:
            return STATUS_REFUSED, "none of these addresses is the one you come from", None
        self._running += 1
        try:
            for address in allowed:
                if await self._reaches(address):
                    return STATUS_OK, "", address
        finally:
            self._running -= 1
        return STATUS_DIAL_ERROR, "nobody answered there", None

    async def _reaches(self, address: PeerAddress) -> bool:
        """Whether a new connection leads to the peer; it is closed again."""
        network = self._host.get_network()
        target = Multiaddr(address.transport)
        try:
            with trio.fail_after(DIAL_BACK_SECONDS_MAX):
                transport = network.transport_manager.transport_for_dialing(target)
                raw = await transport.dial(Multiaddr(str(address)))
                try:
                    await network.upgrader.upgrade_security(raw, True, ID.from_base58(address.peer_id))
                finally:
                    await raw.close()
        except Exception as error:  # the library has no common base of its errors
            log.debug("a dial back failed", address=str(address), reason=repr(error))
            return False
        return True


class ReachabilityProbe:
    """Asks peers to dial back, and keeps the verdict."""

    def __init__(
        self,
        host: Any,
        dialer: Dialer,
        candidates: Callable[[], Sequence[PeerAddress]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`candidates` are addresses at which this node might be reached; `clock` gives UNIX seconds."""
        self._host = host
        self._dialer = dialer
        self._candidates = candidates
        self._clock = clock
        self._verdicts: OrderedDict[str, tuple[bool, float]] = OrderedDict()
        self.state = Reachability.UNKNOWN
        self.last_error = ""
        self.checked_at: float | None = None
        """UNIX seconds of the last answer."""

    @property
    def answers(self) -> int:
        """Verdicts that count now."""
        return len(self._verdicts)

    async def run(self) -> None:
        """Ask again and again until cancelled: often while nothing is known, seldom then."""
        asked_with: tuple[PeerAddress, ...] = ()
        while True:
            candidates = tuple(self._candidates())
            if candidates != asked_with:  # what was found of other addresses says nothing of these
                self._verdicts.clear()
                asked_with = candidates
            await self.check()
            known = self.state is not Reachability.UNKNOWN
            rounds = (KNOWN_ROUND_SECONDS if known else UNKNOWN_ROUND_SECONDS) / LOOK_SECONDS
            for _ in range(int(rounds)):
                await trio.sleep(LOOK_SECONDS)
                if tuple(self._candidates()) != asked_with:
                    break

    async def check(self) -> Reachability:
        """Ask a few peers once, each from another network where possible; return the new verdict."""
        candidates = [address for address in self._candidates() if address.relay is None]
        if not candidates:
            self.last_error = "no address is known at which peers could dial this node"
            return self.state
        for server in self._servers():
            try:
                success = await self.ask(server, candidates)
            except ControlError as error:
                self.last_error = str(error)
                log.debug("a peer did not try to dial back", peer=server, reason=str(error))
                continue
            self.checked_at = self._clock()
            self._verdicts[server] = (success, self.checked_at)
            self._verdicts.move_to_end(server)
        self._judge()
        return self.state

    async def ask(self, server: str, candidates: Sequence[PeerAddress]) -> bool:
        """Have a peer dial back; whether it got through. Raises ControlError if it did not try."""
        question = Message(type=Message.DIAL)
        question.dial.peer.id = self._host.get_id().to_bytes()
        question.dial.peer.addrs.extend(Multiaddr(address.transport).to_bytes() for address in candidates)
        async with open_stream(self._host, server, PROTOCOL, deadline_seconds=MESSAGE_SECONDS_MAX) as stream:
            await send_message(stream, question, deadline_seconds=MESSAGE_SECONDS_MAX)
            answer = await receive_message(
                stream,
                Message,
                bytes_max=MESSAGE_BYTES_MAX,
                deadline_seconds=ADDRESSES_TRIED_MAX * DIAL_BACK_SECONDS_MAX + MESSAGE_SECONDS_MAX,
            )
        match int(answer.dialResponse.status):
            case status if status == STATUS_OK and answer.type == Message.DIAL_RESPONSE:
                return True
            case status if status == STATUS_DIAL_ERROR:
                return False
        raise ControlError(f"it did not try: {str(answer.dialResponse.statusText)[:100]}")

    def _servers(self) -> list[str]:
        """Peers to ask: at random, one per address first."""
        able = [
            peer_id
            for peer_id in self._dialer.connected()
            if has_direct_connection(self._host, peer_id) and speaks(self._host, peer_id, PROTOCOL)
        ]
        secrets.SystemRandom().shuffle(able)
        by_address = {remote_ip(self._host, peer_id): peer_id for peer_id in able}
        first = list(by_address.values())
        return [*first, *(peer_id for peer_id in able if peer_id not in first)][:ASKED_PER_ROUND]

    def _judge(self) -> None:
        now = self._clock()
        for server, (_success, at) in list(self._verdicts.items()):
            if now - at > VERDICT_SECONDS:
                del self._verdicts[server]
        while len(self._verdicts) > VERDICTS_MAX:
            self._verdicts.popitem(last=False)
        successes = sum(success for success, _at in self._verdicts.values())
        state = judge(successes, len(self._verdicts) - successes, self.state)
        if state is not self.state:
            log.info("peers tried to dial this node", reachability=state.value, got_through=successes)
            self.state = state
            self.last_error = ""


def _read_addresses(peer_id: str, encoded: Any) -> list[PeerAddress]:
    addresses = []
    for data in encoded[: 4 * ADDRESSES_TRIED_MAX]:
        try:
            address = parse_address(str(Multiaddr(bytes(data))), peer_id)
        except Exception as error:  # AddressError, or whatever the library raises for bytes that are no address
            log.debug("an address to dial back is left out", peer=peer_id, reason=repr(error))
            continue
        if address.relay is None:
            addresses.append(address)
    return addresses
