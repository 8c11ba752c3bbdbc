"""What may be the host of a participant's content: every node connects to what others name."""

import re
from ipaddress import ip_address

HOST_CHARACTERS_MAX = 253
"""Of a name in the DNS."""
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")


def is_host(text: str) -> bool:
    """Whether `text` is an IP address without a zone, or a name that can be looked up (in ASCII, as in the DNS)."""
    if len(text) > HOST_CHARACTERS_MAX or not text.isascii() or "%" in text:  # a zone means something on one machine
        return False
    try:
        ip_address(text)
    except ValueError:
        return all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split("."))
    return True
