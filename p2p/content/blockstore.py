"""Blocks on disk, one file each, by CID: written in one step, so that a file that exists is whole.

Several processes may share a directory (an owner's upload beside its daemon): nothing is kept in memory.
"""

import os
import tempfile
from pathlib import Path

from p2p.content.cid import Cid, Codec
from p2p.content.unixfs_export import sync_directory

BLOCK_BYTES_MAX = 2 * 1024 * 1024
"""Chunks are 1 MiB; twice that is what other IPFS software exchanges at most."""
SHARD_CHARACTERS = 2
"""Of the CID's end, where it is random: 1,024 directories keep each small."""


class BlockMissingError(KeyError):
    """The block is not held."""


class StoreFullError(OSError):
    """The limit of this store, or the disk, is reached; nothing was written."""


class BlockStore:
    """Blocking calls, meant for a worker thread."""

    def __init__(self, directory: Path, *, bytes_max: int = 0) -> None:
        """Use `directory`, creating it. `bytes_max` 0 leaves the limit to the disk."""
        self._directory = directory
        self._bytes_max = bytes_max
        directory.mkdir(parents=True, exist_ok=True)
        self._bytes = sum(path.stat().st_size for path in directory.glob("??/*")) if bytes_max else 0

    def has(self, cid: Cid) -> bool:
        """Whether the block is held."""
        return self._path(cid).exists()

    def read(self, cid: Cid) -> bytes:
        """Return a block's bytes, unverified: the disk may have changed them. Raises BlockMissingError."""
        try:
            return self._path(cid).read_bytes()
        except FileNotFoundError:
            raise BlockMissingError(f"block {cid} is not held") from None

    def put(self, codec: Codec, data: bytes) -> Cid:
        """Store a block of our own making and return its CID."""
        cid = Cid.of(codec, data)
        self.put_verified(cid, data)
        return cid

    def put_verified(self, cid: Cid, data: bytes) -> None:
        """Store bytes that were checked against `cid`."""
        path = self._path(cid)
        if path.exists():
            return
        if self._bytes_max and self._bytes + len(data) > self._bytes_max:
            raise StoreFullError(
                f"the content store is full ({self._bytes} of {self._bytes_max} bytes): raise [content] cache_bytes_max"
            )
        path.parent.mkdir(exist_ok=True)
        descriptor, staged = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(staged).rename(path)
        except BaseException:
            Path(staged).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
        self._bytes += len(data)

    def remove(self, cid: Cid) -> None:
        """Forget a block (one that was found damaged)."""
        self._path(cid).unlink(missing_ok=True)

    def _path(self, cid: Cid) -> Path:
        text = str(cid)
        return self._directory / text[-SHARD_CHARACTERS:] / text
