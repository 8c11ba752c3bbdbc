"""How models, files and downloads are shown to those outside, and how their wishes are read: the same for all faces."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from node.models.manager import ModelManager
from node.models.progress import Progress
from node.models.registry import ModelEntry
from node.models.requests import DownloadRequest

FILES_SHOWN_MAX = 5_000
"""An answer over the control socket is at most a mebibyte."""
FAULTS_SHOWN_MAX = 5
_REQUEST: TypeAdapter[DownloadRequest] = TypeAdapter(DownloadRequest)


class BadRequestError(ValueError):
    """What was asked for cannot be downloaded; the message names each fault."""


def parse_request(value: object) -> DownloadRequest:
    """Return what is to be downloaded. Raises BadRequestError."""
    try:
        return _REQUEST.validate_python(value)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'request'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()[:FAULTS_SHOWN_MAX]
        )
        raise BadRequestError(f"this cannot be downloaded: {faults}") from error


def model_facts(manager: ModelManager, entry: ModelEntry) -> dict[str, Any]:
    """Return an entry; times are UNIX seconds."""
    return {
        "model_id": entry.model_id,
        "model_type": entry.model_type.value,
        "status": entry.status.value,
        "version": entry.version,
        "size_bytes": entry.size_bytes,
        "path": str(entry.path),
        "download_date": None if entry.download_date is None else int(entry.download_date.timestamp()),
        "last_used_at": entry.last_used_at,
        "pinned": entry.pinned,
        "loaded": manager.is_loaded(entry.model_id),
        "reason": entry.reason,
        "metadata": dict(entry.metadata),
    }


def files_facts(manager: ModelManager, entry: ModelEntry) -> dict[str, Any]:
    """Return a model's files. `sha256` is None where a CID vouches for the bytes."""
    return {
        "model_id": entry.model_id,
        "path": str(entry.path),
        "files": [
            {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256 or None}
            for file in manager.registry.files(entry.model_id)[:FILES_SHOWN_MAX]
        ],
    }


def progress_facts(progress: Progress) -> dict[str, Any]:
    """Return how far a download is."""
    return {
        "model_id": progress.model_id,
        "status": progress.status.value,
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "files_done": progress.files_done,
        "files_total": progress.files_total,
        "bytes_per_second": progress.bytes_per_second,
        "tries": progress.tries,
        "message": progress.message,
    }
