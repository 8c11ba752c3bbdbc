"""Publishes a model: validates it, imports it, prints its CID, registers it on chain. Running it again is safe."""

import shlex
import sys
import tempfile
import time
from pathlib import Path

import click
import trio

from node.amounts import tokens_to_amount
from node.chain.account_lock import AccountInUseError
from node.chain.accounts import LocalAccount
from node.chain.adapter import WrongChainError, open_chain
from node.chain.addresses import DeploymentFileError, read_deployment
from node.chain.rpc import RpcError, RpcUnavailableError
from node.chain.sender import GWEI
from node.chain.watcher import NoFinalityError
from node.engine.arguments import EngineArgumentsError, merge_model_args
from node.keys import KeyFileError, find_passphrase, unlock_keystore
from node.models.content import open_content
from node.models.hub import HubError, download_model
from node.models.publish import ModelDescription, publication
from node.models.validation import ModelFacts, ModelInvalidError, validate_model
from node.ports import ActionStatus
from node.protocol.identifiers import Cid, ModelId
from node.settings import Settings, SettingsError, load_settings
from node.settings.locations import default_settings_file
from node.store.database import Database
from p2p.content.unixfs import UnixFsError

PROGRESS_BYTES = 256 * 1024 * 1024
POC_DISTANCE_DEFAULT = 1_000_000
"""About 3 % of a vector's length: far above rounding on one kind of machine, far below another model. Measure yours."""


class PublishError(Exception):
    """The chain refused; the message has its reason."""


async def import_model(directory: Path, content_dir: Path) -> Cid:
    """Put a model into a content directory and return its CID."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if before // PROGRESS_BYTES != done // PROGRESS_BYTES:
            click.echo(f"  imported {done // 2**20} MiB")

    async with open_content(content_dir, host="", port=0, cache_bytes_max=0, serve=False) as content:
        cid, size = await content.import_directory(directory, advance)
    click.echo(f"Imported {size} bytes into {content_dir}")
    return cid


async def register(settings: Settings, passphrase: str, description: ModelDescription, cid: Cid) -> None:
    """Make `cid` the model's current version on chain. Raises PublishError."""
    account = LocalAccount(unlock_keystore(settings.account.keystore, passphrase))
    database = Database(settings.node.data_dir / "owner.sqlite")
    async with open_chain(
        rpc_urls=settings.chain.rpc_urls,
        chain_id=settings.chain.chain_id,
        deployment=read_deployment(settings.chain.deployment),
        account=account,
        database=database,
        confirmations=settings.chain.confirmations,
        poll_seconds=min(settings.chain.poll_seconds, 1.0),
        wall_clock=lambda: int(time.time()),
        finality=settings.chain.finality,
        max_fee_wei=settings.chain.max_fee_gwei * GWEI,
        gas_reserve_wei=tokens_to_amount(settings.chain.gas_reserve_ether),
    ) as chain:
        known = chain.state.models.get(description.model_id)
        action = publication(description, cid, known)
        if action is None:
            click.echo(f"{description.model_id} has this CID on chain already")
            return
        version = 1 if known is None else known.version + 1
        key = f"publish/{description.model_id}/{cid}/{version}/{chain.head.confirmed}"
        click.echo(f"Registering {description.model_id}, version {version}; waiting for confirmation")
        await chain.submit(key, action)
        outcome = await chain.outcome(key)
    database.close()
    if outcome.status is not ActionStatus.DONE:
        raise PublishError(f"the ModelRegistry refused: {outcome.reason}")
    transaction = outcome.transaction_hash.hex() if outcome.transaction_hash else ""
    click.echo(f"Registered in transaction 0x{transaction}, {outcome.gas_used} gas")


def prepare(directory: Path | None, hf_repo: str, hf_commit: str, hf_endpoint: str | None, scratch: Path) -> Path:
    """Return the model's directory, downloaded if it comes from the Hub."""
    if directory is not None:
        return directory
    if not hf_repo or not hf_commit:
        raise click.UsageError("give --directory, or --hf-repo with --hf-commit")
    click.echo(f"Downloading {hf_repo} at {hf_commit[:12]}")
    return download_model(hf_repo, hf_commit, scratch / "model", endpoint=hf_endpoint)


