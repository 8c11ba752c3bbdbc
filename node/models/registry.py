"""The registry of models on this machine: one entry each, changed by legal steps only, in the daemon's SQLite.

Detail: a row is written before its effect on disk is relied on, so that a daemon that dies at any point finds at its
next start an entry that tells what was going on (see `node.models.manager`, which then mends it).
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic_core import from_json

from node.models.identity import LocalModelId
from node.models.states import ModelEvent, ModelStatus, ModelType, next_status
from node.ports import WallClock
from node.store.model_tables import FileRow, ModelRow, ModelTables

METADATA_BYTES_MAX = 16 * 1024
"""Metadata is shown, not stored data: a hub that sends more is cut off."""
REASON_CHARACTERS_MAX = 500
EXPORT_FORMAT = 1

MetadataValue = str | int | bool
Metadata = Mapping[str, MetadataValue]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model on this machine."""

    model_id: LocalModelId
    model_type: ModelType
    path: Path
    """Where it lies once it is available."""
    status: ModelStatus
    version: str
    """What was downloaded, exactly: a commit, a CID, a digest; empty until it is known."""
    size_bytes: int
    download_date: datetime | None
    """When it became available."""
    metadata: Metadata = field(default_factory=dict)
    request: str = ""
    """What was asked for, as JSON (`node.models.requests`): so that a download can go on after a restart."""
    reason: str = ""
    """Why it is in error; empty otherwise."""
    pinned: bool = False
    last_used_at: int = 0
    """UNIX seconds."""


class UnknownModelError(Exception):
    """There is no such model here."""


@dataclass(frozen=True, slots=True)
class ModelQuery:
    """Which entries are wanted; what is None does not matter."""

    model_type: ModelType | None = None
    status: ModelStatus | None = None
    pinned: bool | None = None
    text: str | None = None
    """Part of the id, whatever the case."""
    with_deleted: bool = False

    def wants(self, entry: ModelEntry) -> bool:
        """Whether `entry` is wanted."""
        if entry.status is ModelStatus.DELETED and not (self.with_deleted or self.status is ModelStatus.DELETED):
            return False
        return (
            self.model_type in (None, entry.model_type)
            and self.status in (None, entry.status)
            and self.pinned in (None, entry.pinned)
            and (self.text is None or self.text.lower() in entry.model_id.lower())
        )


