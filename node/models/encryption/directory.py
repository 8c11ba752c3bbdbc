"""An encrypted model as a directory: what is in it, how it is checked without the key, and how it is opened with it.

Detail: `encrypted-model.json` says in public that this is one, and by which key it opens. `listing.sealed` names the
files with their sizes and salts, and `00000.sealed` and so on are the files, in the listing's order. Everything but the
public file is encrypted, names included: they would tell which model it is. The listing fixes the header of each file,
so that an older sealed file of the same name under the same key is not taken for the present one.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from node.models.encryption.container import (
    PATH_BYTES_MAX,
    Advance,
    Header,
    SealBrokenError,
    SealedReader,
    WrongKeyError,
    read_header,
)
from node.models.encryption.keys import KEY_ID_BYTES, ContentKey, KeyId
from node.private_files import PRIVATE_FILE_MODE
from node.protocol.canonical import CanonicalError, decode, encode
from p2p.content.unixfs import UnixFsError, check_name

PUBLIC_FILE = "encrypted-model.json"
LISTING_FILE = "listing.sealed"
LISTING_PATH = "/listing"
"""Stands for the listing where a file's path is authenticated; no file can have it, because of its slash."""
FORMAT = "quern-encrypted-model"
VERSION = 1
FILES_MAX = 10_000
PUBLIC_FILE_BYTES_MAX = 4096
LISTING_BYTES_MAX = 16 * 1024 * 1024
"""10,000 files with long names."""
DEPTH_MAX = 16
FREE_BYTES_KEPT = 64 * 1024 * 1024
"""Left to the daemon's books when a model is opened beside them."""

_CONTAINER_NAME = re.compile(r"[0-9]{5}\.sealed")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of the model, as the listing has it."""

    path: str
    """Relative, with slashes."""
    plain_bytes: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class SealedDirectory:
    """What can be known of an encrypted model without its key."""

    path: Path
    key_id: KeyId
    containers: tuple[Path, ...]
    plain_bytes: int
    """Of all files together."""


def container_name(index: int) -> str:
    """Return the name of the sealed file of the listing's entry `index`."""
    return f"{index:05d}.sealed"


def render_public_file(key_id: KeyId) -> bytes:
    """Return the file that says what this directory is."""
    return json.dumps({"format": FORMAT, "version": VERSION, "key_id": key_id.hex()}).encode() + b"\n"


