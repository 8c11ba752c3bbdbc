"""The fold of the chain's events: who is bound, who counts, which result stands, which prompt is open."""

from dataclasses import replace

import pytest

from node.protocol.calibration import Calibration, HonestBand, calibration_bytes
from node.protocol.chain_state import EPOCHS_KEPT, ChainState
from node.protocol.events import (
    ChainEvent,
    ChannelFunded,
    CollateralDeposited,
    CollateralSlashed,
    CollateralUnbonding,
    CollateralWithdrawn,
    EpochResultPosted,
    EpochResultVoided,
    EventBody,
    GroupStored,
    MinCollateralSet,
    MLNodeRemoved,
    MLNodeSet,
    ModelCalibrated,
    ModelRecorded,
    ParticipantLeft,
    ParticipantPunished,
    ParticipantRegistered,
    PromptAnswered,
    PromptDisputed,
    PromptSettled,
    PromptSubmitted,
    VotesCommitted,
    VoucherRedeemed,
    WorkCoinsAdded,
)
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.records import EpochResultSummary, MLNodeRegistration
from node.protocol.results import current_group, form_epoch_result, registry_group
from node.protocol.verdicts import Offence
from tests.builders import (
    NODE,
    PARAMETERS,
    SOME_CID,
    TINY,
    account,
    bundle_of,
    commit,
    group_set,
    model,
    peer,
    registered,
    state_of,
)

SET_HASH = Hash32(b"\x05" * 32)
NODE_OF_TINY = MLNodeRegistration(NODE, (TINY,), "cpu")


VOTED = {account(1): bundle_of(1)}


def amount(value: int) -> TokenAmount:
    return TokenAmount(value)


def summary(epoch: int) -> EpochResultSummary:
    root = Hash32(b"\x07" * 32)
    return EpochResultSummary(EpochNumber(epoch), SOME_CID, SET_HASH, 3, root, amount(1))


# --- the registry -----------------------------------------------------------------------------------------------------


def test_a_peer_that_did_not_consent_is_bound_to_nobody_but_the_nodes_are_kept_for_when_it_does() -> None:
    squatter = ParticipantRegistered(account(1), peer(1), consented=False)
    node = MLNodeSet(account(1), NODE_OF_TINY)
    state = state_of(squatter, node)
    assert account(1) not in state.participants
    assert state.participant_of_peer(peer(1)) is None
    state = state_of(squatter, node, ParticipantRegistered(account(1), peer(1), consented=True))
    assert state.participants[account(1)].ml_nodes == (NODE_OF_TINY,)


def test_a_false_registration_undoes_a_true_one_of_the_same_account_only() -> None:
    state = state_of(*registered(1), ParticipantRegistered(account(1), peer(2), consented=False), *registered(3))
    assert account(1) not in state.participants
    assert state.participant_of_peer(peer(3)) == account(3)


def test_of_several_bindings_of_a_peer_the_newest_counts() -> None:
    first = ParticipantRegistered(account(1), peer(7), consented=True)
    second = ParticipantRegistered(account(2), peer(7), consented=True)
    assert state_of(first, second).participant_of_peer(peer(7)) == account(2)
    assert state_of(second, first).participant_of_peer(peer(7)) == account(1)


def test_who_left_comes_back_without_its_old_nodes() -> None:
    gone = (*registered(1), MLNodeRemoved(account(1), NODE), ParticipantLeft(account(1)))
    assert account(1) not in state_of(*gone).participants
    back = state_of(*gone, ParticipantRegistered(account(1), peer(1), consented=True))
    assert back.participants[account(1)].ml_nodes == ()


def test_governance_models_are_the_active_ones_and_name_their_nodes() -> None:
    other = ModelId("other")
    state = state_of(
        ModelRecorded(model()),
        ModelRecorded(model(other, active=False)),
        *registered(2),
        *registered(1, (NodeId("b"), other)),
    )
    assert [found.model_id for found in state.get_governance_models()] == [TINY]
    assert state.is_valid_governance_model(TINY)
    assert not state.is_valid_governance_model(other)
    assert not state.is_valid_governance_model(ModelId("absent"))
    assert state.get_governance_model(TINY) == model()
    assert state.get_nodes_for_model(TINY) == ((account(2), NODE_OF_TINY),)
    assert [owner for owner, _ in state.get_nodes_for_model(other)] == [account(1)]


