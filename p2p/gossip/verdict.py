"""What a judge may say of gossip."""

from collections.abc import Callable
from enum import Enum


class Verdict(Enum):
    """What a judge makes of an item, and with it of the message that carries it."""

    ACCEPT = "accept"
    """Delivered and forwarded."""
    IGNORE = "ignore"
    """Not delivered, no reason to forward; nobody is blamed (too old, not yet known)."""
    REJECT = "reject"
    """Honest peers refuse it too: not forwarded, and the peer it came from is blamed."""


Judge = Callable[[str, bytes], Verdict]
"""Given the forwarding peer and the bytes of an item. Must not block. It delivers what it accepts."""


class MalformedError(ValueError):
    """Bytes that no honest implementation sends. The text is what the operator reads beside a ban."""
