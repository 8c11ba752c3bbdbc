"""Random values for the arguments of an ABI, and the same values as the bindings' types hold them."""

import dataclasses
import enum
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from eth_utils.address import to_checksum_address
from hypothesis import strategies as st

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
ITEMS_MAX = 3
ADDRESS_BYTES = 20


def values_of(argument: Mapping[str, Any], types: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of one argument as eth_abi and web3 take them: tuples for structs, lists for arrays."""
    written = str(argument["type"])
    internal = str(argument.get("internalType", ""))
    if written.endswith("]"):
        stem, _, length = written[:-1].rpartition("[")
        item = {**argument, "type": stem}
        if internal.endswith("]"):
            item["internalType"] = internal[: internal.rindex("[")]
        least, most = (int(length), int(length)) if length else (0, ITEMS_MAX)
        return st.lists(values_of(item, types), min_size=least, max_size=most)
    if written == "tuple":
        return st.tuples(*(values_of(component, types) for component in argument["components"]))
    if internal in types and types[internal].get("members"):
        return st.integers(0, len(types[internal]["members"]) - 1)
    return _plain_values(written)


def _plain_values(written: str) -> st.SearchStrategy[Any]:
    stem = written.rstrip("0123456789")
    size = int(written[len(stem) :] or 0)
    match stem:
        case "uint":
            return st.integers(0, 2**size - 1)
        case "int":
            return st.integers(-(2 ** (size - 1)), 2 ** (size - 1) - 1)
        case "bytes":
            return st.binary(min_size=size, max_size=size or 70)
        case "address":
            return st.binary(min_size=ADDRESS_BYTES, max_size=ADDRESS_BYTES).map(to_checksum_address)
        case "string":
            return TEXT
        case "bool":
            return st.booleans()
        case _:
            raise AssertionError(f"no values for {written}")


def as_annotated(annotation: Any, value: Any) -> Any:
    """Return an ABI value in the form that an annotation of the bindings promises."""
    origin = typing.get_origin(annotation)
    if origin is not None:
        assert origin in (tuple, Sequence), annotation
        return tuple(as_annotated(typing.get_args(annotation)[0], item) for item in value)
    if dataclasses.is_dataclass(annotation):
        return record(typing.cast("type[Any]", annotation), value)
    if issubclass(annotation, enum.Enum):
        return annotation(value)
    assert isinstance(value, annotation)
    return value


def record(kind: type[Any], values: Sequence[Any]) -> Any:
    """Return a dataclass of the bindings with these ABI values, in the order of its fields."""
    hints = typing.get_type_hints(kind)
    named = dataclasses.fields(kind)
    assert len(named) == len(values)
    return kind(*(as_annotated(hints[field.name], value) for field, value in zip(named, values, strict=True)))
