"""Brings a repository of the Hugging Face Hub to an owner's machine, to be published from where it then lies.

Detail: by the model manager's Hub source, so every file is continued where it was cut off, and checked against the
Hub's own checksum. A branch or tag is looked up once: what is published is one exact commit. That commit is kept, so
that an upload can be repeated without the Hub. A directory under its own name is whole: until then the files are in a
staging directory beside it.
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from pydantic import ValidationError

from node.models.bandwidth import BandwidthLimit
from node.models.hub_source import COMMIT, HubSource
from node.models.reporting import Advance, Reporter
from node.models.requests import REPO_PATTERN, HubRequest
from node.models.retries import RetryPolicy, pause_before_retry
from node.models.selection import WANTED
from node.models.source import Listing, SourceError, SourceUnavailableError, check_listing
from node.models.staging import Staging
from node.models.transfer import Transfer

REPOSITORY = re.compile(REPO_PATTERN)
DEFAULT_REVISION = "main"
PICKLED = ("*.bin", "*.pt", "*.pth")
REFERENCES_FILE = "references.json"
PROGRESS_SECONDS = 0.5


class HubError(Exception):
    """The Hub did not give the model; the message says why."""


@dataclass(frozen=True, slots=True)
class HubAccess:
    """Which Hub is asked, and as whom."""

    url: str
    token: str | None = field(default=None, repr=False)
    bytes_per_second_max: int = 0
    """0 is no limit."""
    retries: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A repository on this machine, whole."""

    commit: str
    directory: Path


class HubDownloads:
    """Where an owner's downloads stay: one directory per repository and commit."""

    def __init__(self, directory: Path, access: HubAccess, reporter: Reporter) -> None:
        self._directory = directory
        self._access = access
        self._reporter = reporter

    async def bring(self, repository: str, revision: str, *, with_pickles: bool = False) -> Downloaded:
        """Download what is missing of `repository` at what `revision` is now. Raises HubError, OSError."""
        place = self._place(repository)
        include = [*WANTED, *PICKLED] if with_pickles else list(WANTED)
        try:
            request = HubRequest(repo=repository, revision=revision, include=include)
            access = self._access
            source = HubSource(request, endpoint=access.url, token=access.token, find_same=lambda _: None)
            listing = await source.resolve("")
            check_listing(listing)
            self._reporter.tell(f"{repository} at {revision} is commit {listing.version}")
            directory = place / _name(listing.version, with_pickles=with_pickles)
            if not directory.is_dir():
                await self._fetch(source, listing, directory, repository)
                if moved := (await source.finish(listing)).get("revision_moved_to"):
                    self._reporter.tell(f"{repository} at {revision} moved to {moved} meanwhile; that is not what came")
        except (SourceError, SourceUnavailableError) as error:
            raise HubError(str(error)) from error
        except ValidationError as error:
            raise HubError(f"{repository} at {revision}: {error.errors()[0]['msg']}") from error
        await trio.to_thread.run_sync(self._note, place, revision, listing.version)
        return Downloaded(listing.version, directory)

    def known(self, repository: str, revision: str, *, with_pickles: bool = False) -> Downloaded:
        """Return what an earlier run downloaded, without asking the Hub. Raises HubError."""
        place = self._place(repository)
        commit = revision if COMMIT.fullmatch(revision) else _references(place).get(revision, "")
        directory = place / _name(commit, with_pickles=with_pickles)
        if not COMMIT.fullmatch(commit) or not directory.is_dir():
            raise HubError(
                f"{repository} at {revision} was not downloaded to its end by an earlier run: run this once without "
                "--skip-download"
            )
        return Downloaded(commit, directory)

    async def _fetch(self, source: HubSource, listing: Listing, directory: Path, repository: str) -> None:
        staging = Staging(directory.with_name(f"{directory.name}.download"))
        await trio.to_thread.run_sync(staging.begin, listing.version)
        await trio.to_thread.run_sync(_check_room, staging, listing, repository)
        transfer = Transfer(BandwidthLimit(self._access.bytes_per_second_max))
        failure: Exception | None = None
        with self._reporter.step(f"downloading {repository}", listing.size_bytes) as advance:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_show, transfer, advance)
                try:
                    await self._persist(source, listing, staging, transfer, repository)
                except (SourceError, SourceUnavailableError, OSError) as error:
                    failure = error  # told below: raised here it would come out in a group
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(_publish, staging, listing, directory))

    async def _persist(
        self, source: HubSource, listing: Listing, staging: Staging, transfer: Transfer, repository: str
    ) -> None:
        """Fetch, again and again while that brings something."""
        fruitless = 0
        while True:
            before = transfer.bytes_new
            try:
                await source.fetch(listing, staging, transfer)
                return
            except SourceUnavailableError as error:
                came = transfer.bytes_new - before
                fruitless = 1 if came >= self._access.retries.progress_bytes_min else fruitless + 1
                pause = pause_before_retry(self._access.retries, fruitless)
                if pause is None:
                    raise
                self._reporter.tell(f"{repository}: {error}; trying again in {pause:.0f} s")
            await trio.sleep(pause)

    def _place(self, repository: str) -> Path:
        if not REPOSITORY.fullmatch(repository):
            raise HubError(f"{repository!r} is no name of a repository: expected `owner/name`")
        return self._directory / repository.replace("/", "--")

    def _note(self, place: Path, revision: str, commit: str) -> None:
        """Remember which commit `revision` was."""
        path = place / REFERENCES_FILE
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({**_references(place), revision: commit}, indent=2), encoding="utf-8")
        fresh.replace(path)


def _name(commit: str, *, with_pickles: bool) -> str:
    """Return the name of a download's directory: one with pickled weights is another."""
    return f"{commit}-pickled" if with_pickles else commit


def _references(place: Path) -> dict[str, str]:
    try:
        found = json.loads((place / REFERENCES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(commit) for name, commit in found.items()} if isinstance(found, dict) else {}


def _check_room(staging: Staging, listing: Listing, repository: str) -> None:
    """Refuse before the disk is full of half a model."""
    rows = [staging.complete(file.path, file.size_bytes) for file in listing.files]
    staged = sum(row.size_bytes for row in rows if row is not None)
    missing = listing.size_bytes - staged - staging.part_bytes([file.path for file in listing.files])
    free = shutil.disk_usage(staging.directory).free
    if missing > free:
        raise HubError(
            f"{repository} needs {missing} more bytes in {staging.directory.parent}, {free} are free: make room, or "
            "set [node] data_dir to a larger disk"
        )


def _publish(staging: Staging, listing: Listing, directory: Path) -> None:
    """Give the files their place, in one step."""
    rows = [staging.complete(file.path, file.size_bytes) for file in listing.files]
    if any(row is None for row in rows):  # never publish what is not checked
        raise HubError(f"files vanished from {staging.directory} while the download ran: run this again")
    staging.publish(directory)
    staging.discard()


async def _show(transfer: Transfer, advance: Advance) -> None:
    """Tell how far a download is, until cancelled; then what is left to tell."""
    shown = 0
    try:
        while True:
            await trio.sleep(PROGRESS_SECONDS)
            advance(transfer.bytes_done - shown)
            shown = transfer.bytes_done
    finally:
        advance(transfer.bytes_done - shown)
