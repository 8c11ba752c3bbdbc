"""The scripts tell what is missing before they begin, and publishing refuses what is no model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
QUERN = Path(sys.executable).with_name("quern")


def stub(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


def setup_with(path: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(root / "scripts" / "setup"), "--without-engine"],
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_old_node_is_named(tmp_path: Path) -> None:
    stub(tmp_path / "bin", "node", 'case "$1" in -p) echo 18;; *) echo v18.0.0;; esac')
    result = setup_with(tmp_path / "bin")
    assert result.returncode == 1
    assert "Node 20 or newer is needed, this is v18" in result.stderr


def test_an_old_python_is_named(tmp_path: Path) -> None:
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        stub(tmp_path / "bin", name, "exit 1")
    result = setup_with(tmp_path / "bin")
    assert result.returncode == 1
    assert "Python 3.11 or newer" in result.stderr


def test_a_full_disk_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copy(ROOT / "pyproject.toml", root)
    stub(tmp_path / "bin", "df", "echo header; echo /dev/x 10 10 1000 99% /")
    result = setup_with(tmp_path / "bin", root)
    assert result.returncode == 1
    assert "GiB of free disk" in result.stderr
    assert not (root / ".venv").exists()


def test_a_second_setup_does_nothing_and_needs_no_network() -> None:
    result = subprocess.run(
        [str(ROOT / "scripts" / "setup")],
        env={**os.environ, "PIP_NO_INDEX": "1", "npm_config_offline": "true", "HTTPS_PROXY": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Setting up" not in result.stdout


@pytest.mark.parametrize("script", ["setup", "test", "quickstart"])
def test_every_script_has_help(script: str) -> None:
    result = subprocess.run(
        [str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: scripts/")


def test_publishing_refuses_pickled_weights_and_says_so(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04")
    subprocess.run(
        [str(QUERN), "init", "--data-dir", str(tmp_path / "node"), "--passphrase-file", str(tmp_path / "passphrase")],
        check=True,
        capture_output=True,
    )
    result = subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "owner_upload.py"), "--directory", str(model), "--model-id", "bad",
            "--name", "Bad", "--config", str(tmp_path / "node" / "quern.toml"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "pytorch_model.bin: pickled weights" in result.stderr
    assert "Traceback" not in result.stderr
