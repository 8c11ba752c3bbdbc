"""The peer book on disk: read at the start, written beside the event loop, whole or not at all."""

import os
import tempfile
from pathlib import Path

import structlog
import trio

from p2p.discovery.peerbook import STORED_BYTES_MAX, PeerBook

log = structlog.get_logger(__name__)

SAVE_SECONDS = 5.0
"""What a kill -9 may cost: the peers met in so many seconds."""


def load_peers(path: Path, book: PeerBook) -> None:
    """Fill the book from the file, if there is one. A bad file is reported and left out; it is written anew later."""
    try:
        with path.open("rb") as file:
            data = file.read(STORED_BYTES_MAX + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("the stored peers can't be read; starting without them", path=str(path), reason=str(error))
        return
    log.info("known peers are loaded", addresses=book.load(data))


async def keep_peers(path: Path, book: PeerBook, every_seconds: float = SAVE_SECONDS) -> None:
    """Write the book to the file whenever it has changed, until cancelled; once more at the end."""
    saved = -1
    try:
        while True:
            book.expire()
            if book.revision != saved:
                saved = book.revision
                await trio.to_thread.run_sync(_write, path, book.dump())
            await trio.sleep(every_seconds)
    finally:
        if book.revision != saved:
            _write(path, book.dump())


def _write(path: Path, data: bytes) -> None:
    """Replace the file: a reader sees the old or the new one, never half."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:  # a full disk must not end the network; the peers are found again by bootstrap
        log.warning("the known peers could not be stored", path=str(path), reason=str(error))
