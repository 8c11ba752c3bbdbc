"""The result's money: preserved weight is paid, fraud is not, and nobody is paid without evidence of work."""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.events import CollateralDeposited, EventBody, MinCollateralSet
from node.protocol.findings import NodeFate, Observations, Sighting
from node.protocol.identifiers import Address, Hash32, TokenAmount
from node.protocol.nonces import draw_sample
from node.protocol.records import EpochResult, PocVote, VoteBundle
from node.protocol.results import form_epoch_result
from node.protocol.timeslots import select_poc_slots
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from tests.builders import NODE, PARAMETERS, SAMPLE_SEED, TINY, account, bundle_of, commit, registered
from tests.unit.protocol.test_unpaid import MEMBERS, SECOND, SECOND_NODE, first_result, network, votes

KEY = (account(2), NODE)


def amounts(result: EpochResult) -> dict[str, int]:
    return {share.participant: share.amount for share in result.settled}


def form(
    *events: EventBody, selected: frozenset[NodeKey] = frozenset(), bundles: dict[Address, VoteBundle] | None = None
) -> EpochResult:
    state = network(*events)
    cast = votes(state, SECOND, {}) if bundles is None else bundles
    result = form_epoch_result(SECOND, state, PARAMETERS, cast, first_result(), selected=selected)
    assert result is not None
    return result


def test_a_node_that_kept_serving_keeps_its_weight_is_paid_for_it_and_its_batch_does_not_count() -> None:
    batches = [commit(number, 100, epoch=1) for number in (1, 3, 4)]
    plain = form(*batches, selected=frozenset({KEY}))
    (outcome,) = [node for node in plain.nodes if (node.participant, node.node_id) == KEY]
    assert (outcome.fate, outcome.weight, outcome.count) == (NodeFate.PRESERVED, 100, 0)
    assert {m.participant: m.weight for m in plain.group.members}[account(2)] == 100
    assert amounts(plain)[account(2)] == amounts(plain)[account(3)] > 0
    with_a_batch = form(*batches, commit(2, 900_000, epoch=1), selected=frozenset({KEY}))
    assert with_a_batch.nodes == plain.nodes
    assert amounts(with_a_batch) == amounts(plain)


def test_weight_of_who_does_not_count_is_not_preserved() -> None:
    deposits = [CollateralDeposited(account(n), TokenAmount(10)) for n in MEMBERS if n != 2]
    batches = [commit(number, 100, epoch=1) for number in (1, 3, 4)]
    result = form(*deposits, *batches, MinCollateralSet(TokenAmount(10)), selected=frozenset({KEY}))
    assert account(2) not in amounts(result)
    assert account(2) not in {member.participant for member in result.group.members}


def test_weight_of_who_was_away_is_not_preserved() -> None:
    batches = [commit(number, 100, epoch=1) for number in (1, 3, 4)]
    cast = votes(network(*batches), SECOND, {})
    for witnesses, is_kept in (((1,), True), ((1, 3), False)):  # of three others of equal weight
        bundles = dict(cast)
        for witness in witnesses:
            observed = Observations((Sighting(account(2), 400),))
            bundles[account(witness)] = replace(cast[account(witness)], observations=observed)
        result = form(*batches, selected=frozenset({KEY}), bundles=bundles)
        assert (account(2) in amounts(result)) is is_kept


def test_who_committed_a_batch_of_fakes_is_neither_paid_nor_in_the_next_group_and_nobody_gains() -> None:
    events = [
        *registered(2, (NODE, TINY), (SECOND_NODE, TINY)),
        *(commit(number, 100, epoch=1) for number in MEMBERS),
        commit(2, 100, epoch=1, node_id=SECOND_NODE),
    ]
    state = network(*events)
    bundles: dict[Address, VoteBundle] = {}
    for voter, bundle in votes(state, SECOND, {}).items():
        cast = tuple(
            PocVote(
                vote.participant,
                vote.node_id,
                Verdict.INVALID,
                8,
                draw_sample(SAMPLE_SEED, vote.participant, vote.node_id, 100, 8),
                "mismatches",
                unrelated=8,
            )
            if (vote.participant, vote.node_id) == (account(2), SECOND_NODE)
            else vote
            for vote in bundle.votes
        )
        bundles[voter] = replace(bundle, votes=cast)
    result = form(*events, bundles=bundles)
    assert [(decision.participant, decision.reason) for decision in result.penalties] == [
        (account(2), "batch-of-fakes")
    ]
    assert amounts(result)[account(2)] == 0
    assert account(2) not in {member.participant for member in result.group.members}
    # Its accepted batch stays in the sum by which shares are measured.
    counted = sum(share.weight * (110 if share.covers_models else 100) for share in result.settled)
    assert amounts(result)[account(3)] == result.available * 100 * 100 // counted


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_nobody_is_paid_who_neither_proved_nor_was_allotted_and_the_sum_is_what_there_is_at_most(seed: int) -> None:
    source = random.Random(seed)
    previous = first_result()
    batches = [commit(n, source.randint(1, 1000), epoch=1) for n in (*MEMBERS, 9) if source.random() < 0.6]
    state = network(*registered(9), *batches)
    bundles: dict[Address, VoteBundle] = {}
    for voter in MEMBERS:
        cast = [
            PocVote(batch.participant, batch.node_id, Verdict.VALID, min(8, batch.count), (), "")
            for batch in state.poc_commits.get(SECOND, {}).values()
            if batch.participant != account(voter) and source.random() < 0.8
        ]
        if source.random() < 0.8:
            bundles[account(voter)] = replace(bundle_of(voter, *cast), epoch=SECOND)
    selected = select_poc_slots(previous.group, previous.nodes, state, Hash32(source.randbytes(32)))
    result = form_epoch_result(SECOND, state, PARAMETERS, bundles, previous, selected=selected)
    if result is None:
        return
    worked = {batch.commit.participant for batch in batches}
    kept = {participant for participant, _ in selected}
    assert {share.participant for share in result.settled if share.amount > 0} <= worked | kept
    assert sum(share.amount for share in result.settled) == result.reward_total <= result.available
    backwards = form_epoch_result(
        SECOND, state, PARAMETERS, dict(reversed(bundles.items())), previous, selected=selected
    )
    assert backwards == result


@settings(max_examples=40)
@given(st.lists(st.integers(8, 10**6), min_size=4, max_size=4), st.integers(0, 10**6 - 8), st.sampled_from(MEMBERS))
def test_a_larger_valid_batch_never_earns_less(counts: list[int], more: int, worker: int) -> None:
    before = dict(zip(MEMBERS, counts, strict=True))
    after = {**before, worker: min(10**6, before[worker] + more)}
    paid = [
        amounts(form(*(commit(number, count, epoch=1) for number, count in sizes.items()))) for sizes in (before, after)
    ]
    assert paid[1][account(worker)] >= paid[0][account(worker)]
