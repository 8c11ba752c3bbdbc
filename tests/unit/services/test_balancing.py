"""Decisions of the broker: the work goes where it is done first, the line is fair and never grows without bound."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node.services.balancing import (
    PREFIX_BLOCK_TOKENS,
    FairLine,
    LineState,
    NodeLoad,
    admit,
    choose,
    expected_wait_seconds,
    prefix_blocks,
    work_tokens,
)

IDLE = NodeLoad(places=4, running=0, tokens_left=0, tokens_per_second=100.0, known_prefix_tokens=0)

loads = st.builds(
    NodeLoad,
    places=st.integers(1, 64),
    running=st.integers(0, 64),
    tokens_left=st.integers(0, 10**6),
    tokens_per_second=st.floats(0.1, 10**5),
    known_prefix_tokens=st.integers(0, 10**5),
)
lines = st.builds(
    LineState,
    waiting=st.integers(0, 300),
    waiting_of_payer=st.integers(0, 300),
    waiting_tokens=st.integers(0, 10**7),
    running_tokens=st.integers(0, 10**7),
    places=st.integers(0, 500),
    tokens_per_second=st.floats(0.1, 10**6),
).filter(lambda line: line.waiting_of_payer <= line.waiting)


@given(st.lists(loads, max_size=8), st.integers(1, 10**5))
def test_a_node_is_chosen_if_and_only_if_one_has_a_place(nodes: list[NodeLoad], prompt_tokens: int) -> None:
    chosen = choose(nodes, prompt_tokens)
    assert (chosen is None) == all(node.running >= node.places for node in nodes)
    if chosen is not None:
        assert nodes[chosen].running < nodes[chosen].places


@given(st.lists(loads, min_size=1, max_size=8), st.integers(1, 10**5))
def test_less_work_never_makes_a_chosen_node_less_attractive(nodes: list[NodeLoad], prompt_tokens: int) -> None:
    chosen = choose(nodes, prompt_tokens)
    if chosen is not None:
        eased = [replace(n, tokens_left=n.tokens_left // 2) if i == chosen else n for i, n in enumerate(nodes)]
        assert choose(eased, prompt_tokens) == chosen


def test_the_faster_node_may_have_more_work() -> None:
    slow = replace(IDLE, tokens_left=150)
    fast = replace(IDLE, tokens_left=300, tokens_per_second=1000.0)
    assert choose([slow, fast], 10) == 1


def test_a_conversation_stays_where_it_began_while_that_node_is_not_much_busier() -> None:
    known = replace(IDLE, known_prefix_tokens=4000, running=1, tokens_left=200)
    assert choose([IDLE, known], 4100) == 1
    assert choose([IDLE, replace(known, tokens_left=work_tokens(4000, 0) + 1)], 4100) == 0


@given(st.lists(st.integers(0, 5), max_size=300), st.lists(st.integers(0, 5), max_size=300))
def test_prompts_share_as_many_blocks_as_their_common_beginning_has(one: list[int], other: list[int]) -> None:
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    shared = sum(a == b for a, b in zip(prefix_blocks(one), prefix_blocks(other), strict=False))
    assert shared == same // PREFIX_BLOCK_TOKENS


@given(lines, st.integers(1, 256), st.floats(0, 100))
def test_who_is_sent_away_is_told_a_time_and_who_joins_waits_no_longer_than_the_limit(
    line: LineState, waiting_max: int, wait_seconds_max: float
) -> None:
    seconds = admit(line, waiting_max=waiting_max, wait_seconds_max=wait_seconds_max)
    if seconds is None:
        assert expected_wait_seconds(line) <= wait_seconds_max
        assert line.waiting < waiting_max
    else:
        assert seconds >= 0


@given(st.lists(st.integers(0, 3), max_size=400), st.integers(1, 64))
def test_a_flood_of_one_payer_leaves_room_in_line_for_every_other(arrivals: list[int], waiting_max: int) -> None:
    waiting: Counter[int] = Counter()

    def state(payer: int) -> LineState:
        return LineState(waiting.total(), waiting[payer], 0, 0, 1, 1.0)

    for payer in arrivals:
        if admit(state(payer), waiting_max=waiting_max, wait_seconds_max=1.0) is None:
            waiting[payer] += 1
        assert waiting.total() <= waiting_max
        if len(waiting) == 1:
            assert waiting_max == 1 or admit(state(99), waiting_max=waiting_max, wait_seconds_max=1.0) is None


@given(st.integers(1, 50), st.integers(1, 50), st.integers(2, 200))
def test_two_payers_that_always_want_more_get_equal_work(one: int, other: int, rounds: int) -> None:
    works = {"one": one, "other": other}
    line: FairLine[str, tuple[str, int]] = FairLine()
    for number in range(rounds):
        for payer, work in works.items():
            line.join((payer, number), payer, work)
    given_work = {"one": 0, "other": 0}
    while all(line.count_of(payer) for payer in works):
        item = line.first()
        assert item is not None
        line.take(item)
        given_work[item[0]] += works[item[0]]
        assert abs(given_work["one"] - given_work["other"]) <= one + other


def test_a_flood_does_not_delay_the_first_request_of_another() -> None:
    line: FairLine[str, int] = FairLine()
    for number in range(1000):
        line.join(number, "flood", 10)
    line.take(0)
    line.join(1000, "quiet", 10)
    taken = []
    for _ in range(2):
        item = line.first()
        assert item is not None
        line.take(item)
        taken.append(item)
    assert 1000 in taken


def test_nobody_saves_up_a_claim_while_away() -> None:
    line: FairLine[str, int] = FairLine()
    for _ in range(1000):
        line.pass_by("steady", 10)  # nobody else wanted the engines
    for number in range(20):
        line.join(number, "steady" if number % 2 else "new", 10)
    first = []
    for _ in range(10):
        item = line.first()
        assert item is not None
        line.take(item)
        first.append("steady" if item % 2 else "new")
    assert first.count("new") <= 6


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 100), st.integers(-100, 200)), max_size=200))
def test_the_books_of_a_line_shrink_when_nobody_waits(requests: list[tuple[int, int, int]]) -> None:
    line: FairLine[str, int] = FairLine()
    for number, (payer, work, difference) in enumerate(requests):
        line.join(number, str(payer), work)
        line.take(number)
        line.correct(str(payer), difference)
    for _ in range(2000):
        line.pass_by("last", 100)
    assert line.payers_known <= 1
    assert not len(line)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=100))
def test_everyone_who_stays_in_line_is_called_once(requests: list[tuple[int, bool]]) -> None:
    line: FairLine[str, int] = FairLine()
    for number, (payer, _) in enumerate(requests):
        line.join(number, str(payer), 10)
    for number, (_, leaves) in enumerate(requests):
        if leaves:
            line.leave(number)
            line.leave(number)
    called = []
    while (item := line.first()) is not None:
        line.take(item)
        called.append(item)
    assert sorted(called) == [number for number, (_, leaves) in enumerate(requests) if not leaves]