class ModelRegistry:
    """The entries. Calls are short and synchronous."""

    def __init__(self, tables: ModelTables, wall_clock: WallClock) -> None:
        self._tables = tables
        self._wall_clock = wall_clock
        self._changed: Callable[[], None] = _nobody

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have `changed` called after each change."""
        self._changed = changed

    def find(self, model_id: LocalModelId) -> ModelEntry | None:
        """Return an entry, deleted ones included."""
        row = self._tables.model(model_id)
        return None if row is None else _entry(row)

    def get(self, model_id: LocalModelId) -> ModelEntry:
        """Return an entry that is not deleted. Raises UnknownModelError."""
        entry = self.find(model_id)
        if entry is None or entry.status is ModelStatus.DELETED:
            raise UnknownModelError(f"there is no model {model_id} on this machine")
        return entry

    def query(self, query: ModelQuery | None = None) -> tuple[ModelEntry, ...]:
        """Return the wanted entries by id; without a query, all that are not deleted."""
        wanted = query or ModelQuery()
        return tuple(entry for row in self._tables.models() if wanted.wants(entry := _entry(row)))

    def files(self, model_id: LocalModelId) -> tuple[FileRow, ...]:
        """Return the files of an available model."""
        return self._tables.files(model_id)

    def same_content(self, sha256: str) -> tuple[tuple[ModelEntry, str], ...]:
        """Return available models, and the path within each of a file that had this content."""
        found = []
        for model_id, path in self._tables.same_content(sha256):
            entry = self.find(LocalModelId(model_id))
            if entry is not None and entry.status is ModelStatus.AVAILABLE:
                found.append((entry, path))
        return tuple(found)

    def add(self, model_id: LocalModelId, model_type: ModelType, path: Path, request: str) -> ModelEntry:
        """Note that a model is wanted: a new entry, or one in error or deleted that is tried again.

        Raises IllegalStepError if it is here or on its way.
        """
        known = self.find(model_id)
        status = next_status(None if known is None else known.status, ModelEvent.REQUESTED)
        same = known is not None and known.request == request
        entry = ModelEntry(
            model_id=model_id,
            model_type=model_type,
            path=path,
            status=status,
            # Another try of the same goes on with the version that it was resolved to.
            version=known.version if known is not None and same and known.status is ModelStatus.ERROR else "",
            size_bytes=0,
            download_date=None,
            request=request,
            pinned=known is not None and known.pinned and known.status is not ModelStatus.DELETED,
            last_used_at=self._wall_clock(),
        )
        self._save(entry, files=())
        return entry

    def step(self, model_id: LocalModelId, event: ModelEvent, *, reason: str = "") -> ModelEntry:
        """Take a step that changes nothing but the state. Raises IllegalStepError, UnknownModelError."""
        entry = self._known(model_id)
        status = next_status(entry.status, event)
        changed = replace(entry, status=status, reason=reason[:REASON_CHARACTERS_MAX])
        if status is ModelStatus.DELETED:
            changed = replace(changed, size_bytes=0, pinned=False)
        # A download that begins anew knows nothing of the files that were damaged.
        has_files = status not in (ModelStatus.DELETED, ModelStatus.DOWNLOADING)
        self._save(changed, files=None if has_files else ())
        return changed

    def resolved(
        self, model_id: LocalModelId, version: str, size_bytes: int, model_type: ModelType, metadata: Metadata
    ) -> ModelEntry:
        """Note which version is downloaded, and how large it is, before any of it comes."""
        entry = replace(
            self._known(model_id),
            version=version,
            size_bytes=size_bytes,
            model_type=model_type,
            metadata=bounded_metadata(metadata),
        )
        self._save(entry)
        return entry

    def complete(self, model_id: LocalModelId, files: Iterable[FileRow], metadata: Metadata) -> ModelEntry:
        """Note that all files are checked and at their place: the model is available from now on."""
        entry, rows = self._known(model_id), tuple(files)
        now = self._wall_clock()
        entry = replace(
            entry,
            status=next_status(entry.status, ModelEvent.COMPLETED),
            size_bytes=sum(row.size_bytes for row in rows),
            download_date=datetime.fromtimestamp(now, UTC),
            metadata=bounded_metadata({**entry.metadata, **metadata}),
            reason="",
            last_used_at=now,
        )
        self._save(entry, rows)
        return entry

    def annotate(self, model_id: LocalModelId, metadata: Metadata) -> None:
        """Add to the metadata of an entry."""
        entry = self._known(model_id)
        self._save(replace(entry, metadata=bounded_metadata({**entry.metadata, **metadata})))

    def touch(self, model_id: LocalModelId) -> None:
        """Note that a model is used now."""
        self._save(replace(self._known(model_id), last_used_at=self._wall_clock()))

    def pin(self, model_id: LocalModelId, *, pinned: bool) -> ModelEntry:
        """Keep a model from eviction, or no longer. Raises UnknownModelError."""
        entry = replace(self.get(model_id), pinned=pinned)
        self._save(entry)
        return entry

    def move(self, model_id: LocalModelId, path: Path) -> ModelEntry:
        """Note that an available model lies elsewhere now."""
        entry = replace(self.get(model_id), path=path)
        self._save(entry)
        return entry

    def _known(self, model_id: LocalModelId) -> ModelEntry:
        entry = self.find(model_id)
        if entry is None:
            raise UnknownModelError(f"there is no model {model_id} on this machine")
        return entry

    def _save(self, entry: ModelEntry, files: Iterable[FileRow] | None = None) -> None:
        self._tables.save(_row(entry), files)
        self._changed()


def _nobody() -> None:
    """Tell nobody of a change."""


def bounded_metadata(metadata: Metadata) -> Metadata:
    """Return metadata without control characters and within METADATA_BYTES_MAX; what is too much is left out."""
    kept: dict[str, MetadataValue] = {}
    for name, value in metadata.items():
        clean = "".join(c if c.isprintable() else " " for c in value) if isinstance(value, str) else value
        candidate = {**kept, name: clean}
        if len(json.dumps(candidate, ensure_ascii=False).encode("utf-8", "replace")) <= METADATA_BYTES_MAX:
            kept = candidate
    return kept


def export_registry(entries: Iterable[ModelEntry], files: Callable[[LocalModelId], Iterable[FileRow]]) -> str:
    """Return the entries with their files as indented JSON, for other programs."""
    models = [
        {
            "model_id": entry.model_id,
            "model_type": entry.model_type.value,
            "path": str(entry.path),
            "status": entry.status.value,
            "version": entry.version,
            "size_bytes": entry.size_bytes,
            "download_date": None if entry.download_date is None else entry.download_date.isoformat(),
            "metadata": dict(entry.metadata),
            "pinned": entry.pinned,
            "last_used_at": entry.last_used_at,
            "reason": entry.reason,
            "files": [
                {"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256 or None}
                for file in files(entry.model_id)
            ],
        }
        for entry in entries
    ]
    return json.dumps({"format": EXPORT_FORMAT, "models": models}, indent=2, ensure_ascii=False) + "\n"


def write_export(path: Path, text: str) -> None:
    """Write an export so that a reader sees the old one or the new one, never half. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _row(entry: ModelEntry) -> ModelRow:
    return ModelRow(
        model_id=entry.model_id,
        model_type=entry.model_type.value,
        path=str(entry.path),
        status=entry.status.value,
        version=entry.version,
        size_bytes=entry.size_bytes,
        download_date=None if entry.download_date is None else int(entry.download_date.timestamp()),
        metadata=json.dumps(dict(entry.metadata), ensure_ascii=False),
        request=entry.request,
        reason=entry.reason,
        pinned=entry.pinned,
        last_used_at=entry.last_used_at,
    )


def _entry(row: ModelRow) -> ModelEntry:
    return ModelEntry(
        model_id=LocalModelId(row.model_id),
        model_type=ModelType(row.model_type),
        path=Path(row.path),
        status=ModelStatus(row.status),
        version=row.version,
        size_bytes=row.size_bytes,
        download_date=None if row.download_date is None else datetime.fromtimestamp(row.download_date, UTC),
        metadata=from_json(row.metadata),
        request=row.request,
        reason=row.reason,
        pinned=row.pinned,
        last_used_at=row.last_used_at,
    )
