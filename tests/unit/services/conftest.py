"""What tests of several services begin with."""

import pytest

from tests.unit.services.audit_bench import Auditor


@pytest.fixture
def auditor(monkeypatch: pytest.MonkeyPatch) -> Auditor:
    return Auditor(monkeypatch)
