"""Killed, reorganised and lied to, the chain port executes every intent once and sees every event once."""

from pathlib import Path

import pytest

from tests.integration.chain.chaos import Chaos, run_chaos

pytestmark = pytest.mark.chain


@pytest.mark.timeout(240)
async def test_every_intent_is_executed_once_and_every_event_seen_once_in_chaos(tmp_path: Path) -> None:
    outcome = await run_chaos(Chaos(seed=1, intents=60, kills=52), tmp_path)
    print(dict(outcome.counts))  # noqa: T201 - shown when it fails
    assert outcome.violations == []
    assert outcome.counts["kills"] == 52
    assert outcome.counts["reorganisation"] >= 20
    assert outcome.counts["lies"] >= 20


async def test_the_harness_finds_too_few_confirmations(tmp_path: Path) -> None:
    chaos = Chaos(seed=2, intents=30, kills=10, confirmations=1, reorganisation_blocks_max=4)
    violations = (await run_chaos(chaos, tmp_path)).violations
    assert [found for found in violations if found.startswith(("stopped", "life"))]


async def test_the_harness_finds_that_nonces_are_not_stored_before_sending(tmp_path: Path) -> None:
    chaos = Chaos(seed=3, intents=40, kills=25, write_ahead=False, finish_seconds=20)
    violations = (await run_chaos(chaos, tmp_path)).violations
    doubled = [found for found in violations if found.startswith("intent") and "executed 0" not in found]
    print(violations)  # noqa: T201 - shown when it fails
    assert doubled
