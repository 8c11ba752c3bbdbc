"""The outbox sender: every intent's transactions reach the chain exactly once, over crashes, outages and rising fees.

An intent is stored before anything is signed; a nonce and the signed bytes are stored before anything is sent. So a
crash at any point leads to the same bytes being sent again, never to a second transaction for the same purpose. A
transaction counts once its receipt lies `confirmations` blocks deep; until then it is sent again after a
reorganisation, and replaced at a higher fee (same nonce) when it does not get in.
"""

import structlog
import trio

from contracts.codec import describe_revert
from node.chain.accounts import LocalAccount
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError, hex_bytes, quantity
from node.ports import ActionOutcome, ActionStatus, WallClock
from node.protocol.identifiers import Hash32
from node.store.chain_tables import Attempt, ChainTables, StoredTransaction

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX = 16
"""Transactions signed and unconfirmed at once: endpoints drop an account's long queues."""
BUMP_SECONDS = 30
"""A transaction that is not mined for so long is replaced at a higher fee."""
BUMP_PER_MILLE = 1250
"""Nodes refuse replacements below 1.1 times the fees; 1.25 leaves room."""
GAS_MARGIN_PER_MILLE = 1250
"""What a call needs may grow between the estimate and its block; unused gas costs nothing."""
PRIORITY_FEE_DEFAULT_WEI = 1_000_000_000
MAX_FEE_CEILING_WEI = 10_000 * 10**9
"""No transaction of this program is worth more per gas: a lying endpoint must not empty the account by fees."""
OUTAGE_SECONDS_MAX = 10.0


