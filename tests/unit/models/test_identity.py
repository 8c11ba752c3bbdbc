"""Names of models and of their files: they become paths, and must stay where they belong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.models.bandwidth import BandwidthLimit
from node.models.identity import BadNameError, check_file_path, parse_model_id
from node.models.retries import RetryPolicy, pause_before_retry
from node.models.selection import WANTED, Selection, select


@pytest.mark.parametrize("text", ["huggingface/gpt2", "huggingface/a-b/c.d_e", "custom/x", "ipfs/bafy2", "custom/a/b"])
def test_a_model_is_named_by_its_source(text: str) -> None:
    assert parse_model_id(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "gpt2", "cache/x", "custom/", "custom/..", "custom/a/../b", "custom/.x", "custom/a//b", "/custom/a",
     "custom/a ", "custom/a\n", "custom/é", "huggingface/a/b/c", "custom/" + "x" * 300, "custom/a..b"],
)  # fmt: skip
def test_what_could_lead_elsewhere_is_no_name_of_a_model(text: str) -> None:
    with pytest.raises(BadNameError):
        parse_model_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "/etc/passwd", "../x", "a/../../x", "a/./b", ".git/config", "a/.hidden", "a//b", "a/", "a\\b", "a\nb", "a\0b",
     "x" * 300, "a/" * 20 + "b", "é" * 600],
)  # fmt: skip
def test_what_could_lead_elsewhere_is_no_name_of_a_file(text: str) -> None:
    with pytest.raises(BadNameError):
        check_file_path(text)


@given(st.text(max_size=60))
def test_a_file_that_is_taken_lies_within_its_model(text: str) -> None:
    try:
        path = check_file_path(text)
    except BadNameError:
        return
    assert not path.is_absolute() and ".." not in path.parts and str(path) == text


def test_only_data_is_taken_unless_it_is_asked_for() -> None:
    names = ["config.json", "a.safetensors", "pytorch_model.bin", "sub/b.json", "modeling.py", "LICENSE.txt"]
    assert select(names, Selection(WANTED)) == ["config.json", "a.safetensors", "sub/b.json", "LICENSE.txt"]
    assert select(names, Selection(("*.bin",), ())) == ["pytorch_model.bin"]
    assert select(names, Selection((), ("*.py", "sub/*"))) == names[:3] + names[5:]
    with pytest.raises(ValueError, match="patterns"):
        Selection(("x" * 1000,))


@given(st.integers(1, 20))
def test_retries_wait_longer_each_time_and_end(tries: int) -> None:
    policy = RetryPolicy(tries_max=10, pause_seconds_min=1, pause_seconds_max=60)
    pause = pause_before_retry(policy, tries)
    assert (pause is None) == (tries >= 10)
    assert pause is None or pause == min(2 ** (tries - 1), 60)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 0.5)), min_size=1, max_size=40))
def test_bytes_never_come_faster_than_the_limit(pieces: list[tuple[int, float]]) -> None:
    now = 0.0
    limit = BandwidthLimit(1000, clock=lambda: now)
    total = 0
    for count, idle in pieces:
        now += idle
        now += limit.take(count)  # as whoever reads does: it pauses before it reads more
        total += count
        assert total <= 1000 * now + 1000 * 0.25 + 1
