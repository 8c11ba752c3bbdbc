"""The time of day, as services are given it."""

from collections.abc import Callable

WallClock = Callable[[], int]
"""UNIX seconds; injected, so that the simulator's virtual time reaches message times and expiries."""
