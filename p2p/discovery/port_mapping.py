"""Asks the router to let peers in (UPnP IGD): one port, with a lease that is renewed and given back."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import miniupnpc
import structlog
import trio

from p2p.discovery.addresses import PeerAddress, Reach, reach_of

log = structlog.get_logger(__name__)

DISCOVER_MILLISECONDS = 2000
LEASE_SECONDS = 3600
"""What a crash leaves behind at the router at most."""
RENEW_SECONDS = LEASE_SECONDS / 2
RETRY_SECONDS = 600.0
PORTS_TRIED_MAX = 5
GIVE_BACK_SECONDS_MAX = 3.0
DESCRIPTION = "quern"


class PortMappingError(Exception):
    """The router gave no port; the message says what it answered."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A port that the router forwards to this node."""

    external_ip: str
    external_port: int
    internal_port: int


class Router(Protocol):
    """A router that maps ports. Calls block: they are made in a thread."""

    def find(self) -> str:
        """Find the router and return its external IP address. Raises PortMappingError."""

    def map(self, external_port: int, internal_port: int, lease_seconds: int) -> None:
        """Forward a TCP port to this machine. Raises PortMappingError, also if the port is taken."""

    def unmap(self, external_port: int) -> None:
        """Forward it no longer. Raises PortMappingError."""


class UpnpRouter:
    """A UPnP internet gateway device, found by multicast."""

    def __init__(self, interface: str | None = None) -> None:
        """`interface` is the IP address of the interface to search on; without it, the system chooses."""
        self._device: Any = miniupnpc.UPnP(interface) if interface else miniupnpc.UPnP()
        self._device.discoverdelay = DISCOVER_MILLISECONDS

    def find(self) -> str:
        """Find the router and return its external IP address."""
        try:
            if not self._device.discover():
                raise PortMappingError("no router answers to UPnP")
        except PortMappingError:
            raise
        except Exception as error:  # the library says "Success" where it found nothing
            raise PortMappingError(f"no router answers to UPnP ({error})") from error
        try:
            self._device.selectigd()
            return str(self._device.externalipaddress())
        except Exception as error:
            raise PortMappingError(f"a device answers to UPnP, but not as a router: {error}") from error

    def map(self, external_port: int, internal_port: int, lease_seconds: int) -> None:
        """Forward a TCP port to this machine."""
        for lease in (lease_seconds, 0):  # some routers know permanent mappings only
            try:
                self._device.addportmapping(
                    external_port, "TCP", self._device.lanaddr, internal_port, DESCRIPTION, "", lease
                )
            except Exception as error:
                if lease == 0 or "OnlyPermanentLease" not in str(error):
                    raise PortMappingError(f"the router refuses port {external_port}: {error}") from error
            else:
                return

    def unmap(self, external_port: int) -> None:
        """Forward it no longer."""
        try:
            self._device.deleteportmapping(external_port, "TCP")
        except Exception as error:
            raise PortMappingError(f"the router keeps port {external_port}: {error}") from error


class PortMapper:
    """Keeps one port mapped while it runs."""

    def __init__(self, own_id: str, internal_port: Callable[[], int | None], router: Router) -> None:
        """`internal_port` is where this node listens for others; None for none."""
        self._own_id = own_id
        self._internal_port = internal_port
        self._router = router
        self.mapping: Mapping | None = None
        self.last_error = ""

    @property
    def addresses(self) -> tuple[PeerAddress, ...]:
        """This node's address at the router, if that is on the public net: behind a second router it is not."""
        mapping = self.mapping
        if mapping is None or reach_of(ipaddress.ip_address(mapping.external_ip)) is not Reach.PUBLIC:
            return ()
        ip = ipaddress.ip_address(mapping.external_ip)
        return (PeerAddress(self._own_id, f"ip{ip.version}", str(ip), mapping.external_port),)

    async def run(self) -> None:
        """Map, renew, and give back when cancelled."""
        try:
            while True:
                try:
                    await self._renew()
                except PortMappingError as error:
                    if str(error) != self.last_error:
                        log.info("no port is mapped by the router", reason=str(error))
                    self.mapping, self.last_error = None, str(error)
                await trio.sleep(RETRY_SECONDS if self.mapping is None else RENEW_SECONDS)
        finally:
            if self.mapping is not None:
                await self._give_back(self.mapping)

    async def _renew(self) -> None:
        port = self._internal_port()
        if port is None:
            raise PortMappingError("this node listens on no port that a router could forward to")
        external_ip = await _in_thread(self._router.find)
        try:
            reach = reach_of(ipaddress.ip_address(external_ip))
        except ValueError as error:
            raise PortMappingError(f"the router names {external_ip!r} as its address") from error
        first = port if self.mapping is None else self.mapping.external_port
        for candidate in dict.fromkeys((first, *range(port, min(port + PORTS_TRIED_MAX, 65536)))):
            try:
                await _in_thread(self._router.map, candidate, port, LEASE_SECONDS)
            except PortMappingError as error:
                self.last_error = str(error)
                continue
            mapping = Mapping(external_ip, candidate, port)
            if mapping != self.mapping:
                log.info("the router forwards a port to this node", address=external_ip, port=candidate)
            self.mapping = mapping
            self.last_error = (
                ""
                if reach is Reach.PUBLIC
                else f"the router is itself behind another one: its address is {external_ip}"
            )
            return
        raise PortMappingError(self.last_error)

    async def _give_back(self, mapping: Mapping) -> None:
        with trio.CancelScope(deadline=trio.current_time() + GIVE_BACK_SECONDS_MAX, shield=True):
            try:
                await _in_thread(self._router.unmap, mapping.external_port)
            except PortMappingError as error:
                log.info("the port stays mapped until its lease ends", reason=str(error))
        self.mapping = None


async def _in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """Make a blocking call; cancelling leaves it to end by itself, which the library's own time limits see to."""
    run: Any = trio.to_thread.run_sync  # Any: the stubs in the environment are older than trio
    return await run(call, *arguments, abandon_on_cancel=True)
