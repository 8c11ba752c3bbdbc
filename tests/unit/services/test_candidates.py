"""The order of candidates: as drawn, with neighbours changing places for load and speed, and nobody honest starved."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.identifiers import NodeId, RequestId
from node.protocol.routing import ExecutorChoice, rank_executors
from node.services.candidates import (
    FAITHFUL_ONE_IN,
    Prospect,
    is_faithful,
    once_per_participant,
    order_candidates,
)
from tests.builders import TINY, account, peer
from tests.unit.protocol.test_routing import group, request


def choice(number: int, node: str = "n") -> ExecutorChoice:
    return ExecutorChoice(account(number), peer(number), NodeId(node))


prospects = st.lists(
    st.builds(
        Prospect,
        choice=st.integers(1, 12).map(choice),
        load=st.integers(0, 200),
        capacity=st.integers(0, 64),
        seconds=st.none() | st.floats(0, 100),
        delay=st.floats(0, 5),
        is_busy=st.booleans(),
        score=st.floats(0, 1),
        is_faulty=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda prospect: prospect.choice,
)


def is_well(prospect: Prospect) -> bool:
    full = prospect.is_busy or prospect.load >= prospect.capacity > 0
    return not full and not prospect.is_faulty and prospect.score > 0


@given(prospects, st.booleans())
def test_everyone_drawn_is_asked_once_and_the_order_follows_from_what_is_known(
    drawn: list[Prospect], faithful: bool
) -> None:
    ordered = order_candidates(drawn, faithful=faithful)
    assert sorted(c.participant for c in ordered) == sorted(p.choice.participant for p in drawn)
    assert ordered == order_candidates(drawn, faithful=faithful)


@given(prospects, st.booleans())
def test_nobody_who_is_well_moves_by_more_than_one_place_among_the_well(drawn: list[Prospect], faithful: bool) -> None:
    well = [prospect.choice for prospect in drawn if is_well(prospect)]
    ordered = order_candidates(drawn, faithful=faithful)[: len(well)]
    assert all(abs(ordered.index(c) - place) <= (0 if faithful else 1) for place, c in enumerate(well))


@given(prospects)
def test_the_full_come_after_the_well_and_the_faulty_last(drawn: list[Prospect]) -> None:
    by_choice = {prospect.choice: prospect for prospect in drawn}
    ordered = [by_choice[c] for c in order_candidates(drawn, faithful=False)]
    ranks = [2 if p.is_faulty or p.score <= 0 else 0 if is_well(p) else 1 for p in ordered]
    assert ranks == sorted(ranks)


def test_the_less_loaded_and_the_faster_of_two_neighbours_goes_first() -> None:
    first, second = Prospect(choice(1), capacity=64), Prospect(choice(2), capacity=64)
    for better in (
        (replace(first, load=60), second),
        (replace(first, seconds=1.0), replace(second, seconds=0.1)),
        (replace(first, score=0.3), second),
        (replace(first, delay=4.0), second),
    ):
        assert order_candidates(better, faithful=False) == (second.choice, first.choice)
        assert order_candidates(better, faithful=True) == (first.choice, second.choice)


def test_small_differences_do_not_overrule_the_draw() -> None:
    pair = (
        Prospect(choice(1), load=5, capacity=64, seconds=0.5),
        Prospect(choice(2), load=3, capacity=64, seconds=0.45),
    )
    assert order_candidates(pair, faithful=False) == (pair[0].choice, pair[1].choice)


def test_whoever_is_always_slower_keeps_a_part_of_its_share() -> None:
    nodes = group(100, 100, 100, 100)
    requests = 8000
    first = 0
    for index in range(requests):
        request_id = RequestId((index * 2654435761).to_bytes(32))
        drawn = [
            Prospect(ranked, seconds=10.0 if ranked.participant == account(1) else 0.1)
            for ranked in rank_executors(request_id, nodes, TINY)
        ]
        first += order_candidates(drawn, faithful=is_faithful(request_id))[0].participant == account(1)
    share = requests / 4 / FAITHFUL_ONE_IN
    assert 0.7 * share < first < 1.3 * share


@given(st.integers(0, 2**200))
def test_a_participant_with_several_nodes_is_asked_once_at_its_best_place(index: int) -> None:
    members = group(100, 50, 10).members
    doubled = replace(
        members[0], ml_nodes=tuple(replace(members[0].ml_nodes[0], node_id=NodeId(f"n{n}")) for n in range(5))
    )
    ranked = rank_executors(request(index), replace(group(100, 50, 10), members=(doubled, *members[1:])), TINY)
    once = once_per_participant(ranked)
    assert sorted(c.participant for c in once) == sorted({c.participant for c in ranked})
    places = [ranked.index(c) for c in once]
    assert places == sorted(places)
    assert all(
        c.participant != earlier.participant
        for place, c in zip(places, once, strict=True)
        for earlier in ranked[:place]
    )
