"""Which models give way when there is too little room, and which move to the cold tier. Pure: effects are elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from node.models.identity import LocalModelId


@dataclass(frozen=True, slots=True)
class Held:
    """A model on disk, as far as room is concerned."""

    model_id: LocalModelId
    size_bytes: int
    last_used_at: int
    """UNIX seconds."""
    pinned: bool = False
    loaded: bool = False
    """Whether an engine has it open: it never gives way."""
    cold: bool = False
    """Whether it lies in the cold tier."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Room cannot be made: so many bytes are missing even if all that may go goes."""

    missing_bytes: int


def plan_eviction(held: Sequence[Held], needed_bytes: int, bytes_max: int) -> tuple[LocalModelId, ...] | NoRoom:
    """Return the models to remove so that `needed_bytes` more stay within `bytes_max` (0: no limit).

    The least recently used go first, and no more than it takes. Pinned and loaded ones never go.
    """
    excess = sum(model.size_bytes for model in held) + needed_bytes - bytes_max
    if bytes_max == 0 or excess <= 0:
        return ()
    evictable = sorted(
        (model for model in held if not model.pinned and not model.loaded),
        key=lambda model: (model.last_used_at, model.model_id),
    )
    chosen: list[Held] = []
    for model in evictable:
        if excess <= 0:
            break
        if model.size_bytes > 0:
            chosen.append(model)
            excess -= model.size_bytes
    if excess > 0:
        return NoRoom(excess)
    # What was chosen early may be made needless by a larger one chosen late: keep as many as possible.
    for model in sorted(chosen, key=lambda item: -item.last_used_at):
        if excess + model.size_bytes <= 0:
            chosen.remove(model)
            excess += model.size_bytes
    return tuple(model.model_id for model in chosen)


def plan_cooling(held: Sequence[Held], now: int, idle_seconds: int) -> tuple[LocalModelId, ...]:
    """Return the models to move to the cold tier, the longest unused first. Pinned and loaded ones stay."""
    idle = [
        model
        for model in held
        if not (model.cold or model.pinned or model.loaded) and now - model.last_used_at >= idle_seconds
    ]
    return tuple(model.model_id for model in sorted(idle, key=lambda model: (model.last_used_at, model.model_id)))
