"""The program that the chaos test kills: opens the chain, submits its intents, notes every event it sees applied.

It is started as a nursery of processes: what it imports is imported once, each line on standard input makes a fork
that lives until it is killed.
"""

import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import trio
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from node.chain import adapter, folds
from node.chain.adapter import open_chain
from node.chain.addresses import read_deployment
from node.chain.devnet import development_account
from node.chain.endpoints import HealthLimits
from node.chain.sender import Sender
from node.chain.watcher import DeepReorganisationError
from node.ports import ActionStatus
from node.protocol.actions import FundChannel
from node.protocol.chain_state import ChainState
from node.protocol.events import ChainEvent
from node.protocol.identifiers import Address, TokenAmount
from node.store.chain_tables import StoredTransaction
from node.store.database import Database

LIMITS = HealthLimits(
    backoff_seconds_max=0.4,
    quarantine_seconds=1.0,
    lag_blocks_max=6,
    frozen_seconds=1.5,
    frozen_blocks=3,
    straggler_seconds_max=0.3,
)
STOPPED = 3
"""Exit status: the chain contradicted what was confirmed."""


@dataclass(frozen=True)
class ChildSpec:
    """What a child does; the same for all its lives."""

    urls: list[str]
    folder: str
    account: int
    confirmations: int
    intents: int
    write_ahead: bool


def payee_of(index: int) -> Address:
    """Each intent pays another account, so that a doubled or lost one shows in that channel."""
    return Address(to_checksum_address(keccak(b"payee" + index.to_bytes(4, "big"))[-20:]))


def amount_of(index: int) -> TokenAmount:
    return TokenAmount(10**15 + index)


MINED_SECONDS = 1.0
"""How long the forgetful sender waits for a block: a life is about as long, so some end in between."""


class ForgetfulSender(Sender):
    """The mistake the outbox is there to avoid: send, see it in a block, then store that it was sent."""

    async def _start(self, transaction: StoredTransaction) -> None:
        gas = await self._gas_of(transaction)
        if gas is None:
            return
        pending = int(await self._rpc.call("eth_getTransactionCount", self._account.address, "pending"), 16)
        attempt = self._sign(transaction, pending, gas, *await self._fees.first())
        await self._broadcast(attempt)
        with trio.move_on_after(MINED_SECONDS):
            while await self._rpc.call("eth_getTransactionReceipt", "0x" + attempt.hash.hex()) is None:
                await trio.sleep(0.05)
        # The pool forgot a transaction and gives its nonce out again: whoever had it takes another one later.
        for other in self._tables.in_flight():
            if other.nonce == pending:
                self._tables.release_nonce(other)
        self._tables.sign_first(transaction, attempt, max(self._head().confirmed, 0))


class RecordingState(ChainState):
    """Notes what is applied, as a service would act on it."""

    path = Path()

    def apply(self, event: ChainEvent) -> None:
        super().apply(event)
        with self.path.open("a") as file:
            file.write(f"{event.block_number} {event.block_hash.hex()} {event.log_index}\n")


async def live(spec: ChildSpec, life: int) -> None:
    folder = Path(spec.folder)
    RecordingState.path = folder / f"seen-{life}"
    RecordingState.path.touch()
    database = Database(folder / "chaos.sqlite")
    async with open_chain(
        rpc_urls=spec.urls,
        chain_id=31337,
        deployment=read_deployment(folder / "deployment.json"),
        account=development_account(spec.account),
        database=database,
        confirmations=spec.confirmations,
        poll_seconds=0.1,
        wall_clock=lambda: int(time.time()),
        bump_seconds=1.0,
        health=LIMITS,
        lock_dir=folder / "locks",
    ) as chain:
        for index in range(spec.intents):
            await chain.submit(f"intent/{index}", FundChannel(payee_of(index), amount_of(index)))
        for index in range(spec.intents):
            outcome = await chain.outcome(f"intent/{index}")
            if outcome.status is not ActionStatus.DONE:
                with (folder / "failed").open("a") as file:
                    file.write(f"{index} {outcome.reason}\n")
        # All are done: stay a little, so that the last events are seen.
        last = chain.head.number
        async for head in chain.heads():
            if head.confirmed >= last:
                break
        (folder / "complete").write_text(f"{life} {chain.head.confirmed}")
        await trio.sleep_forever()


def main() -> None:
    spec = ChildSpec(**json.loads(sys.argv[1]))
    folds.__dict__["ChainState"] = RecordingState
    if not spec.write_ahead:
        adapter.__dict__["Sender"] = ForgetfulSender  # the mutation
    child, answer = 0, ""
    for line in sys.stdin:
        match line.split():
            case ["start", life]:
                child = os.fork()
                if child == 0:
                    run_life(spec, int(life))
                answer = "started"
            case ["kill"]:
                os.kill(child, signal.SIGKILL)
                answer = str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            case _ if answer.lstrip("-").isdigit():
                pass  # it has ended and was asked about before
            case _:
                pid, status = os.waitpid(child, os.WNOHANG)
                answer = str(os.waitstatus_to_exitcode(status)) if pid else "alive"
        print(answer, flush=True)  # noqa: T201 - the protocol with the test


def run_life(spec: ChildSpec, life: int) -> NoReturn:
    """Live until killed; the exit status says how it ended otherwise."""
    os.dup2(2, 1)  # standard output is the protocol with the test; the log goes elsewhere
    status = 1
    try:
        trio.run(live, spec, life)
    except BaseException as error:
        group = error if isinstance(error, BaseExceptionGroup) else BaseExceptionGroup("one", [error])
        deep = group.subgroup(DeepReorganisationError) is not None  # while starting it comes alone
        status = STOPPED if deep else 1
        if not deep:
            traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
