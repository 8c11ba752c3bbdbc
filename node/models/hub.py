"""Models from the Hugging Face Hub, at one exact commit: a name that may change is not something to publish.

Detail: what was downloaded stays, and a marker beside it says that it is whole: an upload serves the files from there.
The commit that a branch or tag meant is kept too, so that an upload can be repeated without the Hub.
"""

import json
import re
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined] # not in its list of exports

from node.models.reporting import Advance

COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
DEFAULT_REVISION = "main"
HUB_SECONDS_MAX = 30.0
"""For one question; a download may take as long as it goes on."""
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*"]
"""What a model needs. Pickled weights and code are not even downloaded."""
PICKLED = ["*.bin", "*.pt", "*.pth"]
REFERENCES_FILE = "references.json"
HUB_FAILURES: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, LocalEntryNotFoundError, OSError, ValueError)
"""What the library lets out: its own errors, those of its HTTP client, which are their base, and the disk's."""
FILE_BYTES_BAR = "huggingface_hub.snapshot_download"
"""What the library calls the bar that counts bytes of files; it has others, for transfers and for files."""


class HubError(Exception):
    """The Hub did not give the model; the message says why."""


def resolve_revision(repository: str, revision: str, *, endpoint: str | None = None) -> str:
    """Return the full commit that a branch or tag is now. Blocking. Raises HubError."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        found = HfApi(endpoint=endpoint).model_info(repository, revision=revision, timeout=HUB_SECONDS_MAX).sha
    except HUB_FAILURES as error:
        raise HubError(f"{repository} at {revision}: {error}") from error
    if found is None or not COMMIT.fullmatch(found):
        raise HubError(f"{repository} at {revision}: the Hub names no commit, so what would be published may change")
    return found


def download_model(
    repository: str,
    commit: str,
    destination: Path,
    *,
    endpoint: str | None = None,
    advance: Advance | None = None,
    with_pickles: bool = False,
) -> Path:
    """Download `repository` at `commit` to `destination`. Blocking. Raises HubError.

    `endpoint` names another server with the Hub's API. Files that are whole already are not fetched again.
    """
    if not COMMIT.fullmatch(commit):
        raise HubError(f"{commit!r} is not a full commit hash: publish an exact version, not a branch")
    try:
        snapshot_download(
            repository,
            revision=commit,
            local_dir=destination,
            allow_patterns=[*WANTED, *PICKLED] if with_pickles else WANTED,
            endpoint=endpoint,
            tqdm_class=cast(Any, _progress(advance)),  # the library is typed for one subclass, and takes any
        )
    except HUB_FAILURES as error:
        raise HubError(f"{repository} at {commit[:12]}: {error}") from error
    return destination


class HubDownloads:
    """Where an owner's downloads stay: one directory per repository and commit."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def place(self, repository: str, commit: str) -> Path:
        """Return the directory of a model's files."""
        return self._repository(repository) / commit

    def is_whole(self, repository: str, commit: str) -> bool:
        """Whether a download was finished."""
        return self._marker(repository, commit).exists() and self.place(repository, commit).is_dir()

    def note_whole(self, repository: str, commit: str, revision: str) -> None:
        """Note that a download was finished, and which commit `revision` was."""
        references = {**self._references(repository), revision: commit}
        path = self._repository(repository) / REFERENCES_FILE
        path.with_suffix(".new").write_text(json.dumps(references, indent=2), encoding="utf-8")
        path.with_suffix(".new").rename(path)
        self._marker(repository, commit).touch()

    def known_commit(self, repository: str, revision: str) -> str:
        """Return the commit that `revision` was when it was last downloaded. Raises HubError."""
        commit = revision if COMMIT.fullmatch(revision) else self._references(repository).get(revision)
        if commit is None or not self.is_whole(repository, commit):
            raise HubError(
                f"{repository} at {revision} was not downloaded to its end by an earlier run: run this once without "
                "--skip-download"
            )
        return commit

    def _repository(self, repository: str) -> Path:
        if not REPOSITORY.fullmatch(repository):
            raise HubError(f"{repository!r} is no name of a repository: expected `owner/name`")
        return self._directory / repository.replace("/", "--")

    def _marker(self, repository: str, commit: str) -> Path:
        return self._repository(repository) / f"{commit}.whole"

    def _references(self, repository: str) -> dict[str, str]:
        try:
            found = json.loads((self._repository(repository) / REFERENCES_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(name): str(commit) for name, commit in found.items()} if isinstance(found, dict) else {}


def _progress(advance: Advance | None) -> type[Any]:
    """Return what the Hub's library takes for a progress bar: it shows nothing and passes bytes on."""

    class Progress(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._counts = options.get("name") == FILE_BYTES_BAR
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            if advance is not None and self._counts and n:
                advance(int(n))
            return None

    return Progress
