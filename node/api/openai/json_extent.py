"""Finds where a JSON object or array ends in text that comes in pieces, without parsing it; each character once."""

import re
from enum import Enum, auto

DEPTH_MAX = 64
"""Deeper nesting in a call's arguments is nobody's function."""

_STRUCTURE = re.compile(r'["{}\[\]]')
_STRING_END = re.compile(r'["\\]')


class Extent(Enum):
    """How far the value has come."""

    OPEN = auto()
    CLOSED = auto()
    BROKEN = auto()
    """No JSON object or array begins so."""


class JsonExtent:
    """Follows one value from its opening bracket. `feed` until it is not OPEN; `end` is then where the value ends."""

    def __init__(self) -> None:
        self.state = Extent.OPEN
        self.end = 0
        """Characters of the value that were read, in all pieces together."""
        self._closers: list[str] = []
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> Extent:
        """Read on. Nothing after the value's end is looked at."""
        position = 0
        while self.state is Extent.OPEN and position < len(text):
            position = self._string(text, position) if self._in_string else self._structure(text, position)
        self.end += position
        return self.state

    def _string(self, text: str, position: int) -> int:
        if self._escaped:
            self._escaped = False
            return position + 1
        found = _STRING_END.search(text, position)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._in_string = False
        else:
            self._escaped = True
        return found.end()

    def _structure(self, text: str, position: int) -> int:
        if not self._closers:
            return self._open(text[position], position)
        found = _STRUCTURE.search(text, position)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._in_string = True
        elif found[0] in "{[":
            self._open(found[0], found.start())
        elif found[0] == self._closers.pop():
            self.state = Extent.OPEN if self._closers else Extent.CLOSED
        else:
            self.state = Extent.BROKEN
        return found.end()

    def _open(self, character: str, position: int) -> int:
        if character not in "{[" or len(self._closers) >= DEPTH_MAX:
            self.state = Extent.BROKEN
            return position
        self._closers.append("}" if character == "{" else "]")
        return position + 1
