"""`quern conformance`: whether a model server that somebody else made can be an ML node, and what it lacks."""

import json
from dataclasses import asdict
from pathlib import Path

import click
import trio
from rich.text import Text

from node.cli.options import CommandFailed
from node.cli.render import console
from node.conformance.examine import examine
from node.conformance.findings import Check, Level, Mark, Report, lacking
from node.conformance.server import open_server
from node.engine.endpoint import Endpoint, EndpointError, parse_endpoint
from node.private_files import PrivateFileError, read_private_file

STYLES = {Mark.HOLDS: "green", Mark.MISSING: "yellow", Mark.WRONG: "bold red", Mark.UNKNOWN: "dim"}
LEVELS = {level.name.lower(): level for level in Level if level is not Level.NONE}


@click.command()
@click.argument("url")
@click.option("--model", default="", help="Model to ask.  [default: the first that it serves]")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File (0600) with the key that the server asks for.",
)
@click.option(
    "--need",
    type=click.Choice(list(LEVELS)),
    default="audit",
    show_default=True,
    help="What the server must be good for; the exit code says whether it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def conformance(url: str, model: str, api_key_file: Path | None, need: str, as_json: bool) -> None:
    """Check whether a model server can be an ML node.

    URL is http://host:port or unix:/path/of/socket. Looks for everything that a node needs, over OpenAI's API as vLLM
    has it and over the miner API; says line by line what holds, what is missing and what that costs. Asks for some
    hundred tokens. Needs no daemon.

    \b
    What a server may be good for, each with all before it:
      chat    it answers chats of this node's own callers
      serve   it serves requests of the network
      prove   it proves its work: it has weight, is drawn, earns
      audit   its answers hold up in audits

    \b
    Examples:
      quern conformance http://10.0.0.7:8000
      quern conformance http://10.0.0.7:8000 --model tiny --api-key-file key --need serve
      quern conformance http://127.0.0.1:3000 --need chat --json
    """
    try:
        key = "" if api_key_file is None else read_private_file(api_key_file).decode("ascii").strip()
        endpoint = parse_endpoint(url, key)
    except (EndpointError, PrivateFileError, UnicodeDecodeError) as error:
        raise CommandFailed(str(error)) from error
    report = trio.run(_run, endpoint, model, as_json)
    if as_json:
        click.echo(json.dumps(report_fields(report), indent=2, ensure_ascii=False))
    else:
        _print_verdict(report)
    if report.level < LEVELS[need]:
        raise click.exceptions.Exit(1)


async def _run(endpoint: Endpoint, model: str, as_json: bool) -> Report:
    async with open_server(endpoint) as server:
        return await examine(server, model, None if as_json else _print_check)


def report_fields(report: Report) -> dict[str, object]:
    """Return a report as JSON has it."""

    def fields(check: Check) -> dict[str, object]:
        level = None if check.needed_for is None else check.needed_for.name.lower()
        return {**asdict(check), "mark": check.mark.value, "needed_for": level}

    return {
        "level": report.level.name.lower(),
        "meaning": report.meaning,
        "api": report.api,
        "model": report.model,
        "server": report.server,
        "checks": [fields(check) for check in report.checks],
    }


def _print_check(check: Check) -> None:
    line = Text.assemble((f"{check.mark.value:<8}", STYLES[check.mark]), f"  {check.name:<16}  {check.message}")
    console().print(line)


def _print_verdict(report: Report) -> None:
    if len(report.checks) == 1:
        _print_check(report.checks[0])  # nothing answered: it was not told yet
    for check in lacking(report.checks):
        needed = "good to have" if check.needed_for is None else f"needed to {check.needed_for.name.lower()}"
        words = "; ".join(part for part in (needed, check.cost) if part)
        console().print(Text(f"\n{check.name}: {words}"))
        if check.remedy:
            console().print(Text(f"→ {check.remedy}", style="italic"))
    if report.api:
        model = report.model or "MODEL_ID"
        click.echo(f'\nTo use it: [[engines]] model_id = "{model}", url = "…", api = "{report.api}"')
    click.echo(f"\n{report.server or 'the server'}{f', {report.model}' if report.model else ''}: {report.meaning}")
