"""How far a model is on its way here."""

from dataclasses import dataclass

from node.models.downloads import ActiveDownload
from node.models.identity import LocalModelId
from node.models.registry import ModelEntry
from node.models.states import ModelStatus


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model is."""

    model_id: LocalModelId
    status: ModelStatus
    bytes_done: int
    bytes_total: int
    """0 while it is not known."""
    files_done: int
    files_total: int
    bytes_per_second: int
    tries: int
    message: str
    """What is being done, or why it failed."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.status not in (ModelStatus.PENDING, ModelStatus.DOWNLOADING)


def progress_at_rest(entry: ModelEntry, files: int) -> Progress:
    """Return how far a model of so many `files` is that nothing is done for."""
    whole = entry.size_bytes if entry.status is ModelStatus.AVAILABLE else 0
    return Progress(entry.model_id, entry.status, whole, entry.size_bytes, files, files, 0, 0, entry.reason)


def progress_under_way(entry: ModelEntry, active: ActiveDownload) -> Progress:
    """Return how far a model is that is downloaded, or is to be."""
    transfer = active.transfer
    return Progress(
        model_id=entry.model_id,
        status=entry.status,
        bytes_done=transfer.bytes_done,
        bytes_total=transfer.bytes_total or entry.size_bytes,
        files_done=transfer.files_done,
        files_total=transfer.files_total,
        bytes_per_second=int(transfer.bytes_per_second),
        tries=active.tries,
        message=active.message,
    )
