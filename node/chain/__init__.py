"""The EVM adapter: JSON-RPC, watcher, sender, contract bindings and accounts."""
