"""The tables of the model manager: models on this machine, their files, and the audit log. Rows only, no rules."""

from collections.abc import Iterable
from dataclasses import dataclass

from node.store.database import Database

AUDIT_ROWS_MAX = 100_000
"""Some 20 MB; the oldest go first. The schema's trigger has the same number."""
AUDIT_PRUNE_EVERY = 256
"""Rows between two prunings: each is a write of its own."""
MODELS_PER_QUERY_MAX = 10_000
DETAIL_CHARACTERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A row of `models`, as SQLite has it."""

    model_id: str
    model_type: str
    path: str
    status: str
    version: str
    size_bytes: int
    download_date: int | None
    metadata: str
    request: str
    reason: str
    pinned: bool
    last_used_at: int


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of an available model. `sha256` is empty where another checksum vouched for it (a CID)."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what to which model, and when (UNIX seconds)."""

    sequence: int
    at: int
    actor: str
    action: str
    model_id: str
    detail: str


class ModelTables:
    """Models over SQLite. Every method that writes returns when its effect would survive kill -9."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def model(self, model_id: str) -> ModelRow | None:
        """Return one model."""
        row = self._database.connection.execute("SELECT * FROM models WHERE model_id = ?", (model_id,)).fetchone()
        return None if row is None else _model(row)

    def models(self) -> tuple[ModelRow, ...]:
        """Return all models, by id."""
        rows = self._database.connection.execute(
            "SELECT * FROM models ORDER BY model_id LIMIT ?", (MODELS_PER_QUERY_MAX,)
        )
        return tuple(_model(row) for row in rows)

    def save(self, row: ModelRow, files: Iterable[FileRow] | None = None) -> None:
        """Write a model in place of what was there; `files`, where given, in place of all of its files."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (model_id) DO UPDATE SET "
                "model_type = excluded.model_type, path = excluded.path, status = excluded.status, "
                "version = excluded.version, size_bytes = excluded.size_bytes, "
                "download_date = excluded.download_date, metadata = excluded.metadata, request = excluded.request, "
                "reason = excluded.reason, pinned = excluded.pinned, last_used_at = excluded.last_used_at",
                (
                    row.model_id,
                    row.model_type,
                    row.path,
                    row.status,
                    row.version,
                    row.size_bytes,
                    row.download_date,
                    row.metadata,
                    row.request,
                    row.reason,
                    int(row.pinned),
                    row.last_used_at,
                ),
            )
            if files is not None:
                connection.execute("DELETE FROM model_files WHERE model_id = ?", (row.model_id,))
                connection.executemany(
                    "INSERT INTO model_files VALUES (?, ?, ?, ?)",
                    [(row.model_id, file.path, file.size_bytes, file.sha256) for file in files],
                )

    def files(self, model_id: str) -> tuple[FileRow, ...]:
        """Return the files of a model, by path."""
        rows = self._database.connection.execute(
            "SELECT path, size_bytes, sha256 FROM model_files WHERE model_id = ? ORDER BY path", (model_id,)
        )
        return tuple(FileRow(*row) for row in rows)

    def same_content(self, sha256: str) -> tuple[tuple[str, str], ...]:
        """Return (model id, path) of a few files known to have had this content."""
        rows = self._database.connection.execute(
            "SELECT model_id, path FROM model_files WHERE sha256 = ? LIMIT 4", (sha256,)
        )
        return tuple((model_id, path) for model_id, path in rows)

    def add_audit(self, at: int, actor: str, action: str, model_id: str, detail: str) -> None:
        """Append to the audit log; beyond AUDIT_ROWS_MAX the oldest are dropped."""
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO model_audit (at, actor, action, model_id, detail) VALUES (?, ?, ?, ?, ?)",
                (at, actor, action, model_id, detail[:DETAIL_CHARACTERS_MAX]),
            )
            sequence = cursor.lastrowid or 0
            if sequence % AUDIT_PRUNE_EVERY == 0:
                connection.execute("DELETE FROM model_audit WHERE sequence <= ?", (sequence - AUDIT_ROWS_MAX,))

    def audit(self, *, limit: int, model_id: str | None = None) -> tuple[AuditRow, ...]:
        """Return the newest entries of the audit log, newest first; of one model, if it is named."""
        rows = self._database.connection.execute(
            "SELECT sequence, at, actor, action, model_id, detail FROM model_audit "
            "WHERE ?1 IS NULL OR model_id = ?1 ORDER BY sequence DESC LIMIT ?2",
            (model_id, limit),
        )
        return tuple(AuditRow(*row) for row in rows)


def _model(row: tuple[str, str, str, str, str, int, int | None, str, str, str, int, int]) -> ModelRow:
    return ModelRow(*row[:10], pinned=bool(row[10]), last_used_at=row[11])
