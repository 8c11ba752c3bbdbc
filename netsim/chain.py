"""The Chain port of one simulated node, over the shared ledger."""

from collections.abc import AsyncIterator, Awaitable, Callable

import trio
from coincurve import PrivateKey

from netsim.ledger import CHAIN_ID, EPOCH_MANAGER, PAYMENT_CHANNELS, SLASHING, Ledger, Transaction
from node.ports import ActionOutcome, ActionStatus, Head, StageChange
from node.protocol.actions import ChainAction
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, Hash32, TokenAmount
from node.protocol.records import EpochParameters
from node.protocol.schedules import ParameterSchedule
from node.protocol.signatures import address_of, sign
from node.stage_changes import next_stage_change

Rewrite = Callable[[ChainAction], Awaitable[ChainAction | None]]


class SimulatedChain:
    """Follows the ledger `confirmations` blocks behind its tip, as a real watcher does."""

    def __init__(self, ledger: Ledger, key: PrivateKey, *, confirmations: int) -> None:
        self._ledger = ledger
        self._key = key
        self._confirmations = confirmations
        self._account = address_of(key.public_key)
        self._state = ChainState()
        self._applied = 0
        self._changed = trio.Event()
        self._outcomes: dict[str, ActionOutcome | None] = {}
        self._settled: dict[str, trio.Event] = {}
        self._stage_cursors: dict[str, BlockNumber] = {}
        self._schedule = ParameterSchedule(ledger.parameters)
        self.rewrite: Rewrite | None = None
        """A hostile node's switch: send something else than its services want, or nothing."""
        ledger.watch(self._on_block)
        self._on_block()

    @property
    def account(self) -> Address:
        """This node's account."""
        return self._account

    @property
    def chain_id(self) -> int:
        """The simulated network's chain id."""
        return CHAIN_ID

    @property
    def parameters(self) -> EpochParameters:
        """The parameters that hold at the newest block."""
        return self.schedule.at_block(self.head.number)

    @property
    def schedule(self) -> ParameterSchedule:
        """The parameters of all epochs, by this node's confirmed events."""
        changes = self._state.parameter_changes
        if changes is not self._schedule.changes:
            self._schedule = ParameterSchedule(self._schedule.first, changes)
        return self._schedule

    @property
    def epoch_manager(self) -> Address:
        """Where epoch results are verified."""
        return EPOCH_MANAGER

    @property
    def payment_channels(self) -> Address:
        """Where vouchers are verified."""
        return PAYMENT_CHANNELS

    @property
    def slashing(self) -> Address:
        """Where verdicts on offences are verified."""
        return SLASHING

    @property
    def head(self) -> Head:
        """The ledger's tip and the confirmed block behind it."""
        height = self._ledger.height
        return Head(height, BlockNumber(max(0, height - self._confirmations)))

    @property
    def state(self) -> ChainState:
        """The fold of this node's confirmed events."""
        return self._state

    async def state_at(self, block: BlockNumber) -> ChainState:
        """The ledger's events up to `block`, folded once for all nodes: they only read it."""
        await trio.lowlevel.checkpoint()
        return self._ledger.state_at(block)

    async def heads(self) -> AsyncIterator[Head]:
        """Yield the head now and after every block."""
        while True:
            changed = self._changed
            yield self.head
            await changed.wait()

    async def stage_changes(self, consumer: str) -> AsyncIterator[StageChange]:
        """Yield each change of stage on the confirmed chain once, in order; the place lasts as long as this object."""
        async for head in self.heads():
            cursor = self._stage_cursors.get(consumer)
            while (change := next_stage_change(cursor, head.confirmed, self.schedule)) is not None:
                yield change
                cursor = self._stage_cursors[consumer] = change.first_block

    async def block_hash(self, block: BlockNumber) -> Hash32:
        """Wait until `block` is confirmed and return its hash."""
        while self.head.confirmed < block:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return self._ledger.block_hashes[block]

    async def submit(self, key: str, action: ChainAction) -> None:
        """Send the action once for `key`."""
        await trio.lowlevel.checkpoint()
        if key in self._outcomes:
            return
        self._outcomes[key] = None
        self._settled[key] = trio.Event()

        def settle(reason: str | None) -> None:
            status = ActionStatus.DONE if reason is None else ActionStatus.FAILED
            self._outcomes[key] = ActionOutcome(status, None, 0, reason or "")
            self._settled[key].set()

        if self.rewrite is not None:
            rewritten = await self.rewrite(action)
            if rewritten is None:
                settle("NotSent")
                return
            action = rewritten
        self._ledger.send(Transaction(self._account, action, settle))

    async def is_overtaken(self, action: ChainAction, *, in_a_block: bool = False) -> bool:
        """What the tip says, and what is on its way into the next block."""
        await trio.lowlevel.checkpoint()
        return self._ledger.is_overtaken(action, in_a_block=in_a_block)

    async def outcome(self, key: str) -> ActionOutcome:
        """Wait until the action was applied or refused, and its block is confirmed."""
        await self._settled[key].wait()
        settled_at = self._ledger.height
        while self.head.confirmed < settled_at:
            await self._changed.wait()
        outcome = self._outcomes[key]
        if outcome is None:
            raise AssertionError("settled intents have an outcome")
        return outcome

    async def token_balance(self, account: Address) -> TokenAmount:
        """Tokens of `account` at the tip."""
        await trio.lowlevel.checkpoint()
        return self._ledger.balance(account)

    async def gas_price(self) -> int:
        """What the ledger says; the same for everyone."""
        await trio.lowlevel.checkpoint()
        return self._ledger.gas_price

    def sign(self, digest: Hash32) -> bytes:
        """Sign with the account key."""
        return sign(self._key, digest)

    def _on_block(self) -> None:
        confirmed = self.head.confirmed
        events = self._ledger.events
        while self._applied < len(events) and events[self._applied].block_number <= confirmed:
            self._state.apply(events[self._applied])
            self._applied += 1
        self._changed.set()
        self._changed = trio.Event()
