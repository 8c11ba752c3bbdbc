"""The account key: an Ethereum keystore v3 file, unlocked by a passphrase, held in memory only."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from eth_account import Account

from node.protocol.identifiers import Address, Hash32
from node.protocol.signatures import address_of, sign

KEYSTORE_BYTES_MAX = 64 * 1024
"""A keystore is about 500 bytes; anything large is not one."""


class KeystoreError(Exception):
    """The keystore cannot be used; the message says why and what to do."""


class LocalAccount:
    """An unlocked account: signs digests and transactions."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.address: Address = address_of(key.public_key)

    def sign_digest(self, digest: Hash32) -> bytes:
        """Sign a 32-byte digest; 65 bytes."""
        return sign(self._key, digest)

    def sign_transaction(self, fields: Mapping[str, Any]) -> tuple[Hash32, bytes]:
        """Sign a transaction; return its hash and raw bytes."""
        signed = Account.from_key(self._key.secret).sign_transaction(dict(fields))
        return Hash32(bytes(signed.hash)), bytes(signed.raw_transaction)


def account_from_secret(secret: bytes) -> LocalAccount:
    """Return the account of a 32-byte secret (development networks and tests)."""
    return LocalAccount(PrivateKey(secret))


def create_keystore(
    path: Path, passphrase: str, *, secret: bytes | None = None, iterations: int | None = None
) -> Address:
    """Write a keystore (mode 0600) for `secret`, or for a new random key, and return its account.

    `iterations` lowers the work of unlocking, for development networks only. Raises KeystoreError if `path` exists.
    """
    key = PrivateKey(secret) if secret is not None else PrivateKey()
    record = Account.encrypt(key.secret, passphrase, iterations=iterations)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeystoreError(f"{path} exists already; a keystore is never overwritten") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(record, file)
    return address_of(key.public_key)


def open_keystore(path: Path, passphrase: str) -> LocalAccount:
    """Unlock the keystore at `path`. Raises KeystoreError if it is missing, damaged, or the passphrase is wrong."""
    try:
        if path.stat().st_size > KEYSTORE_BYTES_MAX:
            raise KeystoreError(f"{path} is not a keystore: it is too large")
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise KeystoreError(f"there is no keystore at {path}; `quern init` makes one") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise KeystoreError(f"{path} cannot be read as a keystore: {error}") from error
    try:
        return LocalAccount(PrivateKey(bytes(Account.decrypt(record, passphrase))))
    except ValueError as error:
        if "MAC mismatch" in str(error):
            raise KeystoreError(f"wrong passphrase for the keystore {path}") from error
        raise KeystoreError(f"{path} is not a keystore v3: {error}") from error
    except (TypeError, KeyError) as error:
        raise KeystoreError(f"{path} is not a keystore v3: {error}") from error
