"""Looks after published models and their gates.

\b
What reads needs only the chain; what changes something needs the account that owns the ModelRegistry, or for a gate the
account that proposed the model. Where that is another one (a timelock), nothing is sent: the call is printed, to be
proposed, and the exit code is 3. Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 to be proposed.

\b
Examples:
  owner_tools.py list --config ~/.quern/quern.toml
  owner_tools.py history tiny --rpc http://127.0.0.1:8545 --deployment deployment.json
  owner_tools.py update tiny bafy… --dry-run
  owner_tools.py gate set tiny --pay-token 0x… --price 2.5 --access-days 30
"""

import functools
import json
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click
import httpx
import trio
from eth_hash.auto import keccak
from eth_utils.address import is_checksum_address

from contracts.binding_base import Call
from contracts.bindings import access_vault, epoch_manager, model_registry, participant_registry
from node.amounts import amount_to_tokens, decimal_to_units, units_to_decimal
from node.chain.account_lock import AccountInUseError, exclusive_account
from node.chain.accounts import LocalAccount
from node.chain.adapter import WrongChainError, check_chain
from node.chain.addresses import ContractAddresses, Deployment, DeploymentFileError, read_deployment
from node.chain.calibrations import calibration_to_json, read_calibration, read_calibration_file
from node.chain.deployer import DeploymentFailedError
from node.chain.genesis import genesis_text, write_genesis
from node.chain.owner_calls import (
    PreparedCall,
    RefusedError,
    Sent,
    ask,
    no_gate,
    prepare_epoch_call,
    prepare_registry_call,
    prepare_vault_call,
    read_history,
    read_models,
    rehearse,
    send,
    token_decimals,
)
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError
from node.cli.render import listed, print_facts, print_table
from node.dates import date_in_words
from node.engine.arguments import EngineArgumentsError, merge_model_args
from node.keys import KeyFileError, find_passphrase, keystore_account, unlock_keystore
from node.models.encryption.keyring import KeyRingError
from node.models.encryption.keys import ContentKey, KeyId
from node.models.encryption.wrapping import (
    Recipient,
    RecipientError,
    account_recipient,
    node_recipient,
    peer_recipient,
    wrap_key,
)
from node.models.owner_keys import owned_key, published_key_id
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.calibration import CalibrationError, bands_in_words, calibration_bytes, parse_calibration
from node.protocol.cids import CidError, cid_to_bytes
from node.protocol.identifiers import Address, Cid, ModelId
from node.settings import SettingsError, load_settings
from node.settings.locations import account_lock_dir

Arguments = ParamSpec("Arguments")

PASSPHRASE_VARIABLE = "QUERN_PASSPHRASE"  # noqa: S105 - where it is, not what it is
SECONDS_PER_DAY = 86_400
FOR_EVER = 2**64 - 1
"""What the AccessVault takes for access that never ends."""
BARE_KEY_BYTES = 32
"""A content key before it is wrapped: whoever publishes that gives the model away."""
EXIT_TO_BE_PROPOSED = 3

Spec = model_registry.ModelSpec
PLAIN_SPEC = Spec("", "", (), "", "", 0, 1, 1, 2048, 0, gated=False, encrypted=False, proposer=ZERO_ADDRESS)
"""What the registry gives a model that is registered without a specification."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every command is given."""

    rpc_urls: tuple[str, ...]
    deployment: Path
    keystore: Path | None
    passphrase_file: Path | None
    passphrase_env: str
    as_json: bool
    dry_run: bool
    keys_dir: Path | None = None
    """Content keys of encrypted models."""
    content_dir: Path | None = None
    """Published content."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The chain, checked, and where the contracts stand."""

    rpc: JsonRpc
    deployment: Deployment

    @property
    def addresses(self) -> ContractAddresses:
        """Where the contracts stand."""
        return self.deployment.addresses


# --- options and errors -----------------------------------------------------------------------------------------------


