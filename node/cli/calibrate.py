"""`quern calibrate`: how far this machine is from another one that runs the same model, and the record of it."""

import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import structlog
import trio

from node.calibration.bands import band_of_measurement, widest, with_band
from node.calibration.measurement import Measurement
from node.calibration.measuring import Amount, Identity, figures_of, make_reference, measure_against
from node.calibration.prompts import PROMPTS
from node.calibration.reference import (
    ANSWER_TOKENS_MAX,
    ANSWERS_MAX,
    FILE_BYTES_MAX,
    NONCES_MAX,
    VOCABULARY_MAX,
    Reference,
    reference_from_json,
    reference_to_json,
)
from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import print_facts
from node.control.calibration_views import CalibrationPlaceView
from node.engine.client import EngineClient
from node.engine.drawing import DrawStyle
from node.engine.endpoint import Endpoint, EndpointError, parse_endpoint
from node.engine.identity import ENGINE_NAME, read_version
from node.engine.transport import Traffic, open_http
from node.ports import EngineFailedError, EngineRefusedError
from node.private_files import PrivateFileError, read_private_file
from node.protocol.calibration import BANDS_MAX, Calibration, hardware_class
from node.protocol.codec import SchemaError
from node.protocol.identifiers import ModelId
from node.protocol.json_records import from_json_value, to_json_value

PROMPTS_BYTES_MAX = 1024 * 1024
PROMPTS_MAX = 1024
UNITS = {
    "distance_largest": "(squared, between vectors)",
    "margin_mean": "logits",
    "logprob_distance_mean": "nats",
    "surprise_z_largest": "standard deviations",
    "poc_distance_max": "(squared, between vectors)",
    "poc_mismatch_per_million": "of a million nonces",
    "margin_micro_mean_max": "millionths of a logit",
    "token_mismatch_per_million": "of a million tokens",
    "distance_micro_mean_max": "millionths of a nat",
    "entropy_z_milli_max": "thousandths of a standard deviation",
}
"""Of figures as they are shown, where their names do not say it."""


@dataclass(frozen=True, slots=True)
class Place:
    """The engine that is measured."""

    endpoint: Endpoint
    model_version: int
    hardware: str
    vocabulary_size: int | None


