"""`quern init`: a new data directory with commented settings and keys."""

import json
from pathlib import Path
from typing import Any

import click

from node.cli.options import CommandFailed, Target, target_options
from node.initialise import Made, initialise
from node.keys import (
    PASSPHRASE_CHARACTERS_MIN,
    KeyFileError,
    create_passphrase_file,
    read_account_key,
    read_passphrase_file,
)
from node.private_files import PrivateFileError, create_private_directory
from node.settings import Role, SettingsError


@click.command()
@click.option("--rpc-url", "rpc_urls", multiple=True, help="JSON-RPC endpoint of the chain; may be repeated.")
@click.option("--chain-id", type=click.IntRange(min=1), default=None, help="Id of the chain.")
@click.option(
    "--deployment",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The network's deployment file.",
)
@click.option(
    "--role", "roles", type=click.Choice([role.value for role in Role]), multiple=True, help="May be repeated."
)
@click.option("--model", default=None, help="Model to serve: writes an ML node that serves it.")
@click.option("--node-id", default="node0", show_default=True, help="Name of that ML node.")
@click.option("--bootstrap", multiple=True, help="Multiaddress of a peer to join through; may be repeated.")
@click.option("--listen", multiple=True, help="Multiaddress to listen on; may be repeated.")
@click.option("--content-port", type=click.IntRange(0, 65535), default=None, help="Port of the content gateway.")
@click.option("--api-port", type=click.IntRange(0, 65535), default=None, help="Port of the user API.")
@click.option("--models-bytes-max", type=click.IntRange(min=0), default=None, help="Disk that models may take.")
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File whose first line encrypts the account key; made with a random passphrase if it is not there.",
)
@click.option(
    "--import-account",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File with an account key as hex, to be encrypted into the keystore. Delete it afterwards.",
)
@target_options
def init(
    target: Target,
    *,
    rpc_urls: tuple[str, ...],
    chain_id: int | None,
    deployment: Path | None,
    roles: tuple[str, ...],
    model: str | None,
    node_id: str,
    bootstrap: tuple[str, ...],
    listen: tuple[str, ...],
    content_port: int | None,
    api_port: int | None,
    models_bytes_max: int | None,
    passphrase_file: Path | None,
    import_account: Path | None,
) -> None:
    """Make settings and keys for a new daemon.

    Writes a commented settings file, the libp2p key and the encrypted account key into the data directory.

    Files that are already there are kept as they are, so running it again is safe; options then have no effect on
    them.

    \b
    Examples:
      quern init
      quern init --model tiny --rpc-url http://127.0.0.1:8545 --chain-id 31337 --deployment deployment.json
      quern init --data-dir /var/lib/quern --passphrase-file /etc/quern/passphrase
    """
    chosen: dict[str, dict[str, Any]] = {
        "node": {"roles": list(roles)} if roles else {},
        "chain": _given(
            rpc_urls=list(rpc_urls) or None,
            chain_id=chain_id,
            deployment=deployment.absolute() if deployment else None,
        ),
        "account": _given(passphrase_file=passphrase_file.absolute() if passphrase_file else None),
        "p2p": _given(listen=list(listen) or None, bootstrap=list(bootstrap) or None),
        "content": _given(port=content_port),
        "api": _given(port=api_port),
        "models": _given(bytes_max=models_bytes_max),
        "engines": {"node_id": node_id, "model_id": model} if model else {},
    }
    try:
        create_private_directory(target.data_dir)
        result = initialise(
            target.data_dir,
            chosen,
            choose_passphrase=lambda: _choose_passphrase(passphrase_file),
            account_key=read_account_key(import_account) if import_account else None,
        )
    except (SettingsError, KeyFileError, PrivateFileError) as error:
        raise CommandFailed(str(error)) from error
    if result.settings_ignored:
        click.echo(
            f"warning: {result.settings_file} was there already and is kept as it is: the settings you gave have no "
            "effect. Write them into that file, or remove it and run this again.",
            err=True,
        )
    if target.as_json:
        click.echo(_as_json(result.settings_file, result.account, result.files))
        return
    for path, made in result.files:
        click.echo(f"{made.value:8} {path}")
    click.echo(f"account  {result.account}")
    if any(made is Made.CREATED for _, made in result.files):
        click.echo(
            "\nNext: put some gas coins on the account, back up the keystore with its passphrase, read the settings, "
            f"then\n  quern doctor --data-dir {target.data_dir}\n  quernd --config {result.settings_file}"
        )


def _choose_passphrase(passphrase_file: Path | None) -> str:
    if passphrase_file is None:
        return _ask_for_passphrase()
    if passphrase_file.exists():
        return read_passphrase_file(passphrase_file)
    return create_passphrase_file(passphrase_file)


def _ask_for_passphrase() -> str:
    try:
        passphrase: str = click.prompt(
            f"Passphrase for the account key ({PASSPHRASE_CHARACTERS_MIN} characters or more)",
            hide_input=True,
            confirmation_prompt=True,
            err=True,
        )
    except click.Abort as error:
        raise CommandFailed(
            "there is no passphrase, so no account key was made",
            "Type one at a terminal, or name a file for it with --passphrase-file.",
        ) from error
    return passphrase


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _as_json(settings_file: Path, account: str, files: tuple[tuple[Path, Made], ...]) -> str:
    return json.dumps(
        {
            "settings_file": str(settings_file),
            "account": account,
            "files": {str(path): made.value for path, made in files},
        },
        indent=2,
    )
