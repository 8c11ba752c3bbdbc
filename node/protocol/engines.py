"""Which engine, in which versions, proves and serves a model: part of the network's rules, so every node judges alike.

Another version computes slightly other numbers, enough to separate honest nodes' proofs. A model names its range by the
pseudo-option `--engine` among its `model_args`, which the registry holds and each epoch's snapshot freezes; a model
without one has ENGINE_RANGE_DEFAULT.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

ENGINE_OPTION = "--engine"
ENGINE_RANGE_CHARACTERS_MAX = 64
_NUMBERS = r"\d{1,6}(?:\.\d{1,6}){0,3}"
_RANGE = re.compile(rf"(?P<name>[a-z][a-z0-9-]{{0,31}})(?:>=(?P<first>{_NUMBERS}))?(?:,?<(?P<end>{_NUMBERS}))?")
_VERSION = re.compile(rf"({_NUMBERS})")


class EngineRangeError(ValueError):
    """Text that names no range of engine versions."""


@dataclass(frozen=True, slots=True)
class EngineRange:
    """An engine in the versions from `first` to before `end`, compared number by number; None is no limit."""

    name: str
    first: tuple[int, ...] | None
    end: tuple[int, ...] | None

    def __str__(self) -> str:
        limits = [f"{sign}{'.'.join(map(str, at))}" for sign, at in ((">=", self.first), ("<", self.end)) if at]
        return self.name + ",".join(limits)

    def why_not(self, name: str, version: str) -> str | None:
        """Return why an engine is outside, in words for its operator, or None if it is inside.

        What follows the numbers (`+cpu`, `rc1`) does not count.
        """
        if name != self.name:
            return f"the network runs this model with {self}, this node has {name} {version}"
        numbers = _VERSION.match(version)
        if numbers is None:
            return f"the network runs this model with {self}, this node's engine calls its version {version[:40]!r}"
        at = _padded(_numbers(numbers[1]))
        if (self.first is not None and at < _padded(self.first)) or (self.end is not None and at >= _padded(self.end)):
            return f"the network runs this model with {self}, this node has {name} {version}"
        return None


def parse_engine_range(text: str) -> EngineRange:
    """Read `vllm`, `vllm>=0.32`, `vllm<1` or `vllm>=0.32,<0.33`. Raises EngineRangeError."""
    found = _RANGE.fullmatch(text) if len(text) <= ENGINE_RANGE_CHARACTERS_MAX else None
    if found is None:
        shown = text[:ENGINE_RANGE_CHARACTERS_MAX]
        raise EngineRangeError(f"{shown!r} is no range of engines such as vllm>=0.32,<0.33")
    first, end = (None if found[part] is None else _numbers(found[part]) for part in ("first", "end"))
    if first is not None and end is not None and _padded(first) >= _padded(end):
        raise EngineRangeError(f"{text!r} allows no version")
    return EngineRange(found["name"], first, end)


ENGINE_RANGE_DEFAULT = EngineRange("vllm", (0, 32), (0, 33))
"""What the acceptance thresholds of Proof of Compute were measured with."""


def engine_range_of(model_args: Sequence[str]) -> EngineRange:
    """Return the range that a model's arguments name. Raises EngineRangeError."""
    for index, word in enumerate(model_args):
        name, separator, inline = word.partition("=")
        if name == ENGINE_OPTION:
            following = inline if separator else "".join(model_args[index + 1 : index + 2])
            return parse_engine_range(following)
    return ENGINE_RANGE_DEFAULT


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _padded(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return (*numbers, *(0,) * (4 - len(numbers)))
