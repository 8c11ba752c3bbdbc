"""The account key, unlocked beside other work: the slow hash of a keystore takes a second of another core."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from coincurve import PrivateKey

from node.keys import unlock_keystore


class Unlocked(Protocol):
    """A key that is there soon."""

    def result(self) -> PrivateKey:
        """Wait for it, blocking. Raises KeyFileError if the keystore does not give it."""


@contextmanager
def unlocking(keystore: Path, passphrase: str) -> Iterator[Unlocked]:
    """Unlock a keystore beside what is done in the context."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="unlocking") as thread:
        yield thread.submit(unlock_keystore, keystore, passphrase)
