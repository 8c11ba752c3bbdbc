"""What the contracts' sources say about themselves (NatSpec), as the compiler gives it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Documentation:
    """Prose about a contract or a part of it. What the source does not say is empty."""

    summary: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    """Solidity name and meaning of the arguments that are described."""
    result: str = ""


def entry_documentation(artifact: Json, kind: str, signature: str) -> Documentation:
    """Return what is said of an entry: `kind` is `methods`, `events`, `errors`, or `contract` for the whole."""
    user, developer = artifact.get("userdoc", {}), artifact.get("devdoc", {})
    if kind == "contract":
        return Documentation(_prose(developer.get("title"), user.get("notice"), developer.get("details")))
    said: dict[str, Any] = {}
    for source in (developer, user):
        found = source.get(kind, {}).get(signature, {})
        # Errors may come from several places and so stand in a list.
        said |= (found[0] if found else {}) if isinstance(found, list) else found
    if kind == "methods" and signature.endswith("()"):
        said |= developer.get("stateVariables", {}).get(signature.removesuffix("()"), {}) | said
    return Documentation(
        summary=_prose(said.get("notice"), said.get("details")),
        arguments=tuple((name, _prose(text)) for name, text in said.get("params", {}).items()),
        result=_prose(said.get("return"), *said.get("returns", {}).values()),
    )


def type_documentation(described: Json) -> Documentation:
    """Return what is said of a struct or enum, whose comment the compiler gives as it is written."""
    summary: list[str] = []
    arguments: list[tuple[str, str]] = []
    # Without a tag at its beginning, a comment is a notice.
    for tag, text in re.findall(
        r"(?:^|@)(notice|dev|title|param|custom:\S+)?\s*([^@]*)", described.get("notice") or ""
    ):
        if tag == "param":
            name, _, meaning = text.strip().partition(" ")
            arguments.append((name, _prose(meaning)))
        else:
            summary.append(text)
    return Documentation(_prose(*summary), tuple(arguments))


def _prose(*parts: str | None) -> str:
    return " ".join(" ".join(part.split()) for part in parts if part and part.strip())
