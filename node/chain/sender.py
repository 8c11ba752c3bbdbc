"""The outbox sender: every intent's transactions reach the chain exactly once, over crashes, outages and rising fees.

An intent is stored before anything is signed; a nonce and the signed bytes are stored before anything is sent. So a
crash at any point leads to the same bytes being sent again, never to a second transaction for the same purpose. A
transaction counts once its block is confirmed and most endpoints agree on its receipt; until then it is sent again
after a reorganisation, and replaced at a higher fee (same nonce) when it does not get in. It is signed with another
nonce only if a confirmed block holds another transaction of this account with its nonce.
"""

from collections.abc import Callable, Sequence
from typing import Any

import structlog
import trio

from contracts.codec import describe_revert
from node.chain.accounts import LocalAccount
from node.chain.complaints import Complaints
from node.chain.fees import GWEI, MAX_FEE_GWEI_DEFAULT, Fees, gas_limit
from node.chain.gas_reserve import GAS_RESERVE_WEI_DEFAULT, GasReserve
from node.chain.nonce_search import NonceSearch
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError, hash32, quantity
from node.ports import ActionOutcome, ActionStatus, Head, WallClock
from node.protocol.identifiers import Hash32
from node.store.chain_tables import Attempt, ChainTables, StoredTransaction

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX = 16
"""Transactions signed and unconfirmed at once: endpoints drop an account's long queues."""
BUMP_SECONDS = 30.0
"""A transaction that is not mined for so long is replaced at a higher fee."""
UNSURE_BLOCKS = 256
"""How much further back a nonce's use is looked for, where its last unused block could not be read."""
OUTAGE_SECONDS_MAX = 10.0


