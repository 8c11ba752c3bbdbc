"""Publishes models: validates them, imports them, prints their CIDs, registers them on chain. Running it again is safe.

\b
One model is described by options, many by a manifest (docs/owners.md has an example):
  owner_upload.py --model ./tiny --model-id tiny --name Tiny
  owner_upload.py --model team/chat --revision v1.2 --model-id chat --name Chat --encrypt
  owner_upload.py --manifest models.toml --only tiny --skip-blockchain
"""

import shlex
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import trio
from click.core import ParameterSource

from node.amounts import tokens_to_amount
from node.chain.account_lock import AccountInUseError
from node.chain.accounts import LocalAccount
from node.chain.adapter import WrongChainError, open_chain
from node.chain.addresses import DeploymentFileError, read_deployment
from node.chain.fees import GWEI
from node.chain.rpc import RpcError, RpcUnavailableError
from node.chain.watcher import DeepReorganisationError, NoFinalityError
from node.cli.progress import make_reporter
from node.cli.render import print_table
from node.keys import KeyFileError, find_passphrase, unlock_keystore
from node.models.hub import HubAccess
from node.models.manifest import POC_DISTANCE_DEFAULT, ManifestError, UploadRequest, read_manifest, read_request
from node.models.preparation import PreparedUpload, UploadPlaces, UploadsInvalidError, prepare_uploads
from node.models.record_fields import MODELS_MAX
from node.models.registration import Registration, register_models
from node.models.tokens import read_hub_token
from node.private_files import PrivateFileError
from node.settings import Settings, SettingsError, load_settings
from node.settings.locations import default_settings_file
from node.store.chain_tables import ChainTables
from node.store.database import Database

UNFINISHED_MAX = MODELS_MAX
"""A run that is killed leaves at most one intent per model open, and the next one sends nothing before they end."""


def manifest_requests(path: Path, only: Sequence[str]) -> tuple[UploadRequest, ...]:
    """Return the models of a manifest, or only those named. Raises ManifestError."""
    requests = read_manifest(path)
    missing = set(only) - {request.wanted.model_id for request in requests}
    if missing:
        raise ManifestError(f"{path} has no model {', '.join(sorted(missing))}")
    return tuple(request for request in requests if not only or request.wanted.model_id in only)


