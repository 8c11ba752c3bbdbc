"""Nonces that are computed but not yet committed, in a file: a restart goes on where the last run stopped.

*Detail.* A head names the batch; after it comes one record for each vector, in order, with a checksum over its number
and its bytes. What a crash left of a last record, or zeros that a loss of power left, end what is taken. Only vectors:
what proves anything is committed on chain, and whoever changes this file commits a batch that is found false.
"""

import errno
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import structlog
import trio

from node.private_files import PrivateFileError, create_private_directory
from node.protocol.identifiers import Hash32
from node.protocol.nonces import VECTOR_BYTES

log = structlog.get_logger(__name__)

MAGIC = b"quern-nonces-1\n"
"""Change the number when the format changes: a file of another one is ignored."""
HEAD_BYTES = len(MAGIC) + 32
CHECKSUM_BYTES = 4
RECORD_BYTES = CHECKSUM_BYTES + VECTOR_BYTES


class NonceFile:
    """The vectors of one ML node's present batch. A disk that fails costs only what a restart would have saved."""

    def __init__(self, path: Path, *, free_bytes_min: int = 0) -> None:
        """Leaves so many bytes of its disk free for others, and goes when there are no more."""
        self._path = path
        self._free_bytes_min = free_bytes_min
        self._file: BinaryIO | None = None
        self._count = 0

    async def batch(self) -> Hash32 | None:
        """Return the batch whose vectors are in the file; None without one, or if it cannot be read."""
        return await trio.to_thread.run_sync(self.batch_blocking)

    async def begin(self, batch: Hash32, vectors_max: int) -> bytes:
        """Return the vectors kept of `batch`, at most so many, and keep what is appended from now on after them.

        What is there of any other batch is dropped. May read 130 MB, in a worker thread.
        """
        return await trio.to_thread.run_sync(self.begin_blocking, batch, vectors_max)

    async def sync(self) -> None:
        """Have on the disk what was appended."""
        await trio.to_thread.run_sync(self.sync_blocking)

    async def drop(self) -> None:
        """Forget the batch: it is committed, or it is too late."""
        await trio.to_thread.run_sync(self.drop_blocking)

    def batch_blocking(self) -> Hash32 | None:
        """As `batch`, for who may block."""
        try:
            with self._path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError:
            return None  # beginning says why
        return Hash32(head[len(MAGIC) :]) if len(head) == HEAD_BYTES and head.startswith(MAGIC) else None

    def begin_blocking(self, batch: Hash32, vectors_max: int) -> bytes:
        """As `begin`, for who may block."""
        self._close()
        kept = b""
        try:
            create_private_directory(self._path.parent)
            kept = self._whole(batch, vectors_max)
            self._file = self._path.open("r+b" if kept else "wb", buffering=0)
            if kept:
                self._file.truncate(HEAD_BYTES + len(kept) // VECTOR_BYTES * RECORD_BYTES)
                self._file.seek(0, os.SEEK_END)
            else:
                _write(self._file, MAGIC + batch)
        except (OSError, PrivateFileError) as error:
            self._give_up(error)
        self._count = len(kept) // VECTOR_BYTES
        return kept

    def append(self, vectors: list[bytes]) -> None:
        """Write the next vectors. They survive the end of this process, and after `sync` the loss of power."""
        file = self._file  # `sync` gives it up in a worker thread
        if file is None:
            return
        data = b"".join(_record(self._count + place, vector) for place, vector in enumerate(vectors))
        try:
            self._require_room(len(data))
            _write(file, data)
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            self._give_up(error)
        self._count += len(vectors)

    def sync_blocking(self) -> None:
        """As `sync`."""
        file = self._file  # a write that fails gives it up in the main thread
        if file is None:
            return
        try:
            os.fsync(file.fileno())
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            self._give_up(error)

    def drop_blocking(self) -> None:
        """As `drop`."""
        self._close()
        self._unlink()

    def _whole(self, batch: Hash32, vectors_max: int) -> bytes:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return b""
        kept = bytearray()
        with file:
            if file.read(HEAD_BYTES) == MAGIC + batch:
                for number in range(vectors_max):
                    record = file.read(RECORD_BYTES)
                    vector = record[CHECKSUM_BYTES:]
                    if len(record) < RECORD_BYTES or record != _record(number, vector):
                        break
                    kept += vector
        return bytes(kept)

    def _require_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._path.parent).free if self._free_bytes_min else needed
        if free < self._free_bytes_min + needed:
            raise OSError(errno.ENOSPC, f"less than {self._free_bytes_min} bytes of the disk would stay free")

    def _give_up(self, error: Exception) -> None:
        log.warning(
            "nonces are not kept on the disk: a restart before they are committed would begin with the first one; see "
            "whether the disk of [node] data_dir is full or failing",
            file=str(self._path),
            reason=str(error),
        )
        self._close()
        self._unlink()  # the batch and the books need the room

    def _unlink(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("old nonces are left on the disk", file=str(self._path), reason=str(error))

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                log.warning("a file of nonces did not close", file=str(self._path), reason=str(error))


def _write(file: BinaryIO, data: bytes) -> None:
    if file.write(data) != len(data):
        raise OSError("only a part was written: the disk is full")


def _record(number: int, vector: bytes) -> bytes:
    return zlib.crc32(struct.pack(">Q", number) + vector).to_bytes(CHECKSUM_BYTES) + vector
