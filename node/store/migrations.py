"""The schema of the store, as numbered steps that are applied once and in order."""

import sqlite3

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE duties (duty TEXT PRIMARY KEY, digest BLOB NOT NULL) STRICT, WITHOUT ROWID;

    CREATE TABLE issued_vouchers (
        channel_id BLOB PRIMARY KEY, cumulative TEXT NOT NULL, record BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE received_vouchers (
        channel_id BLOB PRIMARY KEY, cumulative TEXT NOT NULL, record BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE receipts (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        request_id BLOB NOT NULL,
        executor TEXT NOT NULL,
        output_tokens INTEGER NOT NULL,
        price TEXT NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (request_id, executor)
    ) STRICT;

    CREATE TABLE documents (key TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT, WITHOUT ROWID;

    -- The watcher's view: recent blocks (to find reorganisations) and events of blocks not rolled back.
    CREATE TABLE blocks (number INTEGER PRIMARY KEY, hash BLOB NOT NULL) STRICT;
    CREATE TABLE events (
        block_number INTEGER NOT NULL,
        log_index INTEGER NOT NULL,
        record BLOB NOT NULL,
        PRIMARY KEY (block_number, log_index)
    ) STRICT, WITHOUT ROWID;

    -- The outbox: one row per intent, one per transaction of it, one per attempt to send that transaction.
    CREATE TABLE intents (
        key TEXT PRIMARY KEY,
        sequence INTEGER NOT NULL UNIQUE,
        status TEXT NOT NULL,
        transaction_hash BLOB,
        gas_used INTEGER NOT NULL DEFAULT 0,
        reason TEXT NOT NULL DEFAULT ''
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE transactions (
        intent_key TEXT NOT NULL REFERENCES intents (key),
        position INTEGER NOT NULL,
        recipient TEXT,
        calldata BLOB NOT NULL,
        nonce INTEGER UNIQUE,
        status TEXT NOT NULL,
        PRIMARY KEY (intent_key, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE attempts (
        hash BLOB PRIMARY KEY,
        nonce INTEGER NOT NULL,
        raw BLOB NOT NULL,
        max_fee TEXT NOT NULL,
        priority_fee TEXT NOT NULL,
        sent_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX attempts_by_nonce ON attempts (nonce);
    """,
    """
    -- How far the chain is confirmed: it never goes back, whatever an endpoint says later.
    CREATE TABLE confirmed (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), block INTEGER NOT NULL) STRICT;
    -- The first block of the stage whose change each consumer saw last.
    CREATE TABLE stage_cursors (consumer TEXT PRIMARY KEY, first_block INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    -- Up to this block the nonce was not used when the transaction was signed: who used it is found after it.
    ALTER TABLE transactions ADD COLUMN unused_through INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE attempts ADD COLUMN gas INTEGER NOT NULL DEFAULT 0;
    """,
    """
    -- Peers and addresses that are not spoken to (p2p/standing.py).
    CREATE TABLE bans (
        peer TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        since INTEGER NOT NULL,
        until INTEGER NOT NULL,
        count INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    -- Models on this machine (node/models/registry.py), the files of those that are available, and who did what.
    CREATE TABLE models (
        model_id TEXT PRIMARY KEY,
        model_type TEXT NOT NULL,
        path TEXT NOT NULL,
        status TEXT NOT NULL,
        version TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        download_date INTEGER,
        metadata TEXT NOT NULL,
        request TEXT NOT NULL,
        reason TEXT NOT NULL,
        pinned INTEGER NOT NULL,
        last_used_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE model_files (
        model_id TEXT NOT NULL REFERENCES models (model_id),
        path TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        PRIMARY KEY (model_id, path)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX model_files_by_content ON model_files (sha256);
    CREATE TABLE model_audit (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        model_id TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT;
    CREATE TRIGGER model_audit_is_never_changed BEFORE UPDATE ON model_audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
    CREATE TRIGGER model_audit_loses_only_the_oldest BEFORE DELETE ON model_audit
        WHEN OLD.sequence > (SELECT max(sequence) FROM model_audit) - 100000
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
    """,
    """
    -- Receipts with both signatures. Those of format 1, from before, keep counting as income, but are not shown.
    ALTER TABLE receipts ADD COLUMN format INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE receipts ADD COLUMN is_countersigned INTEGER NOT NULL DEFAULT 1;
    """,
    """
    -- What executors did wrong, as this node saw it as their gateway (node/services/faults.py).
    CREATE TABLE evidence (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        participant TEXT NOT NULL,
        at INTEGER NOT NULL,
        code TEXT NOT NULL,
        record BLOB NOT NULL
    ) STRICT;
    CREATE INDEX evidence_by_participant ON evidence (participant, sequence);
    """,
    """
    -- What API keys have spent by day, and what running requests may still cost (node/store/key_spending.py).
    CREATE TABLE key_spending (
        key TEXT NOT NULL,
        day INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        amount TEXT NOT NULL,
        PRIMARY KEY (key, day)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE key_reservations (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, day INTEGER NOT NULL, amount TEXT NOT NULL
    ) STRICT;
    """,
    """
    -- Prompts and answers of this node's own users, as long as they are kept: what receipts commit to.
    CREATE TABLE answers (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        request_id BLOB NOT NULL,
        executor TEXT NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (request_id, executor)
    ) STRICT;
    """,
    """
    -- What this node may have to show auditors of the answers it gave (node/store/given_answers.py), and its receipt
    -- books: the first has what is signed from now on, as nothing was kept of answers before.
    CREATE TABLE given_answers (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, record BLOB NOT NULL
    ) STRICT;
    CREATE TABLE receipt_books (
        epoch INTEGER PRIMARY KEY, last_sequence INTEGER NOT NULL, rows BLOB NOT NULL
    ) STRICT;
    INSERT INTO receipt_books SELECT -1, COALESCE(MAX(sequence), 0), x'' FROM receipts;
    """,
    """
    -- Rows of receipt books name payers from now on: books that were made before cannot be shown any more.
    UPDATE receipt_books SET rows = x'';
    """,
    """
    -- What members said about the results of the newest epochs (node/services/result_signatures.py).
    CREATE TABLE result_statements (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL, member TEXT NOT NULL, record BLOB NOT NULL
    ) STRICT;
    CREATE INDEX result_statements_by_epoch ON result_statements (epoch, sequence);
    """,
    """
    -- Each receipt that was signed is kept, also of one request: who asked twice must not find one left out of a book.
    CREATE TABLE signed_receipts (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        digest BLOB NOT NULL UNIQUE,
        request_id BLOB NOT NULL,
        executor TEXT NOT NULL,
        output_tokens INTEGER NOT NULL,
        price TEXT NOT NULL,
        record BLOB NOT NULL,
        format INTEGER NOT NULL,
        is_countersigned INTEGER NOT NULL
    ) STRICT;
    INSERT INTO signed_receipts
        SELECT sequence, CAST('before ' || sequence AS BLOB), request_id, executor, output_tokens, price, record,
            format, is_countersigned
        FROM receipts;
    DROP TABLE receipts;
    ALTER TABLE signed_receipts RENAME TO receipts;
    CREATE INDEX receipts_by_request ON receipts (request_id);
    -- Rows say what was signed of a request, and evidence has the signature: older ones cannot be shown any more.
    UPDATE receipt_books SET rows = x'';
    DELETE FROM given_answers;
    """,
    """
    -- Which receipt books are in a result: what others have is booked again (node/store/given_answers.py). Of books
    -- that were made before, nobody kept which; answers of theirs may be forgotten already: they are not booked again.
    ALTER TABLE receipt_books ADD COLUMN is_counted INTEGER NOT NULL DEFAULT 0;
    UPDATE receipt_books SET is_counted = 1;
    """,
    """
    -- What is kept of vectors that this node gave has a room of its own (node/store/given_answers.py).
    CREATE TABLE given_vectors (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, record BLOB NOT NULL
    ) STRICT;
    """,
)


class SchemaTooNewError(Exception):
    """The database was written by a newer version of the program; this one must not touch it."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, each step in its own transaction. Raises SchemaTooNewError."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SchemaTooNewError(
            f"the store has schema {version}, this program knows {len(MIGRATIONS)}: run the newer quernd that wrote it"
        )
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        # executescript would commit first and leave no transaction: BEGIN and COMMIT belong to the script itself.
        connection.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")
