"""What tests of content share: blocks in memory and the contents of the vectors."""

import hashlib

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
