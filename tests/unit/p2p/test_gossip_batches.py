"""When items go, with what, and what a receiver takes for a batch."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.gossip.batch import FORMAT, ITEMS_MAX, decode_batch, encode_batch, item_bytes_max
from p2p.gossip.outbox import GATHER_SECONDS, PERIOD_SECONDS, URGENT_PER_SECOND_MAX, WAITING_ITEMS_MAX, Outbox
from p2p.gossip.verdict import MalformedError

MESSAGE_BYTES_MAX = 1000


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=ITEMS_MAX))
def test_what_is_batched_comes_out_again(items: list[bytes]) -> None:
    assert decode_batch(encode_batch(items)) == items


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_malformed_or_of_another_format(data: bytes) -> None:
    try:
        items = decode_batch(data)
    except MalformedError:
        return
    if items is None:
        assert data[0] != FORMAT
    else:
        assert encode_batch(items) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x01\x00\x00\x00\x00",
        b"\x01\x00\x00\x00\x05abcd",
        b"\x01\xff\xff\xff\xffabcd",
        b"\x01\x00\x00",
        b"\x01" + b"\x00\x00\x00\x01a" * (ITEMS_MAX + 1),
    ],
)
def test_a_batch_that_is_none_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_batch(data)


def test_a_format_of_the_future_is_no_offence() -> None:
    assert decode_batch(b"\x02whatever") is None


def test_items_said_together_go_together() -> None:
    outbox = Outbox(MESSAGE_BYTES_MAX)
    outbox.add("t", b"one", 0.0)
    outbox.add("t", b"two", 0.01)
    assert outbox.due(0.01) == []
    assert outbox.next_due_at() == GATHER_SECONDS
    assert outbox.due(GATHER_SECONDS) == ["t"]
    assert decode_batch(outbox.take("t", GATHER_SECONDS) or b"") == [b"one", b"two"]
    assert outbox.next_due_at() == float("inf")


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 400)), max_size=60))
def test_no_second_sees_two_messages_and_no_item_waits_longer_unless_too_much_waits(
    said: list[tuple[float, int]],
) -> None:
    outbox = Outbox(MESSAGE_BYTES_MAX)
    sent: list[tuple[float, list[bytes]]] = []
    saying = sorted(said)

    def send_until(end: float) -> None:
        while (at := outbox.next_due_at()) <= end:
            for topic in outbox.due(at):
                message = outbox.take(topic, at)
                assert message is not None
                assert len(message) <= MESSAGE_BYTES_MAX
                sent.append((at, decode_batch(message) or []))

    for at, size in saying:
        send_until(at)
        outbox.add("t", bytes([1]) * size, at)
    send_until(1000.0)
    times = [at for at, _ in sent]
    assert all(later - earlier >= PERIOD_SECONDS - 1e-9 for earlier, later in pairwise(times))
    assert [len(item) for _, items in sent for item in items] == [size for _, size in saying]
    if sum(size + 4 for _, size in saying) < MESSAGE_BYTES_MAX:  # everything fits, so each went with the next message
        for (at, _), waited_until in zip(saying, [sent_at for sent_at, items in sent for _ in items], strict=True):
            assert waited_until - at <= PERIOD_SECONDS + 1e-9


def test_what_does_not_fit_goes_in_the_next_second() -> None:
    outbox = Outbox(MESSAGE_BYTES_MAX)
    for number in range(3):
        outbox.add("t", bytes([number]) * 400, 0.0)
    assert [item[0] for item in decode_batch(outbox.take("t", 0.1) or b"") or []] == [0, 1]
    assert outbox.due(0.1 + PERIOD_SECONDS / 2) == []
    assert [item[0] for item in decode_batch(outbox.take("t", 0.1 + PERIOD_SECONDS) or b"") or []] == [2]


def test_an_urgent_item_goes_at_the_head_and_takes_along_what_waits() -> None:
    outbox = Outbox(MESSAGE_BYTES_MAX)
    outbox.add("t", b"waiting", 0.0)
    assert decode_batch(outbox.take("t", 0.0, first=b"urgent") or b"") == [b"urgent", b"waiting"]


def test_haste_is_bounded_and_comes_back_with_time() -> None:
    outbox = Outbox(MESSAGE_BYTES_MAX)
    assert [outbox.may_hurry("t", 0.1 * n) for n in range(URGENT_PER_SECOND_MAX + 1)] == [
        *[True] * URGENT_PER_SECOND_MAX,
        False,
    ]
    assert outbox.may_hurry("t", PERIOD_SECONDS)


def test_beyond_the_bound_the_oldest_items_go_and_are_counted() -> None:
    outbox = Outbox(MESSAGE_BYTES_MAX)
    for number in range(WAITING_ITEMS_MAX + 5):
        outbox.add("t", number.to_bytes(4), 0.0)
    assert outbox.dropped == 5
    first = decode_batch(outbox.take("t", 0.0) or b"")
    assert first is not None
    assert int.from_bytes(first[0]) == 5


def test_an_item_that_fits_into_no_message_is_refused_where_it_is_said() -> None:
    outbox = Outbox(MESSAGE_BYTES_MAX)
    outbox.add("t", bytes(item_bytes_max(MESSAGE_BYTES_MAX)), 0.0)
    with pytest.raises(ValueError, match="fit into a message"):
        outbox.add("t", bytes(item_bytes_max(MESSAGE_BYTES_MAX) + 1), 0.0)
    with pytest.raises(ValueError, match="fit into a message"):
        outbox.add("t", b"", 0.0)
