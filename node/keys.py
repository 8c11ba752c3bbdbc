"""The two keys of a daemon: the libp2p key that is its peer id, and the account key in an encrypted keystore."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from coincurve import PrivateKey
from eth_utils.address import is_hex_address, to_checksum_address

from node.keystores import KeystoreError, PassphraseError, decrypt_key, encrypt_key
from node.private_files import PrivateFileError, create_private_file, read_private_file
from node.protocol.identifiers import Address
from node.protocol.signatures import address_of

PEER_SEED_BYTES = 32
ACCOUNT_KEY_BYTES = 32
PASSPHRASE_CHARACTERS_MIN = 8
"""The keystore may be copied and guessed at leisure: its slow hash buys time, not safety for a short passphrase."""
GENERATED_PASSPHRASE_BYTES = 24


class KeyFileError(Exception):
    """A key can't be had; the message says why and what to do."""


class WrongPassphraseError(KeyFileError):
    """The passphrase does not open the keystore."""


def create_peer_key(path: Path) -> None:
    """Write a new Ed25519 seed, as hex; raise FileExistsError or PrivateFileError."""
    create_private_file(path, secrets.token_bytes(PEER_SEED_BYTES).hex().encode() + b"\n")


def load_peer_seed(path: Path) -> bytes:
    """Return the Ed25519 seed of the libp2p key; raise KeyFileError."""
    return _read_hex_key(path, PEER_SEED_BYTES, "a peer key")


def read_account_key(path: Path) -> PrivateKey:
    """Return the raw account key in a file that holds it as hex, in order to import it; raise KeyFileError."""
    return _private_key(_read_hex_key(path, ACCOUNT_KEY_BYTES, "an account key"), path)


def create_account_key() -> PrivateKey:
    """Return a new random account key."""
    return PrivateKey()


def create_keystore(path: Path, key: PrivateKey, passphrase: str) -> Address:
    """Encrypt `key` into a new keystore v3 and return its account.

    Raises FileExistsError, KeyFileError for a passphrase that is too short, PrivateFileError.
    """
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        raise KeyFileError(f"the passphrase must have {PASSPHRASE_CHARACTERS_MIN} characters or more")
    if path.exists():
        raise FileExistsError(path)  # before the slow hash
    address = address_of(key.public_key)
    keystore = encrypt_key(key.secret, address, passphrase)
    create_private_file(path, json.dumps(keystore, indent=2).encode() + b"\n")
    return address


def keystore_account(path: Path) -> Address:
    """Return the account that a keystore says it holds, without opening it; raise KeyFileError."""
    address = _read_keystore(path).get("address")
    if not isinstance(address, str) or not is_hex_address(address):
        raise KeyFileError(f"{path} is no keystore: it has no account address")
    return Address(to_checksum_address(address))


def unlock_keystore(path: Path, passphrase: str) -> PrivateKey:
    """Return the key in a keystore v3. Slow on purpose (about a second).

    Raises WrongPassphraseError, or KeyFileError for a file that is no sound keystore.
    """
    keystore = _read_keystore(path)
    try:
        raw = decrypt_key(keystore, passphrase)
    except PassphraseError as error:
        raise WrongPassphraseError(
            f"wrong passphrase for the keystore {path}. Set [account] passphrase_file or passphrase_env to the "
            "right one; there is no way to recover a lost passphrase."
        ) from error
    except KeystoreError as error:
        raise KeyFileError(f"{path} is no keystore v3: {error}") from error
    return _private_key(raw, path)


def find_passphrase(passphrase_file: Path | None, passphrase_env: str | None, prompt: Callable[[], str] | None) -> str:
    """Return the passphrase from the file, else from the environment, else from `prompt`; raise KeyFileError."""
    if passphrase_file is not None:
        return read_passphrase_file(passphrase_file)
    if passphrase_env is not None and passphrase_env in os.environ:
        return os.environ[passphrase_env]
    if prompt is not None:
        return prompt()
    variable = f"the environment variable {passphrase_env}" if passphrase_env else "[account] passphrase_env"
    raise KeyFileError(
        f"no passphrase for the keystore: set [account] passphrase_file or {variable}, or start the daemon at a "
        "terminal, where it asks."
    )


def read_passphrase_file(path: Path) -> str:
    """Return the first line of a passphrase file; raise KeyFileError if it is empty, unreadable or not private."""
    text = _read(path).decode("utf-8", errors="replace")
    lines = text.splitlines()
    if not lines or not lines[0]:
        raise KeyFileError(f"the passphrase file {path} is empty")
    return lines[0]


def create_passphrase_file(path: Path) -> str:
    """Write a new random passphrase and return it; raise FileExistsError or PrivateFileError."""
    passphrase = secrets.token_urlsafe(GENERATED_PASSPHRASE_BYTES)
    create_private_file(path, passphrase.encode() + b"\n")
    return passphrase


def _read(path: Path) -> bytes:
    try:
        return read_private_file(path)
    except PrivateFileError as error:
        raise KeyFileError(str(error)) from error


def _read_keystore(path: Path) -> dict[str, object]:
    try:
        keystore = json.loads(_read(path))
    except ValueError as error:
        raise KeyFileError(f"{path} is no keystore: not JSON") from error
    if not isinstance(keystore, dict):
        raise KeyFileError(f"{path} is no keystore: not a JSON object")
    return keystore


def _read_hex_key(path: Path, size: int, what: str) -> bytes:
    text = _read(path).decode("ascii", errors="replace").strip().removeprefix("0x")
    try:
        key = bytes.fromhex(text)
    except ValueError as error:
        raise KeyFileError(f"{path} is not {what}: expected {size * 2} hex digits") from error
    if len(key) != size:
        raise KeyFileError(f"{path} is not {what}: expected {size * 2} hex digits, got {len(text)} characters")
    return key


def _private_key(raw: bytes, path: Path) -> PrivateKey:
    try:
        return PrivateKey(raw)
    except ValueError as error:
        raise KeyFileError(f"{path} holds no valid secp256k1 key") from error
