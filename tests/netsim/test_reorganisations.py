"""Blocks whose hashes draw something are replaced before they are confirmed: all go by the ones that stay."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from structlog.testing import capture_logs

from netsim.ledger import Ledger
from netsim.scenario import PARAMETERS, run_scenario
from node.ports import Chain
from node.protocol.audit_sampling import AuditSeeds
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32
from node.protocol.stages import Stage, first_block_of
from node.protocol.timeslots import select_poc_slots
from node.services import forming
from node.services.epochs import EpochBook
from node.services.poc_slots import PocSlots
from node.services.result_inputs import ResultInputs, gather_inputs

NODES, EPOCHS = 5, 2
CONFIRMATIONS = 2
BEACONS = (Stage.GENERATE, Stage.VALIDATE, Stage.FORM)
"""Whose first block's hash draws what is proven, what is checked of it, and what is audited; that of the block before
the first of these draws who keeps serving."""


@dataclass
class Branches:
    """Hashes of blocks that were replaced, and of what stands in their place; and what results were formed from."""

    ledger: list[Ledger] = field(default_factory=list)
    doomed: dict[int, Hash32] = field(default_factory=dict)
    inputs: list[ResultInputs] = field(default_factory=list)

    def replaces(self, blocks: int) -> Callable[[Ledger], None]:
        def act(ledger: Ledger) -> None:
            self.ledger[:] = [ledger]
            first = ledger.height + 1 - blocks
            self.doomed.update({number: ledger.block_hashes[number] for number in range(first, ledger.height + 1)})
            ledger.reorganise(blocks)

        return act


def beacon(epoch: int, stage: Stage) -> int:
    return first_block_of(epoch, stage, PARAMETERS)


@pytest.fixture
def branches(monkeypatch: pytest.MonkeyPatch) -> Branches:
    """Notes what the forming services of all nodes gather."""
    noted = Branches()

    async def noting(chain: Chain, epochs: EpochBook, slots: PocSlots, epoch: EpochNumber) -> ResultInputs:
        inputs = await gather_inputs(chain, epochs, slots, epoch)
        noted.inputs.append(inputs)
        return inputs

    monkeypatch.setattr(forming, "gather_inputs", noting)
    return noted


@pytest.mark.parametrize("blocks", [1, CONFIRMATIONS])
def test_a_network_whose_beacons_are_replaced_goes_by_those_that_stay(branches: Branches, blocks: int) -> None:
    """With two blocks it is the last moment at which a beacon can go: one more, and nodes would act on it."""
    drawing = {beacon(epoch, stage) for epoch in range(EPOCHS) for stage in BEACONS}
    drawing |= {beacon(epoch, Stage.GENERATE) - 1 for epoch in range(EPOCHS)}
    acts = {number + blocks - 1: branches.replaces(blocks) for number in drawing}
    with capture_logs() as lines:
        outcome = run_scenario(nodes=NODES, epochs=EPOCHS, seed=11, owner_acts=acts)
    assert [epoch.posted for epoch in outcome.epochs] == [True] * EPOCHS
    assert set(outcome.claimed) == set(outcome.honest)
    for epoch in outcome.epochs:
        assert {account for account, _ in epoch.weights} == set(outcome.honest)
    (ledger,) = branches.ledger
    hashes = {number: ledger.block_hashes[number] for number in branches.doomed}
    assert all(hashes[number] != doomed for number, doomed in branches.doomed.items())
    assert len(branches.inputs) == NODES * EPOCHS
    for inputs in branches.inputs:
        mining, judging, forming_at = (hashes[beacon(inputs.epoch, stage)] for stage in BEACONS)
        assert (inputs.judging.generate_seed, inputs.judging.sample_seed) == (mining, judging)
        before = hashes[beacon(inputs.epoch - 1, Stage.FORM)] if inputs.epoch else None
        assert inputs.judging.checkers_seed == before
        assert inputs.audit_seeds == (None if before is None else AuditSeeds(before, forming_at))
        if inputs.previous is not None:
            last = BlockNumber(beacon(inputs.epoch, Stage.GENERATE) - 1)
            group, nodes = replace(inputs.previous.group, epoch=inputs.epoch), inputs.previous.nodes
            assert inputs.selected == select_poc_slots(group, nodes, ledger.state_at(last), hashes[last])
    loud = {line["event"] for line in lines if line["log_level"] not in ("debug", "info")}
    assert loud == {"an answer is not the model's", "a participant is punished"}  # of the cheat, and nobody else
