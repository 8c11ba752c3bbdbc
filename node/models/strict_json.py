"""Reads JSON files of strangers: bounded, one value per key, and no text that only some parsers take."""

import json
from pathlib import Path
from typing import Any, NoReturn

from pydantic_core import from_json

JSON_BYTES_MAX = 64 * 1024 * 1024
"""Tokenizers of large vocabularies have some 20 MB."""


def parse_strict(data: bytes, *, numbers_finite: bool = False) -> Any:
    """Return the value of `data`. Raises ValueError.

    A key that stands twice is refused: which of the two counts differs from parser to parser, so an owner would see one
    model and an engine another. With `numbers_finite`, NaN and Infinity, which JSON does not have, are refused too;
    configurations of some models need them.
    """
    # The first parser limits the depth, which the second one, the only one that shows both keys, does not: see
    # docs/decisions/0007.
    from_json(data, allow_inf_nan=not numbers_finite)
    return json.loads(
        data.decode("utf-8"),
        object_pairs_hook=_unique,
        parse_constant=_refuse_constant if numbers_finite else None,
    )


def read_strict(path: Path) -> Any:
    """Return the value in a file. Raises ValueError, OSError."""
    size = path.stat().st_size
    if size > JSON_BYTES_MAX:
        raise ValueError(f"it has {size} bytes, more than the {JSON_BYTES_MAX} that are read")
    return parse_strict(path.read_bytes())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} stands twice")
        found[key] = value
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
