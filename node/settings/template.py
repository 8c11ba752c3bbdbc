"""Writes a settings file in which every key stands with its description, from the settings themselves: no drift."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from node.settings.loading import section_type
from node.settings.schema import Settings
from node.settings.section import Section

HEADER = """\
# Settings of a Quern daemon. Each key is shown with its default; take away the `#` before a key to change it.
# Environment variables override this file: QUERN_CHAIN__CHAIN_ID=1 sets chain_id in [chain].
# Relative paths are relative to the data directory. A wrong key is an error, not a silence.
"""


def render_settings(chosen: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return the text of a settings file in which the keys of `chosen` (section → key → value) are set.

    All other keys are shown as comments with their defaults. `engines` is shown as one example table, commented out,
    unless `chosen["engines"]` holds the keys of one ML node.
    """
    values = chosen or {}
    parts = [HEADER]
    for name, field in Settings.model_fields.items():
        section = section_type(field.annotation)
        if section is None:  # every field of Settings is a section or a list of sections
            raise TypeError(f"{name} is not a section")
        parts.append(_render_section(name, field, section, values.get(name, {})))
    return "\n".join(parts)


def _render_section(name: str, field: FieldInfo, section: type[BaseModel], values: Mapping[str, Any]) -> str:
    repeated = not (isinstance(field.annotation, type) and issubclass(field.annotation, Section))
    lines = _comment((section.__doc__ or "").strip())
    if field.description:
        lines += _comment(field.description)
    header = f"[[{name}]]" if repeated else f"[{name}]"
    lines.append(header if values or not repeated else f"# {header}")
    for key, key_field in section.model_fields.items():
        lines.append("")
        lines += _comment(key_field.description or "")
        lines.append(_render_key(key, key_field, values))
    return "\n".join(lines) + "\n"


def _render_key(key: str, field: FieldInfo, values: Mapping[str, Any]) -> str:
    if key in values:
        return f"{key} = {_toml(values[key])}"
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or default is None:
        return f"# {key} ="
    return f"# {key} = {_toml(default)}"


def _comment(text: str) -> list[str]:
    return [f"# {line.strip()}".rstrip() for line in text.splitlines()]


def _toml(value: Any) -> str:
    """TOML of a scalar or a flat list. JSON's text, numbers, booleans and arrays are TOML's as well."""
    if isinstance(value, Path):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
