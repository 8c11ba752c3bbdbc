"""Keys and private files: created once, closed to others, and never silently wrong."""

import os
import stat
from pathlib import Path

import pytest
from coincurve import PrivateKey
from eth_account import Account

from node.keys import (
    KeyFileError,
    WrongPassphraseError,
    create_keystore,
    create_peer_key,
    find_passphrase,
    keystore_account,
    load_peer_seed,
    read_account_key,
    unlock_keystore,
)
from node.private_files import (
    DirectoryInUseError,
    PrivateFileError,
    create_private_file,
    exclusive_data_directory,
    read_private_file,
)
from node.protocol.signatures import address_of

PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrivateKey]:
    """One keystore for all tests: its hash is slow on purpose."""
    path = tmp_path_factory.mktemp("keys") / "account.json"
    key = PrivateKey()
    create_keystore(path, key, PASSPHRASE)
    return path, key


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_keystore_gives_back_its_key_only_for_its_passphrase(keystore: tuple[Path, PrivateKey]) -> None:
    path, key = keystore
    assert unlock_keystore(path, PASSPHRASE).secret == key.secret
    with pytest.raises(WrongPassphraseError, match="wrong passphrase"):
        unlock_keystore(path, "wrong horse battery")


def test_a_keystore_is_private_and_names_its_account_without_being_opened(keystore: tuple[Path, PrivateKey]) -> None:
    path, key = keystore
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keystore_account(path) == address_of(key.public_key)
    assert key.secret.hex() not in path.read_text()


def test_other_tools_open_our_keystore(keystore: tuple[Path, PrivateKey]) -> None:
    path, key = keystore
    assert bytes(Account.decrypt(path.read_text(), PASSPHRASE)) == key.secret


def test_a_keystore_is_never_overwritten(keystore: tuple[Path, PrivateKey]) -> None:
    path, _ = keystore
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        create_keystore(path, PrivateKey(), PASSPHRASE)
    assert path.read_bytes() == before


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="8 characters"):
        create_keystore(tmp_path / "a", PrivateKey(), "short")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"address": 5}', '{"address": "0x12"}', "not json"])
def test_what_is_no_keystore_is_named_so(tmp_path: Path, text: str) -> None:
    path = private(tmp_path / "a.json", text)
    with pytest.raises(KeyFileError, match="is no keystore"):
        keystore_account(path)
    with pytest.raises(KeyFileError, match="is no keystore"):
        unlock_keystore(path, PASSPHRASE)


def test_a_peer_key_is_created_private_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "peer.key"
    create_peer_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(load_peer_seed(path)) == 32


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33])
def test_a_damaged_peer_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(KeyFileError, match="is not a peer key"):
        load_peer_seed(private(tmp_path / "peer.key", text))


@pytest.mark.parametrize("text", ["00" * 32, "ff" * 32])
def test_a_number_that_is_no_account_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(KeyFileError):
        read_account_key(private(tmp_path / "raw", text))


def test_a_private_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = private(tmp_path / "secret", "x")
    path.chmod(0o640)
    with pytest.raises(PrivateFileError, match=f"mode 0640.*chmod 600 {path}"):
        read_private_file(path)


def test_a_private_file_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(_descriptor: int) -> None:
        raise OSError(5, "the machine dies here")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(PrivateFileError):
        create_private_file(tmp_path / "key", b"half")
    assert list(tmp_path.iterdir()) == []


def test_a_huge_private_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(PrivateFileError, match="bytes"):
        read_private_file(private(tmp_path / "big", "x" * 70_000))


def test_a_directory_is_no_private_file(tmp_path: Path) -> None:
    with pytest.raises(PrivateFileError):
        read_private_file(tmp_path)


def test_the_passphrase_comes_from_the_file_then_the_environment_then_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERN_TEST_PASSPHRASE", "from environment")
    file = private(tmp_path / "passphrase", "from file\nsecond line")
    assert find_passphrase(file, "QUERN_TEST_PASSPHRASE", lambda: "typed") == "from file"
    assert find_passphrase(None, "QUERN_TEST_PASSPHRASE", lambda: "typed") == "from environment"
    assert find_passphrase(None, "QUERN_TEST_NONE", lambda: "typed") == "typed"
    with pytest.raises(KeyFileError, match="passphrase_file or the environment variable QUERN_TEST_NONE"):
        find_passphrase(None, "QUERN_TEST_NONE", None)


def test_an_empty_passphrase_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="is empty"):
        find_passphrase(private(tmp_path / "passphrase", "\n"), None, None)


def test_a_data_directory_has_one_daemon(tmp_path: Path) -> None:
    with exclusive_data_directory(tmp_path), pytest.raises(DirectoryInUseError), exclusive_data_directory(tmp_path):
        pass
    with exclusive_data_directory(tmp_path):
        assert os.access(tmp_path / "daemon.lock", os.R_OK)
