"""The simulator's promises: honest work is paid, a cheat is not, money is conserved, and a seed fixes the whole run."""

import os
import subprocess
import sys

import pytest

from netsim.scenario import PARAMETERS, QUESTIONS, Outcome, run_scenario
from node.protocol.rewards import subsidy


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return run_scenario(nodes=8, epochs=2, seed=3)


def test_every_epoch_is_proved_and_posted(outcome: Outcome) -> None:
    assert [epoch.posted for epoch in outcome.epochs] == [True, True]


def test_honest_nodes_form_the_next_group_and_the_cheat_does_not(outcome: Outcome) -> None:
    for epoch in outcome.epochs:
        members = {account for account, _ in epoch.weights}
        assert members == set(outcome.honest)


def test_honest_nodes_are_paid_and_nobody_else(outcome: Outcome) -> None:
    assert set(outcome.claimed) == set(outcome.honest)
    assert len(set(outcome.claimed.values())) == 1  # equal work, equal pay


def test_what_is_minted_is_what_was_claimed_and_never_above_the_subsidy(outcome: Outcome) -> None:
    assert outcome.minted == sum(outcome.claimed.values()) == sum(epoch.reward_total for epoch in outcome.epochs)
    for epoch in outcome.epochs:
        assert epoch.reward_total <= subsidy(epoch.epoch, PARAMETERS)


def test_every_question_is_answered_and_paid_to_the_unit(outcome: Outcome) -> None:
    assert outcome.answers == QUESTIONS
    assert outcome.redeemed == outcome.answer_price > 0


def run_in_a_process(hash_seed: str, seed: int) -> str:
    command = [sys.executable, "-m", "netsim", "run", "--nodes", "20", "--epochs", "1"]
    finished = subprocess.run(
        [*command, "--seed", str(seed), "--trace-hash"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout.splitlines()[-1]


def test_one_seed_gives_one_trace_in_any_process_and_another_seed_another() -> None:
    first = run_in_a_process("1", 7)
    assert first == run_in_a_process("2", 7)
    assert len(first) == 64
    assert first != run_in_a_process("1", 8)
