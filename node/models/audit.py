"""Who did what to which model, and when: append-only, bounded, and without anything secret."""

from node.logs import strike_out_secrets
from node.models.identity import LocalModelId
from node.ports import WallClock
from node.store.model_tables import AuditRow, ModelTables

AUDIT_SHOWN_MAX = 1_000
ACTOR_CHARACTERS_MAX = 100


class AuditLog:
    """The log."""

    def __init__(self, tables: ModelTables, wall_clock: WallClock) -> None:
        self._tables = tables
        self._wall_clock = wall_clock

    def note(self, actor: str, action: str, model_id: LocalModelId | str = "", detail: str = "") -> None:
        """Write an entry. `actor` says who, such as `operator`, `engine` or `api: NAME`."""
        clean = str(strike_out_secrets(None, "", {"detail": detail})["detail"])
        self._tables.add_audit(self._wall_clock(), actor[:ACTOR_CHARACTERS_MAX], action, model_id, clean)

    def newest(self, *, limit: int, model_id: LocalModelId | None = None) -> tuple[AuditRow, ...]:
        """Return the newest entries, newest first; of one model, if it is named."""
        return self._tables.audit(limit=min(limit, AUDIT_SHOWN_MAX), model_id=model_id)
