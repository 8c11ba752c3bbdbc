"""Compiled contracts: ABIs and bytecode, shipped with the Python package and proved reproducible in CI."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

ARTIFACTS = files(__package__) / "artifacts"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    """Creation code, without constructor arguments."""


@cache
def load(name: str) -> Artifact:
    """Return the artifact of contract `name`; raise KeyError if there is none."""
    source = ARTIFACTS / f"{name}.json"
    if not source.is_file():
        raise KeyError(f"no contract named {name}; there are {', '.join(names())}")
    record = json.loads(source.read_text(encoding="utf-8"))
    return Artifact(name, record["abi"], bytes.fromhex(record["bytecode"].removeprefix("0x")))


def names() -> tuple[str, ...]:
    """Return the names of all contracts, in alphabetical order."""
    return tuple(
        sorted(entry.name.removesuffix(".json") for entry in ARTIFACTS.iterdir() if entry.name.endswith(".json"))
    )
