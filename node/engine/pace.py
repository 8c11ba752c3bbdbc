"""How long the turns are in which many streams are read: as long as their servers' own steps, if that is short enough.

*Purpose.* Whoever reads in turns of another length than the streams' steps makes their gaps uneven: with 12 ms, tokens
that come every 30 ms are seen after 24 or 36. With turns as long as a step, or a half or a third of it, a gap is nearly
always the engine's own; and of such turns the longest cost the least, here and at the other end of the wire.

*Detail.* The step is the mean time between two readings of the same stream that gave something. Where turns are longer
than steps it is the length of the turns, and then they shrink a little at each measure. A machine so busy that turns
come late measures longer steps and has longer turns: fewer of them is what it needs.
"""

import math

TURN_SECONDS_MIN = 0.012
"""A turn costs a wake-up and a write here and a reading at the other end, and each finds the processor's caches cold:
the first token of a turn takes ten times as long as the others."""
TURN_SECONDS_MAX = 0.028
"""Nobody who reads an answer sees that it comes in thirty-six pieces a second. Well above the 25 ms of forty tokens a
second, so that a busy machine, which misses a turn now and then, does not measure steps that want turns of half the
length."""
SHARE_OF_STEP = 0.96
"""So that a turn does not come just before a step; once in twenty-five a stream has nothing to read in its turn."""
READINGS_PER_MEASURE = 128
"""Of all streams together, between two changes of the length."""
INTERVAL_SECONDS_MAX = 0.25
"""Who was silent for so long paused; that says nothing of its steps."""


def turn_seconds_for(step_seconds: float) -> float:
    """Return how long a turn is where streams have something new every `step_seconds`."""
    parts = max(1, math.ceil(step_seconds * SHARE_OF_STEP / TURN_SECONDS_MAX))
    return max(TURN_SECONDS_MIN, step_seconds * SHARE_OF_STEP / parts)


class Pace:
    """Measures the steps of the streams that are read together."""

    def __init__(self) -> None:
        self.turn_seconds = TURN_SECONDS_MIN
        """From the beginning of one turn to that of the next."""
        self._seconds = 0.0
        self._readings = 0

    def note(self, interval_seconds: float) -> None:
        """A stream gave something so long after it last did."""
        if interval_seconds > INTERVAL_SECONDS_MAX:
            return
        self._seconds += interval_seconds
        self._readings += 1
        if self._readings == READINGS_PER_MEASURE:
            self.turn_seconds = turn_seconds_for(self._seconds / self._readings)
            self._seconds, self._readings = 0.0, 0
