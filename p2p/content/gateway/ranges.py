"""Parts of a block or file: the HTTP `Range` header and the gateway's `entity-bytes` parameter. Pure."""

import re
from dataclasses import dataclass

from p2p.content.gateway.request import RequestError

_DIGITS_MAX = 19
_RANGE = re.compile(rf"bytes=(?:([0-9]{{1,{_DIGITS_MAX}}})-([0-9]{{0,{_DIGITS_MAX}}})|-([0-9]{{1,{_DIGITS_MAX}}}))")
_ENTITY = re.compile(rf"(-?[0-9]{{1,{_DIGITS_MAX}}}):(\*|-?[0-9]{{1,{_DIGITS_MAX}}})")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int


def parse_range(header: str | None, size: int) -> Span | None:
    """Return the wanted part of `size` bytes, None for all of it.

    What is not one plain range is ignored, as RFC 9110 allows. Raises RequestError(416) if nothing of it exists.
    """
    match = None if header is None else _RANGE.fullmatch(header.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(size - int(suffix), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise RequestError(416, f"the range is outside the {size} bytes of this block")
    return Span(start, end)


@dataclass(frozen=True, slots=True)
class EntityBytes:
    """`entity-bytes=from:to`: both inclusive; negative counts from the end, `to` None is the end."""

    first: int
    last: int | None

    def within(self, size: int) -> Span:
        """Return the part of a file of `size` bytes; empty if there is none."""
        start = max(self.first + size, 0) if self.first < 0 else self.first
        last = size - 1 if self.last is None else self.last + size if self.last < 0 else self.last
        end = min(last + 1, size)
        return Span(start, end) if start < end else Span(0, 0)


def parse_entity_bytes(text: str) -> EntityBytes:
    """Read the parameter; raise RequestError(400)."""
    match = _ENTITY.fullmatch(text)
    if match is None:
        raise RequestError(400, "entity-bytes is written from:to, with to a number or *")
    return EntityBytes(int(match.group(1)), None if match.group(2) == "*" else int(match.group(2)))
