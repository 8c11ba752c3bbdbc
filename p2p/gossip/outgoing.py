"""Frames that wait for one peer: bounded by bytes, control first, several in one write."""

from collections import deque

import trio

MESSAGE_BYTES_MAX = 4 << 20
"""Waiting messages; beyond that the oldest go: the peer reads too slowly, and newer ones say what is true now."""
CONTROL_FRAMES_MAX = 1024
CONTROL_BYTES_MAX = 1 << 20
"""Waiting control frames and announcements; a peer that reads nothing is told no more."""
WRITE_BYTES_MAX = 60 * 1024
"""Written at once: each write is encrypted, framed and sent on its own, whatever its size."""


class Outgoing:
    """The queue of one peer. One task takes from it."""

    def __init__(self) -> None:
        self._control: deque[bytes] = deque()
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._control_bytes = 0
        self._wake = trio.Event()
        self.closed = False

    def push(self, frame: bytes, *, control: bool) -> int:
        """Have `frame` sent; return how many frames were dropped for want of room, which may be this one."""
        if self.closed:
            return 1
        dropped = 0
        if control:
            if len(self._control) >= CONTROL_FRAMES_MAX or self._control_bytes + len(frame) > CONTROL_BYTES_MAX:
                return 1
            self._control.append(frame)
            self._control_bytes += len(frame)
        else:
            self._messages.append(frame)
            self._bytes += len(frame)
            while self._bytes > MESSAGE_BYTES_MAX:
                self._bytes -= len(self._messages.popleft())
                dropped += 1
        self._wake.set()
        return dropped

    async def take(self) -> bytes | None:
        """Return the next frames in one piece; None once closed."""
        while not self.closed:
            frames: list[bytes] = []
            size = 0
            for queue in (self._control, self._messages):
                while queue and (not frames or size + len(queue[0]) <= WRITE_BYTES_MAX):
                    frames.append(queue.popleft())
                    size += len(frames[-1])
                    if queue is self._messages:
                        self._bytes -= len(frames[-1])
                    else:
                        self._control_bytes -= len(frames[-1])
            if frames:
                return frames[0] if len(frames) == 1 else b"".join(frames)
            self._wake = trio.Event()
            await self._wake.wait()
        return None

    def close(self) -> None:
        """Drop what waits and end the task that takes."""
        self.closed = True
        self._control.clear()
        self._messages.clear()
        self._bytes = self._control_bytes = 0
        self._wake.set()
