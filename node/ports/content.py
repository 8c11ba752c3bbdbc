"""Content by CID as services see it, and where it may be had."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from node.protocol.identifiers import Cid


@dataclass(frozen=True, slots=True)
class Provider:
    """Where content may be had: the content gateway of a peer."""

    host: str
    port: int


class ContentUnavailableError(Exception):
    """No provider had valid bytes for a CID; the message names what was tried."""


class BadContentError(ValueError):
    """Verified bytes that are no file, or one that is too large: whoever gives them, the CID names nothing else."""


class Content(Protocol):
    """Content by CID. Whatever this returns was verified against its CID."""

    async def add_bytes(self, data: bytes) -> Cid:
        """Store and pin `data`; return its CID."""

    async def read_bytes(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        """Return the file `cid`, fetching it if needed.

        Raises ContentUnavailableError (it may come yet), and BadContentError: only that says anything of the content.
        """

    async def has(self, cid: Cid) -> bool:
        """Whether all of `cid` is held locally."""
