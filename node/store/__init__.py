"""The SQLite store: migrations, outbox, cursor, receipts, vouchers, signed duties."""
