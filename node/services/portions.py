"""How much background work an engine gets at a time while it serves users: what it computes in PORTION_SECONDS.

*Detail.* An engine computes what waits in the same step as users' next tokens, whatever its priority, and a step lasts
as long as all of it takes: with as much as it can take, users get a seventh of their tokens. Nothing at all beside
users would let anybody stop a rival's mining by asking it questions. So work goes on in portions, one at a time, and
between two of them users have the engine to themselves for as long as the daemon and the server take for the answer.
How much a portion is follows from how long the ones before took: a few prompts on a slow machine, dozens on a fast one.
"""

from dataclasses import dataclass

PORTION_SECONDS = 0.02
"""What users wait longer for a token, about: as long as a large model takes for one."""
PROMPTS_FIRST = 4
PROMPTS_MAX = 64
GROWTH_MAX = 2
"""One answer that came by chance at once does not make the next portion too large."""


@dataclass(slots=True)
class Portion:
    """How many prompts one node is given at a time."""

    prompts: int = PROMPTS_FIRST

    def took(self, prompts: int, seconds: float) -> None:
        """Learn that `prompts` took so long."""
        most = min(self.prompts * GROWTH_MAX, PROMPTS_MAX)
        fits_all = seconds * most <= prompts * PORTION_SECONDS
        self.prompts = most if fits_all else max(1, round(prompts * PORTION_SECONDS / seconds))
