"""The epoch result: every input that can be on chain gives the same answer everywhere, or none."""

import random
from dataclasses import replace

import pytest
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import slices
from node.protocol.bundles import check_bundle
from node.protocol.chain_state import ChainState
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.events import EventBody, MLNodeRemoved, MLNodeSet, ModelRecorded, ParticipantLeft
from node.protocol.identifiers import Address, EpochNumber, ModelId, NodeId, TokenAmount
from node.protocol.objections import IMMATERIAL_FIELDS
from node.protocol.records import (
    UINT64_MAX,
    EpochResult,
    MLNodeRegistration,
    RewardShare,
    VoteBundle,
)
from node.protocol.results import (
    VALIDATORS_MAX,
    current_group,
    form_epoch_result,
    form_epoch_result_in_slices,
    pack_validator_set,
    registry_group,
    summarise,
    unpack_validator_set,
)
from node.protocol.rewards import subsidy
from node.protocol.unpaid import models_lacking
from node.protocol.validation import judged_models, rules_of
from node.protocol.verdicts import Verdict
from tests.builders import (
    NODE,
    PARAMETERS,
    SAMPLE_SEED,
    SOME_CID,
    TINY,
    account,
    bundle_of,
    commit,
    group_set,
    model,
    registered,
    state_of,
    vote_on,
)

BIG = ModelId("big")
SECOND_NODE = NodeId("node-2")
EPOCH = EpochNumber(0)


def bundles_all(state: ChainState, verdict: Verdict, *voters: int) -> dict[Address, VoteBundle]:
    commits = state.poc_commits[EPOCH].values()
    return {account(n): bundle_of(n, *(vote_on(c, verdict) for c in commits)) for n in voters}


def form(state: ChainState, bundles: dict[Address, VoteBundle], previous: EpochResult | None = None) -> EpochResult:
    result = form_epoch_result(EPOCH, state, PARAMETERS, bundles, previous)
    assert result is not None
    return result


def three_miners(*more: EventBody) -> ChainState:
    return state_of(
        ModelRecorded(model()),
        *(event for number in (1, 2, 3) for event in registered(number)),
        group_set(0, {1: 10, 2: 10, 3: 10}),
        *(commit(number, 100 * number) for number in (1, 2, 3)),
        *more,
    )


def test_accepted_work_becomes_weight_throughput_and_reward() -> None:
    state = three_miners()
    result = form(state, bundles_all(state, Verdict.VALID, 1, 2, 3))
    weights = {member.participant: member.weight for member in result.group.members}
    assert weights == {account(1): 100, account(2): 200, account(3): 300}
    assert result.group.epoch == 1
    assert [node.throughput for member in result.group.members for node in member.ml_nodes] == [
        weight * 10 for weight in weights.values()
    ]
    assert result.group.models == (state.models[TINY],)
    assert {share.account: share.cumulative for share in result.rewards} == {
        account(n): 1_000_000 * n // 6 for n in (1, 2, 3)
    }
    assert result.reward_total == sum(share.cumulative for share in result.rewards)


def test_members_ascend_by_account() -> None:
    state = three_miners()
    accounts = [m.participant.lower() for m in form(state, bundles_all(state, Verdict.VALID, 1, 2, 3)).group.members]
    assert accounts == sorted(accounts)


def test_rejected_work_is_out_of_the_group_and_unpaid() -> None:
    state = three_miners()
    bundles = bundles_all(state, Verdict.VALID, 1, 2, 3)
    for voter in (1, 3):
        votes = [
            vote_on(batch, Verdict.INVALID if batch.participant == account(2) else Verdict.VALID)
            for batch in state.poc_commits[EPOCH].values()
        ]
        bundles[account(voter)] = bundle_of(voter, *votes)
    result = form(state, bundles)
    assert account(2) not in {member.participant for member in result.group.members}
    assert account(2) not in {share.account for share in result.rewards}


def test_without_accepted_work_there_is_no_result_and_the_group_carries_on() -> None:
    state = three_miners()
    for bundles in ({}, bundles_all(state, Verdict.INVALID, 1, 2, 3), bundles_all(state, Verdict.ABSTAIN, 1, 2, 3)):
        assert form_epoch_result(EPOCH, state, PARAMETERS, bundles, None) is None
    assert form_epoch_result(EpochNumber(5), state, PARAMETERS, {}, None) is None
    assert current_group(EpochNumber(1), state, {}).members == registry_group(EPOCH, state).members