@click.command()
@click.argument("model")
@click.option("--reference", "reference_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Measure this machine as the reference, and write FILE for the others.")  # fmt: skip
@click.option("--against", "against_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              metavar="FILE", help="Compare this machine with the reference in FILE.")  # fmt: skip
@click.option("--record", "record_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="With --against: put this machine's band into the record FILE, new or there already.")  # fmt: skip
@click.option(
    "--for-the-rest",
    is_flag=True,
    help="With --record: judge hardware that has no band by the widest, also where the default is narrower.",
)
@click.option("--node", "node_id", metavar="NODE", help="ML node of the daemon.  [default: the first with the model]")
@click.option("--url", help="Ask this vLLM server (http://host:port, unix:/path), and no daemon.")
@click.option("--api-key-file", type=click.Path(path_type=Path, dir_okay=False), help="File (0600) with its key.")
@click.option("--hardware", help='What it computes with, such as "1x NVIDIA H200".  [default: as registered]')
@click.option("--model-version", type=click.IntRange(1), help="With --url: version in the registry.  [default: 1]")
@click.option("--vocabulary", type=click.IntRange(1, VOCABULARY_MAX), help="With --url --reference: the model's size "
              "of vocabulary (`vocab_size` in its config.json).")  # fmt: skip
@click.option("--nonces", type=click.IntRange(64, NONCES_MAX), default=16_384, show_default=True)
@click.option("--answers", type=click.IntRange(0, ANSWERS_MAX), default=64, show_default=True,
              help="0 for a model that makes vectors instead of tokens.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(16, ANSWER_TOKENS_MAX), default=256, show_default=True,
              help="Longest answer.")  # fmt: skip
@click.option("--prompts", "prompts_file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              metavar="FILE", help="Questions to ask, one a line.  [default: 32 of many kinds]")  # fmt: skip
@target_options
def calibrate(
    target: Target,
    *,
    model: str,
    reference_file: Path | None,
    against_file: Path | None,
    record_file: Path | None,
    for_the_rest: bool,
    node_id: str | None,
    url: str | None,
    api_key_file: Path | None,
    hardware: str | None,
    model_version: int | None,
    vocabulary: int | None,
    nonces: int,
    answers: int,
    tokens: int,
    prompts_file: Path | None,
) -> None:
    """Measure how far honest machines differ when they run MODEL.

    Two machines of different kinds never compute exactly the same numbers. Validators and auditors have to know by how
    much honest ones differ: less, and honest work is rejected; more, and a cheaper model passes for this one. Make a
    reference on one machine, carry the file to one machine of each other kind, and compare there. The record that
    comes of it goes into the registry: see docs/calibration.md.

    \b
    Examples:
      quern calibrate llama --reference h200.json                    on the first machine
      quern calibrate llama --against h200.json --record llama.json  on each other kind
      quern calibrate llama --against h200.json --url http://10.0.0.7:8000 --hardware "1x NVIDIA L4"
    """
    if (reference_file is None) == (against_file is None):
        raise click.UsageError("name one of --reference FILE (the first machine) and --against FILE (the others)")
    if record_file is not None and against_file is None:
        raise click.UsageError("--record goes with --against: a reference alone tells no difference")
    if for_the_rest and record_file is None:
        raise click.UsageError("--for-the-rest goes with --record")
    if node_id is not None and url is not None:
        raise click.UsageError("name --node of the daemon or the --url of a server, not both")
    if reference_file is not None:
        _refuse_to_replace(reference_file, model)
    written = reference_file or record_file
    if written is not None:
        _require_writable(written)
    place = _place(target, model, node_id, url, api_key_file, hardware, model_version, vocabulary)
    if reference_file is not None:
        questions = PROMPTS if prompts_file is None else _read_prompts(prompts_file)
        amount = Amount(nonces, answers, tokens)
        reference = _run(_reference, place, ModelId(model), amount, questions)
        _write(reference_file, reference_to_json(reference))
        _tell_reference(target, reference, reference_file)
        return
    if against_file is not None:
        _compare(target, place, model, against_file, record_file, for_the_rest=for_the_rest)


def _place(
    target: Target,
    model: str,
    node_id: str | None,
    url: str | None,
    api_key_file: Path | None,
    hardware: str | None,
    model_version: int | None,
    vocabulary: int | None,
) -> Place:
    """Return where the engine is: as named, else as the daemon says."""
    try:
        key = "" if api_key_file is None else read_private_file(api_key_file).decode("ascii").strip()
        if url is not None:
            if not hardware:
                raise CommandFailed(
                    "nobody knows what the server computes with", 'Name it: --hardware "1x NVIDIA H200".'
                )
            return Place(parse_endpoint(url, key), model_version or 1, hardware, vocabulary)
        view = call_daemon(target, "calibration_place", CalibrationPlaceView, {"model_id": model, "node_id": node_id})
        if view.needs_key and not key:
            raise CommandFailed(
                f"the server of {view.node_id} asks for a key", "Name its file: --api-key-file, as in the settings."
            )
        named = hardware or view.hardware
        if not named:
            raise CommandFailed(
                f"{view.node_id} is not registered on chain yet, so its hardware is not known",
                'Wait until it is, or name it: --hardware "1x NVIDIA H200".',
            )
        return Place(parse_endpoint(view.endpoint, key), view.model_version, named, view.vocabulary_size)
    except (EndpointError, PrivateFileError, UnicodeDecodeError) as error:
        raise CommandFailed(str(error)) from error


def _compare(
    target: Target, place: Place, model: str, against_file: Path, record_file: Path | None, *, for_the_rest: bool
) -> None:
    reference = _read_reference(against_file)
    if reference.model_id != model:
        raise CommandFailed(f"{against_file} is a reference of {reference.model_id}, not of {model}")
    if reference.model_version != place.model_version:
        raise CommandFailed(
            f"{against_file} is of version {reference.model_version} of {model}, here is version {place.model_version}",
            "Other weights give other numbers: make a reference of the version that is registered now.",
        )
    record = None if record_file is None or not record_file.exists() else _read_record(record_file)
    if record is not None and (record.model_id, record.model_version) != (reference.model_id, reference.model_version):
        raise CommandFailed(
            f"{record_file} is the record of {record.model_id} version {record.model_version}, "
            f"this is {reference.model_id} version {reference.model_version}",
            "Name another file: each version of a model has a record of its own.",
        )
    measured = _run(_measure, place, reference)
    band = band_of_measurement(measured, ENGINE_NAME)
    if record_file is not None:
        try:
            record = with_band(record, reference.model_id, reference.model_version, band)
            if for_the_rest:
                rest = widest(known for known in record.bands if known.hardware)
                record = record if rest is None else with_band(record, record.model_id, record.model_version, rest)
        except ValueError as error:
            raise CommandFailed(f"{record_file}: {error}", f"A record has at most {BANDS_MAX} bands.") from error
        _write(record_file, json.dumps(to_json_value(record), indent=2) + "\n")
    figures = figures_of(measured)
    if target.as_json:
        kept = {} if record is None else {"record": str(record_file), "bands": len(record.bands)}
        click.echo(json.dumps({"measured": figures, "band": asdict(band), **kept}, indent=2))
        return
    click.echo(f"{measured.hardware} against {measured.reference_hardware}, as measured:")
    print_facts([(name.replace("_", " "), _in_units(name, _number(value))) for name, value in figures.items()])
    click.echo("\nThe honest band that follows, with the room that docs/calibration.md explains:")
    print_facts([(name, _in_units(name, str(value))) for name, value in asdict(band).items()])
    if record_file is not None and record is not None:
        if all(known.hardware for known in record.bands):
            click.echo(
                f"\nHardware without a band in {record_file} is judged, figure by figure, by the narrower of its "
                "widest band and of the default. Measure it, or give the rest a band of its own: docs/calibration.md."
            )
        count = "1 band" if len(record.bands) == 1 else f"{len(record.bands)} bands"
        click.echo(
            f"\n{record_file} has {count} now. When all kinds of hardware are in it, its owner puts it on chain:"
        )
        click.echo(f"  .venv/bin/python scripts/owner_tools.py calibrate {model} {record_file} --config OWNER_SETTINGS")


async def _reference(place: Place, model: ModelId, amount: Amount, prompts: tuple[str, ...]) -> Reference:
    if place.vocabulary_size is None:
        raise CommandFailed(
            "a server does not tell the size of its vocabulary",
            "Name it with --vocabulary: `vocab_size` in the model's config.json.",
        )
    async with open_http(place.endpoint, Traffic()) as http:
        version = await read_version(http)
        client = EngineClient(http, model)
        style = await client.prepare()
        if style is None and amount.answers:
            raise CommandFailed(f"{model} makes vectors, no tokens", "Measure its nonces only: --answers 0.")
        if style is DrawStyle.NONE:
            raise CommandFailed(
                "this server does not draw tokens by the network's rule, so its answers would calibrate nothing",
                "See docs/operators.md; `quern conformance` tells what it lacks.",
            )
        identity = Identity(
            model, place.model_version, ENGINE_NAME, version, hardware_class(place.hardware), place.vocabulary_size
        )
        return await make_reference(client, identity, amount, _Progress(), prompts)


async def _measure(place: Place, reference: Reference) -> Measurement:
    async with open_http(place.endpoint, Traffic()) as http:
        version = await read_version(http)
        if place.vocabulary_size not in (None, reference.vocabulary_size):
            raise CommandFailed(
                f"the reference's model has {reference.vocabulary_size} tokens, this one {place.vocabulary_size}",
                "They are not the same model.",
            )
        identity = Identity(
            reference.model_id,
            reference.model_version,
            ENGINE_NAME,
            version,
            hardware_class(place.hardware),
            reference.vocabulary_size,
        )
        if version.split("+")[0] != reference.engine_version.split("+")[0]:
            click.echo(f"note: {ENGINE_NAME} {version} here, {reference.engine_version} at the reference", err=True)
        return await measure_against(EngineClient(http, reference.model_id), identity, reference, _Progress())


def _run(function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
    try:
        with _logs_beside_results():
            return trio.run(function, *arguments)
    except Exception as error:
        first = _first(error)
        if isinstance(first, CommandFailed):
            raise first from error
        if isinstance(first, EngineFailedError | EngineRefusedError):
            raise CommandFailed(
                f"the engine failed: {str(first)[:300]}",
                "Nothing was written. `quern conformance` tells what it lacks.",
            ) from error
        raise


@contextmanager
def _logs_beside_results() -> Iterator[None]:
    """Have the engine's client log to standard error: on standard output stands the result."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)


def _first(error: BaseException) -> BaseException:
    """Several questions run at once; the first that failed says enough."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Progress:
    """Tells how far it is: on a terminal on one line, elsewhere only what has begun."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._told = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._shown:
            click.echo(f"\r{what}: {done} of {total}   ", nl=done >= total, err=True)
        elif what != self._told:
            self._told = what
            click.echo(f"{what}: {total} to do", err=True)


def _read_reference(file: Path) -> Reference:
    try:
        return reference_from_json(_read(file, FILE_BYTES_MAX))
    except SchemaError as error:
        raise CommandFailed(f"{file}: {error}", "It may be cut off or altered; make it anew.") from error


def _read_record(file: Path) -> Calibration:
    try:
        return from_json_value(Calibration, json.loads(_read(file, PROMPTS_BYTES_MAX)))
    except (SchemaError, ValueError) as error:
        raise CommandFailed(f"{file} is no calibration record: {error}", "Name another file.") from error


def _read_prompts(file: Path) -> tuple[str, ...]:
    lines = tuple(line.strip() for line in _read(file, PROMPTS_BYTES_MAX).splitlines() if line.strip())
    if not 0 < len(lines) <= PROMPTS_MAX:
        raise CommandFailed(f"{file} has {len(lines)} questions; 1 to {PROMPTS_MAX} are taken, one a line")
    return lines


def _read(file: Path, bytes_max: int) -> str:
    try:
        if file.stat().st_size > bytes_max:
            raise CommandFailed(f"{file} is larger than such a file can be")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{file} is no text") from error
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}") from error


def _refuse_to_replace(reference_file: Path, model: str) -> None:
    """Other machines were compared with a reference that is there: without it their bands cannot be had again."""
    if reference_file.exists():
        raise CommandFailed(
            f"{reference_file} is there already, and is not replaced",
            f"Compare with it: quern calibrate {model} --against {reference_file}. To measure anew, name another file.",
        )


def _require_writable(file: Path) -> None:
    """Say so before minutes of measuring rather than after them."""
    if file.is_dir():
        raise CommandFailed(f"{file} is a directory", "Name a file.")
    if not file.parent.is_dir():
        raise CommandFailed(f"there is no directory {file.parent}", "Make it, or name a file in another one.")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise CommandFailed(f"{file.parent} cannot be written", "Name a file in another directory.")


def _write(file: Path, text: str) -> None:
    """Write beside the file, then put it in its place: a full disk must not cost the old one."""
    waiting = file.with_name(file.name + ".part")
    try:
        waiting.write_text(text, encoding="utf-8")
        waiting.replace(file)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}") from error


def _tell_reference(target: Target, reference: Reference, file: Path) -> None:
    tokens = sum(len(answer.output_ids) for answer in reference.answers)
    facts = {
        "file": str(file),
        "model": reference.model_id,
        "version": reference.model_version,
        "engine": f"{reference.engine} {reference.engine_version}",
        "hardware": reference.hardware,
        "nonces": len(reference.vectors),
        "answers": len(reference.answers),
        "tokens": tokens,
    }
    if target.as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_facts([(name, str(value)) for name, value in facts.items()])
    click.echo(f"\nOn each other kind of machine: quern calibrate {reference.model_id} --against {file.name} …")


def _in_units(name: str, text: str) -> str:
    return f"{text} {UNITS[name]}" if name in UNITS else text


def _number(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.5f}"
