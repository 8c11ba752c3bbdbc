"""The doctor's checks of files and disk."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from node.doctor.files import (
    check_data_directory,
    check_disk,
    check_keystore,
    check_passphrase_file,
    check_peer_key,
    check_settings,
)
from node.doctor.findings import Severity
from node.keys import create_passphrase_file, create_peer_key

Usage = namedtuple("Usage", "total used free")


def test_settings_that_are_valid_are_ok(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    path.write_text('[node]\nroles = ["gateway"]\n')
    finding, settings = check_settings(path)
    assert finding.severity is Severity.OK
    assert settings is not None


def test_a_miner_without_ml_nodes_is_warned(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    path.write_text("")
    assert check_settings(path)[0].severity is Severity.WARNING


def test_wrong_settings_are_a_fault_that_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    path.write_text("[chain]\nchain_ids = 1\n")
    finding, settings = check_settings(path)
    assert finding.severity is Severity.FAULT
    assert "chain_ids" in finding.message
    assert settings is None


def test_a_directory_that_others_may_write_is_warned(tmp_path: Path) -> None:
    assert check_data_directory(tmp_path).severity is Severity.OK
    tmp_path.chmod(0o777)
    assert check_data_directory(tmp_path).severity is Severity.WARNING
    assert check_data_directory(tmp_path / "none").severity is Severity.FAULT


@pytest.mark.parametrize(
    ("free", "severity"),
    [(2**40, Severity.OK), (5 * 2**30, Severity.WARNING), (2**29, Severity.FAULT)],
)
def test_a_full_disk_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, severity: Severity
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**41, 0, free))
    assert check_disk(tmp_path / "not" / "yet", models_bytes_max=0).severity is severity


@pytest.mark.parametrize(
    ("models_bytes_max", "severity"),
    [(2 * 2**30, Severity.OK), (5 * 2**30, Severity.OK), (6 * 2**30, Severity.WARNING), (2**45, Severity.WARNING)],
)
def test_models_that_may_take_little_need_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_bytes_max: int, severity: Severity
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**41, 0, 5 * 2**30))
    assert check_disk(tmp_path, models_bytes_max=models_bytes_max).severity is severity


def test_keys_that_others_may_read_are_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "peer.key"
    create_peer_key(path)
    assert check_peer_key(path).severity is Severity.OK
    path.chmod(0o644)
    assert check_peer_key(path).severity is Severity.FAULT


def test_missing_keys_are_faults(tmp_path: Path) -> None:
    assert check_keystore(tmp_path / "none").severity is Severity.FAULT
    assert check_passphrase_file(tmp_path / "none").severity is Severity.FAULT


def test_a_directory_that_all_users_share_is_not_to_be_closed(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    create_passphrase_file(shared / "passphrase")
    shared.chmod(0o777)
    assert "chmod go-w" in check_passphrase_file(shared / "passphrase").remedy
    shared.chmod(0o1777)
    found = check_passphrase_file(shared / "passphrase")
    assert found.severity is Severity.WARNING
    assert "chmod" not in found.remedy