def test_votes_of_no_more_than_two_thirds_pay_nobody_and_throw_nobody_out() -> None:
    """Else whoever served instead of mining is paid for all, and all others are out, if nobody's votes arrive."""
    events = [ModelRecorded(model()), *(event for n in range(1, 7) for event in registered(n))]
    weights = dict.fromkeys(range(1, 7), 1000)
    state = state_of(*events, group_set(0, weights), *(commit(n, 1000) for n in weights))
    first = form(state, bundles_all(state, Verdict.VALID, *weights))
    state = state_of(*events, group_set(1, weights), *(commit(n, 1000, epoch=1) for n in (4, 5, 6)))
    cast = {
        account(n): bundle_of(n, *(vote_on(c, Verdict.VALID) for c in state.poc_commits[EpochNumber(1)].values()
                                   if c.participant != account(n)), epoch=1)
        for n in weights
    }  # fmt: skip
    selected = frozenset((account(n), NODE) for n in (1, 2, 3))

    def formed(*voters: int) -> EpochResult | None:
        bundles = {account(n): cast[account(n)] for n in voters}
        return form_epoch_result(EpochNumber(1), state, PARAMETERS, bundles, first, selected=selected)

    assert [formed(), formed(1, 2), formed(3, 4, 5, 6)] == [None] * 3
    result = formed(2, 3, 4, 5, 6)
    assert result is not None
    assert {member.participant for member in result.group.members} == {account(n) for n in weights}


@pytest.mark.parametrize(
    ("weights", "voters", "is_formed"),
    [({1: 1}, (), False), ({1: 1}, (1,), True), ({1: 1, 2: 1}, (1,), False), ({1: 3, 2: 1}, (1,), True),
     ({1: 3, 2: 1}, (2,), False), ({1: 1, 2: 1, 3: 1}, (1, 2), False), ({1: 1, 2: 1, 3: 1}, (1, 2, 3), True)],
)  # fmt: skip
def test_small_groups_form_a_result_from_the_votes_of_more_than_two_thirds(
    weights: dict[int, int], voters: tuple[int, ...], is_formed: bool
) -> None:
    state = three_miners(group_set(0, weights))
    bundles = bundles_all(state, Verdict.VALID, *voters)
    result = form_epoch_result(EPOCH, state, PARAMETERS, bundles, None)
    assert (result is not None) is is_formed


def test_work_for_a_deactivated_model_or_by_a_removed_node_is_paid_but_does_not_serve() -> None:
    state = three_miners(MLNodeRemoved(account(2), NODE))
    rules = rules_of(state.poc_commits[EPOCH], three_miners(), PARAMETERS)  # it was removed after mining began
    bundles = bundles_all(state, Verdict.VALID, 1, 2, 3)
    result = form_epoch_result(EPOCH, state, PARAMETERS, bundles, None, rules=rules)
    assert result is not None
    assert {member.participant for member in result.group.members} == {account(1), account(3)}
    assert account(2) in {share.account for share in result.rewards}
    state = three_miners(ModelRecorded(model(active=False)))
    assert form_epoch_result(EPOCH, state, PARAMETERS, bundles_all(state, Verdict.VALID, 1, 2, 3), None) is None


