"""An epoch that forms no group says why."""

from typing import cast

from node.protocol.empty_epochs import unpaid_epochs, why_no_group, why_no_result, why_nothing_to_earn
from node.protocol.events import EventBody, MinCollateralSet, ModelRecorded, VotesCommitted
from node.protocol.identifiers import EpochNumber, ModelId, TokenAmount
from node.protocol.records import EpochResultSummary
from node.protocol.results import form_epoch_result
from tests.builders import PARAMETERS, SOME_CID, account, bundle_of, commit, group_set, model, registered, state_of

EPOCH = EpochNumber(0)
BEGINNING = (ModelRecorded(model()), *registered(1), *registered(2), group_set(0, {1: 1, 2: 1}))


def reason_of(*events: EventBody) -> str:
    state = state_of(*BEGINNING, *events)
    bundles = {account(number): bundle_of(number) for number in (1, 2)}
    assert form_epoch_result(EPOCH, state, PARAMETERS, bundles, None) is None
    return why_no_group(EPOCH, state, bundles.keys())


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


def test_votes_that_are_too_few_to_follow_are_counted_and_the_others_named() -> None:
    state = state_of(ModelRecorded(model()), *registered(1), group_set(0, {1: 2, 2: 1}), commit(1, 9))
    bundles = {account(1): bundle_of(1)}
    assert form_epoch_result(EPOCH, state, PARAMETERS, bundles, None) is None
    said = why_no_group(EPOCH, state, bundles.keys())
    assert said.startswith("the votes that are here have 2 of 3 weight")
    assert said.endswith(f"missing: {account(2)} (1)")


def without_result(weights: dict[int, int], voters: tuple[int, ...], *events: EventBody) -> str:
    voted = (VotesCommitted(EPOCH, account(number), SOME_CID) for number in voters)
    return why_no_result(EPOCH, state_of(group_set(0, weights), *events, *voted))


def test_members_whose_votes_a_quorum_lacked_are_named_with_their_weight() -> None:
    said = without_result({1: 416, 2: 512, 3: 512}, (1, 3), commit(1, 9))
    assert said.startswith(f"members with 512 of 1440 weight committed no votes: {account(2)} (512); without them")


def test_a_member_that_had_only_its_own_batch_to_judge_is_missed_as_well() -> None:
    """It commits votes all the same, and without them nothing follows."""
    said = without_result({1: 10, 2: 1}, (2,), commit(1, 9))
    assert said.startswith(f"members with 10 of 11 weight committed no votes: {account(1)} (10); without them")
    said = without_result({1: 10, 2: 1}, (1,), commit(1, 9))
    assert said.startswith("more than two thirds of the weight did not sign")
    assert f"members with 1 of 11 weight committed no votes: {account(2)} (1)" in said


def test_where_everybody_voted_the_signatures_were_missing() -> None:
    assert "everybody voted" in without_result({1: 1, 2: 1}, (1, 2), commit(1, 9), commit(2, 9))
    assert without_result({1: 1, 2: 1}, ()) == "nobody committed a batch"


def test_many_silent_members_are_cut_to_the_heaviest() -> None:
    said = without_result({number: number for number in range(1, 100)}, (), commit(1, 9), commit(2, 9))
    assert f"{account(99)} (99)" in said
    assert said.count("0x") == 8


def test_epochs_without_a_result_are_told_to_those_who_had_weight() -> None:
    state = state_of(*BEGINNING)
    assert unpaid_epochs(EpochNumber(0), state, account(1)) == ""
    assert unpaid_epochs(EpochNumber(1), state, account(1)).startswith("epoch 0 has no accepted result")
    assert unpaid_epochs(EpochNumber(3), state, account(1)).startswith("epochs 0 to 2 have no accepted result")
    assert unpaid_epochs(EpochNumber(3), state, account(7)) == ""


def test_who_had_nothing_to_earn_is_told_why() -> None:
    def why(*events: EventBody, has_result: bool = False) -> str:
        state = state_of(*BEGINNING, *events)
        if has_result:
            state.results[EPOCH] = cast(EpochResultSummary, None)  # that there is one is all that counts
        return why_nothing_to_earn(EPOCH, state, account(3))

    assert "no participant" in why()
    assert "no batch of its got into a block" in why(*registered(3))
    assert "no ML node is registered" in why(registered(3)[0])
    assert "is active" in why(*registered(3), ModelRecorded(model(active=False)))
    assert "too little collateral" in why(*registered(3), MinCollateralSet(TokenAmount(1)))
    assert "no result that could count" in why(*registered(3), commit(3, 9))
    assert "came too late" in why(*registered(3), commit(3, 9), has_result=True)
