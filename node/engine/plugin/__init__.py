"""What runs inside the engine's own process and environment (torch, numpy, vLLM); the daemon imports nothing of it."""

from pathlib import Path

DIRECTORY = Path(__file__).parent
"""What the engine's PYTHONPATH names."""
