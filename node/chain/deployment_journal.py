"""The write-ahead journal of a deployment: each step's nonce and signed transactions are on disk before they are sent.

So a run that is killed anywhere, and started again, sends the same bytes again and nothing twice.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from node.protocol.identifiers import Address, BlockNumber


class JournalError(Exception):
    """The journal of a broken deployment cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class JournalStep:
    """One transaction of the deployment. Bytes are hex without 0x."""

    nonce: int
    purpose: str
    """Keccak-256 of recipient and data: a changed plan has other ones."""
    attempts: tuple[tuple[str, str], ...]
    """(hash, raw) of each signed form, the newest last; all have the same nonce."""
    result: str = ""
    """The contract's address, or `done`; empty until it is in a block."""


class DeploymentJournal:
    """A file beside the deployment's output. Every change is on disk when the method returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chain = ""
        self._account = ""
        self._steps: dict[str, JournalStep] = {}
        self.first_block = BlockNumber(0)

    def open(self, genesis_hash: str, account: Address, next_block: BlockNumber) -> None:
        """Take up a broken run on this chain by this account, or begin a new one at `next_block`. Raises JournalError.

        The journal of another chain (a development chain that is gone) is left behind.
        """
        self._chain, self._account, self.first_block = genesis_hash, account, next_block
        if not self._path.exists():
            return
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            if record["chain"] != genesis_hash:
                return
            if record["account"] != account:
                raise JournalError(
                    f"{self._path} is of a deployment by {record['account']}: go on with that account, "
                    "or remove the file to pay for a new deployment"
                )
            self.first_block = BlockNumber(int(record["first_block"]))
            self._steps = {
                name: JournalStep(
                    int(step["nonce"]),
                    str(step["purpose"]),
                    tuple((str(digest), str(raw)) for digest, raw in step["attempts"]),
                    str(step["result"]),
                )
                for name, step in record["steps"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise JournalError(
                f"{self._path} is damaged ({error!r}): restore it, or look up on the chain what this account deployed "
                "and remove the file to pay for a new deployment"
            ) from error

    def step(self, name: str) -> JournalStep | None:
        """What is known of a step."""
        return self._steps.get(name)

    def put(self, name: str, step: JournalStep) -> None:
        """Keep what is known of a step, durably."""
        self._steps[name] = step
        self._write()

    def drop(self, name: str) -> None:
        """Forget a step whose transaction was reverted: it must be signed anew."""
        del self._steps[name]
        self._write()

    def next_nonce(self, chain_nonce: int) -> int:
        """The nonce for a new step: above everything on chain and everything signed here."""
        return max([chain_nonce, *(step.nonce + 1 for step in self._steps.values())])

    def remove(self) -> None:
        """All is done: the journal goes."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        record = {
            "chain": self._chain,
            "account": self._account,
            "first_block": self.first_block,
            "steps": {name: asdict(step) for name, step in self._steps.items()},
        }
        staged = self._path.with_name(self._path.name + ".new")
        with staged.open("w", encoding="utf-8") as file:
            json.dump(record, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the new name may be lost with the power, and the transaction be signed twice
        finally:
            os.close(folder)