def context_length_of(chosen: int | None, facts: ModelFacts) -> int:
    """Return the context length to publish: the owner's, within what the model can."""
    found = chosen or facts.context_length
    if found is None:
        raise click.UsageError("config.json does not say the context length: give --context-length")
    return found


@click.command(help=__doc__)
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="The model's files.")
@click.option("--hf-repo", default="", help="Repository on the Hugging Face Hub it comes from.")
@click.option("--hf-commit", default="", help="Full commit hash there.")
@click.option("--hf-endpoint", default=None, help="Another server with the Hub's API.")
@click.option("--model-id", required=True, help="Id on chain: lower-case letters, digits, . _ - and /.")
@click.option("--name", required=True, help="Name for people.")
@click.option("--description", default="", help="One line for people.")
@click.option("--model-args", default="", help='vLLM arguments every node uses, e.g. "--dtype bfloat16".')
@click.option("--vram-mib", default=0, show_default=True, help="GPU memory it needs.")
@click.option("--throughput-per-nonce", default=1000, show_default=True, help="Tokens per epoch per unit of weight.")
@click.option("--units-of-compute-per-token", default=1, show_default=True, help="Price of a token, in units.")
@click.option("--context-length", type=int, default=None, help="Tokens, prompt and answer; default: config.json's.")
@click.option("--poc-distance-max", default=POC_DISTANCE_DEFAULT, show_default=True, help="See docs/protocol.md.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=default_settings_file,
    show_default="~/.quern/quern.toml",
    help="Settings of the owner's daemon: its account registers, its content directory serves.",
)
@click.option("--dry-run", is_flag=True, help="Validate, import and print the CID; send nothing.")
def main(
    directory: Path | None,
    hf_repo: str,
    hf_commit: str,
    hf_endpoint: str | None,
    model_id: str,
    name: str,
    description: str,
    model_args: str,
    vram_mib: int,
    throughput_per_nonce: int,
    units_of_compute_per_token: int,
    context_length: int | None,
    poc_distance_max: int,
    config: Path,
    dry_run: bool,
) -> None:
    """Command line."""
    try:
        settings = load_settings(config)
        with tempfile.TemporaryDirectory(prefix="quern-upload-") as scratch:
            source = prepare(directory, hf_repo, hf_commit, hf_endpoint, Path(scratch))
            facts = validate_model(source)
            click.echo(f"Valid: {facts.architecture}, {facts.weight_bytes} bytes of weights, {facts.files} files")
            length = context_length_of(context_length, facts)
            arguments = tuple(shlex.split(model_args)) or ("--max-model-len", str(length))
            merge_model_args(arguments, ())
            cid = trio.run(import_model, source, settings.node.data_dir / "content")
        click.echo(f"CID: {cid}")
        if dry_run:
            return
        spec = ModelDescription(
            model_id=ModelId(model_id),
            name=name,
            description=description,
            hf_repo=hf_repo,
            hf_commit=hf_commit,
            model_args=arguments,
            vram_mib=vram_mib,
            throughput_per_nonce=throughput_per_nonce,
            units_of_compute_per_token=units_of_compute_per_token,
            context_length=length,
            poc_distance_max=poc_distance_max,
        )
        passphrase = find_passphrase(settings.account.passphrase_file, settings.account.passphrase_env, _ask)
        trio.run(register, settings, passphrase, spec, cid)
    except (
        SettingsError,
        KeyFileError,
        HubError,
        ModelInvalidError,
        UnixFsError,
        EngineArgumentsError,
        DeploymentFileError,
        WrongChainError,
        NoFinalityError,
        AccountInUseError,
        RpcError,
        RpcUnavailableError,
        PublishError,
        OSError,
    ) as error:
        click.echo(f"owner_upload: {error}", err=True)
        sys.exit(1)


def _ask() -> str:
    return str(click.prompt("Passphrase", hide_input=True))


if __name__ == "__main__":
    main()
