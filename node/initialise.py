"""Makes a new daemon's data directory: settings, keys. What is already there is kept as it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from node.keys import create_account_key, create_keystore, create_peer_key, keystore_account
from node.private_files import create_private_directory, create_private_file
from node.protocol.identifiers import Address
from node.settings import SETTINGS_FILE_NAME, load_settings
from node.settings.template import render_settings


class Made(StrEnum):
    """What became of a file."""

    CREATED = "created"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `quern init` did."""

    settings_file: Path
    account: Address
    files: tuple[tuple[Path, Made], ...]
    settings_ignored: bool = False
    """Whether settings were given that a file which was there already does not have."""


def initialise(
    data_dir: Path,
    chosen: Mapping[str, Mapping[str, Any]],
    *,
    choose_passphrase: Callable[[], str],
    account_key: PrivateKey | None = None,
) -> Initialised:
    """Write the settings file with `chosen` keys set, the libp2p key and the keystore, unless they are there.

    `choose_passphrase` is called only if a keystore is made; `account_key` is imported instead of a new random key.
    Raises SettingsError, KeyFileError or PrivateFileError. Keys that were made before the error stay and are kept next
    time. A settings file does not: what was mistyped into it would be kept, and what is given next time be ignored.
    """
    create_private_directory(data_dir)
    settings_file = data_dir / SETTINGS_FILE_NAME
    text = render_settings(chosen).encode()
    made = _made(lambda: create_private_file(settings_file, text))
    try:
        files, account = _make_keys(settings_file, choose_passphrase, account_key)
    except BaseException:
        if made is Made.CREATED:
            settings_file.unlink(missing_ok=True)
        raise
    ignored = made is Made.KEPT and any(chosen.values()) and settings_file.read_bytes() != text
    return Initialised(settings_file, account, ((settings_file, made), *files), settings_ignored=ignored)


def _make_keys(
    settings_file: Path, choose_passphrase: Callable[[], str], account_key: PrivateKey | None
) -> tuple[list[tuple[Path, Made]], Address]:
    files = []
    settings = load_settings(settings_file)
    files.append((settings.p2p.key, _made(lambda: create_peer_key(settings.p2p.key))))
    keystore = settings.account.keystore
    if keystore.exists():
        files.append((keystore, Made.KEPT))
    else:
        key = account_key or create_account_key()
        files.append((keystore, _made(lambda: _encrypt(keystore, key, choose_passphrase()))))
    return files, keystore_account(keystore)


def _encrypt(path: Path, key: PrivateKey, passphrase: str) -> None:
    create_keystore(path, key, passphrase)


def _made(create: Callable[[], None]) -> Made:
    try:
        create()
    except FileExistsError:
        return Made.KEPT
    return Made.CREATED
