"""Files that only the daemon's user may read: created whole or not at all, never overwritten, checked before use."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE_FILE_MODE = 0o600
PRIVATE_DIRECTORY_MODE = 0o700
PRIVATE_FILE_BYTES_MAX = 64 * 1024
"""Keys and passphrases are small: a larger file is not one."""
LOCK_FILE_NAME = "daemon.lock"


class PrivateFileError(Exception):
    """A private file is missing, unreadable, readable by others, or can't be made. The message says what to do."""


class DirectoryInUseError(Exception):
    """Another daemon uses the data directory."""


def create_private_directory(path: Path) -> None:
    """Make `path` with mode 0700 if it is not there; raise PrivateFileError if that fails."""
    try:
        path.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise PrivateFileError(f"can't make the directory {path}: {error.strerror}") from error


def create_private_file(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600, whole or not at all even if the machine dies.

    Raises FileExistsError if `path` exists, PrivateFileError if it can't be written.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    except OSError as error:
        raise PrivateFileError(f"can't write into {path.parent}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike rename, fails if the name is taken
        _sync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise PrivateFileError(f"can't write {path}: {error.strerror}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def replace_private_file(file: Path, data: bytes) -> None:
    """Write a private file in place of what was there: a reader sees the old one or the new one.

    Raises PrivateFileError.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as directory:
            fresh = Path(directory) / "new"
            create_private_file(fresh, data)
            fresh.replace(file)
    except OSError as error:
        raise PrivateFileError(f"can't write {file}: {error.strerror}") from error


def read_private_file(path: Path) -> bytes:
    """Return the content of a file that nobody else may read; raise PrivateFileError otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hang us
    except OSError as error:
        raise PrivateFileError(f"can't read {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PrivateFileError(f"{path} is not a file")
        if exposed_mode(status.st_mode):
            raise PrivateFileError(
                f"{path} can be read by other users (mode {stat.S_IMODE(status.st_mode):04o}). Run: chmod 600 {path}"
            )
        if status.st_size > PRIVATE_FILE_BYTES_MAX:
            raise PrivateFileError(f"{path} has {status.st_size} bytes; no key or passphrase is so large")
        return os.read(descriptor, PRIVATE_FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def exposed_mode(mode: int) -> bool:
    """Whether a file mode lets anyone but the owner read, write or run the file."""
    return bool(stat.S_IMODE(mode) & 0o077)


@contextmanager
def exclusive_data_directory(directory: Path) -> Iterator[None]:
    """Hold the data directory against a second daemon for as long as the context lasts.

    Raises DirectoryInUseError. The lock ends with the process, however it dies.
    """
    path = directory / LOCK_FILE_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE_MODE)
    except OSError as error:
        raise PrivateFileError(f"can't write into {directory}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryInUseError(
                f"another daemon uses {directory}. Stop it first (`quern stop`), or give this one a data directory "
                "of its own."
            ) from error
        yield
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
