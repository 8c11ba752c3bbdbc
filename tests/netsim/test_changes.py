"""What the owner changes while an epoch runs: it holds from a later epoch on, for all alike, and nobody loses pay."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from netsim.ledger import Ledger, Refused
from netsim.scenario import MODEL, MODEL_ID, PARAMETERS, Outcome, run_scenario
from netsim.trace import Trace
from node.protocol.calibration import Calibration, HonestBand
from node.protocol.identifiers import EpochNumber, TokenAmount
from node.protocol.rewards import subsidy
from node.protocol.stages import Stage, first_block_of

NODES = 4
EPOCH = PARAMETERS.epoch_blocks


def block_of(epoch: int, stage: Stage) -> int:
    return first_block_of(epoch, stage, PARAMETERS)


def assert_honest_are_paid_and_nothing_is_paid_twice(outcome: Outcome, paid_epochs: int) -> None:
    assert [epoch.posted for epoch in outcome.epochs].count(True) == paid_epochs
    assert set(outcome.claimed) == set(outcome.honest)
    assert outcome.minted == sum(outcome.claimed.values()) == sum(epoch.reward_total for epoch in outcome.epochs)
    for epoch in outcome.epochs:
        assert epoch.reward_total <= subsidy(epoch.epoch, PARAMETERS)


def test_work_goes_on_through_a_change_of_stages_and_price() -> None:
    def schedule(ledger: Ledger) -> None:
        ledger.schedule_parameters(
            EpochNumber(2),
            epoch_blocks=80,
            generate_offset=20,
            exchange_offset=35,
            validate_offset=40,
            vote_exchange_offset=52,
            form_offset=58,
            load_offset=70,
            poc_sample_size=12,
            unit_price=2 * PARAMETERS.unit_price,
        )

    outcome = run_scenario(nodes=NODES, epochs=4, seed=5, owner_acts={block_of(0, Stage.EXCHANGE): schedule})
    assert_honest_are_paid_and_nothing_is_paid_twice(outcome, 4)
    for epoch in outcome.epochs:
        assert {account for account, _ in epoch.weights} == set(outcome.honest)


def test_a_model_taken_out_during_an_epoch_stops_the_epoch_and_nothing_else() -> None:
    def deactivate(ledger: Ledger) -> None:
        ledger.register_model(replace(MODEL, active=False))

    def activate(ledger: Ledger) -> None:
        ledger.register_model(replace(MODEL, version=2))

    acts = {block_of(0, Stage.VALIDATE) + 2: deactivate, block_of(1, Stage.SERVE) + 2: activate}
    with capture_logs() as lines:
        outcome = run_scenario(nodes=NODES, epochs=2, seed=6, owner_acts=acts)
    # No model is left for the next group: the group carries on, and the epoch pays nothing.
    assert [epoch.posted for epoch in outcome.epochs] == [False, True]
    assert_honest_are_paid_and_nothing_is_paid_twice(outcome, 1)
    said = [line for line in lines if line["event"].startswith("no group is formed") and line["epoch"] == 0]
    assert len(said) == NODES
    assert {line["reason"] for line in said} == {f"the models of all batches were taken out of service: {MODEL_ID}"}
    without = [line["epoch"] for line in lines if line["event"].startswith("no result so far")]
    assert without == NODES * [0]


def test_a_change_of_the_registry_during_formation_splits_nobody() -> None:
    def change(ledger: Ledger) -> None:
        ledger.register_model(replace(MODEL, throughput_per_nonce=77, poc_distance_max=MODEL.poc_distance_max + 1))
        band = HonestBand("vllm", "", 900_000, 1000, 0, 0, 0, 4000)
        ledger.calibrate_model(Calibration(MODEL_ID, MODEL.version, (band,)))

    # Each of the two changes has a block of its own, the first right after the one named: both before FORM, one on
    # either side, and in FORM's first blocks, where some nodes have formed their result and others have not.
    for offset, told in ((-3, False), (-2, True), (-1, True), (0, True)):
        acts = {block_of(0, Stage.FORM) + offset: change}
        with capture_logs() as lines:
            outcome = run_scenario(nodes=NODES, epochs=1, seed=7, owner_acts=acts)
        assert_honest_are_paid_and_nothing_is_paid_twice(outcome, 1)
        said = [line for line in lines if line["event"].startswith("a registry changed while the result")]
        assert {(line["epoch"], *line["models"], *line["participants"]) for line in said} == (
            {(0, MODEL_ID)} if told else set()
        )
        assert len(said) >= NODES * told


async def test_the_ledger_takes_no_change_without_an_epochs_notice() -> None:
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), ())
    with pytest.raises(Refused, match="ChangeOutOfRange"):
        ledger.schedule_parameters(EpochNumber(1), unit_price=1)
    ledger.schedule_parameters(EpochNumber(2), unit_price=TokenAmount(1))
    assert ledger.schedule.at_block(2 * EPOCH - 1).unit_price == PARAMETERS.unit_price
    assert ledger.schedule.at_block(2 * EPOCH).unit_price == 1