class Sender:
    """Sends what `ChainTables` holds. `run` does the work; `wake` tells it that there is some."""

    def __init__(
        self,
        rpc: JsonRpc,
        tables: ChainTables,
        account: LocalAccount,
        *,
        chain_id: int,
        confirmations: int,
        poll_seconds: float,
        wall_clock: WallClock,
    ) -> None:
        self._rpc = rpc
        self._tables = tables
        self._account = account
        self._chain_id = chain_id
        self._confirmations = confirmations
        self._poll_seconds = poll_seconds
        self._wall_clock = wall_clock
        self._work = trio.Event()
        self._changed = trio.Event()
        self.head = 0
        """Newest block at the last look: whatever was confirmed lies at least `confirmations` below it."""

    def wake(self) -> None:
        """An intent was added: begin now rather than at the next poll."""
        self._work.set()

    async def run(self) -> None:
        """Send and confirm for ever; outages are waited out."""
        pause = self._poll_seconds
        while True:
            self._work = trio.Event()
            try:
                await self.step()
                pause = self._poll_seconds
            except (RpcUnavailableError, RpcError, ValueError) as error:
                log.warning("transactions wait for the chain", reason=str(error))
                pause = min(2 * pause, OUTAGE_SECONDS_MAX)
            with trio.move_on_after(pause):
                await self._work.wait()

    async def outcome(self, key: str) -> ActionOutcome:
        """Wait until intent `key` is done or has failed. Raises KeyError if there is no such intent."""
        while True:
            changed = self._changed
            found = self._tables.outcome(key)
            if found is None:
                raise KeyError(f"no intent {key!r}")
            if found.status is not ActionStatus.PENDING:
                return found
            await changed.wait()

    async def step(self) -> None:
        """Look once at everything in flight, then sign and send what may go."""
        head = self.head = await self._rpc.block_number()
        in_flight = self._tables.in_flight()
        lowest = True
        for transaction in in_flight:
            mined = await self._follow(transaction, head, lowest=lowest)
            lowest = lowest and mined
        room = IN_FLIGHT_MAX - len(in_flight)
        for transaction in self._tables.startable(max(room, 0)):
            await self._start(transaction)

    async def _follow(self, transaction: StoredTransaction, head: int, *, lowest: bool) -> bool:
        """Bring one sent transaction forward; return whether it is in a block."""
        nonce = transaction.nonce
        if nonce is None:
            raise ValueError(f"transaction of {transaction.intent_key} is in flight without a nonce")
        attempts = self._tables.attempts(nonce)
        for attempt in attempts:
            receipt = await self._rpc.call("eth_getTransactionReceipt", "0x" + attempt.hash.hex())
            if receipt is None:
                continue
            if head - quantity(receipt["blockNumber"]) >= self._confirmations:
                await self._confirm(transaction, attempt, receipt)
            else:
                self._tables.set_mined(transaction, mined=True)
            return True
        self._tables.set_mined(transaction, mined=False)
        settled = max(head - self._confirmations, 0)
        if await self._transaction_count(hex(settled)) > nonce:
            log.warning("another program used this account's nonce; signing again with a later one", nonce=nonce)
            self._tables.release_nonce(transaction)
            return False
        newest = attempts[0]
        if lowest and self._wall_clock() - newest.sent_at >= BUMP_SECONDS:
            newest = await self._bump(transaction, newest)
        await self._broadcast(newest)
        return False

    async def _confirm(self, transaction: StoredTransaction, attempt: Attempt, receipt: dict[str, object]) -> None:
        failure = None
        if quantity(receipt["status"]) != 1:
            failure = await self._why_it_failed(transaction, str(receipt["blockNumber"]))
            log.warning("a transaction was reverted", intent=transaction.intent_key, reason=failure)
        self._tables.set_confirmed(transaction, attempt.hash, quantity(receipt["gasUsed"]), failure)
        self._notify()

    async def _start(self, transaction: StoredTransaction) -> None:
        try:
            gas = quantity(await self._rpc.call("eth_estimateGas", self._call_fields(transaction)))
        except RpcError as error:
            reason = describe_revert(hex_bytes(error.data or "0x"), error.message)
            log.warning("an intent would be reverted and is not sent", intent=transaction.intent_key, reason=reason)
            self._tables.fail(transaction.intent_key, reason)
            self._notify()
            return
        nonce = self._tables.next_nonce(await self._transaction_count("latest"))
        max_fee, priority_fee = await self._fees()
        attempt = self._sign(transaction, nonce, gas * GAS_MARGIN_PER_MILLE // 1000, max_fee, priority_fee)
        self._tables.sign_first(transaction, attempt)
        log.info("sending a transaction", intent=transaction.intent_key, nonce=nonce)
        await self._broadcast(attempt)

    async def _bump(self, transaction: StoredTransaction, attempt: Attempt) -> Attempt:
        fees = await self._fees()
        raised = (attempt.max_fee * BUMP_PER_MILLE // 1000, attempt.priority_fee * BUMP_PER_MILLE // 1000)
        max_fee, priority_fee = (max(now, then) for now, then in zip(fees, raised, strict=True))
        if max_fee > MAX_FEE_CEILING_WEI:
            log.error("fees are beyond all reason; not raising further", max_fee=max_fee)
            return attempt
        try:
            gas = quantity(await self._rpc.call("eth_estimateGas", self._call_fields(transaction)))
        except RpcError:
            return attempt  # it would fail now; the first form stays, it may yet be mined
        gas_limit = gas * GAS_MARGIN_PER_MILLE // 1000
        replacement = self._sign(transaction, attempt.nonce, gas_limit, max_fee, priority_fee)
        self._tables.sign_again(replacement)
        log.info("replacing a slow transaction", intent=transaction.intent_key, nonce=attempt.nonce, max_fee=max_fee)
        return replacement

    async def _broadcast(self, attempt: Attempt) -> None:
        try:
            await self._rpc.call_once("eth_sendRawTransaction", "0x" + attempt.raw.hex())
        except RpcError as error:
            # "already known" and the like are what sending twice is for; anything else shows at the next step too.
            level = log.warning if "insufficient funds" in error.message.lower() else log.debug
            level("the endpoint did not take a transaction", nonce=attempt.nonce, reason=error.message)

    async def _fees(self) -> tuple[int, int]:
        block = await self._rpc.block("latest")
        base_fee = 0 if block is None else block.base_fee
        try:
            priority_fee = quantity(await self._rpc.call("eth_maxPriorityFeePerGas"))
        except RpcError:
            priority_fee = PRIORITY_FEE_DEFAULT_WEI
        max_fee = min(2 * base_fee + priority_fee, MAX_FEE_CEILING_WEI)
        return max_fee, min(priority_fee, max_fee)

    async def _transaction_count(self, block: str) -> int:
        return quantity(await self._rpc.call("eth_getTransactionCount", self._account.address, block))

    async def _why_it_failed(self, transaction: StoredTransaction, block: str) -> str:
        try:
            await self._rpc.call("eth_call", self._call_fields(transaction), block)
        except RpcError as error:
            return describe_revert(hex_bytes(error.data or "0x"), error.message)
        return "reverted, though the same call succeeds at the end of its block: another transaction came first"

    def _call_fields(self, transaction: StoredTransaction) -> dict[str, str]:
        return {
            "from": self._account.address,
            "to": transaction.recipient,
            "data": "0x" + transaction.calldata.hex(),
        }

    def _sign(self, transaction: StoredTransaction, nonce: int, gas: int, max_fee: int, priority_fee: int) -> Attempt:
        transaction_hash, raw = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": self._chain_id,
                "nonce": nonce,
                "to": transaction.recipient,
                "value": 0,
                "data": transaction.calldata,
                "gas": gas,
                "maxFeePerGas": max_fee,
                "maxPriorityFeePerGas": priority_fee,
            }
        )
        return Attempt(Hash32(transaction_hash), nonce, raw, max_fee, priority_fee, self._wall_clock())

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
