"""Events as canonical bytes for the store: the event's kind by name, and its record."""

from typing import get_args

from node.protocol.canonical import CanonicalError, decode, encode
from node.protocol.codec import SchemaError, from_value, to_value
from node.protocol.events import ChainEvent, EventBody
from node.protocol.identifiers import BlockNumber, Hash32

_KINDS: dict[str, type] = {kind.__name__: kind for kind in get_args(EventBody)}


def event_to_bytes(event: ChainEvent) -> bytes:
    """Return the stored form of an event."""
    kind = type(event.body).__name__
    return encode([event.block_number, event.block_hash, event.log_index, kind, to_value(event.body)])


def event_from_bytes(data: bytes) -> ChainEvent:
    """Read an event back; raise SchemaError if the store is damaged or of another version."""
    try:
        block_number, block_hash, log_index, kind, value = decode(data)
        body: EventBody = from_value(_KINDS[kind], value)
    except (CanonicalError, KeyError, ValueError) as error:
        raise SchemaError(f"stored event: {error}") from error
    return ChainEvent(BlockNumber(block_number), Hash32(block_hash), log_index, body)
