"""Whatever the documentation tells a reader to type exists: commands, their options, the scripts' options, settings."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import click
import pytest
from pydantic import BaseModel

from node.cli.main import quern
from node.settings.schema import Settings

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", ROOT / "contracts/README.md", *(ROOT / "docs").glob("*.md")])
KEY_NAMES = re.compile(r"quern (content|sealed|wrapped) [a-z ]+ 1( |$)")
"""What the protocol mixes into keys looks like commands."""


def typed(page: Path) -> Iterator[str]:
    """Every command line of `quern` on a page: in a code span or block, continued lines joined."""
    text = page.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        yield from re.findall(r"`(quern [a-z][^`]*)`", line)
        if found := re.match(r"\s*(?:\$ )?(quern [a-z].*)", line):
            yield re.split(r"\s+#|\s[|>&]|…$", found[1])[0]


def complaint(line: str) -> str:
    """Why `line` cannot be typed; nothing if it can."""
    words = shlex.split(re.sub(r"[…\[\]]", " ", line))[1:]
    command: click.Command = quern
    context = click.Context(quern)
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break
        name = words.pop(0)
        found = command.get_command(context, name)
        if found is None:
            return f"`{command.name}` has no command `{name}`"
        command = found
    known = {name for part in command.params for name in (*part.opts, *part.secondary_opts)} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"`{command.name}` has no option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_documentation_exists(page: Path) -> None:
    lines = [line for line in typed(page) if not KEY_NAMES.match(line)]
    assert [(line, why) for line in lines if (why := complaint(line))] == []


def test_a_command_that_does_not_exist_would_be_found() -> None:
    assert complaint("quern ask --no-such-option") == "`ask` has no option --no-such-option"
    assert complaint("quern model fly") == "`model` has no command `fly`"
    assert sum(len(list(typed(page))) for page in PAGES) > 100


def sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found = {}
    for name, field in model.model_fields.items():
        kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
        for kind in (*kinds, *(part for whole in kinds for part in get_args(whole))):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found[name] = kind
    return found


def unknown_settings(table: dict[str, Any], model: type[BaseModel]) -> list[str]:
    found = []
    for name, value in table.items():
        if name not in model.model_fields:
            found.append(name)
        elif name in sections(model):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    found += [f"{name}.{key}" for key in unknown_settings(part, sections(model)[name])]
    return found


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "simulator.md"],  # its files describe populations
    ids=lambda page: page.name,
)
def test_every_setting_in_the_documentation_exists(page: Path) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert [unknown_settings(tomllib.loads(block), Settings) for block in blocks] == [[] for _ in blocks]
