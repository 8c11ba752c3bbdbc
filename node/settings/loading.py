"""Reads the settings file and the environment, and explains to the operator what is wrong with them.

A key of section `chain` named `chain_id` is overridden by the environment variable `QUERN_CHAIN__CHAIN_ID`; lists are
given as JSON there. Relative paths are relative to the data directory, and a relative data directory to the file.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as SourceError

from node.settings.aliases import alias_of, aliased_settings
from node.settings.schema import ENVIRONMENT_DELIMITER, ENVIRONMENT_PREFIX, Settings

SOCKET_PATH_BYTES_MAX = 107
"""The kernel's limit on the path of a Unix socket; a longer one fails at bind with an error nobody understands."""


class SettingsError(Exception):
    """The settings can't be used. The message names the file or variable, the key and what is allowed."""


def load_settings(path: Path) -> Settings:
    """Read `path` and the environment; all paths in the result are absolute.

    Raises SettingsError, with one line per fault, for a missing or unreadable file, a wrong key or a bad value.
    """
    if not path.is_file():
        raise SettingsError(f"{path}: no such settings file. Write one with `quern init --data-dir {path.parent}`.")
    _refuse_unknown_variables(os.environ)
    try:
        settings = _read(path)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: can't be read: {error}") from error
    except SourceError as error:
        raise SettingsError(f"environment: {error} (lists are given as JSON)") from error
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(path, detail) for detail in error.errors())) from error
    located = _located(settings, path.resolve().parent)
    if len(os.fsencode(located.control.socket)) > SOCKET_PATH_BYTES_MAX:
        raise SettingsError(
            f"{path}: [control] socket: {located.control.socket} is longer than {SOCKET_PATH_BYTES_MAX} bytes, "
            "which no Unix socket may be. Set a shorter path, such as one under /run or /tmp."
        )
    return located


def _read(path: Path) -> Settings:
    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            aliases = InitSettingsSource(settings_cls, init_kwargs=aliased_settings(os.environ))
            return env_settings, aliases, TomlConfigSettingsSource(settings_cls, path)

    return FromFile()


def _located(settings: Settings, directory: Path) -> Settings:
    data_dir = directory / settings.node.data_dir.expanduser()
    sections = {name: _absolute(getattr(settings, name), data_dir) for name in Settings.model_fields}
    sections["node"] = sections["node"].model_copy(update={"data_dir": data_dir.resolve()})
    return Settings.model_construct(**sections)  # checked already; constructing would read the environment again


def _absolute(value: Any, base: Path) -> Any:
    """Return `value` with each path in it, at any depth of sections and lists, made absolute below `base`."""
    if isinstance(value, Path):
        return Path(os.path.normpath(base / value.expanduser()))
    if isinstance(value, list):
        return [_absolute(item, base) for item in value]
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={name: _absolute(getattr(value, name), base) for name in type(value).model_fields}
        )
    return value


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Refuse `QUERN_CHIAN__…`: a misspelt section would otherwise be ignored in silence."""
    for name in environment:
        if not name.startswith(ENVIRONMENT_PREFIX) or ENVIRONMENT_DELIMITER not in name:
            continue
        section = name.removeprefix(ENVIRONMENT_PREFIX).split(ENVIRONMENT_DELIMITER)[0].lower()
        if section not in Settings.model_fields:
            raise SettingsError(
                f"environment variable {name}: unknown section {section!r}{_suggestion(section, Settings.model_fields)}"
            )


def _explain(path: Path, detail: ErrorDetails) -> str:
    location = detail["loc"]
    names = [str(part) for part in location if not isinstance(part, int)]
    variable = ENVIRONMENT_PREFIX + ENVIRONMENT_DELIMITER.join(names[:2]).upper()
    if variable not in os.environ:
        variable = alias_of(names[:2])
    source = f"environment variable {variable}" if variable in os.environ else str(path)
    where = _spell(location)
    if detail["type"] == "extra_forbidden":
        allowed = _allowed_keys(names[:-1])
        kind = "section" if len(names) == 1 else "key"
        return f"{source}: {where}: unknown {kind}{_suggestion(names[-1], allowed)}"
    if detail["type"] == "missing":
        return f"{source}: {where}: missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{source}: {where}: {message}" if where else f"{source}: {message}"


def _spell(location: tuple[int | str, ...]) -> str:
    """`("chain", "rpc_urls", 0)` reads `[chain] rpc_urls, item 1`."""
    words = []
    for position, part in enumerate(location):
        if isinstance(part, int):
            words.append(f", item {part + 1},")
        elif position == 0:
            words.append(f"[{part}]")
        else:
            words.append(f" {part}")
    return "".join(words).rstrip(",")


def _allowed_keys(names: Iterable[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for name in names:
        inner = section_type(model.model_fields[name].annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def section_type(annotation: Any) -> type[BaseModel] | None:
    """Return the section that an annotation is or holds a list of; None for plain values."""
    if get_origin(annotation) in (list, Union, UnionType):
        return next((found for item in get_args(annotation) if (found := section_type(item)) is not None), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _suggestion(name: str, allowed: Iterable[str]) -> str:
    known = list(allowed)
    close = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "_", name.lower()), known, n=1)
    hint = f". Did you mean `{close[0]}`?" if close else "."
    return f"{hint} Allowed: {', '.join(known)}."
