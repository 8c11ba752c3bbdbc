"""Routing: every node ranks alike, shares follow throughput, and only the leaver's requests move."""

import math

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.identifiers import EpochNumber, ModelId, NodeId, RequestId
from node.protocol.lots import LOGARITHM_FRACTION_BITS, _negative_log2
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot
from node.protocol.routing import rank_executors
from tests.builders import TINY, account, peer


def group(*throughputs: int, model_id: ModelId = TINY) -> EpochGroup:
    members = tuple(
        GroupMember(account(n), peer(n), 1, (MLNodeSnapshot(NodeId("n"), model_id, 1, throughput, (True, False)),))
        for n, throughput in enumerate(throughputs, start=1)
    )
    return EpochGroup(EpochNumber(1), members, ())


def request(index: int) -> RequestId:
    return RequestId(index.to_bytes(32))


@given(st.integers(0, 2**64 - 1))
def test_the_logarithm_is_right_to_its_stated_precision(uniform: int) -> None:
    exact = 64 - math.log2(uniform + 1)
    assert abs(_negative_log2(uniform) / 2**LOGARITHM_FRACTION_BITS - exact) < 2**-31


@given(st.integers(0, 2**64 - 2))
def test_the_logarithm_never_rises_with_the_number(uniform: int) -> None:
    assert _negative_log2(uniform) >= _negative_log2(uniform + 1) >= 0


def test_first_places_follow_throughput() -> None:
    nodes = group(100, 200, 700)
    first = [rank_executors(request(index), nodes, TINY)[0].participant for index in range(4000)]
    for number, share in ((1, 0.1), (2, 0.2), (3, 0.7)):
        deviation = math.sqrt(4000 * share * (1 - share))
        assert abs(first.count(account(number)) - 4000 * share) < 4 * deviation


def test_when_a_node_leaves_only_its_requests_move() -> None:
    before, after = group(100, 200, 700), EpochGroup(EpochNumber(1), group(100, 200, 700).members[:2], ())
    for index in range(300):
        ranked = rank_executors(request(index), before, TINY)
        left = tuple(choice for choice in ranked if choice.participant != account(3))
        assert rank_executors(request(index), after, TINY) == left


@given(st.lists(st.integers(0, 2**64 - 1), max_size=6), st.integers(0, 2**200))
def test_everyone_able_is_ranked_once_whatever_the_order_of_members(throughputs: list[int], index: int) -> None:
    nodes = group(*throughputs)
    ranked = rank_executors(request(index), nodes, TINY)
    assert len(set(ranked)) == len(ranked) == sum(throughput > 0 for throughput in throughputs)
    assert rank_executors(request(index), EpochGroup(nodes.epoch, nodes.members[::-1], ()), TINY) == ranked


def test_nodes_of_other_models_are_not_asked() -> None:
    assert rank_executors(request(1), group(5, model_id=ModelId("other")), TINY) == ()
