"""What was seen before: bounded, oldest forgotten first, without the library's thread per node."""

from collections import OrderedDict
from typing import Generic, TypeVar

Fate = TypeVar("Fate")


class Memory(Generic[Fate]):
    """What became of the newest `entries_max` keys."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[bytes, Fate] = OrderedDict()

    def get(self, key: bytes) -> Fate | None:
        """What became of `key`, if it is remembered."""
        return self._entries.get(key)

    def put(self, key: bytes, fate: Fate) -> None:
        """Remember."""
        self._entries[key] = fate
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
