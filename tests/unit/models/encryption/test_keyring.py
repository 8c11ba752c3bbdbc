"""Key files: private, true to their names, and read strictly; their errors never show a key."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.models.encryption.keyring import (
    HeldKey,
    KeyRing,
    KeyRingError,
    WrappedKey,
    parse_key,
    render_key,
    render_wrapped,
)
from node.models.encryption.keys import ContentKey, create_content_key
from node.protocol.identifiers import ModelId

MODEL = ModelId("team/secret")
KEY = ContentKey(bytes(range(32)))


def test_a_key_that_was_added_is_found_again_and_adding_it_twice_changes_nothing(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    assert list(ring.held()) == []
    ring.add(MODEL, KEY)
    before = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    ring.add(MODEL, KEY)
    assert {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    assert ring.find(KEY.key_id) == HeldKey(MODEL, KEY)
    assert ring.find(create_content_key().key_id) is None


def test_one_key_for_two_models_is_refused(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.add(MODEL, KEY)
    with pytest.raises(KeyRingError, match="never shared"):
        ring.add(ModelId("other"), KEY)


def test_a_key_file_that_others_can_read_or_that_was_renamed_is_refused(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.add(MODEL, KEY)
    (path,) = tmp_path.iterdir()
    path.chmod(0o644)
    with pytest.raises(KeyRingError, match="chmod 600"):
        ring.find(KEY.key_id)
    path.chmod(0o600)
    other = create_content_key().key_id
    path.rename(tmp_path / f"{other.hex()}.json")
    with pytest.raises(KeyRingError, match="another key than its name says"):
        ring.find(other)


def test_both_kinds_of_file_are_read_back() -> None:
    assert parse_key(render_key(HeldKey(MODEL, KEY)), "x") == HeldKey(MODEL, KEY)
    wrapped = WrappedKey(MODEL, KEY.key_id, b"wrapped")
    assert parse_key(render_wrapped(wrapped), "x") == wrapped
    assert KEY.secret.hex().encode() not in render_wrapped(wrapped)


@given(position=st.integers(0, 400), byte=st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_key_file_is_an_error_that_does_not_show_the_key(position: int, byte: int) -> None:
    data = bytearray(render_key(HeldKey(MODEL, KEY)))
    position %= len(data)
    data[position] = byte
    try:
        held = parse_key(bytes(data), "name.json")
    except KeyRingError as error:
        assert "name.json" in str(error)
        assert KEY.secret.hex()[:16] not in str(error)
    else:
        assert isinstance(held, HeldKey)
        assert held.key == KEY
