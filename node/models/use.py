"""Which models are in use now, and by what: whoever moves, removes or downloads one asks here first."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from node.models.identity import LocalModelId


class ModelUse:
    """Uses of models in this life of the daemon. Nothing here waits, so that an answer holds until the next wait."""

    def __init__(self) -> None:
        self._loaded: Counter[LocalModelId] = Counter()
        self._busy: set[LocalModelId] = set()
        self._removing: dict[LocalModelId, trio.Event] = {}

    def load(self, model_id: LocalModelId) -> None:
        """Note that an engine has a model open."""
        self._loaded[model_id] += 1

    def release(self, model_id: LocalModelId) -> None:
        """Note that an engine no longer has a model open."""
        if self._loaded[model_id] <= 0:
            raise ValueError(f"{model_id} is not loaded")
        self._loaded[model_id] -= 1

    def is_loaded(self, model_id: LocalModelId) -> bool:
        """Whether an engine has it open."""
        return self._loaded[model_id] > 0

    @contextmanager
    def occupied(self, model_id: LocalModelId) -> Iterator[None]:
        """Within, a model is moved between tiers or verified: it is not removed meanwhile."""
        self._busy.add(model_id)
        try:
            yield
        finally:
            self._busy.discard(model_id)

    def is_occupied(self, model_id: LocalModelId) -> bool:
        """Whether it is moved or verified."""
        return model_id in self._busy

    def is_used(self, model_id: LocalModelId) -> bool:
        """Whether its files have to stay where they are."""
        return self.is_loaded(model_id) or self.is_occupied(model_id)

    @contextmanager
    def removing(self, model_id: LocalModelId) -> Iterator[None]:
        """Within, a model's files are going: it is not downloaded meanwhile."""
        self._removing[model_id] = trio.Event()
        try:
            yield
        finally:
            self._removing.pop(model_id).set()

    def removal(self, model_id: LocalModelId) -> trio.Event | None:
        """Return what is set once its files are gone; None if they are not going."""
        return self._removing.get(model_id)
