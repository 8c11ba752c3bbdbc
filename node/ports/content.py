"""Content by CID as services see it, and where it may be had."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.protocol.identifiers import Cid, EpochNumber


@dataclass(frozen=True, slots=True)
class Provider:
    """Where content may be had: the content gateway of a peer."""

    host: str
    port: int


class ContentUnavailableError(Exception):
    """No provider had valid bytes for a CID; the message names what was tried."""


class ContentNotHeldError(ContentUnavailableError):
    """This node's own disk or store could not take what was to be fetched: nobody else is to blame."""


class BadContentError(ValueError):
    """Verified bytes that are no file, or one that is too large: whoever gives them, the CID names nothing else."""


class Content(Protocol):
    """Content by CID. Whatever this returns was verified against its CID."""

    async def add_bytes(self, data: bytes) -> Cid:
        """Store `data`; return its CID. Raises OSError if the disk or the store's limit leave no room: an operator may
        make some.

        When room is needed, what was not used for a week makes it, unless it is kept (`keep`).
        """

    async def keep(self, cid: Cid, until: EpochNumber) -> None:
        """Hold `cid`, which is here, through epoch `until`, whatever else wants its room. Nothing where it is not here.

        Raises OSError.
        """

    async def forget(self, epoch: EpochNumber, named: Collection[Cid]) -> None:
        """Remove what was kept until an epoch before `epoch`, and of `named` what was fetched; but not what is kept for
        longer or for another reason. Raises OSError.
        """

    async def read_bytes(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        """Return the file `cid`, fetching it if needed.

        What is fetched may make room for other content at any time, unless it is kept (`keep`). Raises
        ContentUnavailableError (it may come yet; ContentNotHeldError where this node's own disk is to blame), and
        BadContentError: only that says anything of the content.
        """

    async def has(self, cid: Cid) -> bool:
        """Whether all of `cid` is held locally."""
