"""Finds nodes on the local network (mDNS), so that machines side by side need no bootstrap list.

Detail: the records are those of libp2p's mDNS (`dnsaddr=` texts) under a service name of our own, so that no other
libp2p programs are dialled. zeroconf runs threads of its own; they are started and ended in worker threads, and what
they find crosses over by a bounded channel.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
import trio
import zeroconf

from p2p.discovery.addresses import AddressError, PeerAddress, Reach, Surroundings, may_dial, parse_address
from p2p.discovery.peerbook import Origin, PeerBook

log = structlog.get_logger(__name__)

SERVICE = "_quern._udp.local."
"""Browsed for by every node of any Quern network; the handshake and the DHT tell networks apart."""
TEXT_KEY = b"dnsaddr="
TEXT_BYTES_MAX = 255
"""Of one string in a TXT record, by DNS."""
TEXTS_MAX = 8
FOUND_MAX = 64
"""Services waiting to be read; more are dropped, and found again when they announce themselves again."""
INFO_MILLISECONDS = 3000
LOOK_SECONDS = 10.0
CLOSE_SECONDS_MAX = 5.0


class LocalNetwork:
    """Announces this node on the local network and notes in the book whom it finds there."""

    def __init__(
        self,
        own_id: str,
        book: PeerBook,
        surroundings: Surroundings,
        addresses: Callable[[], Sequence[PeerAddress]],
        *,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        """`addresses` are this node's own; `interfaces` the IP addresses to use, without them the default ones."""
        self._own_id = own_id
        self._book = book
        self._surroundings = surroundings
        self._addresses = addresses
        self._interfaces = interfaces
        self._name = f"{secrets.token_hex(16)}.{SERVICE}"
        self._found_ids: set[str] = set()
        self.last_error = ""

    @property
    def found(self) -> int:
        """Peers found on the local network so far."""
        return len(self._found_ids)

    async def run(self) -> None:
        """Announce and listen until cancelled. A network without multicast is noted in `last_error`."""
        token = trio.lowlevel.current_trio_token()
        send, receive = trio.open_memory_channel[bytes](FOUND_MAX)

        def found(text: bytes) -> None:
            try:
                token.run_sync_soon(_offer, send, text)
            except trio.RunFinishedError:
                return

        announced = texts_of(self._addresses())
        try:
            service = await trio.to_thread.run_sync(self._start, announced, found)
        except Exception as error:  # OSError, or whatever zeroconf raises where multicast is not to be had
            self.last_error = f"mDNS is not available here: {error!r}"
            log.info("no discovery on the local network", reason=self.last_error)
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, receive)
                while True:
                    await trio.sleep(LOOK_SECONDS)
                    if (texts := texts_of(self._addresses())) != announced:
                        announced = texts
                        await trio.to_thread.run_sync(service.update_service, self._info(announced))
        finally:
            with trio.CancelScope(deadline=trio.current_time() + CLOSE_SECONDS_MAX, shield=True):
                await trio.to_thread.run_sync(service.close)  # says goodbye and ends the threads

    def _start(self, announced: bytes, found: Callable[[bytes], None]) -> zeroconf.Zeroconf:
        chosen: Any = list(self._interfaces) if self._interfaces else zeroconf.InterfaceChoice.Default
        service = zeroconf.Zeroconf(interfaces=chosen)
        try:
            service.register_service(self._info(announced), allow_name_change=True)
            service.add_service_listener(SERVICE, _Listener(self._name, found))  # ended by close
        except BaseException:
            service.close()
            raise
        return service

    def _info(self, texts: bytes) -> zeroconf.ServiceInfo:
        """The record. Only its texts count; without addresses of its own zeroconf would not take it as complete."""
        addresses = [address for address in self._addresses() if address.ip is not None]
        return zeroconf.ServiceInfo(
            SERVICE,
            self._name,
            port=next((address.port for address in addresses), 0),
            properties=texts,
            server=f"{self._name[:32]}.local.",
            parsed_addresses=list(dict.fromkeys(address.host for address in addresses)),
        )

    async def _read(self, receive: trio.MemoryReceiveChannel[bytes]) -> None:
        async for text in receive:
            for address in read_texts(text):
                if address.peer_id == self._own_id or not may_dial(address, self._surroundings):
                    continue
                if self._book.learn(address, Origin.LOCAL, "local network") and len(self._found_ids) < FOUND_MAX:
                    if address.peer_id not in self._found_ids:
                        log.info("a peer is on the local network", peer=address.peer_id, address=str(address))
                    self._found_ids.add(address.peer_id)


def texts_of(addresses: Iterable[PeerAddress]) -> bytes:
    """The TXT record of a node at these addresses: those that make sense on a local network."""
    texts = [TEXT_KEY + str(address).encode() for address in addresses if address.reach is not Reach.NOWHERE]
    short = [text for text in texts if len(text) <= TEXT_BYTES_MAX][:TEXTS_MAX]
    return b"".join(bytes((len(text),)) + text for text in short)


def read_texts(record: bytes) -> list[PeerAddress]:
    """The addresses in a TXT record; what is none is left out."""
    addresses: list[PeerAddress] = []
    rest = record
    while rest and len(addresses) < TEXTS_MAX:
        text, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
        if text.startswith(TEXT_KEY):
            try:
                addresses.append(parse_address(text.removeprefix(TEXT_KEY).decode("ascii", "replace")))
            except AddressError as error:
                log.debug("a text of the local network is no address", reason=str(error))
    return addresses


class _Listener(zeroconf.ServiceListener):
    """Called in a thread of zeroconf."""

    def __init__(self, own_name: str, found: Callable[[bytes], None]) -> None:
        self._own_name = own_name
        self._found = found

    def add_service(self, service: zeroconf.Zeroconf, kind: str, name: str) -> None:
        """A node has appeared."""
        if name == self._own_name:
            return
        info = service.get_service_info(kind, name, timeout=INFO_MILLISECONDS)
        if info is not None and info.text:
            self._found(info.text)

    def update_service(self, service: zeroconf.Zeroconf, kind: str, name: str) -> None:
        """A node has other addresses now."""
        self.add_service(service, kind, name)

    def remove_service(self, service: zeroconf.Zeroconf, kind: str, name: str) -> None:
        """A node said goodbye: its address stays in the book until dialling it fails."""


def _offer(send: trio.MemorySendChannel[bytes], text: bytes) -> None:
    try:
        send.send_nowait(text)
    except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("a service of the local network is dropped: too many at once")