# --- collateral -------------------------------------------------------------------------------------------------------


def test_collateral_follows_its_events() -> None:
    state = state_of(
        CollateralDeposited(account(1), amount(100)),
        CollateralUnbonding(account(1), amount(40), amount(60), 1000),
        CollateralSlashed(account(1), amount(50), amount(20), amount(30), EpochNumber(9)),
        CollateralWithdrawn(account(1), amount(30)),
    )
    held = state.collateral[account(1)]
    assert (held.deposited, held.unbonding, held.available_at, held.barred_until) == (20, 0, 1000, 9)


def test_proofs_of_the_barred_and_of_those_with_too_little_collateral_do_not_count() -> None:
    group = group_set(0, {1: 1})
    events = (ModelRecorded(model()), *registered(1), group, commit(1, 50))
    assert form_epoch_result(EpochNumber(0), state_of(*events), PARAMETERS, VOTED, None) is not None
    short = state_of(*events, MinCollateralSet(amount(10)), CollateralDeposited(account(1), amount(9)))
    assert form_epoch_result(EpochNumber(0), short, PARAMETERS, VOTED, None) is None
    enough = state_of(*events, MinCollateralSet(amount(10)), CollateralDeposited(account(1), amount(10)))
    assert form_epoch_result(EpochNumber(0), enough, PARAMETERS, VOTED, None) is not None
    barred = state_of(*events, CollateralSlashed(account(1), amount(1), amount(0), amount(0), EpochNumber(1)))
    assert form_epoch_result(EpochNumber(0), barred, PARAMETERS, VOTED, None) is None
    assert barred.counts(account(1), 1)


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_result_brings_the_group_it_names_and_its_voiding_takes_it_back() -> None:
    stored = GroupStored(SET_HASH, ((account(2), 3),))
    posted = EpochResultPosted(summary(0), account(1))
    state = state_of(group_set(0, {1: 1}), stored, posted)
    assert state.group_weights(1) == ((account(2), 3),)
    assert 0 in state.results
    voided = state_of(group_set(0, {1: 1}), stored, posted, EpochResultVoided(EpochNumber(0), Hash32(bytes(32))))
    assert voided.group_weights(1) == ((account(1), 1),)
    assert voided.results == {}
    again = state_of(group_set(0, {1: 1}), stored, posted, EpochResultVoided(EpochNumber(0), Hash32(bytes(32))), posted)
    assert again.group_weights(1) == ((account(2), 3),)


def test_one_stored_group_serves_many_results() -> None:
    state = state_of(
        group_set(0, {1: 1}),
        GroupStored(SET_HASH, ((account(2), 3),)),
        *(EpochResultPosted(summary(epoch), account(1)) for epoch in range(3)),
    )
    assert state.group_weights(3) == ((account(2), 3),)


def test_work_coins_are_shared_out_beside_the_subsidy() -> None:
    events = (ModelRecorded(model()), *registered(1), group_set(0, {1: 1}), commit(1, 50))
    plain = form_epoch_result(EpochNumber(0), state_of(*events), PARAMETERS, VOTED, None)
    added = (WorkCoinsAdded(account(5), amount(700)), WorkCoinsAdded(account(6), amount(77)))
    more = form_epoch_result(EpochNumber(0), state_of(*events, *added), PARAMETERS, VOTED, None)
    assert plain is not None
    assert more is not None
    assert more.reward_total == plain.reward_total + 777


def test_an_epoch_serves_the_snapshots_of_its_group() -> None:
    state = state_of(ModelRecorded(model()), *registered(1), group_set(0, {1: 1}))
    group = current_group(EpochNumber(0), state, {})
    assert group.get_epoch_model(TINY) == model()
    assert group.get_epoch_model(ModelId("absent")) is None


