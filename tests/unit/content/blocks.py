"""What tests of content share: blocks in memory and the contents of the vectors."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import trio

from p2p.content.cid import Cid, Codec


class MemoryBlocks:
    """Blocks in a dictionary, with the two functions that import and export take."""

    def __init__(self) -> None:
        self.blocks: dict[Cid, bytes] = {}

    def put(self, codec: Codec, data: bytes) -> Cid:
        cid = Cid.of(codec, data)
        self.blocks[cid] = data
        return cid

    def read(self, cid: Cid) -> bytes:
        return self.blocks[cid]


def vector_content(seed: str, size: int) -> bytes:
    """The bytes that tests/vectors/generate_unixfs.mjs makes of a seed."""
    blocks = (hashlib.sha256(seed.encode() + counter.to_bytes(8, "big")).digest() for counter in range(-(-size // 32)))
    return b"".join(blocks)[:size]


async def handle_each(
    get: Callable[[Cid], Awaitable[bytes | None]], cids: Sequence[Cid], handle: Callable[[Cid, bytearray], None]
) -> list[Cid]:
    """Have what `get` gives of each block handled in a thread, one after the other; return those that it lacks."""
    lacked: list[Cid] = []
    for cid in cids:
        data = await get(cid)
        if data is None:
            lacked.append(cid)
        else:
            await trio.to_thread.run_sync(handle, cid, bytearray(data))
    return lacked
