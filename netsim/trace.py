"""The trace of a run: every observable step, hashed, so that two runs can be compared by one line."""

import hashlib
from collections import Counter

import trio

from node.protocol.canonical import CanonicalValue, encode


class Trace:
    """Collects steps in order. Virtual microseconds are part of each step, so timing counts as behaviour."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.counts: Counter[str] = Counter()

    def record(self, kind: str, *details: CanonicalValue) -> None:
        """Add a step of `kind` with its details (canonical values)."""
        self.counts[kind] += 1
        self._hash.update(encode([round(trio.current_time() * 1_000_000), kind, list(details)]))

    def digest(self) -> str:
        """Return the hash over all steps so far, in hex."""
        return self._hash.hexdigest()
