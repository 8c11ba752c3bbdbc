"""JSON-RPC 2.0 on a Unix socket."""
