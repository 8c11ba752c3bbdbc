"""Stop texts in a stream: what might be the beginning of one is held back until it is clear.

Engines look for stop texts too, but only in what they generated themselves: one that begins with the last tokens of an
executor that died and ends with the first of the next is seen only here.
"""

from collections.abc import Sequence


class StopFilter:
    """Lets text through up to the first stop text, without it.

    Of several, the one that is complete first ends the text; of those complete at once, the first in `stops`.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    @property
    def is_idle(self) -> bool:
        """Whether there are no stop texts: then all text goes out as it comes."""
        return not self._stops

    def would_stop(self, text: str) -> bool:
        """Whether more text would end the answer."""
        return any(stop in self._held + text for stop in self._stops)

    def feed(self, text: str) -> str:
        """Take in more text; return what may go out. After a stop text that is nothing."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        waiting = self._held + text
        found = [
            (start + len(stop), rank, start)
            for rank, stop in enumerate(self._stops)
            if (start := waiting.find(stop)) >= 0
        ]
        if found:
            self.stopped, self._held = True, ""
            return waiting[: min(found)[2]]
        kept = max(_beginning(waiting, stop) for stop in self._stops)
        self._held = waiting[len(waiting) - kept :]
        return waiting[: len(waiting) - kept]

    def flush(self) -> str:
        """The answer is complete: return what was held back."""
        held, self._held = self._held, ""
        return held


def _beginning(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)


def text_before_stop(text: str, stops: Sequence[str]) -> str:
    """Return a whole answer without the stop text that ended it."""
    stream = StopFilter(stops)
    return stream.feed(text) + stream.flush()
