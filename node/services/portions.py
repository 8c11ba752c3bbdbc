"""How much background work an engine gets at a time while it serves users: what adds PORTION_SECONDS to their wait.

*Detail.* An engine computes what waits in the same step as users' next tokens, whatever its priority, and a step lasts
as long as all of it takes: with as much as it can take, users get a seventh of their tokens. Nothing at all beside
users would let anybody stop a rival's mining, or a validator's judging, by asking it questions. So work goes on in
portions, one at a time, and between two of them users have the engine to themselves for as long as the daemon and the
server take for the answer.

An answer takes some time whatever was asked, the more the larger the model is that users are served with, and some more
for each prompt. Only the latter is what a portion costs users, so it is told apart: every second portion is half a one,
and the difference of the two is what the other half took. One such difference says little, for what users ask changes
meanwhile; it counts a tenth.
"""

from dataclasses import dataclass

from node.services.reading_ahead import QUESTION_PROMPTS

PORTION_SECONDS = 0.02
"""About what a large model takes for one token."""
PROMPTS_FIRST = 8
PROMPTS_MIN = 8
"""Work beside users never stands still, however slow a machine is."""
PROMPTS_MAX = QUESTION_PROMPTS
"""More are never asked at once: of a larger portion a half would be as much as the whole, and tell nothing."""
NEWEST_SHARE = 0.1
"""Weight of a new difference."""
OUTLIER = 4
"""A difference counts as so many times what was known at most: somebody's long prompt was in one of the two."""


@dataclass(slots=True)
class Portion:
    """How many prompts one node is given at a time."""

    prompts: int = PROMPTS_FIRST
    """Of a whole portion."""
    _each: float | None = None
    """Seconds that a prompt adds."""
    _half: tuple[int, float] | None = None
    """Prompts and seconds of the last half portion, until a whole one comes after it."""

    @property
    def next_prompts(self) -> int:
        """Of the portion that is next: a half or a whole one."""
        return self.prompts // 2 if self._half is None else self.prompts

    def took(self, prompts: int, seconds: float) -> None:
        """Learn that a portion of `prompts` took so long."""
        if self._half is None or prompts <= self._half[0]:
            self._half = prompts, seconds
            return
        fewer, less = self._half
        self._half = None
        found = max(0.0, (seconds - less) / (prompts - fewer))
        if self._each is None:
            self._each = found
        else:
            self._each += NEWEST_SHARE * (min(found, OUTLIER * self._each + PORTION_SECONDS / PROMPTS_MAX) - self._each)
        fitting = PROMPTS_MAX if self._each * PROMPTS_MAX <= PORTION_SECONDS else round(PORTION_SECONDS / self._each)
        self.prompts = max(PROMPTS_MIN, min(fitting, 2 * self.prompts, PROMPTS_MAX))
