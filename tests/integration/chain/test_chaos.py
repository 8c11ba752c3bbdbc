"""Killed, reorganised and lied to, the chain port executes every intent once and sees every event once."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.chain.chaos import Chaos, run_chaos

pytestmark = pytest.mark.chain
MUTATION_RUNS_MAX = 3


@pytest.mark.timeout(480)
async def test_every_intent_is_executed_once_and_every_event_seen_once_in_chaos(tmp_path: Path) -> None:
    outcome = await run_chaos(Chaos(seed=1, intents=60, kills=52), tmp_path)
    print(dict(outcome.counts))  # noqa: T201 - shown when it fails
    assert outcome.violations == []
    assert outcome.counts["kills"] == 52
    assert outcome.counts["reorganisation"] >= 20
    assert outcome.counts["lies"] >= 20


async def violations_of(chaos: Chaos, folder: Path) -> list[str]:
    """Run a damaged chain port until the harness finds fault with it.

    Kills and reorganisations fall where a busy machine lets them, so one run may happen to be spared; several are not.
    """
    for attempt in range(MUTATION_RUNS_MAX):
        run = folder / str(attempt)
        run.mkdir()
        found = (await run_chaos(replace(chaos, seed=chaos.seed + attempt), run)).violations
        if found:
            return found
    return []


@pytest.mark.timeout(240)
async def test_the_harness_finds_too_few_confirmations(tmp_path: Path) -> None:
    chaos = Chaos(seed=2, intents=30, kills=10, confirmations=1, reorganisation_blocks_max=4, finish_seconds=20)
    assert await violations_of(chaos, tmp_path)


@pytest.mark.timeout(240)
async def test_the_harness_finds_that_nonces_are_not_stored_before_sending(tmp_path: Path) -> None:
    # Long lives: each must get as far as sending, or there is nothing to lose or to double.
    chaos = Chaos(
        seed=3, intents=40, kills=16, write_ahead=False, life_seconds=(1.5, 4.0), until_doubled=True, finish_seconds=10
    )
    assert await violations_of(chaos, tmp_path)
