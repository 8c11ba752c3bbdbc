"""What a gossip message carries: the items of about a second, each with its length before it.

Format: 1 byte format number (1), then for each item 4 bytes length (big-endian) and the item. One topic, one message:
a message costs its CPU by hop, not by byte, so that a batch of fifty costs what one item costs.
"""

from collections.abc import Sequence

from p2p.gossip.verdict import MalformedError

FORMAT = 1
MESSAGE_BYTES_MAX = 64 * 1024
"""Larger messages are refused unread: each is relayed by every peer in the mesh."""
LENGTH_BYTES = 4
HEADER_BYTES = 1
ITEMS_MAX = 256
"""Each item may cost its judge a signature check of 0.1 ms: a message must not cost more than a blink."""


def item_bytes_max(message_bytes_max: int) -> int:
    """Return how large an item may be that goes alone."""
    return message_bytes_max - HEADER_BYTES - LENGTH_BYTES


def size_with(batch_bytes: int, item: bytes) -> int:
    """Return the size of a batch of `batch_bytes` (0: none yet) once `item` is added."""
    return (batch_bytes or HEADER_BYTES) + LENGTH_BYTES + len(item)


def encode_batch(items: Sequence[bytes]) -> bytes:
    """Return the message; at least one item and at most ITEMS_MAX, none of them empty."""
    if not 0 < len(items) <= ITEMS_MAX or not all(items):
        raise ValueError(f"a batch of {len(items)} items, or an empty item: a receiver would refuse it")
    parts = [bytes([FORMAT])]
    for item in items:
        parts += [len(item).to_bytes(LENGTH_BYTES), item]
    return b"".join(parts)


def decode_batch(data: bytes) -> list[bytes] | None:
    """Return the items; None for a format this version does not know. Raises MalformedError."""
    if not data:
        raise MalformedError("an empty gossip message")
    if data[0] != FORMAT:
        return None
    items: list[bytes] = []
    at = HEADER_BYTES
    while at < len(data):
        begin = at + LENGTH_BYTES
        end = begin + int.from_bytes(data[at:begin])
        if end > len(data) or end == begin:
            raise MalformedError("a gossip message whose items do not fill it")
        if len(items) == ITEMS_MAX:
            raise MalformedError(f"a gossip message of more than {ITEMS_MAX} items")
        items.append(data[begin:end])
        at = end
    if not items:
        raise MalformedError("a gossip message without items")
    return items
