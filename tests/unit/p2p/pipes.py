"""Two ends of a byte pipe in memory that look like what sessions and multiplexers run over."""

from typing import Any

import trio
import trio.testing


class PipeEnd:
    """Reads and writes like a libp2p stream or secured connection."""

    def __init__(self, stream: Any, *, is_initiator: bool) -> None:
        self._stream = stream
        self.is_initiator = is_initiator
        self.closed = False

    async def read(self, n: int | None = None) -> bytes:
        data: bytes = bytes(await self._stream.receive_some(n))
        if not data:
            raise EOFError("the other end has hung up")
        return data

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        self.closed = True
        await self._stream.aclose()

    async def reset(self) -> None:
        await self.close()

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> Any:
        return "direct"

    def get_remote_address(self) -> tuple[str, int] | None:
        return ("192.0.2.1", 1)


def pipe(buffer_bytes: int | None = None) -> tuple[PipeEnd, PipeEnd]:
    """Return the dialling and the listening end; with `buffer_bytes` a writer waits for its reader."""
    if buffer_bytes is None:
        dialling, listening = trio.testing.memory_stream_pair()
        return PipeEnd(dialling, is_initiator=True), PipeEnd(listening, is_initiator=False)
    ends = trio.testing.lockstep_stream_pair()
    return PipeEnd(ends[0], is_initiator=True), PipeEnd(ends[1], is_initiator=False)