class Sender:
    """Sends what `ChainTables` holds. `run` does the work; `wake` tells it that there is some.

    `head` is the watcher's: only what lies at or below its confirmed block is taken as final. `max_fee_wei` bounds what
    a transaction may pay per gas, whatever an endpoint says of fees. Below `gas_reserve_wei` the operator is warned.
    """

    def __init__(
        self,
        rpc: JsonRpc,
        tables: ChainTables,
        account: LocalAccount,
        *,
        chain_id: int,
        head: Callable[[], Head],
        poll_seconds: float,
        wall_clock: WallClock,
        max_fee_wei: int = MAX_FEE_GWEI_DEFAULT * GWEI,
        gas_reserve_wei: int = GAS_RESERVE_WEI_DEFAULT,
        bump_seconds: float = BUMP_SECONDS,
    ) -> None:
        self._rpc = rpc
        self._tables = tables
        self._account = account
        self._chain_id = chain_id
        self._head = head
        self._poll_seconds = poll_seconds
        self._wall_clock = wall_clock
        self._bump_seconds = bump_seconds
        self._work = trio.Event()
        self._changed = trio.Event()
        self._complaints = Complaints()
        self._fees = Fees(rpc, max_fee_wei)
        self._reserve = GasReserve(
            rpc, account.address, self._complaints, reserve_wei=gas_reserve_wei, poll_seconds=poll_seconds
        )
        self._nonce_search = NonceSearch(rpc, account.address)
        self._reverting_since: dict[str, int] = {}
        """Of intents about to be sent: as bounded as those, and lost without harm."""

    @property
    def low_balance(self) -> bool:
        """Whether the account held less than the reserve at the last look."""
        return self._reserve.is_low

    def wake(self) -> None:
        """An intent was added: begin now rather than at the next poll."""
        self._work.set()

    async def run(self) -> None:
        """Send and confirm for ever; outages are waited out."""
        pause = self._poll_seconds
        down = False
        while True:
            self._work = trio.Event()
            try:
                await self.step()
            except (RpcUnavailableError, RpcError, ValueError) as error:
                if not down:
                    log.warning("transactions wait for the chain; nothing is lost", reason=str(error))
                down, pause = True, min(2 * pause, OUTAGE_SECONDS_MAX)
            else:
                if down:
                    log.info("transactions can be sent again")
                down, pause = False, self._poll_seconds
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
        await self._reserve.look()
        in_flight = self._tables.in_flight()
        attempts = {t.nonce: self._tables.attempts(t.nonce) for t in in_flight if t.nonce is not None}
        mined = await self._mined_in([attempt for several in attempts.values() for attempt in several])
        settled_count = await self._settled_count() if len(mined) < len(attempts) else None
        lowest = True
        for transaction in in_flight:
            if transaction.nonce is None:
                raise ValueError(f"transaction of {transaction.intent_key} is in flight without a nonce")
            known = attempts[transaction.nonce]
            if await self._is_in_a_block(transaction, known, mined):
                continue
            if settled_count is not None and settled_count > transaction.nonce:
                await self._find_who_used(transaction, known)
            else:
                await self._press(transaction, known[0], lowest=lowest)
            lowest = False
        room = max(IN_FLIGHT_MAX - len(in_flight), 0)
        for transaction in self._tables.startable(room):
            await self._start(transaction)

    async def _mined_in(self, attempts: Sequence[Attempt]) -> dict[Hash32, int]:
        """Return the blocks in which attempts are, as the best endpoint has it. Asked side by side."""
        found: dict[Hash32, int] = {}
        failures: list[Exception] = []

        async def look(attempt: Attempt) -> None:
            try:
                receipt = await self._rpc.call("eth_getTransactionReceipt", "0x" + attempt.hash.hex())
                if receipt is not None:
                    found[attempt.hash] = quantity(receipt["blockNumber"])
            except (RpcUnavailableError, RpcError, ValueError, KeyError, TypeError) as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for attempt in attempts:
                nursery.start_soon(look, attempt)
        if failures:
            raise RpcUnavailableError(f"receipts cannot be read: {failures[0]}")
        return found

    async def _is_in_a_block(
        self, transaction: StoredTransaction, attempts: Sequence[Attempt], mined: dict[Hash32, int]
    ) -> bool:
        """Note whether one attempt is in a block, and settle the transaction if that block is confirmed."""
        for attempt in attempts:
            block = mined.get(attempt.hash)
            if block is None:
                continue
            if block > self._head().confirmed:
                self._tables.set_mined(transaction, mined=True)
                return True
            if await self._confirm(transaction, attempt):
                return True
        self._tables.set_mined(transaction, mined=False)
        return False

    async def _confirm(self, transaction: StoredTransaction, attempt: Attempt) -> bool:
        """Settle a transaction if most endpoints have its receipt, in a confirmed block that holds it."""
        receipt = await self._rpc.call_agreed(
            "eth_getTransactionReceipt", "0x" + attempt.hash.hex(), key=_what_a_receipt_says
        )
        if receipt is None:
            return False
        number, block_hash, succeeded, gas_used = _what_a_receipt_says(receipt)
        if number > self._head().confirmed:
            return False
        block = await self._rpc.agreed_block(number)
        if block is None or block.hash != block_hash or attempt.hash not in block.transactions:
            log.warning("a receipt names a block that is not on the chain; it is not believed", nonce=attempt.nonce)
            return False
        failure = None
        if not succeeded:
            failure = await self._why_it_failed(transaction, hex(number))
            log.warning("a transaction was reverted", intent=transaction.intent_key, reason=failure)
        self._tables.set_confirmed(transaction, attempt.hash, gas_used, failure)
        self._forget(transaction)
        self._notify()
        return True

    async def _find_who_used(self, transaction: StoredTransaction, attempts: Sequence[Attempt]) -> None:
        """A confirmed block has this nonce: read on until that transaction is found. Only a proof changes anything."""
        nonce = attempts[0].nonce
        user = await self._nonce_search.user_of(
            nonce, transaction.unused_through, self._head().confirmed, transaction.intent_key
        )
        if user is None:
            return
        ours = next((attempt for attempt in attempts if attempt.hash == user), None)
        if ours is not None:
            await self._confirm(transaction, ours)
            return
        log.error(
            "another program sent a transaction from this account: use an account for one daemon alone, and move "
            "its key if nobody of yours did this. What was to be sent is signed anew and not lost",
            nonce=nonce,
            transaction="0x" + user.hex(),
            intent=transaction.intent_key,
        )
        self._tables.release_nonce(transaction)
        self._forget(transaction)

    async def _press(self, transaction: StoredTransaction, newest: Attempt, *, lowest: bool) -> None:
        """Send again what is in no block; the lowest nonce, on which all others wait, at a higher fee in time."""
        if lowest and self._wall_clock() - newest.sent_at >= self._bump_seconds:
            newest = await self._bump(transaction, newest)
        await self._broadcast(newest)

    async def _start(self, transaction: StoredTransaction) -> None:
        gas = await self._gas_of(transaction)
        if gas is None:
            return
        settled = self._head().confirmed
        settled_count = await self._settled_count()
        newest_count = await self._rpc.transaction_count(self._account.address)
        nonce = self._tables.next_nonce(max(settled_count or 0, newest_count))
        unused_through = settled if settled_count is not None else max(settled - UNSURE_BLOCKS, 0)
        max_fee, priority_fee = await self._fees.first()
        attempt = self._sign(transaction, nonce, gas, max_fee, priority_fee)
        self._tables.sign_first(transaction, attempt, unused_through)
        log.info("sending a transaction", intent=transaction.intent_key, nonce=nonce)
        await self._broadcast(attempt)

    async def _gas_of(self, transaction: StoredTransaction) -> int | None:
        """Return the limit of gas for a transaction, or None if it cannot be sent now, or ever.

        An intent fails for good only if the EVM itself refuses it, at every endpoint, and still does so once the block
        in which it first did is confirmed: a reorganisation takes away what an intent rests on, and brings it back.
        """
        key = transaction.intent_key
        try:
            gas = quantity(await self._rpc.call("eth_estimateGas", self._call_fields(transaction)))
        except RpcError as first:
            try:
                if not first.is_revert:
                    raise
                # Some endpoints estimate on top of what is on its way, which may never come.
                fields = self._call_fields(transaction)
                gas = quantity(await self._rpc.call_any("eth_estimateGas", fields, "latest"))
            except RpcError as error:
                reason = describe_revert(error.revert_data, error.message)
                if not error.is_revert:
                    self._complaints.complain(
                        key, "an intent cannot be prepared yet; it is kept and tried again", reason
                    )
                    return None
                since = self._reverting_since.get(key)
                if since is None:
                    since = self._reverting_since[key] = await self._rpc.head()
                if self._head().confirmed >= since:
                    log.warning("an intent would be reverted and is not sent", intent=key, reason=reason)
                    self._tables.fail(key, reason)
                    self._forget(transaction)
                    self._notify()
                return None
        self._reverting_since.pop(key, None)
        self._complaints.forget(key)
        return gas_limit(gas)

    async def _bump(self, transaction: StoredTransaction, attempt: Attempt) -> Attempt:
        if attempt.max_fee >= self._fees.max_fee_wei:
            self._complaints.complain(
                transaction.intent_key,
                "fees are above max_fee_gwei of [chain]: transactions wait until they fall, or until you raise it; "
                "deadlines of the epoch do not wait",
                f"max_fee={attempt.max_fee}",
            )
            return attempt
        max_fee, priority_fee = await self._fees.above(attempt.max_fee, attempt.priority_fee)
        try:
            gas = quantity(await self._rpc.call("eth_estimateGas", self._call_fields(transaction)))
        except RpcError:
            gas = 0  # it would fail now; it is replaced all the same, because later nonces wait behind it
        limit = max(attempt.gas, gas_limit(gas))
        replacement = self._sign(transaction, attempt.nonce, limit, max_fee, priority_fee)
        self._tables.sign_again(replacement)
        log.info("replacing a slow transaction", intent=transaction.intent_key, nonce=attempt.nonce, max_fee=max_fee)
        return replacement

    async def _broadcast(self, attempt: Attempt) -> None:
        try:
            await self._rpc.broadcast(attempt.raw)
        except RpcError as error:
            # "already known" and the like are what sending twice is for; anything else shows at the next step too.
            if "insufficient funds" in error.message.lower():
                reason = f"{error.message}: give {self._account.address} more of the chain's gas coin"
                self._complaints.complain(f"nonce {attempt.nonce}", "a transaction waits for gas money", reason)
            else:
                log.debug("the endpoints did not take a transaction", nonce=attempt.nonce, reason=error.message)

    async def gas_price(self) -> int:
        """Wei per gas that a transaction sent now would cost. Raises RpcError, RpcUnavailableError."""
        return sum(await self._fees.going())

    async def _settled_count(self) -> int | None:
        """Return how many nonces of this account are used in confirmed blocks.

        None if no endpoint keeps the state of that block: where finality stalls, it may be older than what they keep.
        """
        settled = hex(max(self._head().confirmed, 0))
        try:
            return quantity(await self._rpc.call_agreed("eth_getTransactionCount", self._account.address, settled))
        except RpcError as error:
            self._complaints.complain(
                "settled", "endpoints do not keep the state of the newest confirmed block", str(error)
            )
            return None

    async def _why_it_failed(self, transaction: StoredTransaction, block: str) -> str:
        try:
            await self._rpc.call("eth_call", self._call_fields(transaction), block)
        except RpcError as error:
            return describe_revert(error.revert_data, error.message)
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
        return Attempt(Hash32(transaction_hash), nonce, raw, max_fee, priority_fee, self._wall_clock(), gas)

    def _forget(self, transaction: StoredTransaction) -> None:
        if transaction.nonce is not None:
            self._nonce_search.forget(transaction.nonce)
        self._reverting_since.pop(transaction.intent_key, None)
        self._complaints.forget(transaction.intent_key)
        self._complaints.forget(f"nonce {transaction.nonce}")

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _what_a_receipt_says(receipt: Any) -> tuple[int, Hash32, bool, int]:
    """Return block number, block hash, whether it succeeded, and gas used."""
    return (
        quantity(receipt["blockNumber"]),
        hash32(receipt["blockHash"]),
        quantity(receipt["status"]) == 1,
        quantity(receipt["gasUsed"]),
    )
