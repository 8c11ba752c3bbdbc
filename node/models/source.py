"""Where models come from: the one interface of the Hub, peers, web servers and directories, and how they fail."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from node.models.checksums import Checksum
from node.models.identity import BadNameError, check_file_path
from node.models.registry import Metadata
from node.models.staging import Staging
from node.models.states import ModelType
from node.models.transfer import Transfer

FILES_MAX = 10_000
"""As validation has it; a repository with more is data, not a model."""
FILE_BYTES_MAX = 1024**4
MODEL_BYTES_MAX = 4 * 1024**4
"""4 TiB, as for content: keeps a hostile listing from filling any disk."""


class SourceError(Exception):
    """The source will not give the model, now or later; the message says why and what to do."""


class SourceUnavailableError(Exception):
    """The source did not give the model this time: cut off, overloaded, wrong bytes. It is tried again."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as its source announces it."""

    path: str
    size_bytes: int | None
    """None where the source does not say before it is fetched."""
    checksum: Checksum | None
    """None where nobody vouches for the bytes: their sha256 is recorded when they have come."""
    locator: str = ""
    """Where its source finds it, if not by its path."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One exact version of a model. It does not change while it is downloaded."""

    version: str
    files: tuple[SourceFile, ...]
    model_type: ModelType | None = None
    metadata: Metadata = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size_bytes or 0 for file in self.files)


class ModelSource(Protocol):
    """What all places to download one model from have in common.

    Errors are SourceError, SourceUnavailableError, and OSError of this disk.
    """

    async def resolve(self, version: str) -> Listing:
        """Fix the version and list its files. `version` is what an interrupted download was resolved to, or empty."""

    async def finish(self, listing: Listing) -> Metadata:
        """Return what is to be noted about the version now that it is here."""


class FileSource(ModelSource, Protocol):
    """A place that gives single files."""

    async def fetch(self, listing: Listing, staging: Staging, transfer: Transfer) -> None:
        """Bring what is missing into `staging`, each file checked before it counts as there."""


class WholeSource(ModelSource, Protocol):
    """A place that gives a directory as a whole: its listings name no files."""

    async def fetch_to(self, destination: Path, transfer: Transfer) -> None:
        """Make `destination` the directory: at once if it is there, and whole or not at all."""

    async def find_faults(self, directory: Path) -> list[str]:
        """Return what is wrong with a directory that should be this one."""


def check_listing(listing: Listing) -> None:
    """Refuse files that could not be stored as they are announced. Raises SourceError."""
    if not listing.files:
        raise SourceError("there is nothing to download: no file matches the selection")
    if len(listing.files) > FILES_MAX:
        raise SourceError(f"it has {len(listing.files)} files; more than {FILES_MAX} are not taken")
    seen: set[str] = set()
    for file in listing.files:
        try:
            path = str(check_file_path(file.path))
        except BadNameError as error:
            raise SourceError(f"it announces a file that is not taken: {error}") from error
        if path in seen:
            raise SourceError(f"it announces {path} twice")
        seen.add(path)
        if file.size_bytes is not None and not 0 <= file.size_bytes <= FILE_BYTES_MAX:
            raise SourceError(f"it announces {file.size_bytes} bytes for {path}; not taken")
    parents = {str(parent) for path in seen for parent in check_file_path(path).parents} - {"."}
    if clash := sorted(parents & seen):
        raise SourceError(f"it announces {clash[0]} as a file and as a directory")
    if listing.size_bytes > MODEL_BYTES_MAX:
        raise SourceError(f"it announces {listing.size_bytes} bytes; more than {MODEL_BYTES_MAX} are not taken")
