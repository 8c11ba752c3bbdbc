"""`quern vault`: the keys of encrypted models on this machine; brought in, taken out, used. Needs no running daemon."""

import json
import shutil
import sys
from pathlib import Path

import base58
import click
from eth_utils.address import is_checksum_address

from node.cli.options import CommandFailed, Target, target_options
from node.cli.progress import make_reporter
from node.cli.render import print_facts, print_table
from node.keys import KeyFileError, find_passphrase, keystore_account, load_peer_seed, unlock_keystore
from node.models.encryption.container import SealBrokenError, WrongKeyError
from node.models.encryption.directory import open_directory, read_sealed
from node.models.encryption.keyring import (
    HeldKey,
    KeyRing,
    KeyRingError,
    WrappedKey,
    parse_key,
    render_key,
    render_wrapped,
)
from node.models.encryption.wrapping import (
    ACCOUNT_KIND,
    Recipient,
    RecipientError,
    Unwrapper,
    account_recipient,
    node_recipient,
    peer_encryption_key,
    peer_recipient,
    wrap_key,
)
from node.private_files import PRIVATE_FILE_BYTES_MAX, PrivateFileError, create_private_file
from node.protocol.identifiers import Address
from node.settings import Settings, SettingsError, load_settings
from p2p.identity import Identity

KEY_ID_CHARACTERS = 16
"""Enough to tell one's own keys apart."""


@click.group()
def vault() -> None:
    """Keys of encrypted models: yours, and those given to you.

    A daemon finds the key of an encrypted model here, or in the AccessVault on chain. Key files are secrets: back them
    up, and give a key to others only wrapped for them (`export-key`, or `owner_tools.py gate wrap-key`).
    """


@vault.command("public-key")
@click.option("--account", "with_account", is_flag=True, help="The account's public key too; needs its passphrase.")
@target_options
def public_key(target: Target, with_account: bool) -> None:
    """Print what owners wrap keys for: this node's public keys.

    A registered node needs to send this to nobody: owners find it on chain by the account.

    \b
    Examples:
      quern vault public-key
      quern vault public-key --account
    """
    settings = _settings(target)
    try:
        seed = load_peer_seed(settings.p2p.key)
        facts = {
            "account": keystore_account(settings.account.keystore),
            "peer_id": Identity(seed).peer_id,
            "encryption_key": "0x" + peer_encryption_key(seed).hex(),
        }
        if with_account:
            key = unlock_keystore(settings.account.keystore, _passphrase(settings))
            facts["account_public_key"] = "0x" + key.public_key.format(compressed=True).hex()
    except KeyFileError as error:
        raise CommandFailed(str(error)) from error
    if target.as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_facts([(name.replace("_", " "), value) for name, value in facts.items()])


@vault.command("keys")
@target_options
def list_keys(target: Target) -> None:
    """List the content keys on this machine; not the keys themselves.

    \b
    Example:
      quern vault keys
    """
    try:
        held = list(_ring(_settings(target)).held())
    except KeyRingError as error:
        raise CommandFailed(str(error)) from error
    rows = [(key.model_id, key.key.key_id.hex()) for key in held]
    if target.as_json:
        click.echo(json.dumps({"keys": [{"model_id": model_id, "key_id": key_id} for model_id, key_id in rows]}))
        return
    print_table(("MODEL", "KEY ID"), rows, empty="no keys")


@vault.command("import-key")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@target_options
def import_key(target: Target, file: Path) -> None:
    """Take in a key from FILE (`-` for standard input), wrapped for this node or plain.

    A daemon that waits for it finds it within seconds.

    \b
    Example:
      quern vault import-key secret.key.json
    """
    settings = _settings(target)
    try:
        with click.open_file(str(file), "rb") as source:
            given = parse_key(source.read(PRIVATE_FILE_BYTES_MAX), str(file))
        held = given if isinstance(given, HeldKey) else _unwrap(settings, given)
        _ring(settings).add(held.model_id, held.key)
    except (KeyRingError, PrivateFileError, WrongKeyError, KeyFileError, OSError) as error:
        raise CommandFailed(str(error)) from error
    facts = {"model_id": held.model_id, "key_id": held.key.key_id.hex()}
    if target.as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(
        f"The key {facts['key_id'][:KEY_ID_CHARACTERS]}… of {held.model_id} is kept in {settings.vault.keys_dir}"
    )