def test_what_the_next_group_can_serve_follows_from_the_parameters_of_its_own_epoch() -> None:
    state = three_miners()
    bundles = bundles_all(state, Verdict.VALID, 1, 2, 3)
    longer = replace(PARAMETERS, generate_offset=15, epoch_blocks=90, exchange_offset=50, validate_offset=54,
                     vote_exchange_offset=62, form_offset=66, load_offset=74)  # fmt: skip
    same = form_epoch_result(EPOCH, state, PARAMETERS, bundles, None, next_parameters=PARAMETERS)
    changed = form_epoch_result(EPOCH, state, PARAMETERS, bundles, None, next_parameters=longer)
    assert same == form(state, bundles)
    assert same is not None
    assert changed is not None
    (before,), (after,) = same.group.throughputs, changed.group.throughputs
    total = after.total_throughput
    assert before.expected_throughput_vector == (total * PARAMETERS.generate_offset // PARAMETERS.epoch_blocks, 0)
    assert after.expected_throughput_vector == (total * 15 // 90, 0)
    assert replace(changed, group=same.group) == same  # nothing that is paid follows from them


def form_after(previous: EpochResult, state: ChainState, *voters: int) -> EpochResult:
    """The result of epoch 1, of which nobody has another batch, while those who keep serving go on."""
    bundles = {account(n): replace(bundle_of(n), epoch=EpochNumber(1)) for n in voters}
    selected = frozenset((account(n), NODE) for n in (1, 2, 3))
    result = form_epoch_result(EpochNumber(1), state, PARAMETERS, bundles, previous, selected=selected)
    assert result is not None
    return result


def test_nothing_later_follows_from_what_only_explains_a_result() -> None:
    state = three_miners(group_set(1, {1: 10, 2: 10, 3: 10}))
    first = form(state, bundles_all(state, Verdict.VALID, 1, 2, 3))
    nothing = EpochResult(first.epoch, first.group, (), TokenAmount(0))
    blank = {name: getattr(nothing, name) for name in IMMATERIAL_FIELDS}
    without = replace(first, **blank)
    assert without != first
    assert form_after(without, state, 1, 2, 3) == form_after(first, state, 1, 2, 3)


def missing_in(result: EpochResult) -> dict[Address, tuple[int, int]]:
    return {book.executor: (book.due_from, book.due_before) for book in result.books_missing}


def test_a_result_remembers_the_books_before_and_says_of_whom_there_is_none_twice_running() -> None:
    state = three_miners(group_set(0, {1: 10, 2: 10, 3: 9}), group_set(1, {1: 10, 3: 4}))
    first = form(state, bundles_all(state, Verdict.VALID, 1, 2))
    assert (first.books_before, missing_in(first)) == ((), {account(3): (0, 0)})
    assert missing_in(form(state, bundles_all(state, Verdict.VALID, 1, 2, 3))) == {}
    second = form_after(first, state, 1)
    assert {(book.executor, book.epoch) for book in second.books_before} == {(account(1), 0), (account(2), 0)}
    assert missing_in(second) == {account(3): (0, 1)}  # and not the second one, which has no weight any more
    turned = three_miners(group_set(0, {1: 10, 2: 10, 3: 9}), group_set(1, {1: 4, 3: 10}))
    assert missing_in(form_after(first, turned, 3)) == {account(1): (0, 0)}


def test_who_leaves_with_receipts_in_no_book_has_no_weight_by_the_time_they_are_due() -> None:
    state = three_miners(group_set(0, {1: 10, 2: 10, 3: 9}), ParticipantLeft(account(3)))
    first = form(state, bundles_all(state, Verdict.VALID, 1, 2))
    assert account(3) in missing_in(first)
    assert account(3) not in {member.participant for member in first.group.members}


def test_rewards_add_to_those_of_the_result_before() -> None:
    state = three_miners()
    bundles = bundles_all(state, Verdict.VALID, 1, 2, 3)
    gone = RewardShare(account(9), TokenAmount(55))
    first = form(state, bundles)
    previous = EpochResult(EPOCH, first.group, (*first.rewards, gone), TokenAmount(0))
    shares = {share.account: share.cumulative for share in form(state, bundles, previous).rewards}
    assert shares[account(9)] == 55
    assert shares[account(3)] == 2 * 500_000


def test_one_that_serves_every_model_gets_the_bonus() -> None:
    both = ((NODE, TINY), (SECOND_NODE, BIG))
    state = state_of(
        ModelRecorded(model()),
        ModelRecorded(model(BIG)),
        ModelRecorded(model(ModelId("retired"), active=False)),
        *registered(1, *both),
        *registered(2, *both),
        *registered(3),
        group_set(0, {1: 1, 2: 1, 3: 1}),
        commit(1, 50),
        commit(1, 50, node_id=SECOND_NODE, model_id=BIG),
        commit(2, 100),
    )
    shares = {s.account: s.cumulative for s in form(state, bundles_all(state, Verdict.VALID, 1, 2, 3)).rewards}
    assert shares == {account(1): 1_000_000 * 110 // 210, account(2): 1_000_000 * 100 // 210}


def test_a_model_that_comes_while_others_mine_takes_nobody_s_bonus_and_is_not_said_to_lack() -> None:
    """Nobody could mine it: what counts is what was judged, as of the block before GENERATE."""
    both = ((NODE, TINY), (SECOND_NODE, BIG))
    before = [
        ModelRecorded(model()),
        ModelRecorded(model(BIG)),
        *registered(1, *both),
        *registered(2, *both),
        *registered(3, *both),
    ]
    mined = [commit(1, 50), commit(1, 50, node_id=SECOND_NODE, model_id=BIG), commit(2, 100)]
    group = group_set(0, {1: 1, 2: 1, 3: 1})
    judged = judged_models(state_of(*before), None)
    results = []
    for late in ((), (ModelRecorded(model(ModelId("late"))),)):
        state = state_of(*before, group, *mined, *late)
        bundles = bundles_all(state, Verdict.VALID, 1, 2, 3)
        results.append(form_epoch_result(EPOCH, state, PARAMETERS, bundles, None, models=judged))
    first, second = results
    assert second is not None
    assert first == second
    assert second.judged_models == (BIG, TINY)
    assert [share.covers_models for share in second.settled if share.participant == account(1)] == [True]
    assert models_lacking(second, account(2)) == (BIG,)
    assert models_lacking(second, account(1)) == ()


def test_a_model_that_goes_while_others_mine_is_still_asked_of_who_wants_the_bonus() -> None:
    """It is judged and paid: so it counts for who mined it, and its absence takes nothing from them."""
    both = ((NODE, TINY), (SECOND_NODE, BIG))
    state = state_of(
        ModelRecorded(model()), ModelRecorded(model(BIG)), *registered(1, *both), *registered(2, *both),
        group_set(0, {1: 1, 2: 1}), commit(1, 50), commit(1, 50, node_id=SECOND_NODE, model_id=BIG), commit(2, 100),
    )  # fmt: skip
    judged, rules = judged_models(state, None), rules_of(state.poc_commits[EPOCH], state, PARAMETERS)
    state.models[BIG] = model(BIG, active=False)
    bundles = bundles_all(state, Verdict.VALID, 1, 2)
    result = form_epoch_result(EPOCH, state, PARAMETERS, bundles, None, models=judged, rules=rules)
    assert result is not None
    assert {share.participant: share.covers_models for share in result.settled} == {account(1): True, account(2): False}


def test_timeslots_are_those_of_a_nodes_first_model() -> None:
    state = state_of(
        ModelRecorded(model()),
        ModelRecorded(model(BIG)),
        *registered(1),
        *registered(2),
        MLNodeSet(account(1), MLNodeRegistration(SECOND_NODE, (BIG, TINY), "gpu")),
        group_set(0, {1: 1, 2: 1}),
        commit(1, 10),
        commit(1, 10, node_id=SECOND_NODE),
    )
    (member,) = form(state, bundles_all(state, Verdict.VALID, 1, 2)).group.members
    assert {node.node_id: node.timeslot_allocation for node in member.ml_nodes} == {
        NODE: (True, False),
        SECOND_NODE: (False, False),
    }


def test_a_group_takes_the_strongest_that_fit_on_chain_and_pays_the_rest() -> None:
    many = range(2, VALIDATORS_MAX + 4)
    state = state_of(
        ModelRecorded(model()),
        *(event for number in (1, *many) for event in registered(number)),
        group_set(0, {1: 1}),
        *(commit(number, number) for number in many),
    )
    result = form(state, bundles_all(state, Verdict.VALID, 1))
    assert len(result.group.members) == VALIDATORS_MAX
    assert account(2) not in {member.participant for member in result.group.members}
    assert account(2) in {share.account for share in result.rewards}


def test_a_throughput_beyond_64_bits_still_has_canonical_bytes() -> None:
    state = three_miners(ModelRecorded(model(throughput_per_nonce=UINT64_MAX)))
    result = form(state, bundles_all(state, Verdict.VALID, 1, 2, 3))
    assert from_bytes(EpochResult, to_bytes(result)) == result


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_chain_gives_the_same_bytes_whatever_order_bundles_arrived_in(seed: int) -> None:
    source = random.Random(seed)
    numbers = range(1, source.randint(2, 7))
    models = [model(ModelId(f"m{i}"), active=source.random() < 0.8) for i in range(3)]
    nodes = {
        n: [(NodeId(f"n{i}"), source.choice(models).model_id) for i in range(source.randint(1, 3))] for n in numbers
    }
    commits = [
        commit(n, source.choice([0, 1, 7, 1000, 2**64 - 1]), node_id=node_id, model_id=model_id)
        for n in numbers
        for node_id, model_id in nodes[n]
        if source.random() < 0.8
    ]
    state = state_of(
        *(ModelRecorded(record) for record in models),
        *(event for n in numbers for event in registered(n, *nodes[n])),
        group_set(0, {n: source.randint(1, 2**40) for n in numbers if n == 1 or source.random() < 0.7}),
        *commits,
    )
    verdicts = list(Verdict)
    batches = state.poc_commits.get(EPOCH, {})
    rules = rules_of(batches, state, PARAMETERS)  # without one nobody can judge
    bundles = {
        account(n): bundle_of(
            n,
            *(
                vote_on(c, source.choice(verdicts) if key in rules else Verdict.ABSTAIN)
                for key, c in batches.items()
                if c.count > 0
            ),
        )
        for n in numbers
    }
    for voter, bundle in bundles.items():
        check_bundle(
            bundle,
            EPOCH,
            voter,
            batches,
            rules,
            sample_seed=SAMPLE_SEED,
            checkers=lambda *_: frozenset(),
            checked=frozenset(),
        )
    result = form_epoch_result(EPOCH, state, PARAMETERS, bundles, None)
    backwards = form_epoch_result(EPOCH, state, PARAMETERS, dict(reversed(bundles.items())), None)
    assert result == backwards
    if result is None:
        return
    assert to_bytes(result) == to_bytes(backwards)
    assert from_bytes(EpochResult, to_bytes(result)) == result
    assert result.reward_total <= subsidy(EPOCH, PARAMETERS)
    assert all(member.weight == sum(node.poc_weight for node in member.ml_nodes) for member in result.group.members)
    assert {node.model_id for m in result.group.members for node in m.ml_nodes} == {
        record.model_id for record in result.group.models
    }
    summary, packed = summarise(result, SOME_CID)
    assert summary.validator_set_hash == keccak(packed)
    assert summary.total_weight == sum(weight for _, weight in unpack_validator_set(packed))


def test_a_validator_set_is_read_back_and_no_other_bytes_are() -> None:
    entries = sorted(((account(n), n) for n in (1, 2, 3)), key=lambda entry: entry[0].lower())
    packed = pack_validator_set(entries)
    assert unpack_validator_set(packed) == tuple(entries)
    for wrong in (packed[1:], packed[28:] + packed[:28], packed[:28] * 2, bytes(28 * (VALIDATORS_MAX + 1))):
        with pytest.raises(ValueError, match="validator"):
            unpack_validator_set(wrong)


def test_the_genesis_group_follows_the_registry() -> None:
    state = state_of(
        ModelRecorded(model()),
        *registered(1, (NODE, TINY), (SECOND_NODE, TINY)),
        group_set(0, {1: 1, 2: 50}),
    )
    (member,) = current_group(EPOCH, state, {}).members  # the unregistered second is left out
    assert [node.poc_weight for node in member.ml_nodes] == [1, 1]
    assert current_group(EPOCH, state, {}).models == (state.models[TINY],)


def test_the_group_in_charge_is_that_of_the_newest_result_before() -> None:
    state = three_miners()
    result = form(state, bundles_all(state, Verdict.VALID, 1, 2, 3))
    state.results[EPOCH], _ = summarise(result, SOME_CID)
    assert current_group(EpochNumber(0), state, {EPOCH: result}).members == registry_group(EPOCH, state).members
    assert current_group(EpochNumber(1), state, {EPOCH: result}) == result.group
    carried_on = current_group(EpochNumber(4), state, {EPOCH: result})
    assert (carried_on.epoch, carried_on.members) == (4, result.group.members)


def test_a_result_in_short_slices_is_the_result_and_there_is_one_for_each_thing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = range(1, 8)
    events = [body for n in numbers for body in (*registered(n), commit(n, count=40))]
    state = state_of(group_set(0, dict.fromkeys(numbers, 1)), ModelRecorded(model()), *events)
    bundles = bundles_all(state, Verdict.VALID, *numbers)
    at_once = form(state, bundles)
    monkeypatch.setattr(slices, "ITEMS_PER_SLICE", 1)
    computation = form_epoch_result_in_slices(EPOCH, state, PARAMETERS, bundles, None)
    yields = 0
    while True:
        try:
            next(computation)
        except StopIteration as end:
            assert to_bytes(end.value) == to_bytes(at_once)
            break
        yields += 1
    assert yields > 3 * len(numbers)  # votes counted of each, each decided on, each scored
