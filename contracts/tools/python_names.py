"""Python names for Solidity ones: snake case, never a keyword or builtin, never twice in one place."""

import builtins
import keyword
import re
from collections.abc import Iterable, Sequence

WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z](?!s(?:[A-Z_]|$))[a-z])")
"""Between `prompt` and `CID`, between `ML` and `Node`; a plural such as `CIDs` stays whole."""

RESERVED = frozenset(keyword.kwlist) | frozenset(keyword.softkwlist) | frozenset(dir(builtins))
METHODS = frozenset({"decode", "from_abi", "to_abi"})
"""Methods of the generated records: no field may hide one."""


def snake_case(name: str) -> str:
    """Return `submit_prompt` for `submitPrompt`, `model_cid` for `modelCID_`; a keyword or builtin gets a `_`."""
    plain = _with_underscores(name).lower()
    return f"{plain}_" if plain in RESERVED or plain in METHODS else plain


def member_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the members of an enum in large letters, which no keyword has."""
    result: list[str] = []
    for name in names:
        result.append(unique(_with_underscores(name).upper(), result))
    return tuple(result)


def _with_underscores(name: str) -> str:
    return WORD_BOUNDARY.sub("_", name.strip("_"))


def class_name(name: str) -> str:
    """Return a Solidity name of a struct, enum, event or error as a class's: the same, with its first letter large."""
    plain = name.strip("_")
    return plain[:1].upper() + plain[1:]


def unique(wanted: str, taken: Iterable[str]) -> str:
    """Return `wanted`, or with the lowest number behind it that is free."""
    known = set(taken)
    candidate, number = wanted, 2
    while candidate in known:
        candidate = f"{wanted.rstrip('_')}_{number}"
        number += 1
    return candidate


def argument_names(names: Sequence[str], unnamed: str) -> tuple[str, ...]:
    """Return names for a list of arguments, of which some may have none: `argument_0`."""
    result: list[str] = []
    for index, name in enumerate(names):
        result.append(unique(snake_case(name) or f"{unnamed}_{index}", result))
    return tuple(result)


def overload_names(name: str, overloads: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return a distinct name for each of the overloads of `name`, given the names of their arguments.

    The one with the fewest arguments keeps the plain name; the others say what they take beside:
    `submit_prompt_with_max_tokens`.
    """
    base = min(overloads, key=len)
    result: list[str] = []
    for arguments in overloads:
        extra = [argument.strip("_") for argument in arguments if argument not in base]
        result.append(unique(name + ("_with_" + "_and_".join(extra) if extra else ""), result))
    return tuple(result)
