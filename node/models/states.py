"""What may happen to a model on this machine: its states, and the legal steps between them. Pure."""

from enum import StrEnum


class ModelType(StrEnum):
    """What a model does."""

    TEXT_GENERATION = "text-generation"
    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_TO_TEXT = "image-to-text"
    AUDIO_TO_TEXT = "audio-to-text"
    TEXT_TO_AUDIO = "text-to-audio"
    EMBEDDING = "embedding"
    CLASSIFICATION = "classification"
    OTHER = "other"


class ModelStatus(StrEnum):
    """Where a model stands. Only an `available` one is ever given to an engine."""

    DOWNLOADING = "downloading"
    AVAILABLE = "available"
    ERROR = "error"
    DELETED = "deleted"
    PENDING = "pending"


class ModelEvent(StrEnum):
    """What happens to a model."""

    REQUESTED = "requested"
    """Somebody wants it here."""
    STARTED = "started"
    """Its download runs."""
    INTERRUPTED = "interrupted"
    """The daemon ended while it was downloaded; what is staged is kept."""
    COMPLETED = "completed"
    """All of its files are checked and at their place."""
    FAILED = "failed"
    """It cannot be had, or was cancelled."""
    DAMAGED = "damaged"
    """Its files are not, or no longer, what was downloaded."""
    REMOVED = "removed"
    """It was removed or evicted."""


class IllegalStepError(Exception):
    """An event that cannot happen to a model in its state: a fault of the program, never of the operator."""


_STEPS: dict[tuple[ModelStatus | None, ModelEvent], ModelStatus] = {
    (None, ModelEvent.REQUESTED): ModelStatus.PENDING,
    (ModelStatus.ERROR, ModelEvent.REQUESTED): ModelStatus.PENDING,
    (ModelStatus.DELETED, ModelEvent.REQUESTED): ModelStatus.PENDING,
    (ModelStatus.PENDING, ModelEvent.STARTED): ModelStatus.DOWNLOADING,
    (ModelStatus.ERROR, ModelEvent.STARTED): ModelStatus.DOWNLOADING,
    (ModelStatus.DOWNLOADING, ModelEvent.INTERRUPTED): ModelStatus.PENDING,
    (ModelStatus.DOWNLOADING, ModelEvent.COMPLETED): ModelStatus.AVAILABLE,
    (ModelStatus.PENDING, ModelEvent.FAILED): ModelStatus.ERROR,
    (ModelStatus.DOWNLOADING, ModelEvent.FAILED): ModelStatus.ERROR,
    (ModelStatus.AVAILABLE, ModelEvent.DAMAGED): ModelStatus.ERROR,
    (ModelStatus.PENDING, ModelEvent.REMOVED): ModelStatus.DELETED,
    (ModelStatus.ERROR, ModelEvent.REMOVED): ModelStatus.DELETED,
    (ModelStatus.AVAILABLE, ModelEvent.REMOVED): ModelStatus.DELETED,
}
"""All that is legal. A model that is downloaded is not removed: its download is cancelled first."""


def next_status(status: ModelStatus | None, event: ModelEvent) -> ModelStatus:
    """Return the state after `event`; None is a model that is not known yet. Raises IllegalStepError."""
    try:
        return _STEPS[status, event]
    except KeyError:
        before = "unknown" if status is None else status.value
        raise IllegalStepError(f"a model that is {before} cannot be {event.value}") from None


def is_legal(status: ModelStatus | None, event: ModelEvent) -> bool:
    """Whether `event` may happen to a model in this state."""
    return (status, event) in _STEPS
