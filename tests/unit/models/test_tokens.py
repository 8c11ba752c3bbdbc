"""Tokens: private files, digests only, roles, and nothing of them where others look."""

import stat
from pathlib import Path

import pytest

from node.models.audit import AuditLog
from node.models.tokens import (
    ApiRole,
    add_api_token,
    find_api_token,
    read_api_tokens,
    read_hub_token,
    remove_api_token,
    write_hub_token,
)
from node.private_files import PrivateFileError
from node.store.database import Database
from node.store.model_tables import AUDIT_PRUNE_EVERY, ModelTables


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_hub_token_is_a_private_file_and_the_environment_wins(tmp_path: Path) -> None:
    file = tmp_path / "hub.token"
    assert read_hub_token(file, {}) is None
    write_hub_token(file, "hf_one")
    write_hub_token(file, "hf_two")
    assert (read_hub_token(file, {}), mode(file)) == ("hf_two", 0o600)
    assert read_hub_token(file, {"HF_TOKEN": "hf_three"}) == "hf_three"
    assert list(tmp_path.iterdir()) == [file]


def test_a_token_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "hub.token"
    file.write_text("hf_one")
    file.chmod(0o644)
    with pytest.raises(PrivateFileError, match="chmod 600"):
        read_hub_token(file, {})


def test_what_is_no_token_is_named_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(PrivateFileError) as caught:
        read_hub_token(tmp_path / "x", {"HF_TOKEN": "hf_secret with blanks"})
    assert "hf_secret" not in str(caught.value)


def test_api_tokens_are_stored_as_digests_and_open_until_they_are_removed(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    reader, admin = add_api_token(file, "reader", ApiRole.READ_ONLY), add_api_token(file, "root", ApiRole.ADMIN)
    assert mode(file) == 0o600
    assert reader not in file.read_text() and admin not in file.read_text()
    tokens = read_api_tokens(file)
    found = find_api_token(tokens, admin)
    assert found is not None and (found.name, found.role) == ("root", ApiRole.ADMIN)
    assert find_api_token(tokens, admin + "x") is None and find_api_token(tokens, "") is None
    with pytest.raises(ValueError, match="already"):
        add_api_token(file, "root", ApiRole.ADMIN)
    assert remove_api_token(file, "root") and not remove_api_token(file, "root")
    assert find_api_token(read_api_tokens(file), admin) is None
    assert find_api_token(read_api_tokens(file), reader) is not None


def test_each_role_may_what_the_ones_before_it_may() -> None:
    assert [[role.value for role in ApiRole if role.may(needed)] for needed in ApiRole] == [
        ["read-only", "operator", "admin"],
        ["operator", "admin"],
        ["admin"],
    ]


def test_the_audit_log_is_append_only_and_bounded() -> None:
    database = Database(":memory:")
    tables = ModelTables(database)
    log = AuditLog(tables, lambda: 7)
    log.note("operator", "download", "custom/a", "from https://user:hunter2@host/x")
    [entry] = log.newest(limit=5)
    assert (entry.actor, entry.action, entry.model_id, entry.at) == ("operator", "download", "custom/a", 7)
    assert "hunter2" not in entry.detail
    for statement in ("UPDATE model_audit SET actor = 'nobody'", "DELETE FROM model_audit"):
        with pytest.raises(Exception, match="append-only"):
            database.connection.execute(statement)
    # Rows that are old enough may go, and do: as if there had been more than the limit.
    database.connection.execute(
        "INSERT INTO model_audit SELECT ?, at, actor, action, model_id, detail FROM model_audit",
        (391 * AUDIT_PRUNE_EVERY - 1,),
    )
    log.note("operator", "pin", "custom/a")
    log.note("operator", "unpin", "custom/a")
    assert [row.action for row in log.newest(limit=5)] == ["unpin", "pin", "download"]
