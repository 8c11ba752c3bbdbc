"""How models write tool calls: hermes (`<tool_call>{…}</tool_call>`), llama (bare JSON), mistral (`[TOOL_CALLS]…`).

Purpose: say which format a model writes, and what is a call in it.
"""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic_core import from_json, to_json

from node.protocol.records import ModelRecord

CALLS_MAX = 64
"""Calls in one answer; what comes after them is text."""
NAME_CHARACTERS_MAX = 64
PARSER_OPTION = "--tool-call-parser"
"""vLLM's option by which a model's registration may say how it writes calls."""


class CallFormat(StrEnum):
    """A way of writing calls; the values are what vLLM calls its parsers, where it has one."""

    HERMES = "hermes"
    LLAMA = "llama3_json"
    MISTRAL = "mistral"
    DETECTED = "auto"
    """Whichever of them the answer begins to be."""
    ARGUMENTS = "arguments"
    """The whole answer is the arguments of one function, because the engine was made to write them."""
    LIST = "list"
    """The whole answer is a JSON array of calls, because the engine was made to write it."""


_PARSERS = {
    "hermes": CallFormat.HERMES,
    "llama3_json": CallFormat.LLAMA,
    "llama4_json": CallFormat.LLAMA,
    "mistral": CallFormat.MISTRAL,
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called."""

    name: str
    arguments: str
    """JSON text of an object."""


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """What is known before the answer comes: the format, the functions there are, the one that was demanded."""

    form: CallFormat
    names: frozenset[str] = frozenset()
    demanded: str = ""
    calls_max: int = CALLS_MAX
    """Calls to tell; the ones after them are left out."""


def format_of(model: ModelRecord) -> CallFormat:
    """Return how a model writes calls: as its registration says, else as its answers show."""
    words = [word for argument in model.model_args for word in argument.split("=", 1)]
    for option, value in itertools.pairwise(words):
        if option == PARSER_OPTION:
            return _PARSERS.get(value, CallFormat.DETECTED)
    return CallFormat.DETECTED


def calls_of_list(text: str, names: Collection[str] | None) -> list[ToolCall]:
    """Return the calls in the JSON text of one or of an array of them; none if any part of it is no call.

    With `names`, a call of anything else is no call: text without a marker may be an answer that happens to be JSON.
    """
    value = _parsed(text)
    entries = value if isinstance(value, list) else [value]
    calls = [_call_of(entry) for entry in entries]
    sound = [call for call in calls if call is not None and (names is None or call.name in names)]
    return sound if len(sound) == len(calls) else []


def call_of_arguments(name: str, text: str) -> ToolCall | None:
    """Return the call of `name` with the JSON text of an object, or None if it is none."""
    sound = 0 < len(name) <= NAME_CHARACTERS_MAX and isinstance(_parsed(text), dict)
    return ToolCall(name, text) if sound else None


def _call_of(entry: Any) -> ToolCall | None:
    if not isinstance(entry, dict):
        return None
    name = entry.get("name")
    arguments = entry.get("arguments", entry.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS_MAX or not isinstance(arguments, dict):
        return None
    return ToolCall(name, to_json(arguments).decode())


def _parsed(text: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        return None
