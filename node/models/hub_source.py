"""Models from the Hugging Face Hub, by huggingface_hub: one exact commit, each file continued and checked.

Detail: the revision is resolved once, to a commit, and every answer has to be of that commit: a branch that moves
while it is downloaded cannot mix two versions, and is told of at the end. Files in LFS are checked by sha256, the
others by git's sha1, both from the Hub's own tree. The library's own download functions begin a file anew after every
interruption (they write to a file of random name), and its `http_get` drops up to 10 MB of each: so the library finds
the revision, the tree and each file's address, and brings its session and its errors, but the bytes are read here.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined] # they are public, but loaded lazily
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from node.models.checksums import Checksum, ChecksumMismatchError
from node.models.file_fetching import FindSame, fetch_files
from node.models.registry import Metadata, MetadataValue
from node.models.requests import HubRequest
from node.models.source import FILES_MAX, Listing, SourceError, SourceFile, SourceUnavailableError
from node.models.staging import PartClosedError, PartFile, Staging
from node.models.states import ModelType
from node.models.threads import run_abandonable
from node.models.transfer import Transfer

HEAD_SECONDS_MAX = 10.0
THREADS_MAX = 12
"""Of one download: those of its files at once, and as many again that a cancelled try left behind in a read."""
RETRIED_STATUS = (408, 425, 429)
COMMIT = re.compile(r"[0-9a-f]{40}")
TYPE_OF_TASK = {
    "text-generation": ModelType.TEXT_GENERATION,
    "text2text-generation": ModelType.TEXT_GENERATION,
    "image-text-to-text": ModelType.TEXT_GENERATION,
    "text-to-image": ModelType.TEXT_TO_IMAGE,
    "image-to-text": ModelType.IMAGE_TO_TEXT,
    "automatic-speech-recognition": ModelType.AUDIO_TO_TEXT,
    "text-to-speech": ModelType.TEXT_TO_AUDIO,
    "text-to-audio": ModelType.TEXT_TO_AUDIO,
    "feature-extraction": ModelType.EMBEDDING,
    "sentence-similarity": ModelType.EMBEDDING,
    "text-classification": ModelType.CLASSIFICATION,
    "token-classification": ModelType.CLASSIFICATION,
    "image-classification": ModelType.CLASSIFICATION,
    "zero-shot-classification": ModelType.CLASSIFICATION,
}
"""The Hub's tasks, as far as there is a word of ours for them."""

Result = TypeVar("Result")


