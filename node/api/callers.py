"""Who may use this node's own engines over HTTP: those on this machine, and whoever the operator gave a key."""

import ipaddress
from collections.abc import Callable

from starlette.requests import Request

KeyCheck = Callable[[str], bool]
"""Whether a presented API key opens this node."""
KEY_CHARACTERS_MAX = 256


def is_allowed(request: Request, key_opens: KeyCheck | None) -> bool:
    """Whether a request comes from this machine or carries a key. Without `key_opens` no key opens anything.

    From this machine means also that it was sent to an address or to localhost, not to some name: a page in a browser
    here may have its own name lead to this machine (DNS rebinding), and a reverse proxy here passes on others' names.
    """
    if key_opens is not None:
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        presented = presented.strip()
        if scheme.lower() == "bearer" and 0 < len(presented) <= KEY_CHARACTERS_MAX and key_opens(presented):
            return True
    if request.client is None or not is_loopback(request.client.host):
        return False
    return is_no_name(request.headers.get("host", ""))


def is_no_name(host: str) -> bool:
    """Whether a Host header names an address, or this machine as every machine calls itself."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)
