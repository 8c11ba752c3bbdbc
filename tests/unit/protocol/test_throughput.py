"""Throughput vectors: expected from proved weight and slots, real from what executors say, cut where it cannot be."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.findings import Observations, ReceiptBook, ServedTokens
from node.protocol.identifiers import ZERO_HASH, Address, EpochNumber, ModelId, NodeId
from node.protocol.records import UINT64_MAX, EpochGroup, GroupMember, MLNodeSnapshot, VoteBundle
from node.protocol.throughput import (
    ServedAnswer,
    calculate_total_throughput,
    is_scaling_voted,
    measure_model_throughput_for_blocks,
    real_throughput_vectors,
    served_by_book,
    set_expected_throughput,
    set_real_throughput,
    validate_throughput_performance,
)
from node.protocol.timeslots import with_poc_slots
from node.protocol.weights import calculate_model_power
from tests.builders import NODE, PARAMETERS, SOME_CID, TINY, account, model, peer

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


BOOK = ReceiptBook(4000, 1_000_000, ZERO_HASH, SOME_CID)
"""With room for all that the tests say was served, as far as they are not about books."""


def bundle(number: int, *tokens: int, book: ReceiptBook | None = BOOK) -> VoteBundle:
    observed = Observations(served=(ServedTokens(TINY, tokens),))
    return VoteBundle(EPOCH, account(number), (), receipts=book, observations=observed)


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


def test_what_no_book_carries_was_not_served() -> None:
    """The executor's word alone: with the network's vote it would keep all of its weight for nothing."""
    small = replace(BOOK, count=1, output_tokens=88)
    private = replace(BOOK, output_tokens=0)
    bundles = {account(n): bundle(n, 900, 900, book=book) for n, book in ((1, None), (2, small), (3, private))}
    assert real_throughput_vectors(GROUP, bundles) == {TINY: (300, 300)}  # of 88 + 512, in proportion
    preserved = {(account(n), NODE): 60 for n in (1, 2, 3)}
    group = with_poc_slots(GROUP, preserved.keys())
    scaled = validate_throughput_performance(preserved, group, bundles, PARAMETERS, is_on=True)
    assert [scaled[account(n), NODE] for n in (1, 2, 3)] == [0, 60 * 300 // 500, 0]


ANSWERS = st.lists(st.tuples(st.sampled_from((0, 1)), st.integers(0, 511), st.integers(1, 512)), min_size=1)


@given(ANSWERS)
def test_what_honest_receipts_come_to_is_never_cut_by_their_book(answers: list[tuple[int, int, int]]) -> None:
    """A prompt and its answer fit into the model's context; of vectors all that is read can be drawn."""
    tokens = [0, 0]
    for slot, read, written in answers:
        tokens[slot] += min(read, 512 - written) + written
    book = replace(BOOK, count=len(answers), output_tokens=sum(written for _, _, written in answers))
    assert served_by_book(GROUP, bundle(1, *tokens, book=book)) == {TINY: tuple(tokens)}


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


def test_a_model_s_power_counts_every_node_of_it_and_its_throughput_is_power_by_what_was_frozen() -> None:
    """Those that kept serving, of which the chain has no batch, like those that mined."""
    kept = with_poc_slots(GROUP, {(account(1), NODE)})
    assert calculate_model_power(kept, TINY) == 300
    assert calculate_total_throughput(kept, TINY) == 300 * model().throughput_per_nonce
    assert calculate_model_power(kept, ModelId("other")) == calculate_total_throughput(kept, ModelId("other")) == 0
    endless = replace(GROUP, models=(model(throughput_per_nonce=UINT64_MAX),))
    assert calculate_total_throughput(endless, TINY) == UINT64_MAX
