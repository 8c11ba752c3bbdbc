"""What bounds gossip's parts: budgets, memory, queues, frames."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from p2p.gossip.budget import NAMES_MAX, Budget
from p2p.gossip.framing import FrameReader, encode_frame
from p2p.gossip.memory import Memory
from p2p.gossip.outgoing import CONTROL_FRAMES_MAX, MESSAGE_BYTES_MAX, WRITE_BYTES_MAX, Outgoing
from p2p.gossip.verdict import MalformedError

FRAME_BYTES_MAX = 5000


class Stream:
    """Brings the given pieces, then its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    async def read(self, _count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0) if self.pieces else b""


async def read_all(data: bytes, cut: int) -> list[bytes]:
    reader = FrameReader(Stream([data[at : at + cut] for at in range(0, len(data), cut)]), FRAME_BYTES_MAX)
    frames = []
    while (frame := await reader.next()) is not None:
        frames.append(frame)
    return frames


@given(st.lists(st.binary(max_size=400), max_size=8), st.integers(1, 500))
def test_frames_come_out_whole_however_the_stream_cuts_them(frames: list[bytes], cut: int) -> None:
    assert trio.run(read_all, b"".join(map(encode_frame, frames)), cut) == frames


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(bytes(FRAME_BYTES_MAX + 1)),
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80" * 5,
        b"\x80",
        encode_frame(b"abc")[:-1],
    ],
)
async def test_a_stream_of_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        await read_all(data, 7)


def test_a_budget_refuses_beyond_its_burst_and_fills_again() -> None:
    now = 0.0
    budget = Budget(10, 20, lambda: now)
    assert [budget.take("a") for _ in range(21)].count(True) == 20
    assert budget.take("b")
    now = 1.0
    assert [budget.take("a") for _ in range(11)].count(True) == 10
    assert not budget.take("a")


def test_budgets_are_forgotten_when_full_and_never_more_than_the_bound() -> None:
    now = 0.0
    budget = Budget(10, 20, lambda: now)
    for number in range(NAMES_MAX + 10):
        budget.take(str(number))
    assert len(budget) == NAMES_MAX
    now = 10.0
    budget.sweep()
    assert len(budget) == 0


def test_memory_forgets_the_oldest() -> None:
    memory: Memory[int] = Memory(2)
    for number in range(3):
        memory.put(bytes([number]), number)
    assert memory.get(b"\0") is None
    assert memory.get(b"\2") == 2
    assert len(memory) == 2


async def test_a_peer_that_reads_slowly_loses_the_oldest_messages_and_memory_stays_bounded() -> None:
    queue = Outgoing()
    frame = bytes(1 << 20)
    dropped = sum(queue.push(bytes([number]) + frame, control=False) for number in range(6))
    assert dropped == 6 - MESSAGE_BYTES_MAX // len(frame) + 1
    taken = await queue.take()
    assert taken is not None
    assert taken[0] == dropped


async def test_control_goes_first_and_small_frames_go_together() -> None:
    queue = Outgoing()
    queue.push(b"message", control=False)
    queue.push(b"control", control=True)
    queue.push(bytes(WRITE_BYTES_MAX), control=False)
    assert await queue.take() == b"controlmessage"
    assert await queue.take() == bytes(WRITE_BYTES_MAX)


async def test_a_closed_queue_ends_its_taker_and_takes_no_more() -> None:
    queue = Outgoing()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.take)
        await trio.testing.wait_all_tasks_blocked()
        queue.close()
    assert queue.push(b"late", control=False) == 1


def test_control_frames_are_bounded() -> None:
    queue = Outgoing()
    assert [queue.push(b"c", control=True) for _ in range(CONTROL_FRAMES_MAX + 1)][-2:] == [0, 1]
