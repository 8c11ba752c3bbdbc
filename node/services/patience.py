"""How long a gateway waits for an executor: by what is usual for the model, never longer than fixed bounds.

An executor that is merely slow is left only where it is far slower than others are: a change costs the user a time to
the first token and the payer another reading of the prompt.
"""

from dataclasses import dataclass

OPENING_SECONDS_MAX = 60.0
"""Longest wait for the first token where nothing was measured yet: a queued request may wait as long."""
FIRST_FACTOR = 4.0
"""So many times the slowest usual first token means that none will come."""
FIRST_SECONDS_MIN = 10.0
SILENCE_FACTOR = 40.0
"""An engine may pause for the prompts of others: at 40 tokens per second this is one second."""
SILENCE_SECONDS_MIN = 3.0
SILENCE_SECONDS_MAX = 30.0
CLOSING_SECONDS_MAX = 5.0
"""From the last token to the receipt, which takes a hash and a signature."""
SLOWER_THAN_PEERS_MAX = 16.0
"""An executor may be so many times as slow as the median, which an honest one under load is not."""
TOKEN_SECONDS_MAX = 10.0
"""Slower than this is not serving, whatever others do."""
SLOW_SECONDS_MIN = 10.0
"""Nobody is called slow sooner."""
PATIENT_TOKENS = 8
"""Tokens before the pace of an answer is judged: the first ones come with its prompt still in memory."""
ALONE_FACTOR = 2.0
"""Nobody else could go on: being a little more patient is all that is left."""
HEDGE_SECONDS_MIN = 0.25
HEDGE_SECONDS_MAX = 10.0
HEDGE_SECONDS_UNKNOWN = 5.0
HEDGED_SHARE = 0.05
"""Of all requests; each costs the reading of one more prompt."""
HEDGES_SAVED_MAX = 4.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits for one executor's part of an answer, in seconds."""

    first: float
    """From the call to the first token."""
    silence: float
    """From one frame to the next."""
    token: float
    """Per token on average, once PATIENT_TOKENS have come."""


def patience(slow_first: float | None, pace: float | None, *, alone: bool) -> Patience:
    """Return the limits where first tokens usually come within `slow_first` and others `pace` apart (None: unknown).

    `alone`: there is nobody else to ask.
    """
    factor = ALONE_FACTOR if alone else 1.0
    first = OPENING_SECONDS_MAX if slow_first is None else slow_first * FIRST_FACTOR
    silence = SILENCE_SECONDS_MAX if pace is None else pace * SILENCE_FACTOR
    token = TOKEN_SECONDS_MAX if pace is None else pace * SLOWER_THAN_PEERS_MAX
    return Patience(
        first=factor * min(max(first, FIRST_SECONDS_MIN), OPENING_SECONDS_MAX),
        silence=factor * min(max(silence, SILENCE_SECONDS_MIN), SILENCE_SECONDS_MAX),
        token=factor * min(token, TOKEN_SECONDS_MAX),
    )


def hedge_seconds(slow_first: float | None) -> float:
    """Return after how long without a first token a second executor is asked too."""
    if slow_first is None:
        return HEDGE_SECONDS_UNKNOWN
    return min(max(slow_first, HEDGE_SECONDS_MIN), HEDGE_SECONDS_MAX)


class HedgeBudget:
    """Lets a share of requests be asked twice: every request saves a part of a hedge, up to HEDGES_SAVED_MAX."""

    def __init__(self, share: float = HEDGED_SHARE) -> None:
        self._share = share
        self._saved = 1.0

    def count_request(self) -> None:
        """A request began."""
        self._saved = min(HEDGES_SAVED_MAX, self._saved + self._share)

    def take(self) -> bool:
        """Whether one more request may be asked twice."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
