"""Commands for models: list, get, history, register, update, deactivate, set-spec, calibrate, export."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from eth_hash.auto import keccak

from contracts.bindings import model_registry
from node.chain.calibrations import calibration_to_json, read_calibration, read_calibration_file
from node.chain.genesis import genesis_text, write_genesis
from node.chain.owner_calls import (
    RefusedError,
    ask,
    read_history,
    read_models,
)
from node.cli.render import listed, print_table
from node.protocol.calibration import CalibrationError, bands_in_words, calibration_bytes, parse_calibration
from node.protocol.identifiers import Cid
from scripts.owner.options import CID, Options, chain_options, sending_options
from scripts.owner.registry import Registry, change_registry, open_registry, show
from scripts.owner.specification import PLAIN_SPEC, changed_spec, spec_options


@click.command("list")
@click.option("--active", is_flag=True, help="Only those that are served.")
@chain_options
async def list_models(options: Options, *, active: bool) -> None:
    """List the models of the registry."""
    async with open_registry(options) as registry:
        models = [model for model in await read_models(registry.rpc, registry.addresses) if model.active or not active]
    if options.as_json:
        records = [{name: value for name, value in asdict(model).items() if name != "calibration"} for model in models]
        click.echo(json.dumps({"models": records}, indent=2))
        return
    print_table(
        ("MODEL", "NAME", "STATE", "VERSION", "ACCESS", "CID"),
        [
            (
                model.model_id,
                model.name,
                "active" if model.active else "inactive",
                str(len(model.cids)),
                "gated" if model.spec.gated else "open",
                model.cids[-1],
            )
            for model in models
        ],
        empty="no models",
    )


@click.command()
@click.argument("model_id")
@chain_options
async def get(options: Options, *, model_id: str) -> None:
    """Show all there is of a model."""
    async with open_registry(options) as registry:
        model = await ask(registry.rpc, registry.addresses.model_registry, model_registry.get_model(model_id))
        calibration = await read_calibration(registry.rpc, registry.deployment, model_id, model.version)
    facts = asdict(model)
    spec = facts.pop("spec")
    if options.as_json:
        show(options, {**facts, "spec": spec, "calibration": calibration_to_json(calibration)})
        return
    show(options, {**facts, **spec, "calibration": _calibration_in_words(calibration)})


def _calibration_in_words(data: bytes) -> str:
    try:
        return listed(bands_in_words(parse_calibration(data))) if data else "none"
    except CalibrationError:
        return "cannot be read, and counts as none: set it anew"


@click.command()
@click.argument("model_id")
@chain_options
async def history(options: Options, *, model_id: str) -> None:
    """Show every version of a model.

    With its CID, the first one first.
    """
    async with open_registry(options) as registry:
        cids = await read_history(registry.rpc, registry.addresses, model_id)
    if options.as_json:
        versions = [{"version": number, "cid": cid} for number, cid in enumerate(cids, 1)]
        click.echo(json.dumps({"model_id": model_id, "versions": versions}, indent=2))
        return
    print_table(("VERSION", "CID"), [(str(number), cid) for number, cid in enumerate(cids, 1)], empty="no versions")


@click.command()
@click.argument("model_id")
@click.argument("cid", type=CID)
@click.option("--name", required=True, help="Name for people.")
@click.option("--description", default="", help="One line for people.")
@spec_options
@sending_options
async def register(options: Options, /, *, model_id: str, cid: Cid, name: str, description: str, **given: Any) -> None:
    """Register a model.

    Its content must be published already: owner_upload.py does both.
    """
    spec = changed_spec(PLAIN_SPEC, given)
    if spec == PLAIN_SPEC:
        call = model_registry.register_model(model_id, cid, name, description)
    else:
        call = model_registry.register_model_with_spec(model_id, cid, name, description, spec)
    async with open_registry(options) as registry:
        await change_registry(options, registry, f"register {model_id}", call)


@click.command()
@click.argument("model_id")
@click.argument("cid", type=CID)
@sending_options
async def update(options: Options, *, model_id: str, cid: Cid) -> None:
    """Publish a new version of a model.

    It becomes active if it was not.
    """
    async with open_registry(options) as registry:
        known = await ask(registry.rpc, registry.addresses.model_registry, model_registry.get_model(model_id))
        if known.cid == cid and known.active:
            show(options, {"status": "unchanged", "what": f"{model_id} has this CID as version {known.version}"})
            return
        call = model_registry.update_model(model_id, cid)
        await change_registry(options, registry, f"update {model_id} to version {known.version + 1}", call)


@click.command()
@click.argument("model_id")
@sending_options
async def deactivate(options: Options, *, model_id: str) -> None:
    """Take a model out of service.

    From the next epoch on; `update` brings it back.
    """
    async with open_registry(options) as registry:
        await change_registry(options, registry, f"deactivate {model_id}", model_registry.deactivate_model(model_id))


@click.command("set-spec")
@click.argument("model_id")
@spec_options
@sending_options
async def set_spec(options: Options, /, *, model_id: str, **given: Any) -> None:
    """Change a model's specification.

    What is not given stays. It counts from the next epoch on.
    """
    async with open_registry(options) as registry:
        known = await ask(registry.rpc, registry.addresses.model_registry, model_registry.get_model(model_id))
        spec = changed_spec(known.spec, given)
        if spec == known.spec:
            show(options, {"status": "unchanged", "what": f"{model_id} has this specification already"})
            return
        call = model_registry.set_model_spec(model_id, spec)
        await change_registry(options, registry, f"set the specification of {model_id}", call)


@click.command()
@click.argument("model_id")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--remove", is_flag=True, help="Take the present one back.")
@sending_options
async def calibrate(options: Options, *, model_id: str, file: Path | None, remove: bool) -> None:
    """Publish how far honest nodes may differ.

    FILE is what `quern calibrate` wrote. It counts from the next epoch on, for the present version of the model only.
    """
    if (file is None) is not remove:
        raise click.UsageError("give the FILE that `quern calibrate` wrote, or --remove")
    async with open_registry(options) as registry:
        known = await ask(registry.rpc, registry.addresses.model_registry, model_registry.get_model(model_id))
        data = b"" if file is None else _calibration_of(file, model_id, known.version)
        view = model_registry.calibration_hash_of(model_id, known.version)
        present = await ask(registry.rpc, registry.addresses.model_registry, view)
        if present == (keccak(data) if data else bytes(len(present))):
            show(options, {"status": "unchanged", "what": f"{model_id} has this calibration already"})
            return
        call = model_registry.set_calibration(model_id, known.version, data)
        verb = "calibrate" if data else "take back the calibration of"
        await change_registry(options, registry, f"{verb} {model_id} version {known.version}", call)


def _calibration_of(file: Path, model_id: str, version: int) -> bytes:
    try:
        found = read_calibration_file(file)
    except CalibrationError as error:
        raise RefusedError(str(error)) from error
    except OSError as error:
        raise RefusedError(f"{file} cannot be read: {error.strerror}") from error
    if (found.model_id, found.model_version) != (model_id, version):
        measured = f"{found.model_id} version {found.model_version}"
        raise RefusedError(f"{file} is of {measured}, the registry has {model_id} at version {version}")
    return calibration_bytes(found)


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.  [default: -]")
@chain_options
async def export(options: Options, *, output: Path | None) -> None:
    """Write all models as a genesis file.

    With all versions: deploy.py begins another network with it.
    """
    async with open_registry(options) as registry:
        models = [await _whole(registry, model) for model in await read_models(registry.rpc, registry.addresses)]
    if output is None:
        click.echo(genesis_text(models), nl=False)
        return
    write_genesis(output, models)
    show(options, {"status": "done", "what": f"wrote {len(models)} models to {output}"})


async def _whole(registry: Registry, model: model_registry.ModelImport) -> model_registry.ModelImport:
    """Add what the registry has in its logs only."""
    data = await read_calibration(registry.rpc, registry.deployment, model.model_id, len(model.cids))
    return replace(model, calibration=data)
