"""An epoch that forms no group says why."""

from node.protocol.empty_epochs import why_no_group
from node.protocol.events import EventBody, MinCollateralSet, ModelRecorded
from node.protocol.identifiers import EpochNumber, ModelId, TokenAmount
from node.protocol.results import form_epoch_result
from tests.builders import PARAMETERS, commit, group_set, model, registered, state_of

EPOCH = EpochNumber(0)
BEGINNING = (ModelRecorded(model()), *registered(1), *registered(2), group_set(0, {1: 1, 2: 1}))


def reason_of(*events: EventBody) -> str:
    state = state_of(*BEGINNING, *events)
    assert form_epoch_result(EPOCH, state, PARAMETERS, {}, None) is None
    return why_no_group(EPOCH, state)


def test_an_epoch_nobody_mined() -> None:
    assert reason_of() == "nobody committed a batch"


def test_batches_of_those_who_do_not_count() -> None:
    assert reason_of(commit(1, 9), MinCollateralSet(TokenAmount(1))).startswith("no batch counts")


def test_a_model_that_was_taken_out_during_the_epoch_is_named() -> None:
    assert reason_of(commit(1, 9), ModelRecorded(model(active=False))).endswith("taken out of service: tiny")
    many = [commit(1, 9, model_id=ModelId(f"m{number:02}")) for number in range(20)]
    assert len(reason_of(*many)) < 200


def test_batches_that_nobody_accepted() -> None:
    assert reason_of(commit(1, 9), commit(2, 9)).startswith("no batch was accepted")
