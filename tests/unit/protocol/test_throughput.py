"""Throughput vectors: expected from proved weight and slots, real from what executors say, cut where it cannot be."""

from node.protocol.findings import Observations, ServedTokens
from node.protocol.identifiers import Address, EpochNumber, NodeId
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot, VoteBundle
from node.protocol.throughput import (
    ServedAnswer,
    calculate_total_throughput,
    is_scaling_voted,
    measure_model_throughput_for_blocks,
    real_throughput_vectors,
    set_expected_throughput,
    set_real_throughput,
    validate_throughput_performance,
)
from node.protocol.timeslots import with_poc_slots
from tests.builders import NODE, PARAMETERS, TINY, account, model, peer

EPOCH = EpochNumber(4)
SECOND_NODE = NodeId("node-2")
GROUP = EpochGroup(
    EPOCH,
    tuple(
        GroupMember(
            account(n),
            peer(n),
            100,
            (
                MLNodeSnapshot(NODE, TINY, 60, 600, (True, False)),
                MLNodeSnapshot(SECOND_NODE, TINY, 40, 400, (False, False)),
            ),
        )
        for n in sorted((1, 2, 3), key=lambda n: account(n).lower())
    ),
    (model(),),
)


def bundle(number: int, *tokens: int) -> VoteBundle:
    return VoteBundle(EPOCH, account(number), (), observations=Observations(served=(ServedTokens(TINY, tokens),)))


def test_expected_throughput_is_that_of_the_nodes_allotted_to_each_slot_for_the_slot_s_part_of_the_epoch() -> None:
    group = with_poc_slots(GROUP, {(account(1), NODE)})
    (entry,) = set_expected_throughput(group, PARAMETERS).throughputs
    assert entry.total_throughput == calculate_total_throughput(group, TINY) == 3000
    assert entry.expected_throughput_vector == (1800 * 10 // 60, 600 * 50 // 60)
    assert entry.real_throughput_vector == (0, 0)


def test_real_throughput_adds_up_what_executors_say_up_to_four_times_what_they_proved() -> None:
    bundles = {account(1): bundle(1, 100, 50), account(2): bundle(2, 3900, 900), account(9): bundle(9, 10**9, 0)}
    real = real_throughput_vectors(GROUP, bundles)
    assert real == {TINY: (100 + 3900, 50 + 100)}
    (entry,) = set_real_throughput(set_expected_throughput(GROUP, PARAMETERS), real).throughputs
    assert entry.real_throughput_vector == (4000, 150)


def test_throughput_of_the_last_blocks_counts_tokens_read_and_written() -> None:
    answers = [ServedAnswer(TINY, block, 10, 5) for block in (99, 100, 109, 110)]
    assert measure_model_throughput_for_blocks(answers, 100, 109) == {TINY: 30}


def test_scaling_holds_only_with_more_than_two_thirds_of_the_weight() -> None:
    weights = {account(n): 100 for n in (1, 2, 3)}

    def voting(*numbers: int) -> dict[Address, VoteBundle]:
        observed = Observations(wants_scaling=True)
        return {account(n): VoteBundle(EPOCH, account(n), (), observations=observed) for n in numbers}

    assert not is_scaling_voted(voting(1, 2), weights)
    assert not is_scaling_voted(voting(1, 2, 8, 9), weights)
    assert is_scaling_voted(voting(1, 2, 3), weights)


def test_preserved_weight_is_scaled_by_service_only_where_the_network_voted_for_it() -> None:
    preserved = {(account(1), NODE): 60, (account(2), NODE): 60, (account(3), NODE): 60}
    group = with_poc_slots(GROUP, preserved.keys())
    bundles = {account(1): bundle(1, 0, 250), account(2): bundle(2, 10**6, 600)}
    arguments = (preserved, group, bundles, PARAMETERS)
    assert validate_throughput_performance(*arguments, is_on=False) == preserved
    assert validate_throughput_performance(*arguments, is_on=True) == {
        (account(1), NODE): 30,
        (account(2), NODE): 60,
        (account(3), NODE): 0,
    }
