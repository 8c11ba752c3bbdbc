"""HTTP to servers that a stranger may have named: redirects are few, and none leads into this machine or its network.

Detail: every host is resolved here, all of its addresses are checked, and the connection goes to an address that was
checked; a name that answers otherwise a second time (DNS rebinding) gains nothing. Proxies of the environment are not
used, because a proxy would resolve the name itself.
"""

import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urljoin, urlsplit

import httpx
import trio

REDIRECTS_MAX = 5
ADDRESSES_TRIED_MAX = 4
CONNECT_SECONDS_MAX = 10.0
READ_SECONDS_MAX = 30.0
"""A server that sends nothing for so long has stalled."""
_REDIRECTS = (301, 302, 303, 307, 308)


class ForbiddenAddressError(Exception):
    """A URL, or what it redirects to, is not to be asked; the message says why."""


class UnreachableError(Exception):
    """The server cannot be reached, this time."""


class GuardedClient:
    """Requests with the checks. `private_allowed` lets the operator's own machines through, by his choice."""

    def __init__(self, *, private_allowed: bool = False) -> None:
        self._private_allowed = private_allowed
        timeout = httpx.Timeout(READ_SECONDS_MAX, connect=CONNECT_SECONDS_MAX)
        # No connection is used twice: the pool knows addresses, and two names at one address are not one server.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False, follow_redirects=False)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def open(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and follow its redirects; the body is not read yet.

        Raises ForbiddenAddressError, UnreachableError.
        """
        for _ in range(REDIRECTS_MAX + 1):
            response = await self._send(method, url, headers or {})
            try:
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    yield response
                    return
                target = urljoin(url, response.headers["location"])
            finally:
                with trio.CancelScope(shield=True):
                    await response.aclose()
            if url.startswith("https:") and not target.startswith("https:"):
                raise ForbiddenAddressError(f"{host_of(url)} redirects away from https; not followed")
            url = target
        raise ForbiddenAddressError(f"more than {REDIRECTS_MAX} redirects; not followed")

    async def _send(self, method: str, url: str, headers: Mapping[str, str]) -> httpx.Response:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ForbiddenAddressError(f"{url[:100]!r} is no http(s) address")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise ForbiddenAddressError(f"{url[:100]!r} has no usable port") from error
        failure: Exception | None = None
        for address in await self._addresses(parts.hostname, port):
            netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            request = self._client.build_request(
                method,
                parts._replace(netloc=netloc, fragment="").geturl(),
                headers={**headers, "Host": parts.netloc.rpartition("@")[2], "Accept-Encoding": "identity"},
                extensions={"sni_hostname": parts.hostname},
            )
            try:
                return await self._client.send(request, stream=True)
            except httpx.TransportError as error:
                failure = error
        raise UnreachableError(f"{parts.hostname} cannot be reached: {failure!r}")

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UnreachableError(f"the name {host} cannot be resolved: {error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._private_allowed:
            for address in addresses:
                if not is_public(address):
                    raise ForbiddenAddressError(
                        f"{host} is {address}, an address of this machine or its network: not asked. If that is meant, "
                        "set [models] private_addresses_allowed"
                    )
        return addresses[:ADDRESSES_TRIED_MAX]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet at large; IPv4 within IPv6 counts as what it holds."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is not None:
            return is_public(str(inner))
        if parsed in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
    return parsed.is_global and not parsed.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def host_of(url: str) -> str:
    """Return the host of a URL, for messages: paths may hold secrets."""
    return urlsplit(url).hostname or url[:40]
