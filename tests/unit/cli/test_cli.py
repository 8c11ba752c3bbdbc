"""The `quern` command: exit codes, messages, and answers as text and as JSON."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import COMMANDS, quern
from node.control.methods import method_table
from node.keys import keystore_account, unlock_keystore
from tests.unit.control.canned import CannedOperations
from tests.unit.control.serving import serving


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(quern, list(arguments), input=stdin)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A control server in a thread of its own; gives its socket."""
    path = tmp_path_factory.mktemp("d") / "control.sock"
    with serving(path, method_table(CannedOperations())):
        yield path


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("status", "12D3KooWself"),
        ("peers", "12D3KooWother"),
        ("models", "0.000000000000001"),
        ("epoch", "commit the batch"),
        ("earnings", "not yet redeemed"),
        ("earnings", "it waits for the epoch's end"),
    ],
)
def test_each_view_is_shown_as_text_and_as_json(daemon: Path, command: str, part: str) -> None:
    text = run(command, "--socket", str(daemon))
    assert (text.exit_code, text.exception) == (0, None)
    assert part in text.stdout
    as_json = run(command, "--socket", str(daemon), "--json")
    assert as_json.exit_code == 0
    assert isinstance(json.loads(as_json.stdout), dict)


def test_ask_prints_the_answer_and_nothing_else_to_standard_output(daemon: Path) -> None:
    result = run("ask", "to be or", "--socket", str(daemon))
    assert result.exit_code == 0
    assert result.stdout == "to be or \n"
    assert "0.5 tokens of Quern paid to" in result.stderr


def test_ask_reads_its_question_from_standard_input(daemon: Path) -> None:
    assert run("ask", "-", "--socket", str(daemon), stdin="from a file").stdout == "from a file \n"


def test_ask_as_json_is_one_document(daemon: Path) -> None:
    result = run("ask", "hello", "--socket", str(daemon), "--json")
    assert json.loads(result.stdout)["output_tokens"] == 1


def test_an_empty_question_is_refused(daemon: Path) -> None:
    assert run("ask", " ", "--socket", str(daemon)).exit_code == 1


