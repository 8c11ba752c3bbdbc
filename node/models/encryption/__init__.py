"""Encrypted models: files sealed chunk by chunk, keys wrapped to recipients (docs/protocol.md, "Encrypted models")."""