# --- prompts ----------------------------------------------------------------------------------------------------------


def prompt_events() -> tuple[PromptSubmitted, PromptAnswered, PromptDisputed, PromptSettled]:
    submitted = PromptSubmitted(7, account(1), TINY, SOME_CID, SOME_CID, 100, amount(100), account(2), BlockNumber(50))
    answered = PromptAnswered(7, account(2), SOME_CID, 10, 20, amount(30), BlockNumber(60))
    disputed = PromptDisputed(7, account(1), SOME_CID, BlockNumber(80))
    return submitted, answered, disputed, PromptSettled(7, account(2), amount(30), amount(70))


def test_a_prompt_is_open_until_answered_and_unfinished_until_settled() -> None:
    submitted, answered, disputed, settled = prompt_events()
    asked = state_of(submitted)
    assert asked.prompts[7].is_open
    assert asked.prompts[7].settles_after is None
    told = state_of(submitted, answered)
    assert not told.prompts[7].is_open
    assert told.prompts[7].settles_after == 60
    contested = state_of(submitted, answered, disputed)
    assert contested.prompts[7].settles_after == 80
    assert contested.unfinished_prompts == {7}
    ended = state_of(submitted, answered, disputed, settled)
    assert ended.prompts[7].settles_after is None
    assert ended.unfinished_prompts == set()


def test_replaying_the_same_events_gives_the_same_state() -> None:
    events = (*registered(1), ModelRecorded(replace(model(), gated=True)), *prompt_events())
    assert state_of(*events) == state_of(*events)
    assert state_of() == ChainState()


@pytest.mark.parametrize("is_original", [True, False])
def test_what_is_applied_to_a_state_does_not_change_its_copy_nor_the_other_way_round(is_original: bool) -> None:
    submitted, answered, disputed, settled = prompt_events()
    channel, epoch = Hash32(b"\x09" * 32), EpochNumber(0)
    before = (
        *registered(1),
        *registered(2),
        ModelRecorded(model()),
        CollateralDeposited(account(1), amount(5)),
        ChannelFunded(channel, account(1), account(2), amount(7)),
        commit(1, count=3),
        VotesCommitted(epoch, account(1), SOME_CID),
        submitted,
    )
    after = (
        ParticipantLeft(account(1)),
        ModelRecorded(model(active=False)),
        CollateralDeposited(account(1), amount(9)),
        VoucherRedeemed(channel, amount(6)),
        commit(1, count=4),
        commit(2, count=5),
        VotesCommitted(epoch, account(2), SOME_CID),
        ParticipantPunished(epoch, account(1), Offence.FRAUD),
        answered,
        disputed,
        settled,
    )
    original = state_of(*before)
    copy = original.copy()
    assert copy == original == state_of(*before)
    changed, kept = (original, copy) if is_original else (copy, original)
    for place, body in enumerate(after, start=len(before)):
        changed.apply(ChainEvent(BlockNumber(place), Hash32(place.to_bytes(32)), 0, body))
    assert kept == state_of(*before)
    assert changed == state_of(*before, *after)


def calibrated(version: int, data: bytes | None = None, *, model_id: ModelId = TINY) -> ModelCalibrated:
    """An event of the registry; `data` in place of a good calibration."""
    good = Calibration(model_id, version, (HonestBand("vllm", "", version, 0, 0, 0, 0, 0),))
    return ModelCalibrated(model_id, version, calibration_bytes(good) if data is None else data)


def test_the_newest_calibration_of_a_version_counts_and_falls_with_it() -> None:
    state = state_of(ModelRecorded(model()), calibrated(1))
    assert state.calibrations[TINY].model_version == 1
    inactive = replace(model(), active=False)
    assert state_of(ModelRecorded(model()), calibrated(1), ModelRecorded(inactive)).calibrations
    assert not state_of(ModelRecorded(model()), calibrated(1), ModelRecorded(replace(model(), version=2))).calibrations
    assert not state_of(ModelRecorded(model()), calibrated(1), calibrated(1, b"")).calibrations


