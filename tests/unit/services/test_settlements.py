"""Settlements are sent once and named once when refused; being overtaken by another member is no refusal."""

from typing import Any

import pytest
import structlog.testing

from node.ports import ActionOutcome, ActionStatus
from node.protocol.actions import SettlePrompt
from node.services.settlements import Settlements


class RefusingChain:
    """Refuses everything for one reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.submitted: list[str] = []

    async def submit(self, key: str, _action: object) -> None:
        self.submitted.append(key)

    async def outcome(self, _key: str) -> ActionOutcome:
        return ActionOutcome(ActionStatus.FAILED, None, 0, self.reason)


@pytest.mark.parametrize(
    ("reason", "level"),
    [
        ("AlreadyPunished: epoch 0, participant 0x01", "info"),
        ("AlreadyPosted: epoch 0, digest 0x01", "info"),
        ("VerdictTooOld: epoch 0", "error"),
    ],
)
async def test_only_a_real_refusal_is_an_error_and_neither_is_sent_again(reason: str, level: str) -> None:
    refusing = RefusingChain(reason)
    chain: Any = refusing
    settlements = Settlements(chain)
    with structlog.testing.capture_logs() as logs:
        assert not await settlements.settle("key", SettlePrompt(1))
        assert not await settlements.settle("key", SettlePrompt(1))
    assert [entry["log_level"] for entry in logs] == [level]
    assert refusing.submitted == ["key"]
