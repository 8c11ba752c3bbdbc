"""Checksums of files: sha256 of every file, and git's own of those that the Hub keeps in git."""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

Algorithm = Literal["sha256", "git-sha1"]
_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "git-sha1": re.compile(r"[0-9a-f]{40}")}


class ChecksumMismatchError(Exception):
    """The bytes are not those that were promised; the message says of which file."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of a file must hash to, as lower-case hexadecimal."""

    algorithm: Algorithm
    digest: str

    def __post_init__(self) -> None:
        """Refuse what cannot be a digest."""
        if not _HEX[self.algorithm].fullmatch(self.digest):
            raise ValueError(f"{self.digest[:80]!r} is no {self.algorithm} checksum")


class FileHasher:
    """Hashes a file as it comes: sha256 always, and git's sha1 where that is promised.

    git hashes the size before the content, so the size must be known for it.
    """

    def __init__(self, expected: Checksum | None, size_bytes: int | None) -> None:
        self._expected = expected
        self._sha256 = hashlib.sha256()
        self._git: hashlib._Hash | None = None
        if expected is not None and expected.algorithm == "git-sha1":
            # Not for security against its author: git names the file so, and TLS brought the name.
            self._git = hashlib.sha1(usedforsecurity=False)
            self._git.update(b"blob %d\x00" % (size_bytes or 0))

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        """Of all bytes so far."""
        return self._sha256.hexdigest()

    def check(self, path: str) -> None:
        """Compare with what was promised, if anything was. Raises ChecksumMismatchError."""
        if self._expected is None:
            return
        found = self.sha256 if self._git is None else self._git.hexdigest()
        if found != self._expected.digest:
            raise ChecksumMismatchError(
                f"{path}: its {self._expected.algorithm} is {found}, promised was {self._expected.digest}"
            )
