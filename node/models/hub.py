"""Models from the Hugging Face Hub, at one exact commit: a name that may change is not something to publish."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

COMMIT = re.compile(r"[0-9a-f]{40}")
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "LICENSE*"]
"""What a model needs. Pickled weights and code are not even downloaded."""


class HubError(Exception):
    """The Hub did not give the model; the message says why."""


def download_model(repository: str, commit: str, destination: Path, *, endpoint: str | None = None) -> Path:
    """Download `repository` at `commit` to `destination`. Blocking. Raises HubError.

    `endpoint` names another server with the Hub's API.
    """
    if not COMMIT.fullmatch(commit):
        raise HubError(f"{commit!r} is not a full commit hash: publish an exact version, not a branch")
    try:
        snapshot_download(
            repository,
            revision=commit,
            local_dir=destination,
            allow_patterns=WANTED,
            endpoint=endpoint,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise HubError(f"{repository} at {commit[:12]}: {error}") from error
    return destination
