"""What runs inside the engine's own process and environment (torch, numpy, vLLM); the daemon imports nothing of it."""
