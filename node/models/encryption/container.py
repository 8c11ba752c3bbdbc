"""One sealed file: a header, then the file in chunks that are encrypted and authenticated each by itself.

*Goals*: any range opens without the rest; memory of one chunk whatever the size; a flipped bit, a missing end, chunks
in another order, a file under another name or from another model are all errors, never other bytes.

*Non-goals*: to hide how large a file is; to say who made it.

*Detail*: AES-256-GCM. The key of a file follows from the content key and the random salt in the header, so no two files
share one, and the number of a chunk can be its nonce. What is authenticated with each chunk: the whole header, the
number of the chunk, whether it is the last, and the file's path. A sealed file is never changed or continued: sealing
that was cut off begins anew under another salt, because a nonce that is used twice gives the key stream away.
"""

import hashlib
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.models.encryption.keys import KEY_ID_BYTES, SALT_BYTES, ContentKey, KeyId

MAGIC = b"QUERNSEA"
VERSION = 1
CHUNK_BYTES = 1024 * 1024
"""Of plain bytes. Smaller ones cost more tags, larger ones more memory and more reading for a small range."""
CHUNK_BYTES_MIN = 64
CHUNK_BYTES_MAX = 16 * 1024 * 1024
"""A header that claims more would have a reader take that much memory for it."""
TAG_BYTES = 16
PLAIN_BYTES_MAX = 2**44
"""16 TiB: above any file of weights; bounds what a header may claim."""
PATH_BYTES_MAX = 4096

_HEADER = struct.Struct(f">8sHI{KEY_ID_BYTES}s{SALT_BYTES}sQ")
HEADER_BYTES = _HEADER.size
_POSITION = struct.Struct(">QB")
_NONCE_BYTES = 12

Advance = Callable[[int], None]
"""Told the number of plain bytes just done. May raise to stop."""


class SealBrokenError(Exception):
    """A sealed file is not what was sealed: damaged, cut off, exchanged or forged. Nothing of it may be used."""


class WrongKeyError(SealBrokenError):
    """The key is not the one that this was sealed with."""