@vault.command("export-key")
@click.argument("key_id")
@click.option("--for-peer", metavar="PEER_ID", help="Wrap it for the node with this peer id.")
@click.option("--for-encryption-key", metavar="HEX", help="Wrap it for the node with this encryption key.")
@click.option("--for-account", nargs=2, metavar="ACCOUNT HEX", help="Wrap it for this account with this public key.")
@click.option("--plain", is_flag=True, help="Do not wrap it: for your own backup only.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.  [default: -]")
@target_options
def export_key(
    target: Target,
    key_id: str,
    for_peer: str | None,
    for_encryption_key: str | None,
    for_account: tuple[str, str] | None,
    plain: bool,
    output: Path | None,
) -> None:
    """Write a key to a file that `import-key` reads.

    KEY_ID is an id of `quern vault keys`, its beginning, or a model id with one key. Wrapped for a recipient, the file
    is of no use to anybody else: send it by any way.

    \b
    Examples:
      quern vault export-key secret --for-peer 12D3KooW… --output secret.key.json
      quern vault export-key secret --plain --output backup.key.json
    """
    if sum((for_peer is not None, for_encryption_key is not None, for_account is not None, plain)) != 1:
        raise click.UsageError("give one of --for-peer, --for-encryption-key, --for-account or --plain")
    try:
        held = _choose(_ring(_settings(target)), key_id)
        if plain:
            data = render_key(held)
        else:
            recipient = _recipient(for_peer, for_encryption_key, for_account)
            wrapped = wrap_key(held.key, held.model_id, recipient)
            data = render_wrapped(WrappedKey(held.model_id, held.key.key_id, wrapped))
        if output is None:
            sys.stdout.write(data.decode())
            return
        create_private_file(output, data)
    except FileExistsError as error:
        raise CommandFailed(f"{output} exists already; nothing was written") from error
    except (KeyRingError, PrivateFileError, RecipientError) as error:
        raise CommandFailed(str(error)) from error
    click.echo(f"wrote {output}", err=True)


@vault.command("open")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("destination", type=click.Path(path_type=Path, file_okay=False))
@target_options
def open_model(target: Target, directory: Path, destination: Path) -> None:
    """Decrypt the encrypted model in DIRECTORY into the new directory DESTINATION.

    Every byte is authenticated. If anything is wrong, nothing is left at DESTINATION.

    \b
    Example:
      quern vault open models/ipfs/bafy… opened
    """
    staging = destination.with_name(f".{destination.name}.opening")
    try:
        sealed = read_sealed(directory)
        held = _ring(_settings(target)).find(sealed.key_id)
        if held is None:
            raise CommandFailed(
                f"its key {sealed.key_id.hex()} is not here", "Bring it in with `quern vault import-key`."
            )
        if destination.exists():
            raise CommandFailed(f"{destination} exists already; nothing was written")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        with make_reporter().step(f"decrypting {held.model_id}", sealed.plain_bytes) as advance:
            open_directory(sealed, staging, held.key, advance=advance)
        staging.rename(destination)
    except (SealBrokenError, KeyRingError, OSError) as error:
        raise CommandFailed(f"{directory} cannot be decrypted: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    facts = {"model_id": held.model_id, "directory": str(destination)}
    click.echo(json.dumps(facts) if target.as_json else f"{held.model_id} is decrypted in {destination}")


def _settings(target: Target) -> Settings:
    try:
        return load_settings(target.settings_file)
    except SettingsError as error:
        raise CommandFailed(str(error)) from error


def _ring(settings: Settings) -> KeyRing:
    return KeyRing(settings.vault.keys_dir)


def _passphrase(settings: Settings) -> str:
    return find_passphrase(settings.account.passphrase_file, settings.account.passphrase_env, _ask)


def _ask() -> str:
    return str(click.prompt("Passphrase", hide_input=True, err=True))


def _unwrap(settings: Settings, given: WrappedKey) -> HeldKey:
    """Unwrap with the peer key, or, only where that is what it was wrapped for, with the account's key."""
    account_key = None
    if given.wrapped[:1] == bytes([ACCOUNT_KIND]):
        account_key = unlock_keystore(settings.account.keystore, _passphrase(settings))
    unwrapper = Unwrapper(load_peer_seed(settings.p2p.key), account_key)
    return HeldKey(given.model_id, unwrapper.unwrap(given.wrapped, given.model_id, given.key_id))


def _choose(ring: KeyRing, name: str) -> HeldKey:
    """Return the one key that `name` means. Raises KeyRingError."""
    held = [key for key in ring.held() if key.model_id == name or key.key.key_id.hex().startswith(name.lower())]
    if len(held) != 1:
        raise KeyRingError(f"{name!r} means {len(held)} keys here: `quern vault keys` lists them all")
    return held[0]


def _recipient(peer_id: str | None, encryption_key: str | None, account: tuple[str, str] | None) -> Recipient:
    if peer_id is not None:
        try:
            return peer_recipient(base58.b58decode(peer_id))
        except ValueError as error:
            raise RecipientError(f"{peer_id[:80]!r} is no peer id: {error}") from error
    if encryption_key is not None:
        return node_recipient(_hex(encryption_key))
    address, key = account or ("", "")
    if not is_checksum_address(address):
        raise RecipientError(f"{address[:80]!r} is not a checksummed address")
    return account_recipient(_hex(key), Address(address))


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise RecipientError(f"{text[:80]!r} is not hex") from error
