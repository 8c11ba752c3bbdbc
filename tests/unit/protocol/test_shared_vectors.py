"""The vectors that contracts/test/Vectors.t.sol checks are what the Python rules compute today."""

from tests.vectors.shared import FILE, render


def test_the_rules_still_give_the_shared_vectors() -> None:
    assert FILE.read_text(encoding="utf-8") == render()
