"""The chain as services see it: its head and confirmed state, its stages, and what is sent to it once."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from node.protocol.actions import ChainAction
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, Hash32, TokenAmount
from node.protocol.records import EpochParameters
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain stands: the newest block, and the newest one deep enough to act on."""

    number: BlockNumber
    confirmed: BlockNumber


class ActionStatus(Enum):
    """How far an intent has come."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """The end of an intent. `reason` says why it failed, in the contract's own error where there is one."""

    status: ActionStatus
    transaction_hash: Hash32 | None
    gas_used: int
    reason: str


@dataclass(frozen=True, slots=True)
class StageChange:
    """A stage of an epoch began, with `first_block`, which is confirmed."""

    epoch: EpochNumber
    stage: Stage
    first_block: BlockNumber


class Chain(Protocol):
    """The chain as services use it. Reading is free and immediate; writing is exactly once by key."""

    @property
    def account(self) -> Address:
        """The account that sends this daemon's transactions: its participant."""

    @property
    def chain_id(self) -> int:
        """EIP-155 chain id, part of every EIP-712 domain."""

    @property
    def parameters(self) -> EpochParameters:
        """The parameters that hold at the newest block: enough for what happens within its epoch."""

    @property
    def schedule(self) -> ParameterSchedule:
        """The parameters of all epochs, by the confirmed chain: for what looks beyond the present one."""

    @property
    def epoch_manager(self) -> Address:
        """Contract that verifies epoch results (EIP-712 verifying contract)."""

    @property
    def payment_channels(self) -> Address:
        """Contract that verifies vouchers (EIP-712 verifying contract)."""

    @property
    def slashing(self) -> Address:
        """Contract that verifies verdicts on offences (EIP-712 verifying contract)."""

    @property
    def head(self) -> Head:
        """The newest head seen; never blocks."""

    @property
    def state(self) -> ChainState:
        """The fold of all confirmed events. Read only."""

    async def state_at(self, block: BlockNumber) -> ChainState:
        """Return the fold of all events up to and including `block`, which must be confirmed."""

    def heads(self) -> AsyncIterator[Head]:
        """Yield the head now and after every change of it; a slow reader sees the newest, not each."""

    def stage_changes(self, consumer: str) -> AsyncIterator[StageChange]:
        """Yield each change of stage on the confirmed chain once, in order, however fast blocks come.

        A change counts as handled when the consumer asks for the next: after a crash before that it comes again. The
        place is kept under the name `consumer`, over restarts; a new consumer begins with the present stage.
        """

    async def block_hash(self, block: BlockNumber) -> Hash32:
        """Return the hash of `block` once it is confirmed; waits for that."""

    async def submit(self, key: str, action: ChainAction) -> None:
        """Store the intent durably; it is sent exactly once for `key`, across restarts. Same key: no effect."""

    async def is_overtaken(self, action: ChainAction, *, in_a_block: bool = False) -> bool:
        """Whether somebody else did what `action` would do, in a block that may not be confirmed yet or in one to come;
        with `in_a_block`, only in one that is there. What is to come may never come, at no cost to who promised it.

        To be asked right before it is submitted. False where nobody knows: then it is sent, and may be refused.
        """

    async def outcome(self, key: str) -> ActionOutcome:
        """Wait until the intent `key` is confirmed or has failed for good."""

    async def token_balance(self, account: Address) -> TokenAmount:
        """Tokens of `account` at the newest block."""

    async def gas_price(self) -> int:
        """Wei per gas that a transaction sent now would cost; 0 if nobody knows."""

    def sign(self, digest: Hash32) -> bytes:
        """Sign a digest with the account key (65 bytes). Callers record duties before signing: see Store."""