class HubSource:
    """One repository at one revision."""

    def __init__(
        self,
        request: HubRequest,
        *,
        endpoint: str,
        token: str | None,
        find_same: FindSame,
        verify: bool = True,
        cache_dir: Path | None = None,
    ) -> None:
        """`token` is sent to the endpoint only; `cache_dir` is a cache of huggingface_hub to take files from."""
        self._request = request
        self._endpoint = endpoint.rstrip("/")
        self._token: str | bool = token or False  # False: never one that lies around in this user's home
        self._find_same = find_same
        self._verify = verify
        self._cache_dir = cache_dir
        self._threads = trio.CapacityLimiter(THREADS_MAX)
        self._api = HfApi(endpoint=self._endpoint, token=self._token)

    async def resolve(self, version: str) -> Listing:
        """Fix the commit and list its files."""
        return await self._call(partial(self._resolve, version))

    async def fetch(self, listing: Listing, staging: Staging, transfer: Transfer) -> None:
        """Bring the files of the commit."""

        async def fetch_one(file: SourceFile, part: PartFile) -> None:
            await self._call(partial(self._fetch, listing.version, file, part, transfer))

        await fetch_files(listing, staging, transfer, fetch_one, self._find_same)

    async def finish(self, listing: Listing) -> Metadata:
        """Tell whether the revision has moved on meanwhile."""
        if COMMIT.fullmatch(self._request.revision):
            return {}
        try:
            now = await self._call(self._commit)
        except (SourceError, SourceUnavailableError):
            return {}  # the model is here; that the Hub is not, does not matter
        return {} if now == listing.version else {"revision_moved_to": now}

    async def _call(self, function: Callable[[], Result]) -> Result:
        """Run in a thread; tell errors in our words. A thread that is cancelled is left behind."""
        try:
            return await run_abandonable(function, limiter=self._threads)
        except (SourceError, SourceUnavailableError, PartClosedError):
            raise
        except ChecksumMismatchError as error:
            raise SourceUnavailableError(str(error)) from error
        except Exception as error:
            raise self._told(error) from error

    def _commit(self) -> str:
        info = self._api.model_info(self._request.repo, revision=self._request.revision, timeout=HEAD_SECONDS_MAX)
        return _checked_commit(info.sha)

    def _resolve(self, version: str) -> Listing:
        request = self._request
        try:
            info = self._api.model_info(request.repo, revision=version or request.revision, timeout=HEAD_SECONDS_MAX)
        except RevisionNotFoundError:
            if not version:
                raise
            # The commit that was begun is gone from the Hub (a history rewritten): what the revision is now is begun.
            return self._resolve("")
        commit = _checked_commit(info.sha)
        if version and commit != version:
            raise SourceError(f"{request.repo}: asked for commit {version}, the Hub answered with {commit}")
        files: list[SourceFile] = []
        for count, entry in enumerate(self._api.list_repo_tree(request.repo, recursive=True, revision=commit)):
            if count >= FILES_MAX:
                raise SourceError(f"{request.repo} has more than {FILES_MAX} files; that is no model")
            if isinstance(entry, RepoFile) and request.selection.takes(entry.path):
                files.append(_source_file(entry, verify=self._verify))
        metadata: dict[str, MetadataValue] = {"repo": request.repo, "revision": request.revision, "commit": commit}
        if info.pipeline_tag:
            metadata["task"] = str(info.pipeline_tag)
        if info.gated:
            metadata["gated"] = True
        return Listing(commit, tuple(files), TYPE_OF_TASK.get(str(info.pipeline_tag)), metadata)

    def _fetch(self, commit: str, file: SourceFile, part: PartFile, transfer: Transfer) -> None:
        if part.position == 0 and self._from_cache(commit, file, part, transfer):
            return
        url = hf_hub_url(self._request.repo, file.path, revision=commit, endpoint=self._endpoint)
        found = get_hf_file_metadata(url, token=self._token, timeout=HEAD_SECONDS_MAX, endpoint=self._endpoint)
        if found.commit_hash != commit:
            raise SourceError(
                f"{self._request.repo} changed while it was downloaded: {file.path} is now of commit "
                f"{found.commit_hash}, not {commit}. Nothing of the two was mixed; download it again."
            )
        if found.size is not None and file.size_bytes is not None and found.size != file.size_bytes:
            raise SourceUnavailableError(f"{file.path}: the Hub says {found.size} bytes here, {file.size_bytes} before")
        headers = build_hf_headers(token=self._token)
        headers["Accept-Encoding"] = "identity"
        if _origin(found.location) != _origin(url):
            headers.pop("authorization", None)  # the content network has signed addresses and needs no token
        if part.position:
            headers["Range"] = f"bytes={part.position}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", found.location, headers=headers, timeout=timeout) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            if part.position and response.status_code != 206:
                transfer.forget(part.restart())
            for data in response.iter_bytes():
                transfer.note_blocking(part.write(data))

    def _from_cache(self, commit: str, file: SourceFile, part: PartFile, transfer: Transfer) -> bool:
        """Take a file from a cache of huggingface_hub, if it is there and is what it should be."""
        if self._cache_dir is None or file.checksum is None:
            return False
        found = try_to_load_from_cache(self._request.repo, file.path, cache_dir=self._cache_dir, revision=commit)
        if not isinstance(found, str) or Path(found).stat().st_size != file.size_bytes:
            return False
        with Path(found).open("rb") as source:
            while data := source.read(1024 * 1024):
                part.write(data)
                transfer.note_local(len(data))
        return True

    def _told(self, error: Exception) -> Exception:
        """Return what an error of the library means."""
        repo, revision = self._request.repo, self._request.revision
        match error:
            case GatedRepoError():
                return SourceError(
                    f"{repo} is gated: ask for access on its page, then give a token that has it: quern model login"
                )
            case RevisionNotFoundError():
                return SourceError(f"{repo} has no revision {revision}")
            case RepositoryNotFoundError():
                return SourceError(
                    f"{repo} is not on the Hub, or is private: check its name, or give a token that may read it "
                    "(quern model login)"
                )
            case EntryNotFoundError():
                return SourceError(f"{repo} lost a file between its listing and its download: {_brief(error)}")
            case HfHubHTTPError():
                status = error.response.status_code
                text = f"{repo}: the Hub answered {status}: {_brief(error)}"
                if status >= 500 or status in RETRIED_STATUS:
                    return SourceUnavailableError(text)
                if status in (401, 403):
                    return SourceError(f"{text}. Does the token (quern model login) have access?")
                return SourceError(text)
            case OSError() if error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
                return error  # of this machine's disk
            case ValueError() | TypeError():
                return SourceError(f"{repo}: {_brief(error)}")
            case _:
                return SourceUnavailableError(f"{repo}: the Hub cannot be reached: {_brief(error)}")


def _source_file(entry: RepoFile, *, verify: bool) -> SourceFile:
    if not verify:
        return SourceFile(entry.path, entry.size, None)
    try:
        checksum = Checksum("sha256", entry.lfs.sha256) if entry.lfs else Checksum("git-sha1", entry.blob_id)
    except ValueError as error:
        raise SourceError(f"the Hub gives no usable checksum of {entry.path}: {error}") from error
    return SourceFile(entry.path, entry.lfs.size if entry.lfs else entry.size, checksum)


def _checked_commit(commit: Any) -> str:
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise SourceError(f"the Hub names no commit but {str(commit)[:80]!r}")
    return commit


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port


def _brief(error: Exception) -> str:
    """Return the first line of an error: the library's go on with headers and ids."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
