"""Encrypts a model for publishing, resumably: the key is on disk before any ciphertext is, and nothing is sealed twice.

Detail: in the owner's staging directory each plain content has a directory named by its hash, and in it one numbered
directory per key it was sealed with. Sealing the same content again finds the finished ciphertext, and so gives the
same CID; other content, or `new_key`, gets a new key. What was cut off goes on file by file: a file that was not
finished is sealed anew under another salt, never continued, because a key stream must not be used twice.

The finished ciphertext stays there: it is what the daemon serves, in place, where its store refers to files.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.models.encryption.container import Advance, SealBrokenError, SourceChangedError, read_header, seal_file
from node.models.encryption.directory import (
    FILES_MAX,
    LISTING_FILE,
    LISTING_PATH,
    PUBLIC_FILE,
    ListedFile,
    SealedDirectory,
    check_path,
    container_name,
    read_sealed,
    render_listing,
    render_public_file,
)
from node.models.encryption.keyring import KeyRing, KeyRingError
from node.models.encryption.keys import ContentKey, KeyId, create_content_key
from node.private_files import PrivateFileError, create_private_directory, create_private_file, read_private_file
from node.protocol.canonical import sha256_digest
from node.protocol.identifiers import ModelId

JOURNAL_FILE = "sealing.json"
MODEL_DIRECTORY = "model"
PARTIAL_FILE = "partial"
PLAIN_LISTING_FILE = "listing"
LOCK_FILE = ".lock"
SEALINGS_MAX = 1000
"""Keys that one content was sealed with."""
HASH_BYTES = 1024 * 1024


class SealingError(Exception):
    """A model cannot be encrypted; the message says what to do."""


@dataclass(frozen=True, slots=True)
class _PlainFile:
    path: str
    plain_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class SealedModel:
    """An encrypted model, ready to be published."""

    directory: SealedDirectory
    key_id: KeyId
    resumed: bool
    """Whether an earlier run had begun or finished it."""


def model_paths(directory: Path) -> tuple[str, ...]:
    """Return the files that are published of a model directory, ascending; hidden ones are not.

    Raises SealingError for names that no node would take.
    """
    found: list[str] = []
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [str((Path(folder) / name).relative_to(directory)) for name in names if not name.startswith(".")]
        if len(found) > FILES_MAX:
            raise SealingError(f"{directory} has more than {FILES_MAX} files")
    try:
        return tuple(sorted(check_path(path) for path in found))
    except SealBrokenError as error:
        raise SealingError(f"{directory}: {error}") from error


def seal_directory(
    source: Path,
    staging: Path,
    keys: KeyRing,
    model_id: ModelId,
    *,
    new_key: bool = False,
    advance: Advance | None = None,
) -> SealedModel:
    """Encrypt the model in `source`, or finish what was begun, or find it done. Blocking.

    `advance` is told every byte twice: once when it is hashed, once when it is encrypted or found so. Raises
    SealingError, KeyRingError, SourceChangedError, OSError.
    """
    create_private_directory(staging)
    with _alone(staging):
        plain = tuple(_hash(source, path, advance) for path in model_paths(source))
        if not plain:
            raise SealingError(f"{source} has no files to encrypt")
        content = staging / _fingerprint(model_id, plain).hex()
        create_private_directory(content)
        place, key, resumed = _choose(content, keys, model_id, new_key=new_key)
        directory = place / MODEL_DIRECTORY
        if not (directory / PUBLIC_FILE).exists():
            create_private_directory(directory)
            _seal_all(source, plain, directory, key, advance)
        elif advance is not None:
            advance(sum(file.plain_bytes for file in plain))
        try:
            return SealedModel(read_sealed(directory), key.key_id, resumed)
        except SealBrokenError as error:
            raise SealingError(
                f"the finished ciphertext in {directory} is damaged ({error}). If no node needs it any more, remove "
                f"{place} and run this again: it is then encrypted anew, with another CID"
            ) from error


def _choose(content: Path, keys: KeyRing, model_id: ModelId, *, new_key: bool) -> tuple[Path, ContentKey, bool]:
    """Return the sealing to go on with, or begin a new one: first the key, then the journal that names it."""
    last = 0
    while last < SEALINGS_MAX and (content / str(last + 1) / JOURNAL_FILE).exists():
        last += 1
    if last and not new_key:
        place = content / str(last)
        return place, _journal_key(place / JOURNAL_FILE, keys), True
    key = create_content_key()
    keys.add(model_id, key)
    place = content / str(last + 1)
    create_private_directory(place)
    create_private_file(place / JOURNAL_FILE, json.dumps({"key_id": key.key_id.hex()}).encode() + b"\n")
    return place, key, False


def _journal_key(journal: Path, keys: KeyRing) -> ContentKey:
    try:
        key_id = KeyId(bytes.fromhex(json.loads(read_private_file(journal))["key_id"]))
    except (PrivateFileError, ValueError, KeyError, TypeError) as error:
        raise SealingError(f"{journal} is damaged: remove {journal.parent} to begin anew") from error
    held = keys.find(key_id)
    if held is None:
        raise KeyRingError(
            f"the key {key_id.hex()} that {journal.parent} was encrypted with is gone. Restore it from your backup, or "
            f"remove {journal.parent} to encrypt anew; what is published with the lost key nobody can open any more"
        )
    return held.key


def _seal_all(
    source: Path, plain: tuple[_PlainFile, ...], directory: Path, key: ContentKey, advance: Advance | None
) -> None:
    listed = []
    for index, file in enumerate(plain):
        container = directory / container_name(index)
        if not container.exists():
            _seal_one(source / file.path, container, file, key, advance)
        elif advance is not None:
            advance(file.plain_bytes)
        header = read_header(container)
        listed.append(ListedFile(file.path, header.plain_bytes, header.salt))
    listing = directory.parent / PLAIN_LISTING_FILE
    listing.write_bytes(render_listing(listed))
    partial = directory.parent / PARTIAL_FILE
    _seal_anew(listing, partial, LISTING_PATH, key)
    partial.rename(directory / LISTING_FILE)
    listing.unlink()
    _sync(directory)
    create_private_file(directory / PUBLIC_FILE, render_public_file(key.key_id))


def _seal_one(source: Path, container: Path, file: _PlainFile, key: ContentKey, advance: Advance | None) -> None:
    """Seal beside the model, and move it there when it is whole and is what was hashed."""
    partial = container.parent.parent / PARTIAL_FILE
    if _seal_anew(source, partial, file.path, key, advance) != file.sha256:
        partial.unlink()
        raise SourceChangedError(f"{source} changed while it was being encrypted: run this again when it is still")
    partial.rename(container)


def _seal_anew(source: Path, partial: Path, path: str, key: ContentKey, advance: Advance | None = None) -> bytes:
    """Seal a file as if nobody had begun to; return the SHA-256 of what was read."""
    partial.unlink(missing_ok=True)
    return seal_file(source, partial, path, key, advance=advance).plain_sha256


def _hash(source: Path, path: str, advance: Advance | None) -> _PlainFile:
    digest, size = hashlib.sha256(), 0
    with (source / path).open("rb") as file:
        while chunk := file.read(HASH_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if advance is not None:
                advance(len(chunk))
    return _PlainFile(path, size, digest.digest())


def _fingerprint(model_id: ModelId, plain: tuple[_PlainFile, ...]) -> bytes:
    """Name of a plain content on this machine. It stays here: in public it would confirm guesses of the content."""
    return sha256_digest([model_id, [[file.path, file.plain_bytes, file.sha256] for file in plain]])


@contextmanager
def _alone(staging: Path) -> Iterator[None]:
    """Keep a second run out: both would write the same files."""
    descriptor = os.open(staging / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SealingError(f"another run encrypts in {staging}: wait for it, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
