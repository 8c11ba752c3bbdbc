"""What every owner's command is given: which network, which account, and how failures are told."""

import functools
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click
import trio
from eth_utils.address import is_checksum_address

from node.chain.account_lock import AccountInUseError
from node.chain.adapter import WrongChainError
from node.chain.addresses import DeploymentFileError
from node.chain.deployer import DeploymentFailedError
from node.chain.owner_calls import (
    RefusedError,
)
from node.chain.rpc import RpcError, RpcUnavailableError
from node.keys import KeyFileError
from node.protocol.cids import CidError, cid_to_bytes
from node.protocol.identifiers import Address, Cid
from node.settings import SettingsError, load_settings

Arguments = ParamSpec("Arguments")

PASSPHRASE_VARIABLE = "QUERN_PASSPHRASE"  # noqa: S105 - where it is, not what it is


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
