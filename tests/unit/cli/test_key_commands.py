"""`quern keys`: keys are made, listed and revoked in the file; what they spent is the daemon's to tell."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.api.keys import KeyBook, KeyLimits, add_api_key, find_api_key, read_api_keys, revoke_api_key
from node.cli.main import quern
from node.operations.keys import DaemonKeyOperations
from node.settings.template import render_settings
from node.store.database import Database
from node.store.key_spending import KeySpending, Spending, day_of

NOW = 1_800_000_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "quern.toml").write_text(render_settings())
    return tmp_path


def run(directory: Path, *words: str) -> Result:
    return CliRunner().invoke(quern, ["keys", *words, "--data-dir", str(directory)])


def test_a_key_is_printed_once_and_its_limits_are_kept(directory: Path) -> None:
    limits = ["--day-budget", "2.5", "--requests-per-minute", "60", "--model", "tiny", "--days", "30"]
    made = run(directory, "add", "alice", *limits)
    assert made.exit_code == 0, made.output
    keys = read_api_keys(directory / "api.keys") or ()
    found = find_api_key(keys, made.output.strip())
    assert found is not None
    assert (found.name, found.day_amount_max, found.requests_per_minute) == ("alice", str(25 * 10**17), 60)
    assert found.models == ("tiny",)
    assert found.expires_at == found.created_at + 30 * 86_400
    listed = run(directory, "list")
    assert "alice" in listed.output
    assert "2.5" in listed.output
    assert made.output.strip() not in listed.output


def test_mistakes_are_told(directory: Path) -> None:
    assert run(directory, "add", "alice", "--budget", "many").exit_code == 1
    assert run(directory, "add", "alice", "--requests-per-minute", "0").exit_code == 2
    run(directory, "add", "alice")
    again = run(directory, "add", "alice")
    assert again.exit_code == 1
    assert "already" in again.output
    assert "no key named bob" in run(directory, "revoke", "bob").output


def test_after_the_last_key_is_revoked_nobody_may_ask(directory: Path) -> None:
    assert "whoever reaches the API may ask" in run(directory, "list").output
    run(directory, "add", "alice")
    assert run(directory, "revoke", "alice").exit_code == 0
    assert "nobody may ask" in run(directory, "list").output
    assert read_api_keys(directory / "api.keys") == ()


async def test_usage_tells_what_each_key_spent_revoked_ones_too(tmp_path: Path) -> None:
    file = tmp_path / "api.keys"
    add_api_key(file, "alice", KeyLimits(total_amount_max=100), at=NOW)
    add_api_key(file, "bob", KeyLimits(expires_at=NOW), at=NOW)
    alice, bob = read_api_keys(file) or ()
    spending = KeySpending(Database(":memory:"))
    spending.settle(None, alice.key_id, day_of(NOW), Spending(1, 10, 20, 30))
    spending.settle(None, bob.key_id, day_of(NOW) - 1, Spending(2, 1, 1, 10**20))
    spending.reserve(alice.key_id, day_of(NOW), 7)
    operations = DaemonKeyOperations(KeyBook(file), spending, lambda: NOW)

    first, second = (await operations.usage()).keys
    assert (first.name, first.today.amount, first.total.amount, first.reserved) == ("alice", "30", "30", "7")
    assert (second.is_expired, second.today.amount, second.total.amount) == (True, "0", str(10**20))

    revoke_api_key(file, "bob")
    view = await operations.usage()
    assert [key.name for key in view.keys] == ["alice", ""]
    assert json.loads(view.model_dump_json())["has_file"] is True


def test_programs_get_json_of_every_command(directory: Path) -> None:
    empty = json.loads(run(directory, "list", "--json").output)
    assert empty == {"keys": [], "has_file": False}
    made = json.loads(run(directory, "add", "alice", "--day-budget", "2.5", "--json").output)
    assert made["is_first"] is True
    assert json.loads(run(directory, "add", "bob", "--json").output)["is_first"] is False
    text = run(directory, "list", "--json").output
    alice, bob = json.loads(text)["keys"]
    assert (alice["name"], alice["day_amount_max"], bob["models"]) == ("alice", str(25 * 10**17), [])
    found = find_api_key(read_api_keys(directory / "api.keys") or (), made["key"])
    assert found is not None
    assert made["key"] not in text
    assert json.loads(run(directory, "revoke", "bob", "--json").output) == {"name": "bob", "revoked": True}
