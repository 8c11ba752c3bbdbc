"""Settlements are sent once and named once when refused; being overtaken by another member is no refusal."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing
import trio

from node.ports import ActionOutcome, ActionStatus, Head
from node.protocol.actions import SettlePrompt
from node.protocol.identifiers import BlockNumber, EpochNumber, TokenAmount
from node.protocol.records import RewardShare
from node.protocol.schedules import ParameterSchedule
from node.services.settlements import Settlements
from node.services.settling import SettlingService
from tests.builders import PARAMETERS, account


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


class StuckChain:
    """One whose transactions for prompts never get into a block."""

    account = account(1)
    schedule = ParameterSchedule(PARAMETERS)
    head = Head(BlockNumber(PARAMETERS.epoch_blocks + 1), BlockNumber(PARAMETERS.epoch_blocks))

    def __init__(self) -> None:
        earned = SimpleNamespace(user=account(2))
        prompt = SimpleNamespace(submitted=earned, answered=SimpleNamespace(executor=self.account), settles_after=1)
        self.state = SimpleNamespace(
            unfinished_prompts={1, 2}, prompts={1: prompt, 2: prompt}, results={EpochNumber(0): None}, claimed={}
        )
        self.submitted: list[str] = []

    async def heads(self) -> AsyncIterator[Head]:
        while True:
            yield self.head
            await trio.sleep(1)

    async def submit(self, key: str, _action: object) -> None:
        self.submitted.append(key)

    async def outcome(self, key: str) -> ActionOutcome:
        if key.startswith("settle/"):
            await trio.sleep_forever()
        self.state.claimed[self.account] = TokenAmount(5)
        return ActionOutcome(ActionStatus.DONE, None, 0, "")


async def test_a_prompt_whose_settlement_is_stuck_holds_up_no_other_and_no_claim(autojump_clock: object) -> None:
    stuck = StuckChain()
    result = SimpleNamespace(epoch=EpochNumber(0), rewards=(RewardShare(account(1), TokenAmount(5)),))
    chain: Any = stuck
    epochs: Any = SimpleNamespace(result=lambda _: result)
    with trio.move_on_after(100):
        await SettlingService(chain, epochs, claim_rewards=True).run()
    assert sorted(stuck.submitted) == ["claim/0", "settle/1/1", "settle/2/1"]
