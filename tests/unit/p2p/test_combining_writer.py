"""Writes of many tasks to one stream."""

import pytest
import trio
import trio.testing

from p2p.combining_writer import INTERVAL_SECONDS, SOON_BYTES_MAX, CombiningWriter, WriteFailedError


class SlowStream:
    """Takes a while for each write, and remembers."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.written: list[bytes] = []
        self.times: list[float] = []
        self.seconds = seconds
        self.broken = False

    async def write(self, data: bytes) -> None:
        await trio.sleep(self.seconds)
        if self.broken:
            raise OSError("reset")
        self.times.append(trio.current_time())
        self.written.append(data)


async def test_the_first_write_after_a_silence_goes_at_once(autojump_clock: object) -> None:
    stream = SlowStream()
    writer = CombiningWriter(stream)
    began = trio.current_time()
    await writer.write(b"a")
    await trio.sleep(1)
    await writer.write(b"b")
    assert stream.times == [began, began + 1]


async def test_what_comes_during_a_write_goes_together_with_the_next(autojump_clock: object) -> None:
    stream = SlowStream(0.1)
    writer = CombiningWriter(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, b"0")
        await trio.sleep(0.05)
        for number in range(1, 6):
            nursery.start_soon(writer.write, b"%d" % number)
            await trio.sleep(0.001)
    assert stream.written == [b"0", b"12345"]


async def test_writes_that_follow_each_other_closely_wait_for_others(autojump_clock: object) -> None:
    stream = SlowStream()
    writer = CombiningWriter(stream)
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(writer.write, b"%02d" % number)
            await trio.sleep(INTERVAL_SECONDS / 10)
    assert b"".join(stream.written) == b"".join(b"%02d" % number for number in range(100))
    assert len(stream.written) <= 12
    gaps = [later - earlier for earlier, later in zip(stream.times, stream.times[1:], strict=False)]
    assert min(gaps) >= INTERVAL_SECONDS * 0.999


async def test_a_writer_is_not_kept_by_the_writes_of_others(autojump_clock: object) -> None:
    """Under constant load each write returns when its own bytes are out."""
    stream = SlowStream(0.01)
    writer = CombiningWriter(stream)
    async with trio.open_nursery() as nursery:

        async def write_for_ever() -> None:
            while True:
                await writer.write(b".")

        for _ in range(3):
            nursery.start_soon(write_for_ever)
        await trio.sleep(0.1)
        with trio.fail_after(0.1):
            for _ in range(3):
                await writer.write(b"!")
        nursery.cancel_scope.cancel()


async def test_a_cancelled_write_still_goes_out_whole(autojump_clock: object) -> None:
    stream = SlowStream(0.1)
    writer = CombiningWriter(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, b"first")
        await trio.sleep(0.01)
        for piece in (b"leader", b"follower"):
            with trio.move_on_after(0.02):
                await writer.write(piece)
    await writer.write(b"last")
    assert b"".join(stream.written) == b"firstleaderfollowerlast"


async def test_all_who_wait_hear_that_the_stream_is_gone(autojump_clock: object) -> None:
    stream = SlowStream(0.1)
    stream.broken = True
    writer = CombiningWriter(stream)
    failed = []

    async def write() -> None:
        with pytest.raises(WriteFailedError, match="reset"):
            await writer.write(b"x")
        failed.append(True)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(write)
            await trio.sleep(0.03)
    await write()
    assert len(failed) == 6


async def test_what_nobody_waits_for_goes_in_order_with_what_others_write(autojump_clock: object) -> None:
    stream = SlowStream(0.01)
    writer = CombiningWriter(stream)
    said = [b"%03d" % number for number in range(60)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        for number, data in enumerate(said):
            if number % 3:
                assert writer.may_write_soon
                writer.write_soon(data)
            else:
                nursery.start_soon(writer.write, data)
                await trio.testing.wait_all_tasks_blocked()
            if number % 7 == 0:
                await trio.sleep(0.004)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert b"".join(stream.written) == b"".join(said)
    assert len(stream.written) < 20


async def test_no_more_waits_for_a_peer_that_does_not_read_than_is_allowed(autojump_clock: object) -> None:
    stream = SlowStream(5.0)
    writer = CombiningWriter(stream)
    taken = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        writer.write_soon(b"first")
        await trio.sleep(0.01)
        while writer.may_write_soon:
            writer.write_soon(bytes(1000))
            taken += 1000
        assert SOON_BYTES_MAX <= taken < SOON_BYTES_MAX + 1000
        await trio.sleep(12)
        assert writer.may_write_soon
        assert sum(map(len, stream.written)) == taken + 5
        nursery.cancel_scope.cancel()


async def test_nobody_waits_for_a_writer_that_was_cancelled(autojump_clock: object) -> None:
    """Who joined what nobody waits for is told that it will not be written."""
    stream = SlowStream()
    writer = CombiningWriter(stream)
    with trio.fail_after(5):
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            writer.write_soon(b"a")
            outer.start_soon(fails, writer)
        assert not writer.may_write_soon
        await fails(writer)


async def fails(writer: CombiningWriter) -> None:
    with pytest.raises(WriteFailedError):
        await writer.write(b"b")


async def test_a_lost_stream_takes_nothing_more(autojump_clock: object) -> None:
    stream = SlowStream()
    stream.broken = True
    writer = CombiningWriter(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        writer.write_soon(b"a")
        await trio.sleep(0.1)
        assert not writer.may_write_soon
        await fails(writer)
        nursery.cancel_scope.cancel()