class SourceChangedError(Exception):
    """A file changed while it was being sealed."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a sealed file says of itself in public. Authenticated together with every chunk."""

    key_id: KeyId
    salt: bytes
    plain_bytes: int
    chunk_bytes: int = CHUNK_BYTES

    @property
    def chunks(self) -> int:
        """Number of chunks; an empty file has one, which is empty, so that its end is authenticated too."""
        return max(1, -(-self.plain_bytes // self.chunk_bytes))

    @property
    def sealed_bytes(self) -> int:
        """Exact size of the sealed file."""
        return HEADER_BYTES + self.plain_bytes + TAG_BYTES * self.chunks

    def chunk_plain_bytes(self, index: int) -> int:
        """Plain bytes of a chunk: all of them are full but the last."""
        return min(self.chunk_bytes, self.plain_bytes - index * self.chunk_bytes)

    def encode(self) -> bytes:
        """Return the bytes at the beginning of the file."""
        return _HEADER.pack(MAGIC, VERSION, self.chunk_bytes, self.key_id, self.salt, self.plain_bytes)


def decode_header(data: bytes, file_bytes: int) -> Header:
    """Read the header of a sealed file of `file_bytes` bytes. Raises SealBrokenError."""
    if len(data) < HEADER_BYTES or file_bytes < HEADER_BYTES:
        raise SealBrokenError("it is too short to be a sealed file: its beginning is missing")
    magic, version, chunk_bytes, key_id, salt, plain_bytes = _HEADER.unpack(data[:HEADER_BYTES])
    if magic != MAGIC:
        raise SealBrokenError("it is not a sealed file")
    if version != VERSION:
        raise SealBrokenError(f"it is sealed by version {version} of the format; this software knows {VERSION}")
    if not CHUNK_BYTES_MIN <= chunk_bytes <= CHUNK_BYTES_MAX:
        raise SealBrokenError(f"its chunks have {chunk_bytes} bytes; {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX} are taken")
    if plain_bytes > PLAIN_BYTES_MAX:
        raise SealBrokenError(f"its header claims {plain_bytes} bytes; at most {PLAIN_BYTES_MAX} are taken")
    header = Header(KeyId(key_id), salt, plain_bytes, chunk_bytes)
    if header.sealed_bytes != file_bytes:
        raise SealBrokenError(f"it has {file_bytes} bytes where its header says {header.sealed_bytes}: is it cut off?")
    return header


def read_header(path: Path) -> Header:
    """Read the header of a sealed file. Raises SealBrokenError, OSError."""
    with path.open("rb") as file:
        return decode_header(file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What sealing a file made."""

    header: Header
    plain_sha256: bytes
    """Of what was read: for the publisher's own check, never published (it would confirm guesses)."""


def seal_file(
    source: Path,
    destination: Path,
    path: str,
    key: ContentKey,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    salt: bytes | None = None,
    advance: Advance | None = None,
) -> Sealed:
    """Seal `source` into the new file `destination`, as the file `path` of its model. Blocking.

    `destination` is on disk when this returns. `salt` is for test vectors only: one that is used twice breaks the
    cipher. Raises SourceChangedError, FileExistsError, OSError.
    """
    with source.open("rb", buffering=0) as reader, destination.open("xb", buffering=0) as writer:
        size = os.fstat(reader.fileno()).st_size
        header = Header(key.key_id, salt or secrets.token_bytes(SALT_BYTES), size, chunk_bytes)
        digest = hashlib.sha256()
        _write(writer, header.encode())
        chunks = _ChunkCipher(header, path, key)
        for index in range(header.chunks):
            plain = _read_exactly(reader, header.chunk_plain_bytes(index))
            digest.update(plain)
            _write(writer, chunks.seal(index, plain))
            if advance is not None:
                advance(len(plain))
        if reader.read(1):
            raise SourceChangedError(f"{source} grew while it was being encrypted")
        os.fsync(writer.fileno())
    return Sealed(header, digest.digest())


class SealedReader:
    """Opens a sealed file: as a whole, or any range of it. What it returns was authenticated. Blocking.

    Raises WrongKeyError for another key, SealBrokenError for anything else that is wrong, OSError.
    """

    def __init__(self, file: Path, path: str, key: ContentKey) -> None:
        self._name = file.name
        self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(self._descriptor).st_size
            self.header = decode_header(os.pread(self._descriptor, HEADER_BYTES, 0), size)
            if self.header.key_id != key.key_id:
                raise WrongKeyError(
                    f"it is sealed with key {self.header.key_id.hex()[:16]}…, this is {key.key_id.hex()[:16]}…"
                )
            self._chunks = _ChunkCipher(self.header, path, key)
        except SealBrokenError as error:
            os.close(self._descriptor)
            raise type(error)(f"{self._name}: {error}") from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def chunk(self, index: int) -> bytes:
        """Return the plain bytes of a chunk."""
        size = self.header.chunk_plain_bytes(index) + TAG_BYTES
        offset = HEADER_BYTES + index * (self.header.chunk_bytes + TAG_BYTES)
        sealed = os.pread(self._descriptor, size, offset)
        try:
            return self._chunks.open(index, sealed)
        except InvalidTag:
            raise SealBrokenError(
                f"{self._name}: chunk {index} is not what was sealed under this name: the file is damaged, exchanged "
                "or forged"
            ) from None

    def chunks(self) -> Iterator[bytes]:
        """Yield all plain bytes in order."""
        for index in range(self.header.chunks):
            yield self.chunk(index)

    def read_range(self, offset: int, length: int) -> bytes:
        """Return up to `length` plain bytes from `offset` on, fewer only at the end; reads no other chunks."""
        if offset < 0 or length < 0:
            raise ValueError("a range begins at 0 or later and has a length of at least 0")
        end = min(offset + length, self.header.plain_bytes)
        if offset >= end:
            return b""
        first, last = offset // self.header.chunk_bytes, (end - 1) // self.header.chunk_bytes
        plain = b"".join(self.chunk(index) for index in range(first, last + 1))
        begin = offset - first * self.header.chunk_bytes
        return plain[begin : begin + end - offset]


class _ChunkCipher:
    """Seals and opens the chunks of one file."""

    def __init__(self, header: Header, path: str, key: ContentKey) -> None:
        encoded_path = path.encode()
        if not 0 < len(encoded_path) <= PATH_BYTES_MAX:
            raise ValueError(f"a path of {len(encoded_path)} bytes; 1 to {PATH_BYTES_MAX} are taken")
        self._cipher = AESGCM(key.file_key(header.salt))
        self._last = header.chunks - 1
        self._header = header.encode()
        self._path = encoded_path

    def seal(self, index: int, plain: bytes) -> bytes:
        return self._cipher.encrypt(_nonce(index), plain, self._bound_to(index))

    def open(self, index: int, sealed: bytes) -> bytes:
        return self._cipher.decrypt(_nonce(index), sealed, self._bound_to(index))

    def _bound_to(self, index: int) -> bytes:
        """Header and position have a fixed length, so where the path begins is not open to choice."""
        return self._header + _POSITION.pack(index, index == self._last) + self._path


def _nonce(index: int) -> bytes:
    return index.to_bytes(_NONCE_BYTES, "big")


def _read_exactly(reader: BinaryIO, size: int) -> bytes:
    data = reader.read(size)
    if len(data) == size:
        return data
    pieces = [data]
    missing = size - len(data)
    while missing and (piece := reader.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    if missing:
        raise SourceChangedError(f"{reader.name} shrank while it was being encrypted")
    return b"".join(pieces)


def _write(writer: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[writer.write(view) :]
