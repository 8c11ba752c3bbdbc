"""Records as JSON, for files that people keep and hand on: bytes as lower-case hex, amounts as decimal text.

The way back is as strict as canonical bytes are (codec.py): a missing or mistyped field is refused, with its name.
"""

import dataclasses
import re
import types
from collections.abc import Callable
from typing import Any, NewType, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from node.protocol.canonical import CanonicalError
from node.protocol.codec import SchemaError, from_value, to_bytes, to_value

Record = TypeVar("Record")

HEX = re.compile("(?:[0-9a-f]{2})*")


def to_json_value(record: object) -> dict[str, Any]:
    """Return `record` as what `json.dumps` takes."""
    return cast(dict[str, Any], _bytes_to_hex(to_value(record)))


def from_json_value(record_type: type[Record], value: object) -> Record:
    """Build a `record_type` from what `json.loads` gave. Raises SchemaError, also for what has no canonical bytes."""
    name = record_type.__name__
    record = from_value(record_type, _hex_to_bytes(record_type, value, name))
    try:
        to_bytes(record)
    except CanonicalError as error:
        raise SchemaError(f"{name}: {error}") from error
    return record


def _bytes_to_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _bytes_to_hex(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bytes_to_hex(item) for item in value]
    return value


def _hex_to_bytes(annotation: Any, value: Any, path: str) -> Any:
    """Turn into bytes what the record has as bytes; whatever has another shape is left to the codec to refuse."""
    while isinstance(annotation, NewType):
        annotation = annotation.__supertype__
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (inner for inner in get_args(annotation) if inner is not type(None))
        return None if value is None else _hex_to_bytes(annotation, value, path)
    if annotation is bytes:
        return _read_hex(value, path)
    convert = _converter_of(annotation)
    return convert(value, path) if convert is not None else value


def _converter_of(annotation: Any) -> Callable[[Any, str], Any] | None:
    if dataclasses.is_dataclass(annotation):
        hints = get_type_hints(annotation)

        def fields(value: Any, path: str) -> Any:
            if not isinstance(value, dict):
                return value
            return {
                name: _hex_to_bytes(hints[name], item, f"{path}.{name}") if name in hints else None
                for name, item in value.items()
            }

        return fields
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)

        def items(value: Any, path: str) -> Any:
            if not isinstance(value, list):
                return value
            kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
            if len(kinds) != len(value):
                return value
            pairs = enumerate(zip(kinds, value, strict=True))
            return [_hex_to_bytes(kind, item, f"{path}[{index}]") for index, (kind, item) in pairs]

        return items
    return None


def _read_hex(value: Any, path: str) -> bytes:
    if not isinstance(value, str) or not HEX.fullmatch(value):
        raise SchemaError(f"{path}: expected bytes as lower-case hex")
    return bytes.fromhex(value)
