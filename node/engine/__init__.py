"""The vLLM adapter: supervised server, client and ML-node state."""
