"""Keystores: those of other tools open here, and a damaged or greedy one is refused before it costs anything."""

from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account import Account

from node.keystores import KeystoreError, PassphraseError, decrypt_key

PASSPHRASE = "correct horse battery"
ROUNDS = 1024


def of_another_tool(kdf: str) -> tuple[dict[str, Any], bytes]:
    secret = PrivateKey().secret
    return Account.encrypt(secret, PASSPHRASE, kdf=kdf, iterations=ROUNDS), secret  # type: ignore[arg-type]


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_a_keystore_of_another_tool_opens_for_its_passphrase_only(kdf: str) -> None:
    keystore, secret = of_another_tool(kdf)
    assert decrypt_key(keystore, PASSPHRASE) == secret
    with pytest.raises(PassphraseError):
        decrypt_key(keystore, "wrong horse battery")


def test_names_in_capitals_are_understood() -> None:
    keystore, secret = of_another_tool("pbkdf2")
    keystore["Crypto"] = keystore.pop("crypto")
    assert decrypt_key(keystore, PASSPHRASE) == secret


def test_a_changed_ciphertext_is_noticed() -> None:
    keystore, _ = of_another_tool("pbkdf2")
    first = keystore["crypto"]["ciphertext"][0]
    keystore["crypto"]["ciphertext"] = ("0" if first != "0" else "1") + keystore["crypto"]["ciphertext"][1:]
    with pytest.raises(PassphraseError):
        decrypt_key(keystore, PASSPHRASE)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("version",), 4),
        (("crypto",), "no"),
        (("crypto", "cipher"), "aes-256-cbc"),
        (("crypto", "kdf"), "md5"),
        (("crypto", "mac"), "xyz"),
        (("crypto", "cipherparams", "iv"), "00"),
        (("crypto", "kdfparams", "n"), 1 << 30),
        (("crypto", "kdfparams", "n"), 3),
        (("crypto", "kdfparams", "r"), 0),
        (("crypto", "kdfparams", "p"), True + 2**70),
        (("crypto", "kdfparams", "dklen"), 1 << 20),
        (("crypto", "kdfparams", "salt"), 5),
    ],
)
def test_what_is_no_sound_keystore_is_refused(place: tuple[str, ...], value: object) -> None:
    keystore, _ = of_another_tool("scrypt")
    record: dict[str, Any] = keystore
    for name in place[:-1]:
        record = record[name]
    record[place[-1]] = value
    with pytest.raises(KeystoreError) as refusal:
        decrypt_key(keystore, PASSPHRASE)
    assert not isinstance(refusal.value, PassphraseError)


def test_a_slow_hash_without_end_is_refused() -> None:
    keystore, _ = of_another_tool("pbkdf2")
    keystore["crypto"]["kdfparams"]["c"] = 1 << 40
    with pytest.raises(KeystoreError, match="pbkdf2"):
        decrypt_key(keystore, PASSPHRASE)


def test_a_memory_hard_hash_that_would_take_days_is_refused() -> None:
    keystore, _ = of_another_tool("scrypt")
    keystore["crypto"]["kdfparams"]["p"] = 1 << 18
    with pytest.raises(KeystoreError, match="too long"):
        decrypt_key(keystore, PASSPHRASE)


def test_a_passphrase_that_is_no_text_is_refused_and_not_shown() -> None:
    keystore, _ = of_another_tool("scrypt")
    with pytest.raises(KeystoreError) as refusal:
        decrypt_key(keystore, "secret\udcff")
    assert "secret" not in str(refusal.value)
    assert "udcff" not in str(refusal.value)
    assert refusal.value.__cause__ is None
