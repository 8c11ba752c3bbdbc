"""One writer per account: a lock that all daemons of this user on this machine respect, whatever their directories.

Two that sign with one key would take each other's nonces. The operating system gives the lock back when its holder
ends in any way, so there is nothing to clean up after a crash.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.protocol.identifiers import Address

GENESIS_CHARACTERS = 8
"""Development chains share an id; so much of the genesis hash tells them apart."""
PID_CHARACTERS_MAX = 20


class AccountInUseError(Exception):
    """Another process sends from this account on this chain."""


@contextmanager
def exclusive_account(folder: Path, chain_id: int, genesis_hash: str, account: Address) -> Iterator[None]:
    """Hold `account` on a chain for this process. Raises AccountInUseError, which names the process that has it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{chain_id}-{genesis_hash[:GENESIS_CHARACTERS]}-{account.lower()}.lock"
    # Opened for appending: whoever does not get the lock must not wipe out the holder's process id.
    with path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(PID_CHARACTERS_MAX).strip() or "unknown"
            raise AccountInUseError(
                f"account {account} already sends on chain {chain_id} from process {holder}: two writers would take "
                "each other's nonces and pay for nothing. Stop that process, or give this one an account of its own"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
