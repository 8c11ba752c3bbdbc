"""What one peer may cost: so many units a second, and a moment's worth at once. Whoever is over it waits."""

import trio


class Budget:
    """Units (bytes, messages) that are spent as they come; spending more than there is waits for the rest."""

    def __init__(self, per_second: float, burst: float) -> None:
        """`burst` is what may be spent at once after a pause."""
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._at = trio.current_time()

    async def spend(self, units: float) -> float:
        """Take `units` and wait until they are paid off; return the seconds waited. Debts of all spenders add up.

        Spending nothing waits for the debts of the others.
        """
        now = trio.current_time()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second) - units
        self._at = now
        seconds = max(-self._left / self._per_second, 0.0)
        await trio.sleep(seconds)
        return seconds
