"""The chain's tables: the watcher's blocks and events, the sender's intents, transactions and attempts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from node.ports import ActionOutcome, ActionStatus
from node.protocol.identifiers import Address, BlockNumber, Hash32
from node.store.database import Database

BLOCKS_KEPT = 256
"""Blocks remembered to find where a reorganisation begins; deeper ones do not happen on a chain worth using."""
EVENTS_READ_AT_ONCE = 1024
"""Of some hundreds of bytes each: a year of a large network has a million."""


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """A transaction of an intent. `nonce` is None until it is signed for the first time."""

    intent_key: str
    position: int
    recipient: Address
    calldata: bytes
    nonce: int | None
    unused_through: int = 0
    """A confirmed block after which, if at all, the nonce was used; 0 until it is signed for the first time."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A signed form of a transaction; several may exist for one nonce, at rising fees."""

    hash: Hash32
    nonce: int
    raw: bytes
    max_fee: int
    priority_fee: int
    sent_at: float
    gas: int
    """Limit of gas."""


@dataclass(frozen=True, slots=True)
class StoredIntent:
    """An intent as its operator looks at it."""

    key: str
    outcome: ActionOutcome
    steps: tuple["StoredStep", ...]
    """Its transactions, in order."""


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A transaction of an intent."""

    status: str
    """`new`, `sent` (signed), `mined` (in a block that is not confirmed), `done`."""
    nonce: int | None
    transaction_hash: Hash32 | None
    """Of its dearest attempt; None before it is signed."""


class ChainTables:
    """Reads and writes of the chain adapter. Cursor and events change in one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- the watcher ---

    def tip(self) -> tuple[BlockNumber, Hash32] | None:
        """The newest block taken in."""
        row = self._database.connection.execute(
            "SELECT number, hash FROM blocks ORDER BY number DESC LIMIT 1"
        ).fetchone()
        return None if row is None else (BlockNumber(row[0]), Hash32(bytes(row[1])))

    def hash_at(self, number: int) -> Hash32 | None:
        """The hash of block `number`, if it was taken in and is still remembered."""
        row = self._database.connection.execute("SELECT hash FROM blocks WHERE number = ?", (number,)).fetchone()
        return None if row is None else Hash32(bytes(row[0]))

    def confirmed(self) -> BlockNumber | None:
        """The newest block ever confirmed."""
        row = self._database.connection.execute("SELECT block FROM confirmed").fetchone()
        return None if row is None else BlockNumber(row[0])

    def add_blocks(
        self, number: BlockNumber, block_hash: Hash32, events: Iterable[tuple[int, int, bytes]], confirmed: int
    ) -> None:
        """Take in everything up to block `number`, with `confirmed` the newest block now confirmed.

        Events are (block number, log index, record).
        """
        with self._database.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?)", events)
            connection.execute("INSERT INTO blocks VALUES (?, ?)", (number, block_hash))
            # The newest confirmed block stays: it is how a reorganisation below it is noticed.
            connection.execute("DELETE FROM blocks WHERE number < ?", (min(number - BLOCKS_KEPT, confirmed),))
            self._confirm(confirmed)

    def confirm(self, block: int) -> None:
        """Block `block` is confirmed, and with it everything before it."""
        with self._database.transaction():
            self._confirm(block)

    def roll_back(self, number: BlockNumber) -> None:
        """Forget block `number`, the newest, and its events."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM events WHERE block_number >= ?", (number,))
            connection.execute("DELETE FROM blocks WHERE number >= ?", (number,))

    def events(self, *, after: int, through: int) -> Iterator[bytes]:
        """Records of the events of blocks after+1 to through, in chain order, read some at a time."""
        block, index = after + 1, -1
        while True:
            rows = self._database.connection.execute(
                "SELECT block_number, log_index, record FROM events WHERE (block_number, log_index) > (?, ?) "
                "AND block_number <= ? ORDER BY block_number, log_index LIMIT ?",
                (block, index, through, EVENTS_READ_AT_ONCE),
            ).fetchall()
            for _, _, record in rows:
                yield bytes(record)
            if len(rows) < EVENTS_READ_AT_ONCE:
                return
            block, index, _ = rows[-1]

    # --- stage changes ---

    def stage_cursor(self, consumer: str) -> BlockNumber | None:
        """First block of the stage whose change `consumer` saw last."""
        row = self._database.connection.execute(
            "SELECT first_block FROM stage_cursors WHERE consumer = ?", (consumer,)
        ).fetchone()
        return None if row is None else BlockNumber(row[0])

    def set_stage_cursor(self, consumer: str, first_block: BlockNumber) -> None:
        """`consumer` is done with the change to the stage that begins at `first_block`."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO stage_cursors VALUES (?, ?)", (consumer, first_block))

    # --- the sender ---

    def add_intent(self, key: str, calls: Sequence[tuple[Address, bytes]]) -> bool:
        """Store an intent with its transactions; return False if the key is known already."""
        with self._database.transaction() as connection:
            if connection.execute("SELECT 1 FROM intents WHERE key = ?", (key,)).fetchone():
                return False
            (sequence,) = connection.execute("SELECT coalesce(max(sequence), 0) + 1 FROM intents").fetchone()
            connection.execute(
                "INSERT INTO intents (key, sequence, status) VALUES (?, ?, ?)",
                (key, sequence, ActionStatus.PENDING.value),
            )
            connection.executemany(
                "INSERT INTO transactions (intent_key, position, recipient, calldata, status) "
                "VALUES (?, ?, ?, ?, 'new')",
                [(key, position, recipient, data) for position, (recipient, data) in enumerate(calls)],
            )
        return True

    def outcome(self, key: str) -> ActionOutcome | None:
        """How far intent `key` has come, or None if there is none."""
        row = self._database.connection.execute(
            "SELECT status, transaction_hash, gas_used, reason FROM intents WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        transaction_hash = None if row[1] is None else Hash32(bytes(row[1]))
        return ActionOutcome(ActionStatus(row[0]), transaction_hash, row[2], row[3])

    def startable(self, limit: int) -> list[StoredTransaction]:
        """Unsigned transactions whose predecessors of the same intent are mined, oldest intent first."""
        rows = self._database.connection.execute(
            "SELECT t.intent_key, t.position, t.recipient, t.calldata, t.nonce, t.unused_through FROM transactions t "
            "JOIN intents i ON i.key = t.intent_key WHERE t.status = 'new' AND i.status = 'pending' "
            "AND NOT EXISTS (SELECT 1 FROM transactions p WHERE p.intent_key = t.intent_key "
            "AND p.position < t.position AND p.status NOT IN ('mined', 'done')) "
            "ORDER BY i.sequence, t.position LIMIT ?",
            (limit,),
        )
        return [StoredTransaction(*row) for row in rows]

    def in_flight(self) -> list[StoredTransaction]:
        """Signed transactions that are not confirmed, lowest nonce first."""
        rows = self._database.connection.execute(
            "SELECT intent_key, position, recipient, calldata, nonce, unused_through FROM transactions "
            "WHERE status IN ('sent', 'mined') ORDER BY nonce"
        )
        return [StoredTransaction(*row) for row in rows]

    def next_nonce(self, chain_nonce: int) -> int:
        """The nonce for a new transaction: above everything on chain and everything signed here."""
        (highest,) = self._database.connection.execute("SELECT max(nonce) FROM transactions").fetchone()
        return chain_nonce if highest is None else max(chain_nonce, int(highest) + 1)

    def attempts(self, nonce: int) -> list[Attempt]:
        """All attempts for `nonce`, the dearest first."""
        rows = self._database.connection.execute(
            "SELECT hash, nonce, raw, max_fee, priority_fee, sent_at, gas FROM attempts WHERE nonce = ? "
            "ORDER BY length(max_fee) DESC, max_fee DESC, length(priority_fee) DESC, priority_fee DESC",
            (nonce,),
        )
        return [
            Attempt(Hash32(bytes(h)), n, bytes(raw), int(fee), int(tip), sent_at, gas)
            for h, n, raw, fee, tip, sent_at, gas in rows
        ]

    def sign_first(self, transaction: StoredTransaction, attempt: Attempt, unused_through: int) -> None:
        """Give a transaction its nonce and keep its first signed form: before it is sent."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE transactions SET nonce = ?, status = 'sent', unused_through = ? "
                "WHERE intent_key = ? AND position = ?",
                (attempt.nonce, unused_through, transaction.intent_key, transaction.position),
            )
            self._insert_attempt(attempt)

    def sign_again(self, attempt: Attempt) -> None:
        """Keep another signed form of the same nonce: before it is sent."""
        with self._database.transaction():
            self._insert_attempt(attempt)

    def set_mined(self, transaction: StoredTransaction, *, mined: bool) -> None:
        """A receipt was seen (or is gone after a reorganisation); not yet confirmed."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE transactions SET status = ? "
                "WHERE intent_key = ? AND position = ? AND status IN ('sent', 'mined')",
                ("mined" if mined else "sent", transaction.intent_key, transaction.position),
            )

    def set_confirmed(
        self, transaction: StoredTransaction, transaction_hash: Hash32, gas_used: int, failure: str | None
    ) -> None:
        """A receipt is confirmed: the intent goes on, is done, or has failed for good (`failure` says why)."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE transactions SET status = 'done' WHERE intent_key = ? AND position = ?",
                (transaction.intent_key, transaction.position),
            )
            connection.execute(
                "UPDATE intents SET transaction_hash = ?, gas_used = gas_used + ? WHERE key = ?",
                (transaction_hash, gas_used, transaction.intent_key),
            )
            (left,) = connection.execute(
                "SELECT count(*) FROM transactions WHERE intent_key = ? AND status != 'done'", (transaction.intent_key,)
            ).fetchone()
            if failure is not None:
                self._finish(transaction.intent_key, ActionStatus.FAILED, failure)
            elif left == 0:
                self._finish(transaction.intent_key, ActionStatus.DONE, "")

    def fail(self, key: str, reason: str) -> None:
        """An intent cannot succeed; nothing of it that is unsigned will be sent."""
        with self._database.transaction():
            self._finish(key, ActionStatus.FAILED, reason)

    def release_nonce(self, transaction: StoredTransaction) -> None:
        """Another program used this nonce: the transaction must be signed anew with a later one."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE transactions SET nonce = NULL, status = 'new' WHERE intent_key = ? AND position = ?",
                (transaction.intent_key, transaction.position),
            )

    def gas_spent(self) -> tuple[int, int]:
        """(transactions done, gas used by them)."""
        (count,) = self._database.connection.execute(
            "SELECT count(*) FROM transactions WHERE status = 'done'"
        ).fetchone()
        (gas,) = self._database.connection.execute("SELECT coalesce(sum(gas_used), 0) FROM intents").fetchone()
        return int(count), int(gas)

    def intents(self, *, limit: int, pending_only: bool) -> tuple[StoredIntent, ...]:
        """The newest intents, newest first."""
        rows = self._database.connection.execute(
            "SELECT key FROM intents WHERE NOT ? OR status = ? ORDER BY sequence DESC LIMIT ?",
            (pending_only, ActionStatus.PENDING.value, limit),
        ).fetchall()
        found = (self.intent(key) for (key,) in rows)
        return tuple(intent for intent in found if intent is not None)

    def intent(self, key: str) -> StoredIntent | None:
        """Intent `key` with its transactions, or None if there is none."""
        outcome = self.outcome(key)
        if outcome is None:
            return None
        rows = self._database.connection.execute(
            "SELECT status, nonce FROM transactions WHERE intent_key = ? ORDER BY position", (key,)
        ).fetchall()
        return StoredIntent(key, outcome, tuple(self._step(status, nonce) for status, nonce in rows))

    def intent_counts(self) -> dict[ActionStatus, int]:
        """How many intents there are of each status."""
        rows = self._database.connection.execute("SELECT status, count(*) FROM intents GROUP BY status").fetchall()
        counts = {ActionStatus(status): int(count) for status, count in rows}
        return {status: counts.get(status, 0) for status in ActionStatus}

    def failures(self, *, without: Sequence[str] = ()) -> int:
        """How many intents have failed, leaving out those whose reason begins with a text of `without`."""
        count = "SELECT count(*) FROM intents WHERE status = ? AND reason LIKE ?"
        of = [
            int(self._database.connection.execute(count, (ActionStatus.FAILED.value, text + "%")).fetchone()[0])
            for text in ("", *without)
        ]
        return of[0] - sum(of[1:])

    def _step(self, status: str, nonce: int | None) -> StoredStep:
        attempts = [] if nonce is None else self.attempts(nonce)
        return StoredStep(status, nonce, attempts[0].hash if attempts else None)

    def _confirm(self, block: int) -> None:
        self._database.connection.execute(
            "INSERT INTO confirmed VALUES (1, ?) ON CONFLICT DO UPDATE SET block = max(block, excluded.block)", (block,)
        )

    def _finish(self, key: str, status: ActionStatus, reason: str) -> None:
        self._database.connection.execute(
            "UPDATE intents SET status = ?, reason = ? WHERE key = ?", (status.value, reason, key)
        )

    def _insert_attempt(self, attempt: Attempt) -> None:
        self._database.connection.execute(
            "INSERT OR IGNORE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                attempt.hash,
                attempt.nonce,
                attempt.raw,
                str(attempt.max_fee),
                str(attempt.priority_fee),
                attempt.sent_at,
                attempt.gas,
            ),
        )
