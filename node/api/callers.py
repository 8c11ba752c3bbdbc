"""Who may use this node's own engines over HTTP: those on this machine, and whoever the operator gave a key."""

import ipaddress
from collections.abc import Callable

from starlette.requests import Request

KeyCheck = Callable[[str], bool]
"""Whether a presented API key opens this node."""
KEY_CHARACTERS_MAX = 256


def is_allowed(request: Request, key_opens: KeyCheck | None) -> bool:
    """Whether a request comes from this machine or carries a key. Without `key_opens` no key opens anything.

    A reverse proxy on this machine makes everyone local: then keys are its business.
    """
    if key_opens is not None:
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        presented = presented.strip()
        if scheme.lower() == "bearer" and 0 < len(presented) <= KEY_CHARACTERS_MAX and key_opens(presented):
            return True
    return request.client is not None and is_loopback(request.client.host)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)