def chain_options(
    command: Callable[Concatenate[Options, Arguments], Awaitable[None]],
) -> Callable[Arguments, None]:
    """Give a command that only reads the options that say which network; run it and tell its failures."""

    @click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Settings of the owner's daemon; they stand in for the options that are not given.",
    )
    @click.option("--rpc", "rpc_urls", multiple=True, help="JSON-RPC endpoint of the chain; may be repeated.")
    @click.option("--deployment", type=click.Path(path_type=Path), help="The network's deployment file.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
    @functools.wraps(command)
    def run(
        config: Path | None,
        rpc_urls: tuple[str, ...],
        deployment: Path | None,
        as_json: bool,
        keystore: Path | None = None,
        passphrase_file: Path | None = None,
        dry_run: bool = False,
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> None:
        try:
            given = _options(config, rpc_urls, deployment, keystore, passphrase_file, as_json=as_json, dry_run=dry_run)
            trio.run(functools.partial(command, given, *arguments, **options))
        except (
            SettingsError,
            KeyFileError,
            DeploymentFileError,
            WrongChainError,
            AccountInUseError,
            RefusedError,
            DeploymentFailedError,
            RpcError,
            RpcUnavailableError,
            OSError,
        ) as error:
            click.echo(f"owner_tools: {error}", err=True)
            sys.exit(1)

    return run  # type: ignore[return-value] # click calls it by keywords


def sending_options(
    command: Callable[Concatenate[Options, Arguments], Awaitable[None]],
) -> Callable[Arguments, None]:
    """Give a command that sends the options that say which account as well."""
    with_account = chain_options(command)
    for option in (
        click.option("--dry-run", is_flag=True, help="Show the transaction; send nothing, ask for no passphrase."),
        click.option("--passphrase-file", type=click.Path(path_type=Path), help="File with the passphrase (0600)."),
        click.option("--keystore", type=click.Path(path_type=Path), help="Keystore v3 of the account that sends."),
    ):
        with_account = option(with_account)
    return with_account


def _options(
    config: Path | None,
    rpc_urls: tuple[str, ...],
    deployment: Path | None,
    keystore: Path | None,
    passphrase_file: Path | None,
    *,
    as_json: bool,
    dry_run: bool,
) -> Options:
    if config is None:
        if not rpc_urls:
            raise click.UsageError("give --rpc, or --config with the settings of the owner's daemon")
        path = deployment or Path("deployment.json")
        return Options(rpc_urls, path, keystore, passphrase_file, PASSPHRASE_VARIABLE, as_json, dry_run)
    settings = load_settings(config)
    return Options(
        rpc_urls=rpc_urls or tuple(settings.chain.rpc_urls),
        deployment=deployment or settings.chain.deployment,
        keystore=keystore or settings.account.keystore,
        passphrase_file=passphrase_file or settings.account.passphrase_file,
        passphrase_env=settings.account.passphrase_env or PASSPHRASE_VARIABLE,
        as_json=as_json,
        dry_run=dry_run,
        keys_dir=settings.vault.keys_dir,
        content_dir=settings.node.data_dir / "content",
    )


class _Cid(click.ParamType[Cid]):
    name = "cid"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Cid:
        """Refuse what no daemon could fetch."""
        try:
            cid_to_bytes(Cid(value))
        except CidError as error:
            self.fail(f"{value!r} is not a CID this network fetches: {error}. owner_upload.py prints one", param, ctx)
        return Cid(value)


class _Account(click.ParamType[Address]):
    name = "account"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Refuse an address whose checksum is missing or wrong."""
        if not is_checksum_address(value):
            self.fail(f"{value!r} is not a checksummed address; a mistyped one would be paid", param, ctx)
        return Address(value)


CID, ACCOUNT = _Cid(), _Account()


def spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option per field of a model's specification; those not given are None."""
    for option in reversed(
        [
            click.option("--hf-repo", help="Repository on the Hugging Face Hub it comes from."),
            click.option("--hf-commit", help="Full commit hash there."),
            click.option("--model-args", help='vLLM arguments every node uses, e.g. "--dtype bfloat16".'),
            click.option("--quantization", help="Of the weights, as engines name it; empty for none."),
            click.option("--kv-cache-quantization", help="Of the key-value cache; empty for the weights' type."),
            click.option("--vram-mib", type=click.IntRange(0, 2**32 - 1), help="GPU memory it needs."),
            click.option("--throughput-per-nonce", type=click.IntRange(1, 2**64 - 1), help="Tokens per epoch."),
            click.option("--units-of-compute-per-token", type=click.IntRange(1, 2**64 - 1), help="Price, in units."),
            click.option("--context-length", type=click.IntRange(1, 2**32 - 1), help="Tokens, prompt and answer."),
            click.option("--poc-distance-max", type=click.IntRange(0, 2**64 - 1), help="See docs/protocol.md."),
            click.option("--gated/--open", default=None, help="Access by the AccessVault's gate only."),
            click.option("--encrypted/--plain", default=None, help="The files behind the CID are encrypted."),
            click.option("--proposer", type=ACCOUNT, help="Sets the gate, is paid for access."),
        ]
    ):
        command = option(command)
    return command


def changed_spec(spec: Spec, given: Mapping[str, Any]) -> Spec:
    """Return a specification with what was given in place of what it says."""
    values = {name: value for name, value in given.items() if value is not None}
    if "model_args" in values:
        values["model_args"] = tuple(shlex.split(values["model_args"]))
        try:
            merge_model_args(values["model_args"], ())
        except EngineArgumentsError as error:
            raise RefusedError(str(error)) from error
    return replace(spec, **values)


# --- reading and sending ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_registry(options: Options) -> AsyncIterator[Registry]:
    """Connect, and check that the endpoint's chain has the deployment's contracts. Raises WrongChainError."""
    deployment = read_deployment(options.deployment)
    async with httpx.AsyncClient() as client:
        rpc = JsonRpc(list(options.rpc_urls), client)
        await check_chain(rpc, deployment.chain_id, deployment)
        yield Registry(rpc, deployment)


async def change_registry(options: Options, registry: Registry, what: str, call: Call) -> None:
    """Rehearse, send and tell a call that the registry's owner makes."""
    prepared = await prepare_registry_call(registry.rpc, registry.addresses, what, call)
    await carry_out(options, registry, prepared, "the ModelRegistry's owner")


async def change_vault(options: Options, registry: Registry, what: str, call: Call, model_id: str) -> None:
    """Rehearse, send and tell a call that the model's proposer makes."""
    prepared = await prepare_vault_call(registry.rpc, registry.addresses, what, call, model_id)
    await carry_out(options, registry, prepared, f"the proposer of {model_id}")


async def carry_out(options: Options, registry: Registry, prepared: PreparedCall, role: str) -> None:
    """Rehearse a call, then send it, show it, or show what is to be proposed."""
    gas = await rehearse(registry.rpc, prepared, prepared.entitled)
    sender = None if options.keystore is None else keystore_account(options.keystore)
    if sender is None and not options.dry_run:
        raise click.UsageError("give --keystore of the account that is to send, or --dry-run to see the transaction")
    if sender not in (None, prepared.entitled):
        _show_call(options, prepared, gas, "to be proposed")
        click.echo(
            f"Nothing was sent: {role} is {prepared.entitled}, not {sender}. Have that account send this transaction "
            "(a timelock: propose it to its Governor with this target and calldata).",
            err=True,
        )
        sys.exit(EXIT_TO_BE_PROPOSED)
    if options.dry_run or options.keystore is None:
        _show_call(options, prepared, gas, "dry run")
        return
    passphrase = find_passphrase(options.passphrase_file, options.passphrase_env, _ask_passphrase)
    account = LocalAccount(unlock_keystore(options.keystore, passphrase))
    deployment = registry.deployment
    with exclusive_account(account_lock_dir(), deployment.chain_id, deployment.genesis_hash, account.address):
        sent = await send(registry.rpc, account, prepared)
    _show_sent(options, prepared, sent)


def _show_call(options: Options, prepared: PreparedCall, gas: int, status: str) -> None:
    facts = {
        "status": status,
        "what": prepared.what,
        "from": prepared.entitled,
        "to": prepared.recipient,
        "function": f"{prepared.call.contract}.{prepared.call.function}",
        "value": prepared.call.value,
        "calldata": "0x" + prepared.call.calldata.hex(),
        "gas": gas,
    }
    _show(options, facts)


def _show_sent(options: Options, prepared: PreparedCall, sent: Sent) -> None:
    if options.as_json:
        click.echo(json.dumps({"status": "done", "what": prepared.what, **asdict(sent)}, indent=2))
        return
    click.echo(
        f"Done: {prepared.what}, in transaction {sent.transaction_hash}, block {sent.block}. "
        f"It took {sent.gas_used} gas and cost {amount_to_tokens(sent.fee_wei)} gas coins."
    )


def _show(options: Options, facts: Mapping[str, object]) -> None:
    if options.as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_facts([(name.replace("_", " "), _in_words(value)) for name, value in facts.items()])


def _in_words(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple() | list():
            return listed(str(item) for item in value)
        case _:
            return str(value) or "–"


def _ask_passphrase() -> str:
    return str(click.prompt("Passphrase", hide_input=True, err=True))


# --- models -----------------------------------------------------------------------------------------------------------


@click.group(help=__doc__, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def main() -> None:
    """Command line."""


@main.command("list")
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


@main.command()
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
        _show(options, {**facts, "spec": spec, "calibration": calibration_to_json(calibration)})
        return
    _show(options, {**facts, **spec, "calibration": _calibration_in_words(calibration)})


def _calibration_in_words(data: bytes) -> str:
    try:
        return listed(bands_in_words(parse_calibration(data))) if data else "none"
    except CalibrationError:
        return "cannot be read, and counts as none: set it anew"


@main.command()
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


@main.command()
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


@main.command()
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
            _show(options, {"status": "unchanged", "what": f"{model_id} has this CID as version {known.version}"})
            return
        call = model_registry.update_model(model_id, cid)
        await change_registry(options, registry, f"update {model_id} to version {known.version + 1}", call)


@main.command()
@click.argument("model_id")
@sending_options
async def deactivate(options: Options, *, model_id: str) -> None:
    """Take a model out of service.

    From the next epoch on; `update` brings it back.
    """
    async with open_registry(options) as registry:
        await change_registry(options, registry, f"deactivate {model_id}", model_registry.deactivate_model(model_id))


@main.command("set-spec")
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
            _show(options, {"status": "unchanged", "what": f"{model_id} has this specification already"})
            return
        call = model_registry.set_model_spec(model_id, spec)
        await change_registry(options, registry, f"set the specification of {model_id}", call)


@main.command()
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
            _show(options, {"status": "unchanged", "what": f"{model_id} has this calibration already"})
            return
        call = model_registry.set_calibration(model_id, known.version, data)
        verb = "calibrate" if data else "take back the calibration of"
        await change_registry(options, registry, f"{verb} {model_id} version {known.version}", call)


def _calibration_of(file: Path, model_id: str, version: int) -> bytes:
    try:
        found = read_calibration_file(file)
    except CalibrationError as error:
        raise RefusedError(str(error)) from error
    if (found.model_id, found.model_version) != (model_id, version):
        measured = f"{found.model_id} version {found.model_version}"
        raise RefusedError(f"{file} is of {measured}, the registry has {model_id} at version {version}")
    return calibration_bytes(found)


@main.command()
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
    _show(options, {"status": "done", "what": f"wrote {len(models)} models to {output}"})


async def _whole(registry: Registry, model: model_registry.ModelImport) -> model_registry.ModelImport:
    """Add what the registry has in its logs only."""
    data = await read_calibration(registry.rpc, registry.deployment, model.model_id, len(model.cids))
    return replace(model, calibration=data)


# --- parameters of epochs ---------------------------------------------------------------------------------------------


@main.group()
def parameters() -> None:
    """Show and change what holds in an epoch.

    Its length, its stages, the sample of nonces, the price of a unit of compute.
    """


@parameters.command("show")
@click.option("--epoch", type=click.IntRange(0, 2**32 - 1), help="Which epoch.  [default: the present one]")
@chain_options
async def show_parameters(options: Options, *, epoch: int | None) -> None:
    """Show the parameters of an epoch.

    As far as they are known now: a change may still be scheduled for later ones.
    """
    async with open_registry(options) as registry:
        rpc, manager = registry.rpc, registry.addresses.epoch_manager
        wanted = (await ask(rpc, manager, epoch_manager.current_stage())).epoch if epoch is None else epoch
        found = await ask(rpc, manager, epoch_manager.parameters_of(wanted))
    facts = {"epoch": wanted, "since_epoch": found.from_epoch, "since_block": found.from_block}
    _show(options, {**facts, **asdict(found.parameters)})


@parameters.command("schedule")
@click.argument("from_epoch", type=click.IntRange(0, 2**32 - 1))
@click.option("--epoch-blocks", type=click.IntRange(1, 2**20 - 1), help="Length of an epoch.")
@click.option("--generate-offset", type=click.IntRange(1, 2**20 - 1), help="First block of GENERATE in it ...")
@click.option("--exchange-offset", type=click.IntRange(1, 2**20 - 1), help="... of EXCHANGE ...")
@click.option("--validate-offset", type=click.IntRange(1, 2**20 - 1), help="... of VALIDATE ...")
@click.option("--vote-exchange-offset", type=click.IntRange(1, 2**20 - 1), help="... of VOTE_EXCHANGE ...")
@click.option("--form-offset", type=click.IntRange(1, 2**20 - 1), help="... of FORM ...")
@click.option("--load-offset", type=click.IntRange(1, 2**20 - 1), help="... of LOAD.")
@click.option("--poc-sample-size", type=click.IntRange(1, 1024), help="Nonces drawn from a batch.")
@click.option("--poc-reject-mismatches", type=click.IntRange(1, 1024), help="Mismatches that refuse a batch.")
@click.option("--unit-price", type=click.IntRange(0, 2**96 - 1), help="Of a unit of compute, in units of 10^-18.")
@sending_options
async def schedule_parameters(options: Options, /, *, from_epoch: int, **given: int | None) -> None:
    """Let other parameters hold from FROM_EPOCH on.

    Two epochs ahead at least. What is not given stays as it is in the present epoch. It takes the place of a change
    that was scheduled and is no nearer than that.
    """
    changed = {name: value for name, value in given.items() if value is not None}
    async with open_registry(options) as registry:
        rpc, manager = registry.rpc, registry.addresses.epoch_manager
        current = (await ask(rpc, manager, epoch_manager.current_stage())).epoch
        present = await ask(rpc, manager, epoch_manager.parameters_of(current))
        call = epoch_manager.schedule_parameters(from_epoch, replace(present.parameters, **changed))
        what = f"schedule parameters from epoch {from_epoch} on"
        prepared = await prepare_epoch_call(rpc, registry.addresses, what, call)
        await carry_out(options, registry, prepared, "the EpochManager's owner")


# --- gates ------------------------------------------------------------------------------------------------------------


@main.group()
def gate() -> None:
    """Say who may use a gated model.

    Holders of a token, buyers, and whom its proposer lets in.
    """


@gate.command("show")
@click.argument("model_id")
@click.option("--account", type=ACCOUNT, help="Show what this account has as well.")
@chain_options
async def show_gate(options: Options, *, model_id: str, account: Address | None) -> None:
    """Show a gate, and an account's access."""
    async with open_registry(options) as registry:
        rpc, vault = registry.rpc, registry.addresses.access_vault
        access = await ask(rpc, registry.addresses.model_registry, model_registry.access_of(model_id))
        found = await ask(rpc, vault, access_vault.gate_of(model_id))
        facts: dict[str, object] = {"model_id": model_id, "gated": access.gated, "proposer": access.proposer}
        facts |= await _gate_facts(rpc, found)
        if account is not None:
            grant = await ask(rpc, vault, access_vault.grant_of(model_id, account))
            key = await ask(rpc, vault, access_vault.encryption_key_of(account))
            allowed = await ask(rpc, vault, access_vault.has_access(model_id, account))
            facts |= {
                "account": account,
                "has_access": allowed,
                "until": _until_in_words(grant.until),
                "revoked": grant.revoked,
                "encryption_key": "0x" + key.hex() if any(key) else "",
                "wrapped_key": "0x" + grant.wrapped_key.hex() if grant.wrapped_key else "",
            }
    _show(options, facts)


async def _gate_facts(rpc: JsonRpc, found: access_vault.Gate) -> dict[str, object]:
    if no_gate(found):
        return {"gate": "none: only its proposer lets accounts in"}
    facts: dict[str, object] = {}
    if found.gate_token != ZERO_ADDRESS:
        decimals = await token_decimals(rpc, Address(found.gate_token))
        facts |= {"gate_token": found.gate_token, "min_balance": units_to_decimal(found.min_balance, decimals)}
    if found.offer.pay_token != ZERO_ADDRESS:
        decimals = await token_decimals(rpc, Address(found.offer.pay_token))
        lasts = f"{found.offer.access_seconds} s" if found.offer.access_seconds else "for ever"
        facts |= {
            "pay_token": found.offer.pay_token,
            "price": units_to_decimal(found.offer.price, decimals),
            "access_lasts": lasts,
        }
    return facts


def _until_in_words(until: int) -> str:
    if until == 0:
        return "never bought or given"
    if until == FOR_EVER:
        return "for ever"
    return date_in_words(until)


@gate.command("set")
@click.argument("model_id")
@click.option("--gate-token", type=ACCOUNT, help="Holders of this ERC-20 token have access ...")
@click.option("--min-balance", help="... if they hold so many of it (a decimal number of tokens).")
@click.option("--pay-token", type=ACCOUNT, help="Access is bought in this ERC-20 token ...")
@click.option("--price", help="... for so many of it; it goes whole to the proposer.")
@click.option("--access-days", type=click.IntRange(min=1), help="What a purchase lasts.  [default: for ever]")
@sending_options
async def set_gate(
    options: Options,
    *,
    model_id: str,
    gate_token: Address | None,
    min_balance: str | None,
    pay_token: Address | None,
    price: str | None,
    access_days: int | None,
) -> None:
    """Set a gate anew, whole.

    What is not given is off. What was bought stays bought.
    """
    if (gate_token is None) != (min_balance is None) or (pay_token is None) != (price is None):
        raise click.UsageError("--gate-token goes with --min-balance, --pay-token with --price")
    async with open_registry(options) as registry:
        new = access_vault.Gate(
            gate_token=gate_token or ZERO_ADDRESS,
            min_balance=await _units(registry.rpc, gate_token, min_balance),
            offer=access_vault.Offer(
                pay_token=pay_token or ZERO_ADDRESS,
                price=await _units(registry.rpc, pay_token, price),
                access_seconds=(access_days or 0) * SECONDS_PER_DAY,
            ),
        )
        access = await ask(registry.rpc, registry.addresses.model_registry, model_registry.access_of(model_id))
        if not access.gated:
            click.echo(f"{model_id} is not gated: everybody has access until `set-spec {model_id} --gated`", err=True)
        call = access_vault.set_gate(model_id, new)
        await change_vault(options, registry, f"set the gate of {model_id}", call, model_id)


async def _units(rpc: JsonRpc, token: Address | None, number: str | None) -> int:
    if token is None or number is None:
        return 0
    try:
        return decimal_to_units(number, await token_decimals(rpc, token))
    except ValueError as error:
        raise RefusedError(str(error)) from error


@gate.command("give")
@click.argument("model_id")
@click.argument("account", type=ACCOUNT)
@click.option("--days", type=click.IntRange(min=1), help="How long from now.  [default: for ever]")
@sending_options
async def give_access(options: Options, *, model_id: str, account: Address, days: int | None) -> None:
    """Let an account in.

    Or take back that it was shut out. It never shortens what the account has.
    """
    until = FOR_EVER if days is None else int(time.time()) + days * SECONDS_PER_DAY
    async with open_registry(options) as registry:
        call = access_vault.give_access(model_id, account, until)
        await change_vault(options, registry, f"give {account} access to {model_id}", call, model_id)


@gate.command("revoke")
@click.argument("model_id")
@click.argument("account", type=ACCOUNT)
@sending_options
async def revoke_access(options: Options, *, model_id: str, account: Address) -> None:
    """Shut an account out.

    In public; its wrapped key is forgotten. What it has read, it has.
    """
    async with open_registry(options) as registry:
        call = access_vault.revoke_access(model_id, account)
        await change_vault(options, registry, f"revoke {account}'s access to {model_id}", call, model_id)


@gate.command("wrap-key")
@click.argument("model_id")
@click.argument("account", type=ACCOUNT)
@click.option("--public-key", help="The account's public key, if it has neither a node nor an encryption key on chain.")
@click.option("--key-id", help="Id of the key to wrap.  [default: that of the current version]")
@click.option("--wrapped", help="The content key, wrapped already, as hex; nothing is wrapped here then.")
@sending_options
async def set_wrapped_key(
    options: Options,
    *,
    model_id: str,
    account: Address,
    public_key: str | None,
    key_id: str | None,
    wrapped: str | None,
) -> None:
    """Give an account the key of an encrypted model.

    It is encrypted for that account and deposited in the AccessVault. The account needs access first (`gate give`). Run
    this where the model was encrypted; the key goes to the node that the account has registered, to the encryption key
    it has published, or to the account itself with --public-key, which `quern vault public-key --account` prints.
    """
    given = None if wrapped is None else _wrapped_key(wrapped)
    async with open_registry(options) as registry:
        recipient = await _recipient(registry, account, public_key)
        deposit = given
        if deposit is None:
            key = await _content_key(options, registry, ModelId(model_id), key_id)
            deposit = wrap_key(key, ModelId(model_id), recipient)
        call = access_vault.set_wrapped_key(model_id, account, deposit)
        await change_vault(options, registry, f"deposit {account}'s key for {model_id}", call, model_id)


async def _recipient(registry: Registry, account: Address, public_key: str | None) -> Recipient:
    """Return whom to wrap for: what was given, else what the account has on chain."""
    try:
        if public_key is not None:
            return account_recipient(_hex(public_key, "--public-key"), account)
        published = await ask(registry.rpc, registry.addresses.access_vault, access_vault.encryption_key_of(account))
        if any(published):
            return node_recipient(published)
        peer_id = await ask(
            registry.rpc, registry.addresses.participant_registry, participant_registry.peer_id_of(account)
        )
        if peer_id:
            return peer_recipient(peer_id)
    except RecipientError as error:
        raise RefusedError(f"a key cannot be wrapped for {account}: {error}") from error
    raise RefusedError(
        f"{account} has no node registered and has published no encryption key: give --public-key, which its owner "
        "prints with `quern vault public-key --account`"
    )


async def _content_key(options: Options, registry: Registry, model_id: ModelId, key_id: str | None) -> ContentKey:
    if options.keys_dir is None or options.content_dir is None:
        raise click.UsageError(
            "give --config with the settings of the daemon that serves the model; its keys are there"
        )
    try:
        if key_id is None:
            known = await ask(registry.rpc, registry.addresses.model_registry, model_registry.get_model(model_id))
            wanted = await trio.to_thread.run_sync(published_key_id, options.content_dir, Cid(known.cid))
        else:
            wanted = KeyId(_hex(key_id, "--key-id"))
        return owned_key(options.keys_dir, model_id, wanted)
    except KeyRingError as error:
        raise RefusedError(str(error)) from error


def _wrapped_key(text: str) -> bytes:
    key = _hex(text, "--wrapped")
    if len(key) <= BARE_KEY_BYTES:
        raise click.UsageError(
            f"--wrapped has {len(key)} bytes, as a bare key has: it would be published for everybody to read. "
            "Leave it out, and the key is encrypted for the account"
        )
    return key


def _hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise click.UsageError(f"{option} is not hex") from error


if __name__ == "__main__":
    main()