def parse_public_file(data: bytes) -> KeyId:
    """Return the id of the key that opens the model of this public file. Raises SealBrokenError."""
    try:
        record = _PublicFile.model_validate_json(data)
        key_id = bytes.fromhex(record.key_id)
    except ValidationError as error:
        raise SealBrokenError(f"{PUBLIC_FILE} is damaged: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise SealBrokenError(f"{PUBLIC_FILE} is damaged: its key_id is not hex") from error
    if record.format != FORMAT or record.version != VERSION:
        raise SealBrokenError(f"{PUBLIC_FILE} is of version {record.version}; this software knows {VERSION}")
    if len(key_id) != KEY_ID_BYTES:
        raise SealBrokenError(f"{PUBLIC_FILE} is damaged: its key_id has {len(key_id)} bytes")
    return KeyId(key_id)


def render_listing(files: list[ListedFile]) -> bytes:
    """Return the listing's plain bytes. Files must be ascending by path."""
    return encode({"version": VERSION, "files": [[file.path, file.plain_bytes, file.salt] for file in files]})


def is_sealed(directory: Path) -> bool:
    """Whether a directory says that it is an encrypted model."""
    return (directory / PUBLIC_FILE).is_file()


def read_sealed(directory: Path) -> SealedDirectory:
    """Check an encrypted model as far as that goes without its key. Raises SealBrokenError, OSError.

    That is: nothing is missing, nothing is there that does not belong, every file has the size its header says, and all
    of them name one key. What is in them is known only with the key.
    """
    key_id = _read_public_file(directory / PUBLIC_FILE)
    names = sorted(entry.name for entry in _plain_files(directory))
    containers = [name for name in names if _CONTAINER_NAME.fullmatch(name)]
    strays = set(names) - set(containers) - {PUBLIC_FILE, LISTING_FILE}
    if strays:
        raise SealBrokenError(f"{min(strays)} does not belong into an encrypted model: what is not sealed is public")
    if LISTING_FILE not in names:
        raise SealBrokenError(f"{LISTING_FILE} is missing: the directory was not encrypted or not copied to its end")
    if not containers or containers != [container_name(index) for index in range(len(containers))]:
        raise SealBrokenError(f"{_first_missing(containers)} is missing: the directory is not whole")
    plain_bytes = 0
    for name in (LISTING_FILE, *containers):
        try:
            header = read_header(directory / name)
        except SealBrokenError as error:
            raise SealBrokenError(f"{name}: {error}") from error
        if header.key_id != key_id:
            raise SealBrokenError(f"{name} is sealed with another key than {PUBLIC_FILE} says: two models are mixed")
        plain_bytes += header.plain_bytes if name != LISTING_FILE else 0
    return SealedDirectory(directory, key_id, tuple(directory / name for name in containers), plain_bytes)


def read_listing(sealed: SealedDirectory, key: ContentKey) -> tuple[ListedFile, ...]:
    """Open the listing. Raises WrongKeyError, SealBrokenError."""
    if key.key_id != sealed.key_id:
        raise WrongKeyError(
            f"the model is encrypted with key {sealed.key_id.hex()[:16]}…, this is {key.key_id.hex()[:16]}…"
        )
    with SealedReader(sealed.path / LISTING_FILE, LISTING_PATH, key) as reader:
        if reader.header.plain_bytes > LISTING_BYTES_MAX:
            raise SealBrokenError(f"{LISTING_FILE} has more than {LISTING_BYTES_MAX} bytes")
        data = reader.read_range(0, reader.header.plain_bytes)
    files = _parse_listing(data)
    if len(files) != len(sealed.containers):
        raise SealBrokenError(f"the listing names {len(files)} files, {len(sealed.containers)} are there")
    return files


def open_directory(
    sealed: SealedDirectory, destination: Path, key: ContentKey, *, advance: Advance | None = None
) -> None:
    """Decrypt all files into the new, empty directory `destination`, readable by its owner alone. Blocking.

    Everything was authenticated when this returns. If it raises, `destination` holds a part, which must not be used:
    callers open into a directory of another name and rename it at the end. Raises WrongKeyError, SealBrokenError,
    FileExistsError, OSError.
    """
    files = read_listing(sealed, key)
    _check_room(destination, sum(file.plain_bytes for file in files))
    for file, container in zip(files, sealed.containers, strict=True):
        target = destination / file.path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with SealedReader(container, file.path, key) as reader:
            if reader.header != Header(key.key_id, file.salt, file.plain_bytes, reader.header.chunk_bytes):
                raise SealBrokenError(f"{container.name} is not the file that the listing means: it was exchanged")
            with _new_file(target) as descriptor:
                for chunk in reader.chunks():
                    _write(descriptor, chunk)
                    if advance is not None:
                        advance(len(chunk))


def read_range(sealed: SealedDirectory, key: ContentKey, path: str, offset: int, length: int) -> bytes:
    """Return a range of one file of the model without opening the rest. Raises KeyError if there is no such file."""
    files = read_listing(sealed, key)
    index = {file.path: index for index, file in enumerate(files)}[path]
    with SealedReader(sealed.containers[index], path, key) as reader:
        if (reader.header.salt, reader.header.plain_bytes) != (files[index].salt, files[index].plain_bytes):
            raise SealBrokenError(f"{sealed.containers[index].name} is not the file that the listing means")
        return reader.read_range(offset, length)


def check_path(path: str) -> str:
    """Return the path of a file within a model; raise SealBrokenError if it could leave it or cannot be written."""
    parts = path.split("/")
    if len(path.encode()) > PATH_BYTES_MAX or len(parts) > DEPTH_MAX:
        raise SealBrokenError(f"a path of {len(path)} characters in {len(parts)} parts is too long")
    for part in parts:
        try:
            check_name(part.encode())
        except UnixFsError as error:
            raise SealBrokenError(f"the listing has an {error}") from error
        if part.startswith(".") or not part.isprintable():
            raise SealBrokenError(f"the listing has the name {part!r}: hidden or unprintable names are not taken")
    return path


class _PublicFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: str
    version: int
    key_id: str


def _read_public_file(path: Path) -> KeyId:
    if not path.is_file():
        raise SealBrokenError(f"{PUBLIC_FILE} is missing: this is no encrypted model")
    if path.stat().st_size > PUBLIC_FILE_BYTES_MAX:
        raise SealBrokenError(f"{PUBLIC_FILE} has more than {PUBLIC_FILE_BYTES_MAX} bytes")
    return parse_public_file(path.read_bytes())


def _plain_files(directory: Path) -> Iterator[Path]:
    for count, entry in enumerate(directory.iterdir()):
        if count >= FILES_MAX + 2:
            raise SealBrokenError(f"it has more than {FILES_MAX} files")
        if entry.is_symlink() or not entry.is_file():
            raise SealBrokenError(f"{entry.name} does not belong into an encrypted model: it is no file")
        yield entry


def _first_missing(containers: list[str]) -> str:
    there = set(containers)
    return next(name for index in range(len(containers) + 1) if (name := container_name(index)) not in there)


def _parse_listing(data: bytes) -> tuple[ListedFile, ...]:
    try:
        value = decode(data)
    except CanonicalError as error:
        raise SealBrokenError(f"the listing cannot be read: {error}") from error
    match value:
        case {"version": 1, "files": list(entries)} if len(value) == 2 and 0 < len(entries) <= FILES_MAX:
            files = tuple(_listed_file(entry) for entry in entries)
        case _:
            raise SealBrokenError(f"the listing is not one of version {VERSION}, the one that this software knows")
    paths = [file.path for file in files]
    if paths != sorted(set(paths)):
        raise SealBrokenError("the listing names a file twice, or not in order")
    directories = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    if directories & set(paths):
        raise SealBrokenError("the listing has a name that is a file and a directory")
    return files


def _listed_file(entry: object) -> ListedFile:
    match entry:
        case [str(path), int(plain_bytes), bytes(salt)] if not isinstance(plain_bytes, bool) and plain_bytes >= 0:
            return ListedFile(check_path(path), plain_bytes, salt)
        case _:
            raise SealBrokenError("the listing has an entry that is no file")


def _check_room(destination: Path, needed_bytes: int) -> None:
    """Refuse before the disk is full of what nobody can use."""
    status = os.statvfs(destination)
    free_bytes = status.f_bavail * status.f_frsize
    if free_bytes < needed_bytes + FREE_BYTES_KEPT:
        raise OSError(
            f"{needed_bytes} bytes are needed in {destination} for the decrypted model, {free_bytes} are free: "
            "make room, or name another directory in [vault] unsealed_dir"
        )


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """Create a private file, open for writing; never through a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, PRIVATE_FILE_MODE)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
