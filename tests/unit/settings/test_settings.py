"""Settings: what is accepted, where paths lie, and what an operator is told when something is wrong."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.amounts import TOKENS_MAX, amount_to_tokens, tokens_to_amount
from node.settings import Role, Settings, SettingsError, load_settings
from node.settings.template import render_settings

ENGINE = '[[engines]]\nnode_id = "gpu0"\nmodel_id = "tiny"\n'


def write(directory: Path, text: str) -> Path:
    path = directory / "quern.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(directory: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(directory, text))
    return str(caught.value)


def test_an_empty_file_gives_the_defaults_with_absolute_paths(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ""))
    assert settings.node.data_dir == tmp_path
    assert settings.control.socket == tmp_path / "control.sock"
    assert settings.account.passphrase_file is None
    assert settings.has_role(Role.GATEWAY)


def test_paths_are_relative_to_the_data_directory_and_it_to_the_file(tmp_path: Path) -> None:
    text = (
        f'[node]\ndata_dir = "data"\n[account]\nkeystore = "../keys/a.json"\n'
        f'[control]\nsocket = "/run/q.sock"\n{ENGINE}python = "venv/bin/python"\n'
    )
    settings = load_settings(write(tmp_path, text))
    assert settings.node.data_dir == tmp_path / "data"
    assert settings.account.keystore == tmp_path / "keys" / "a.json"
    assert settings.control.socket == Path("/run/q.sock")
    assert settings.engines[0].python == tmp_path / "data" / "venv" / "bin" / "python"


def test_an_unknown_key_is_named_with_file_suggestion_and_allowed_keys(tmp_path: Path) -> None:
    message = refusal(tmp_path, "[chain]\nchain_ids = 1\n")
    assert f"{tmp_path}/quern.toml: [chain] chain_ids: unknown key. Did you mean `chain_id`?" in message
    assert "rpc_urls" in message


def test_an_unknown_section_is_named(tmp_path: Path) -> None:
    assert "[chian]: unknown section. Did you mean `chain`?" in refusal(tmp_path, "[chian]\nchain_id = 1\n")


def test_an_unknown_key_of_an_engine_names_which_one(tmp_path: Path) -> None:
    message = refusal(tmp_path, ENGINE + 'modelid = "x"\n')
    assert "[engines], item 1, modelid: unknown key. Did you mean `model_id`?" in message


def test_every_fault_is_told_at_once_one_line_each(tmp_path: Path) -> None:
    message = refusal(tmp_path, '[chain]\nchain_id = "one"\npoll_seconds = 0\n[api]\nport = 70000\n')
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[chain\n", "not valid TOML"),
        ('[chain]\nrpc_urls = ["ftp://x"]\n', "[chain] rpc_urls, item 1: expected a URL"),
        ("[chain]\nrpc_urls = []\n", "[chain] rpc_urls"),
        ('[p2p]\nlisten = ["127.0.0.1:1"]\n', "expected a multiaddress"),
        ('[content]\nannounce_host = "bücher.example"\n', "expected an IP address or a host's name in ASCII"),
        ('[payments]\nbudget = "lots"\n', "is not a number of tokens"),
        ('[node]\nroles = ["minor"]\n', "'miner'"),
        (ENGINE + ENGINE, "node_id gpu0 is used twice"),
        ('[[engines]]\nnode_id = "gpu0"\n', "model_id: missing"),
        ('[control]\nsocket = "/' + "x" * 120 + '"\n', "is longer than 107 bytes"),
    ],
)
def test_a_bad_value_is_explained(tmp_path: Path, text: str, part: str) -> None:
    message = refusal(tmp_path, text)
    assert part in message
    assert "Traceback" not in message


def test_a_missing_file_tells_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="quern init"):
        load_settings(tmp_path / "quern.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "quern.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="can't be read"):
        load_settings(path)


def test_the_environment_overrides_single_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERN_CHAIN__CHAIN_ID", "7")
    monkeypatch.setenv("QUERN_CHAIN__RPC_URLS", '["http://a:1", "http://b:2"]')
    settings = load_settings(write(tmp_path, "[chain]\nchain_id = 1\nconfirmations = 5\n"))
    assert settings.chain.chain_id == 7
    assert settings.chain.confirmations == 5
    assert settings.chain.rpc_urls == ["http://a:1", "http://b:2"]


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("QUERN_CHIAN__CHAIN_ID", "7", "unknown section 'chian'. Did you mean `chain`?"),
        ("QUERN_CHAIN__CHAIN_IDS", "7", "QUERN_CHAIN__CHAIN_IDS: [chain] chain_ids: unknown key"),
        ("QUERN_CHAIN__CHAIN_ID", "x", "environment variable QUERN_CHAIN__CHAIN_ID: [chain] chain_id"),
        ("QUERN_CHAIN__RPC_URLS", "http://a", "lists are given as JSON"),
    ],
)
def test_a_wrong_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, part: str
) -> None:
    monkeypatch.setenv(name, value)
    assert part in refusal(tmp_path, "")


def test_errors_never_repeat_values_that_may_be_secret(tmp_path: Path) -> None:
    assert "hunter2" not in refusal(tmp_path, '[account]\npassphrase = "hunter2"\n')


def test_the_written_file_is_valid_and_equals_the_defaults(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, render_settings())) == load_settings(write(tmp_path, ""))


def test_the_written_file_with_every_comment_taken_away_still_parses() -> None:
    """What an operator gets who takes away the `#` before keys: valid keys with the defaults."""
    lines = [
        line.removeprefix("# ") if " = " in line and line.startswith("# ") and line.split()[1].isidentifier() else line
        for line in render_settings().splitlines()
    ]
    document = tomllib.loads("\n".join(line for line in lines if not line.startswith("#")))
    for section, keys in document.items():
        assert section in Settings.model_fields
        assert keys


def test_every_key_is_described() -> None:
    text = render_settings()
    for name in Settings.model_fields:
        assert f"[{name}]" in text
    assert text.count("\n\n# ") >= 30


def test_chosen_values_stand_in_the_written_file(tmp_path: Path) -> None:
    chosen = {"chain": {"chain_id": 9}, "engines": {"node_id": "gpu0", "model_id": "tiny"}}
    settings = load_settings(write(tmp_path, render_settings(chosen)))
    assert settings.chain.chain_id == 9
    assert settings.engines[0].model_id == "tiny"


@given(st.integers(min_value=0, max_value=TOKENS_MAX * 10**18))
def test_amounts_survive_being_written_as_tokens(amount: int) -> None:
    assert tokens_to_amount(amount_to_tokens(amount)) == amount


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e30", "1e-19", "0.0000000000000000001", "1 2", "ten"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="token"):
        tokens_to_amount(text)


def test_models_are_set_by_the_names_other_programs_know_and_our_own_name_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "MODEL_STORAGE_DIR": "/opt/models",
        "MODEL_REGISTRY_FILE": "/opt/models/registry.json",
        "MAX_CONCURRENT_DOWNLOADS": "5",
        "DOWNLOAD_TIMEOUT": "60",
        "VERIFY_CHECKSUMS": "false",
        "MODEL_API_HOST": "0.0.0.0",
        "MODEL_API_PORT": "9000",
        "HF_HUB_CACHE": "/opt/cache",
        "HF_ENDPOINT": "http://mirror:1",
        "QUERN_MODELS__DOWNLOAD_TIMEOUT_SECONDS": "70",
    }.items():
        monkeypatch.setenv(name, value)
    models = load_settings(write(tmp_path, "[models]\nmax_concurrent_downloads = 2\nbytes_max = 9\n")).models
    assert (models.storage_dir, models.registry_file) == (Path("/opt/models"), Path("/opt/models/registry.json"))
    assert (models.max_concurrent_downloads, models.download_timeout_seconds) == (5, 70)
    assert (models.verify_checksums, models.api_host, models.api_port) == (False, "0.0.0.0", 9000)
    assert (models.hub_cache_dir, models.hub_url, models.bytes_max) == (Path("/opt/cache"), "http://mirror:1", 9)


def test_a_wrong_value_in_such_a_variable_is_blamed_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_API_PORT", "many")
    with pytest.raises(SettingsError, match="environment variable MODEL_API_PORT"):
        load_settings(write(tmp_path, ""))