def single_request(options: dict[str, Any]) -> UploadRequest:
    """Return the model that options describe. Raises ManifestError."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        given["model_args"] = shlex.split(given["model_args"])
    except ValueError as error:
        raise ManifestError(f"model_args: {error}") from error
    return read_request(given, Path.cwd())


async def register(settings: Settings, passphrase: str, uploads: Sequence[PreparedUpload]) -> tuple[Registration, ...]:
    """Make all of them the current versions on chain, by the account of the settings."""
    account = LocalAccount(unlock_keystore(settings.account.keystore, passphrase))
    database = Database(settings.node.data_dir / "owner.sqlite")
    try:
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
            pending = ChainTables(database).intents(limit=UNFINISHED_MAX, pending_only=True)
            return await register_models(chain, uploads, [intent.key for intent in pending], click.echo)
    finally:
        database.close()


def show(uploads: Sequence[PreparedUpload], registrations: Sequence[Registration]) -> None:
    """Print what became of each model; without registrations, what they are."""
    if not registrations:
        print_table(
            ["model", "CID"], [[upload.description.model_id, upload.cid] for upload in uploads], empty="No models."
        )
        return
    rows = []
    for upload, registration in zip(uploads, registrations, strict=True):
        state = "REFUSED" if registration.refusal else ", ".join(registration.done) or "unchanged"
        rows.append([registration.model_id, str(registration.version), state, str(registration.gas_used), upload.cid])
    print_table(["model", "version", "result", "gas", "CID"], rows, empty="No models.")
    for registration in registrations:
        for transaction in registration.transactions:
            click.echo(f"{registration.model_id}: transaction 0x{transaction.hex()}")


def publish(
    settings: Settings,
    requests: Sequence[UploadRequest],
    hub_endpoint: str | None,
    *,
    skip_download: bool,
    skip_blockchain: bool,
) -> bool:
    """Do all of it; return whether every model is now as described."""
    places = UploadPlaces.below(settings.node.data_dir, settings.vault.keys_dir)
    access = HubAccess(
        hub_endpoint or settings.models.hub_url,
        read_hub_token(settings.models.hub_token_file),
        settings.models.bandwidth_bytes_per_second_max,
    )
    prepare = partial(prepare_uploads, requests, places, make_reporter(), access, skip_download=skip_download)
    uploads = trio.run(prepare)
    if skip_blockchain:
        show(uploads, ())
        return True
    passphrase = find_passphrase(settings.account.passphrase_file, settings.account.passphrase_env, _ask)
    registrations = trio.run(register, settings, passphrase, uploads)
    show(uploads, registrations)
    refused = [registration for registration in registrations if registration.refusal]
    for registration in refused:
        click.echo(
            f"owner_upload: the ModelRegistry refused {registration.model_id}, {registration.refusal}. "
            "Mend that and run this again: what is done stays done and is not paid for twice",
            err=True,
        )
    return not refused


@click.command(help=__doc__)
@click.option("--manifest", type=click.Path(path_type=Path, dir_okay=False), help="TOML file with many models.")
@click.option("--only", multiple=True, metavar="ID", help="Of the manifest, this model only; may be repeated.")
@click.option("--model", default=None, metavar="REPO_OR_DIR", help="A directory that exists, else a Hub repository.")
@click.option("--revision", default="", help="Branch, tag or commit of the repository.  [default: main]")
@click.option("--directory", type=click.Path(file_okay=False), help="The model's files; as --model.")
@click.option("--hf-repo", default="", help="Repository on the Hugging Face Hub it comes from; as --model.")
@click.option("--hf-commit", default="", help="Full commit hash there; as --revision.")
@click.option(
    "--hf-endpoint", default=None, envvar="HF_ENDPOINT", help="Another server with the Hub's API.  [or $HF_ENDPOINT]"
)
@click.option("--model-id", "id", default=None, help="Id on chain: lower-case letters, digits, . _ - and /.")
@click.option("--name", default=None, help="Name for people.")
@click.option("--description", default="", help="One line for people.")
@click.option("--model-args", default="", help='vLLM arguments every node uses, e.g. "--dtype bfloat16".')
@click.option("--vram-mib", default=0, show_default=True, help="GPU memory it needs.")
@click.option("--throughput-per-nonce", default=1000, show_default=True, help="Tokens per epoch per unit of weight.")
@click.option("--units-of-compute-per-token", default=1, show_default=True, help="Price of a token, in units.")
@click.option("--context-length", type=int, default=None, help="Tokens, prompt and answer; default: config.json's.")
@click.option("--poc-distance-max", default=POC_DISTANCE_DEFAULT, show_default=True, help="See docs/protocol.md.")
@click.option("--quantization", default="", help="Of the weights, as engines name it; empty for none.")
@click.option("--kv-cache-quantization", default="", help="Of the key-value cache; empty for the weights' type.")
@click.option("--gated", is_flag=True, help="Access by the AccessVault's gate only.")
@click.option("--encrypt", is_flag=True, help="Encrypt the model; its key stays here until you wrap it for accounts.")
@click.option("--new-key", is_flag=True, help="With --encrypt: not with the key it was encrypted with before.")
@click.option("--encrypted", is_flag=True, help="Says that the directory is an encrypted model already.")
@click.option("--allow-pickle", is_flag=True, help="Publish pickled weights too; no daemon of this network loads them.")
@click.option("--copy", is_flag=True, help="Copy the files into the content directory; else they are served in place.")
@click.option("--proposer", default=None, help="Sets the gate, is paid for access; default: the registering account.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=default_settings_file,
    show_default="~/.quern/quern.toml",
    help="Settings of the owner's daemon: its account registers, its content directory serves.",
)
@click.option("--skip-download", is_flag=True, help="Use what an earlier run downloaded; do not ask the Hub.")
@click.option(
    "--skip-blockchain", "--dry-run", is_flag=True, help="Validate, import, pin and print the CIDs; send nothing."
)
def main(
    manifest: Path | None,
    only: tuple[str, ...],
    hf_endpoint: str | None,
    config: Path,
    skip_download: bool,
    skip_blockchain: bool,
    **single: Any,
) -> None:
    """Command line."""
    source_of = click.get_current_context().get_parameter_source
    given = [name for name in single if source_of(name) is not ParameterSource.DEFAULT]
    if manifest is not None and given:
        raise click.UsageError(f"with --manifest, say it there: {', '.join(sorted(given))}")
    if manifest is None and only:
        raise click.UsageError("--only chooses from a --manifest")
    if manifest is None and (single["id"] is None or single["name"] is None):
        raise click.UsageError("give --model-id and --name, or --manifest")
    try:
        requests = (single_request(single),) if manifest is None else manifest_requests(manifest, only)
        done = publish(
            load_settings(config), requests, hf_endpoint, skip_download=skip_download, skip_blockchain=skip_blockchain
        )
    except (
        SettingsError,
        KeyFileError,
        PrivateFileError,
        ManifestError,
        UploadsInvalidError,
        DeploymentFileError,
        WrongChainError,
        NoFinalityError,
        AccountInUseError,
        RpcError,
        RpcUnavailableError,
        OSError,
    ) as error:
        click.echo(f"owner_upload: {error}", err=True)
        sys.exit(1)
    except BaseExceptionGroup as group:
        click.echo(f"owner_upload: {_explain_break(group)}", err=True)
        sys.exit(1)
    sys.exit(0 if done else 1)


def _explain_break(group: BaseExceptionGroup[BaseException]) -> str:
    """Say what an end in the middle means for what was sent; raise the group again if it is none of those known."""
    resume = "Run this again: what was sent already is waited for, not sent twice"
    if group.subgroup(KeyboardInterrupt) is not None:
        return f"interrupted. {resume}"
    if (deep := group.subgroup(DeepReorganisationError)) is not None:
        return f"the chain took back what was taken as final ({deep.exceptions[0]}). {resume}"
    raise group


def _ask() -> str:
    return str(click.prompt("Passphrase", hide_input=True))


if __name__ == "__main__":
    main()
