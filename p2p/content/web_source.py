"""A public HTTP(S) gateway as a source of blocks: last resort, and never a way into this machine's own network.

A gateway that the operator named by a literal address may be anywhere. Names must resolve to public addresses, and the
connection goes to the very address that was checked, so that a name which changes its mind leads nowhere. Redirects are
followed from https to https only, a few, to public addresses only.
"""

import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx
import structlog
import trio

from p2p.content.cid import Cid
from p2p.content.source import Rank, SourceFailedError

log = structlog.get_logger(__name__)

WINDOW = 4
"""Requests in flight: it is shared with everyone."""
REDIRECTS_MAX = 3
CONNECT_SECONDS_MAX = 10.0
SILENCE_SECONDS_MAX = 20.0
"""Between two pieces of an answer; a gateway may have to find the block first."""
REQUEST_SECONDS_MAX = 25.0
"""Below what a fetch allows for a block: a gateway that searched in vain is slow, not a staller to blame."""
URL_LENGTH_MAX = 2048
PORT_MAX = 65535
HOSTS_MAX = 16
"""Hosts per gateway whose addresses are remembered: subdomain gateways have one per CID."""
RAW = "application/vnd.ipld.raw"
LACKING = (404, 410, 451, 504)
"""Not there, taken down, or not found in time: the gateway may have the next block."""
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""NAT64: the last four bytes are an IPv4 address."""
REDIRECTS = (301, 302, 303, 307, 308)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Return the IP addresses of a host."""
Permits = Callable[[str], bool]
"""Whether an IP address may be connected to."""


class GatewayRefusedError(Exception):
    """A place that we do not go to; says which and why."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL and the address it was checked to be at."""

    url: httpx.URL
    address: str


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: neither loopback, private, link-local nor reserved."""
    ip = ipaddress.ip_address(address)
    inner = _inner_ipv4(ip) if isinstance(ip, ipaddress.IPv6Address) else None
    return ip.is_global and not ip.is_multicast and (inner is None or is_public(str(inner)))


def _inner_ipv4(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one leads to: mapped, 6to4, or by the translator of a provider."""
    if ip in TRANSLATED:
        return ipaddress.IPv4Address(ip.packed[-4:])
    return ip.ipv4_mapped or ip.sixtofour


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver. Raises OSError."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class WebGatewaySource:
    """One gateway of the operator's list."""

    def __init__(
        self,
        url: str,
        *,
        resolve: Resolve = resolve,
        permits: Permits = is_public,
        verify: ssl.SSLContext | None = None,
        silence_seconds: float = SILENCE_SECONDS_MAX,
        request_seconds: float = REQUEST_SECONDS_MAX,
    ) -> None:
        """`permits` judges the addresses of names and redirects; `verify` replaces the system's certificates."""
        self._base = httpx.URL(url)
        self._resolve = resolve
        self._permits = permits
        self._request_seconds = request_seconds
        self._addresses: dict[tuple[str, int], str] = {}
        self._client = httpx.AsyncClient(
            verify=True if verify is None else verify,
            timeout=httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS_MAX),
            limits=httpx.Limits(max_connections=WINDOW, max_keepalive_connections=WINDOW),
            follow_redirects=False,
            trust_env=False,
        )

    @property
    def name(self) -> str:
        """Its URL."""
        return str(self._base)

    @property
    def rank(self) -> Rank:
        """After everyone else."""
        return Rank.WEB

    @property
    def window(self) -> int:
        """Requests in flight."""
        return WINDOW

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        """Return what the gateway gives for `cid`, unverified. Raises SourceFailedError."""
        path = f"{self._base.path.rstrip('/')}/ipfs/{cid}"
        url = self._base.copy_with(path=path, query=b"format=raw")
        try:
            with trio.fail_after(self._request_seconds):
                for _ in range(REDIRECTS_MAX + 1):
                    place = await self._check(url, named_by_operator=url.host == self._base.host)
                    found = await self._ask(place, bytes_max)
                    if not isinstance(found, httpx.URL):
                        return found
                    url = self._redirect(url, found)
        except trio.TooSlowError:
            raise SourceFailedError(f"no block within {self._request_seconds:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, GatewayRefusedError, OSError, ValueError) as error:
            raise SourceFailedError(_reason(error)) from error
        raise SourceFailedError(f"more than {REDIRECTS_MAX} redirects")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _redirect(self, old: httpx.URL, new: httpx.URL) -> httpx.URL:
        url = old.join(new)
        if len(str(url)) > URL_LENGTH_MAX:
            raise GatewayRefusedError("a redirect to a URL without end")
        if (old.scheme, url.scheme) != ("https", "https"):
            raise GatewayRefusedError(f"a redirect from {old.scheme} to {url.scheme}; only https to https is followed")
        return url

    async def _check(self, url: httpx.URL, *, named_by_operator: bool) -> _Place:
        """Return where to connect for `url`. Raises GatewayRefusedError, OSError."""
        if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 1) <= PORT_MAX:
            raise GatewayRefusedError(f"not an HTTP address: {url}")
        if url.userinfo and not named_by_operator:
            raise GatewayRefusedError("a redirect with a password in it")
        try:
            literal = str(ipaddress.ip_address(url.host))
        except ValueError:
            return _Place(url, await self._address_of(url))
        # What the operator wrote may be local; a redirect back to it may not name another of its ports.
        if not (named_by_operator and url.port == self._base.port) and not self._permits(literal):
            raise GatewayRefusedError(f"{literal} is not a public address: the gateway leads into a private network")
        return _Place(url, literal)

    async def _address_of(self, url: httpx.URL) -> str:
        port = url.port or (443 if url.scheme == "https" else 80)
        known = self._addresses.get((url.host, port))
        if known is not None:
            return known
        addresses = await self._resolve(url.host, port)
        for address in addresses:
            if not self._permits(address):
                raise GatewayRefusedError(
                    f"{url.host} is at {address}, which is not public: name a gateway of your own by its address"
                )
        if not addresses:
            raise GatewayRefusedError(f"{url.host} has no address")
        if len(self._addresses) >= HOSTS_MAX:
            self._addresses.clear()
        self._addresses[url.host, port] = addresses[0]
        return addresses[0]

    async def _ask(self, place: _Place, bytes_max: int) -> bytes | httpx.URL | None:
        """Return the body, the address of a redirect, or None if the block is not there."""
        request = self._client.build_request(
            "GET",
            place.url.copy_with(host=place.address),
            headers={"Host": place.url.netloc.decode(), "Accept": RAW, "Accept-Encoding": "identity"},
            # The certificate must be that of the name, though the connection goes to the address.
            extensions={"sni_hostname": place.url.host},
        )
        response = await self._client.send(request, stream=True)
        try:
            if response.status_code in REDIRECTS:
                return httpx.URL(response.headers.get("Location", "")[: URL_LENGTH_MAX + 1])
            if response.status_code in LACKING:
                return None
            if response.status_code != httpx.codes.OK:
                raise GatewayRefusedError(f"it answers with HTTP status {response.status_code}")
            return await _body(response, bytes_max)
        finally:
            self._client.cookies.clear()  # blocks need none, and nobody bounds them
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await response.aclose()


def _reason(error: BaseException) -> str:
    """Return what an error says; httpx's own say nothing, but what caused them does."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return repr(error)


async def _body(response: httpx.Response, bytes_max: int) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise GatewayRefusedError("it compresses blocks, which was not asked for")
    pieces, size = [], 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > bytes_max:
            raise GatewayRefusedError(f"it gives more than {bytes_max} bytes for one block")
        pieces.append(piece)
    return b"".join(pieces)
