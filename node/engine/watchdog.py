"""Finds a server that has stopped moving, in bounded time, without ending one that is only busy.

*Detail.* `/health` stays good while the engine's core is wedged, so only tokens count. While requests run and bytes of
answers come, the server moves. When nothing came for a while, or nothing runs, it is asked for one token of the
highest priority (the canary). It is wedged when neither the canary's answer nor any other byte came within the time
that the longest running prefill may take: a prefill in one piece says nothing until it is done.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from node.engine.transport import Traffic
from node.ports import EngineFailedError, EngineRefusedError

LOOK_SECONDS = 1.0
PATIENCE_SECONDS_MAX = 600.0
"""However long a prompt: a server that says nothing for so long serves nobody."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server may be silent."""

    quiet_seconds: float = 10.0
    """Without a byte while requests run, before the canary is sent. A decode step takes a tenth of a second."""
    idle_seconds: float = 30.0
    """Between canaries while nothing runs."""
    answer_seconds: float = 45.0
    """For the canary behind nothing but a step of decoding: a batch on a slow CPU takes seconds."""
    prefill_bytes_per_second: int = 300
    """Slowest prefill, in bytes of the request (a token id takes about six): 50 tokens/s on a CPU."""

    def allowed_seconds(self, longest_request_bytes: int) -> float:
        """Silence after which a server is wedged that was given requests of this size."""
        return min(self.answer_seconds + longest_request_bytes / self.prefill_bytes_per_second, PATIENCE_SECONDS_MAX)


PATIENCE_OF_GPUS = Patience(prefill_bytes_per_second=6000)
"""A thousand tokens of prefill a second: a tenth of what a small GPU does."""
PATIENCE_WITH_TEXT = Patience(quiet_seconds=60.0, idle_seconds=60.0, answer_seconds=PATIENCE_SECONDS_MAX)
"""A server that gives whole answers, one after another, says nothing for as long as an answer takes."""


def is_canary_due(patience: Patience, now: float, last_canary_at: float, running: int, heard_at: float) -> bool:
    """Whether to ask for a token now. Times are seconds of one clock."""
    pause = patience.quiet_seconds if running else patience.idle_seconds
    return now - max(last_canary_at, heard_at) >= pause


def is_wedged(patience: Patience, now: float, sent_at: float, heard_at: float, longest_request_bytes: int) -> bool:
    """Whether a server is beyond hope whose canary was sent at `sent_at` and is not answered."""
    return now - max(sent_at, heard_at) > patience.allowed_seconds(longest_request_bytes)


async def watch(ask_one_token: Callable[[], Awaitable[None]], traffic: Traffic, patience: Patience) -> None:
    """Watch a server for ever. Raises EngineFailedError when it is wedged or refuses its test."""
    last = trio.current_time()
    while True:
        await trio.sleep(LOOK_SECONDS)
        if is_canary_due(patience, trio.current_time(), last, traffic.running, traffic.heard_at):
            await test(ask_one_token, traffic, patience)
            last = trio.current_time()


async def test(ask_one_token: Callable[[], Awaitable[None]], traffic: Traffic, patience: Patience) -> None:
    """Have the server give one token. Raises EngineFailedError."""
    sent_at = trio.current_time()
    answered = trio.Event()

    async def ask() -> None:
        try:
            await ask_one_token()
        except EngineRefusedError as error:
            raise EngineFailedError(f"the engine refuses its own test: {error}") from error
        answered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await answered.wait()
            if answered.is_set():
                return
            now = trio.current_time()
            if is_wedged(patience, now, sent_at, traffic.heard_at, traffic.longest_request_bytes):
                silent = now - max(sent_at, traffic.heard_at)
                raise EngineFailedError(
                    f"the engine is wedged: no token for {silent:.0f} s, with {traffic.running} requests running"
                )
