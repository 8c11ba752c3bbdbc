"""Keystores of version 3, as all Ethereum tools write them: a key under a passphrase, behind a hash that is slow.

The library that could do this loads half a second of cryptography that nothing here needs, at every start.
"""

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Mapping
from typing import cast

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR
from eth_hash.auto import keccak

VERSION = 3
CIPHER = "aes-128-ctr"
SCRYPT_N = 1 << 18
"""As other tools have it: about a second, and 256 MiB of memory."""
SCRYPT_R = 8
SCRYPT_P = 1
DERIVED_BYTES = 32
"""Half of it encrypts, half of it tells a wrong passphrase."""
SALT_BYTES = 16
MEMORY_BYTES_MAX = 1 << 30
"""What a keystore may ask for: four times what tools write."""
SCRYPT_WORK_MAX = 4 * SCRYPT_N * SCRYPT_R * SCRYPT_P
"""In time as in memory: four times what tools write, some seconds."""
PBKDF2_ROUNDS_MAX = 1 << 24
NUMBER_MAX = 1 << 30
"""More than any parameter may be."""
DIGEST_OF = {"hmac-sha256": "sha256"}


class KeystoreError(ValueError):
    """It is no keystore of version 3; the message says why."""


class PassphraseError(KeystoreError):
    """The passphrase is another one."""


def encrypt_key(secret: bytes, address: str, passphrase: str) -> dict[str, object]:
    """Return a keystore with a 32-byte key. Slow on purpose (about a second)."""
    salt, start = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(16)
    parameters = {"dklen": DERIVED_BYTES, "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "salt": salt.hex()}
    derived = _derive("scrypt", parameters, passphrase)
    ciphertext = _apply(derived[:16], start, secret)
    return {
        "address": address.removeprefix("0x").lower(),
        "crypto": {
            "cipher": CIPHER,
            "cipherparams": {"iv": start.hex()},
            "ciphertext": ciphertext.hex(),
            "kdf": "scrypt",
            "kdfparams": parameters,
            "mac": keccak(derived[16:32] + ciphertext).hex(),
        },
        "id": str(uuid.uuid4()),
        "version": VERSION,
    }


def decrypt_key(keystore: Mapping[str, object], passphrase: str) -> bytes:
    """Return the key in a keystore. Slow on purpose; other threads run meanwhile.

    Raises PassphraseError, or KeystoreError for what is no sound keystore.
    """
    fields = _lowered(keystore)
    if fields.get("version") != VERSION:
        raise KeystoreError(f"its version is {fields.get('version')!r}")
    crypto = _record(fields, "crypto")
    if _text(crypto, "cipher") != CIPHER:
        raise KeystoreError(f"its cipher is {_text(crypto, 'cipher')!r}")
    ciphertext = _bytes(crypto, "ciphertext")
    start = _bytes(_record(crypto, "cipherparams"), "iv")
    if len(start) != 16:
        raise KeystoreError(f"its iv has {len(start)} bytes")
    derived = _derive(_text(crypto, "kdf"), _record(crypto, "kdfparams"), passphrase)
    if not hmac.compare_digest(keccak(derived[16:32] + ciphertext), _bytes(crypto, "mac")):
        raise PassphraseError("the passphrase is another one")
    return _apply(derived[:16], start, ciphertext)


def _derive(function: str, parameters: Mapping[str, object], passphrase: str) -> bytes:
    salt, size = _bytes(parameters, "salt"), _number(parameters, "dklen")
    if size != DERIVED_BYTES:
        raise KeystoreError(f"its derived key has {size} bytes")
    try:
        secret = passphrase.encode()
    except UnicodeEncodeError:
        raise KeystoreError("the passphrase is no text in UTF-8") from None  # the cause would show a part of it
    try:
        if function == "scrypt":
            n, r, p = (_number(parameters, name) for name in ("n", "r", "p"))
            if n * r * p > SCRYPT_WORK_MAX:
                raise KeystoreError("they would take too long")
            return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, dklen=size, maxmem=MEMORY_BYTES_MAX)
        if function == "pbkdf2":
            rounds, digest = _number(parameters, "c"), DIGEST_OF.get(_text(parameters, "prf"))
            if digest is None or rounds > PBKDF2_ROUNDS_MAX:
                raise KeystoreError("its parameters of pbkdf2 are not taken")
            return hashlib.pbkdf2_hmac(digest, secret, salt, rounds, size)
    except (ValueError, OverflowError) as error:
        raise KeystoreError(f"its parameters of {function} are not taken: {error}") from error
    raise KeystoreError(f"its slow hash is {function!r}")


def _apply(key: bytes, start: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt; in counter mode both are the same."""
    cipher = Cipher(AES128(key), CTR(start)).encryptor()
    return cipher.update(data) + cipher.finalize()


def _lowered(fields: Mapping[str, object]) -> dict[str, object]:
    """Some tools write `Crypto`: names are compared in small letters."""
    return {name.lower(): value for name, value in fields.items()}


def _record(fields: Mapping[str, object], name: str) -> dict[str, object]:
    value = fields.get(name)
    if not isinstance(value, dict):
        raise KeystoreError(f"it has no {name}")
    return _lowered(cast("dict[str, object]", value))  # JSON's objects have texts for names


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise KeystoreError(f"it has no {name}")
    return value


def _bytes(fields: Mapping[str, object], name: str) -> bytes:
    try:
        return bytes.fromhex(_text(fields, name).removeprefix("0x"))
    except ValueError as error:
        raise KeystoreError(f"its {name} is not hexadecimal") from error


def _number(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or not 0 < value <= NUMBER_MAX:
        raise KeystoreError(f"its {name} is no number of 1 to {NUMBER_MAX}")
    return value