def test_the_daemons_error_is_shown_with_its_remedy_and_exit_code_1(daemon: Path) -> None:
    result = run("ask", "x", "--model", "unknown", "--socket", str(daemon))
    assert result.exit_code == 1
    assert "error: no model unknown" in result.stderr
    assert "quern models" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "command", [["status"], ["peers"], ["models"], ["epoch"], ["earnings"], ["stop"], ["ask", "x"]]
)
def test_without_a_daemon_each_command_fails_and_tells_what_to_do(tmp_path: Path, command: list[str]) -> None:
    result = run(*command, "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "no daemon answers" in result.stderr
    assert f"quern init --data-dir {tmp_path}" in result.stderr


def test_without_a_daemon_but_with_settings_it_is_told_how_to_start(tmp_path: Path) -> None:
    (tmp_path / "quern.toml").write_text('[control]\nsocket = "elsewhere.sock"\n')
    result = run("status", "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert str(tmp_path / "elsewhere.sock") in result.stderr
    assert f"quernd --config {tmp_path}/quern.toml" in result.stderr


def test_wrong_settings_are_told_by_a_client_too(tmp_path: Path) -> None:
    (tmp_path / "quern.toml").write_text("[control]\nsockett = 'x'\n")
    result = run("status", "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "Did you mean `socket`?" in result.stderr


@pytest.mark.parametrize("arguments", [["nonsense"], ["ask"], ["ask", "x", "--max-tokens", "0"], ["status", "--nope"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_every_command_explains_itself_with_an_example() -> None:
    for name in ("version", *COMMANDS):
        result = run(name, "--help")
        assert result.exit_code == 0
        assert name == "version" or f"quern {name}" in result.stdout


def test_no_summary_is_cut_off() -> None:
    assert "..." not in run("--help").stdout.partition("Commands:")[2]


def test_version_as_json() -> None:
    assert "version" in json.loads(run("version", "--json").stdout)


def test_init_makes_a_private_working_data_directory(tmp_path: Path) -> None:
    passphrase_file = tmp_path / "passphrase"
    data_dir = tmp_path / "data"
    result = run(
        "init", "--data-dir", str(data_dir), "--passphrase-file", str(passphrase_file), "--model", "tiny",
        "--chain-id", "7", "--role", "miner", "--json",
    )  # fmt: skip
    assert (result.exit_code, result.exception) == (0, None)
    made = json.loads(result.stdout)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    for path in [*data_dir.iterdir(), passphrase_file]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = unlock_keystore(data_dir / "account.json", passphrase_file.read_text().strip())
    assert key is not None
    assert keystore_account(data_dir / "account.json") == made["account"]
    assert set(made["files"].values()) == {"created"}


def test_init_again_changes_nothing(tmp_path: Path) -> None:
    arguments = ["init", "--data-dir", str(tmp_path / "d"), "--passphrase-file", str(tmp_path / "p")]
    assert run(*arguments).exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    again = run(*arguments, "--chain-id", "9")
    assert again.exit_code == 0
    assert {path: path.read_bytes() for path in (tmp_path / "d").iterdir()} == before
    assert again.stdout.count("kept") == 3
    assert "created" not in again.stdout
    assert "the settings you gave have no effect" in " ".join(again.stderr.split())
    assert "no effect" not in run(*arguments).stderr


def test_init_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    arguments = ["init", "--data-dir", str(tmp_path / "d"), "--passphrase-file", str(tmp_path / "p"), "--json"]
    account = json.loads(run(*arguments).stdout)["account"]
    (tmp_path / "d" / "peer.key").unlink()
    result = json.loads(run(*arguments).stdout)
    assert result["account"] == account
    assert result["files"][str(tmp_path / "d" / "peer.key")] == "created"


def test_init_asks_for_a_passphrase_twice(tmp_path: Path) -> None:
    result = run("init", "--data-dir", str(tmp_path / "d"), stdin="long enough\nlong enough\n")
    assert result.exit_code == 0
    assert unlock_keystore(tmp_path / "d" / "account.json", "long enough") is not None


def test_init_imports_an_account(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_text("0x" + "11" * 32)
    raw.chmod(0o600)
    result = run(
        "init",
        "--data-dir",
        str(tmp_path / "d"),
        "--passphrase-file",
        str(tmp_path / "p"),
        "--import-account",
        str(raw),
    )
    assert "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A" in result.stdout


@pytest.mark.parametrize(
    ("stdin", "part"), [("short\nshort\n", "8 characters"), ("one passphrase\nanother one\n", "do not match")]
)
def test_init_with_a_bad_passphrase_makes_no_keystore(tmp_path: Path, stdin: str, part: str) -> None:
    result = run("init", "--data-dir", str(tmp_path / "d"), stdin=stdin)
    assert result.exit_code == 1
    assert part in result.output
    assert not (tmp_path / "d" / "account.json").exists()


def test_init_without_a_passphrase_leaves_no_settings_that_would_be_kept(tmp_path: Path) -> None:
    refused = run("init", "--data-dir", str(tmp_path / "d"), stdin="")
    assert refused.exit_code == 1
    assert "--passphrase-file" in refused.stderr
    again = run("init", "--data-dir", str(tmp_path / "d"), "--passphrase-file", str(tmp_path / "p"))
    assert again.exit_code == 0
    assert f"created  {tmp_path / 'd' / 'quern.toml'}" in again.stdout
    assert str(tmp_path / "p") in (tmp_path / "d" / "quern.toml").read_text()


@pytest.mark.parametrize(
    ("typed", "meant"), [("epoc", "epoch"), ("why-not-payed", "why-not-paid"), ("statsu", "status")]
)
def test_a_mistyped_command_names_the_nearest(typed: str, meant: str) -> None:
    result = run(typed)
    assert result.exit_code == 2
    assert f"Did you mean {meant}" in result.stderr
    assert "Did you mean" not in run("xyzzyxyzzy").stderr


def test_init_refuses_what_the_settings_refuse(tmp_path: Path) -> None:
    result = run(
        "init", "--data-dir", str(tmp_path / "d"), "--rpc-url", "ftp://x", "--passphrase-file", str(tmp_path / "p")
    )
    assert result.exit_code == 1
    assert "expected a URL" in result.stderr
    assert not (tmp_path / "d" / "quern.toml").exists()


def test_doctor_without_chain_and_daemon_names_both_and_fails(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    run(
        "init", "--data-dir", str(data_dir), "--passphrase-file", str(tmp_path / "p"), "--rpc-url", "http://127.0.0.1:1"
    )
    result = run("doctor", "--data-dir", str(data_dir), "--json")
    assert result.exit_code == 1
    findings = {finding["check"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert findings["settings"]["severity"] == "warning"  # a miner without ML nodes
    assert findings["account key"]["severity"] == "ok"
    assert findings["chain reachable"]["severity"] == "fault"
    assert findings["daemon"]["severity"] == "fault"
    assert findings["engines"]["severity"] == "skipped"
    text = run("doctor", "--data-dir", str(data_dir))
    assert "Start the chain node" in text.stdout
    assert text.exit_code == 1


def test_doctor_without_settings_fails_without_a_traceback(tmp_path: Path) -> None:
    result = run("doctor", "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "quern init" in result.stdout
