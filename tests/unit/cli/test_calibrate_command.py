"""`quern calibrate` says what it lacks before it asks an engine for minutes of work."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.calibration.reference import Reference, reference_to_json
from node.cli.calibrate import UNITS
from node.cli.main import quern
from node.protocol.calibration import Calibration, HonestBand, default_band
from node.protocol.identifiers import ModelId
from node.protocol.json_records import to_json_value
from node.protocol.nonces import VECTOR_BYTES
from tests.builders import model


def run(*words: str) -> Result:
    return CliRunner().invoke(quern, ["calibrate", "table", *words])


def reference(path: Path, model: str = "table", version: int = 1) -> str:
    made = Reference(ModelId(model), version, "vllm", "0.32.0", "nvidia l4", 64, (bytes(VECTOR_BYTES),), ())
    path.write_text(reference_to_json(made))
    return str(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name one of --reference"),
        (("--reference", "a", "--record", "b"), "--record goes with --against"),
        (("--reference", "a", "--for-the-rest"), "--for-the-rest goes with --record"),
        (("--reference", "a", "--node", "n", "--url", "http://x"), "not both"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--url", "http://127.0.0.1:1"), "nobody knows what the server computes with"),
        (("--url", "http://127.0.0.1:1", "--hardware", "1x L4"), "size of its vocabulary"),
        (("--url", "http://127.0.0.1:1", "--hardware", "1x L4", "--vocabulary", "64"), "cannot be reached"),
        (("--url", "nowhere", "--hardware", "1x L4"), "expected http://host:port"),
    ],
)
def test_a_server_that_cannot_be_measured_is_said_and_nothing_is_written(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "reference.json"
    result = run("--reference", str(file), *words)
    assert result.exit_code == 1
    assert said in result.output
    assert not file.exists()


@pytest.mark.parametrize(("model", "version", "said"), [("other", 1, "not of table"), ("table", 2, "is of version 2")])
def test_a_reference_of_another_model_or_version_is_not_compared(
    tmp_path: Path, model: str, version: int, said: str
) -> None:
    file = reference(tmp_path / "reference.json", model, version)
    result = run("--against", file, "--url", "http://127.0.0.1:1", "--hardware", "1x L4")
    assert result.exit_code == 1
    assert said in result.output


def test_a_file_that_is_no_record_is_left_as_it_is(tmp_path: Path) -> None:
    file, record = reference(tmp_path / "reference.json"), tmp_path / "record.json"
    record.write_text(json.dumps({"bands": []}))
    result = run("--against", file, "--record", str(record), "--url", "http://127.0.0.1:1", "--hardware", "1x L4")
    assert result.exit_code == 1
    assert "is no calibration record" in result.output
    assert record.read_text() == '{"bands": []}'


def test_a_daemon_that_does_not_run_is_said_with_how_to_start_it(tmp_path: Path) -> None:
    result = run("--reference", str(tmp_path / "r.json"), "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "no daemon answers" in result.output


def test_a_reference_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    file = reference(tmp_path / "reference.json")
    before = Path(file).read_text()
    result = run("--reference", file, "--url", "http://127.0.0.1:1", "--hardware", "1x L4", "--vocabulary", "64")
    assert result.exit_code == 1
    assert "is there already" in result.output
    assert f"--against {file}" in result.output
    assert Path(file).read_text() == before


@pytest.mark.parametrize("option", ["--reference", "--record"])
@pytest.mark.parametrize(("place", "said"), [("", "is a directory"), ("nowhere/r.json", "there is no directory")])
def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, option: str, place: str, said: str
) -> None:
    against = ("--against", reference(tmp_path / "there.json")) if option == "--record" else ()
    result = run(*against, option, str(tmp_path / place), "--url", "http://127.0.0.1:1", "--hardware", "1x L4")
    assert result.exit_code in (1, 2)  # click itself refuses a directory
    assert said in result.output


def test_a_record_of_another_version_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text(json.dumps(to_json_value(Calibration(ModelId("table"), 7, (default_band(model()),)))))
    file = reference(tmp_path / "reference.json")
    result = run("--against", file, "--record", str(record), "--url", "http://127.0.0.1:1", "--hardware", "1x L4")
    assert result.exit_code == 1
    assert "is the record of table version 7" in " ".join(result.output.split())


def test_every_figure_of_a_band_says_its_unit_or_is_none() -> None:
    plain = {"engine", "hardware", "knows_winners"}
    assert plain | UNITS.keys() >= {entry.name for entry in fields(HonestBand)}