def test_bytes_that_are_no_calibration_of_the_version_count_as_none_and_replace_what_was() -> None:
    other = calibrated(1, model_id=ModelId("other")).calibration
    for wrong in (b"\x00", bytes(5000), calibrated(2).calibration, other):
        state = state_of(ModelRecorded(model()), calibrated(1), calibrated(1, wrong))
        assert not state.calibrations
        assert state.void_calibrations.keys() == {TINY}


@pytest.mark.parametrize(
    "after",
    [calibrated(1), calibrated(1, b""), ModelRecorded(replace(model(), version=2))],
    ids=["a good one", "taken back", "a new version"],
)
def test_a_calibration_that_counts_as_none_is_remembered_until_it_is_not_there_any_more(after: EventBody) -> None:
    void = (ModelRecorded(model()), calibrated(1, calibrated(2).calibration))
    inactive = ModelRecorded(replace(model(), active=False))
    assert state_of(*void).void_calibrations == {TINY: f"it is of version 2 of {TINY}, not of version 1"}
    assert state_of(*void, inactive).void_calibrations.keys() == {TINY}
    assert not state_of(*void, after).void_calibrations


def test_a_group_freezes_the_calibrations_it_finds() -> None:
    events = (ModelRecorded(model()), *registered(1), group_set(0, {1: 1}), calibrated(1), commit(1, 50))
    state = state_of(*events)
    result = form_epoch_result(EpochNumber(0), state, PARAMETERS, VOTED, None)
    assert result is not None
    assert result.group.get_epoch_calibration(TINY) == state.calibrations[TINY]
    assert registry_group(EpochNumber(0), state).calibrations == result.group.calibrations
    without = form_epoch_result(EpochNumber(0), state_of(*events, calibrated(1, b"")), PARAMETERS, VOTED, None)
    assert without is not None
    assert without.group.get_epoch_calibration(TINY) is None


# --- what is forgotten ------------------------------------------------------------------------------------------------


def test_what_is_told_by_epoch_is_kept_of_the_newest_epochs_and_results_for_ever() -> None:
    state = state_of(group_set(0, {1: 1}))
    bodies: list[EventBody] = [GroupStored(SET_HASH, ((account(1), 3),))]
    last = EPOCHS_KEPT + 10
    for epoch in range(last + 1):
        number = EpochNumber(epoch)
        void = replace(summary(epoch), reward_total=amount(2))
        bodies += [commit(1, 50, epoch=epoch), VotesCommitted(number, account(1), SOME_CID)]
        bodies += [EpochResultPosted(void, account(1)), EpochResultVoided(number, Hash32(bytes(32)))]
        bodies += [EpochResultPosted(summary(epoch), account(1))]
        bodies += [ParticipantPunished(number, account(2), Offence.FRAUD)]
    for body in bodies:
        state.apply(ChainEvent(BlockNumber(5), Hash32(bytes(32)), 0, body))
    kept = list(range(last - EPOCHS_KEPT + 1, last + 1))
    assert [*state.poc_commits] == [*state.vote_bundles] == [*state.voided] == kept
    assert sorted(epoch for epoch, _, _ in state.punished) == kept
    assert [*state.results] == list(range(last + 1))
    assert state.group_weights(2) == ((account(1), 3),)
    assert len(state.stored_groups) == 1


def test_batches_of_nonces_are_found_by_node_and_by_model() -> None:
    big = ModelId("big")
    mined = [commit(1, 5), commit(1, 6, node_id=NodeId("node-2"), model_id=big), commit(2, 7), commit(2, 8, epoch=1)]
    state, epoch = state_of(*mined), EpochNumber(0)
    assert state.get_poc_batches_for_node(epoch, account(1), NodeId("node-2")) == (mined[1].commit,)
    assert state.get_poc_batches_for_node(epoch, account(2), NodeId("node-2")) == ()
    assert state.get_poc_batches_for_model(epoch, TINY) == (mined[0].commit, mined[2].commit)
    assert state.get_poc_batches_for_model(EpochNumber(1), big) == ()
