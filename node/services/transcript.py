"""What of an answer has come, and from where another executor can go on so that the user sees one unbroken text.

A token may hold a part of a character, and engines say nothing of it until the rest has come. If the next executor were
given such a token as the end of what it has to go on from, its engine could not tell which text is new (vLLM 0.32 gives
the whole prompt again). So it goes on from the last place where text and tokens are known to end together, an *anchor*.
It makes the few tokens after it once more, and they must be those that the user has. Tokens whose text has not come are
not given to the user, so they may as well be made anew.

A place is an anchor if

- every piece since the boundary before it had one token, and the last had text: engines let text go when it is whole.
  Not if text that begins with an ASCII character came after tokens without: those were cut off from a piece of several
  tokens, of which the last may hold a part of a character;
- or the text after it begins with an ASCII character, which is never the rest of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from node.protocol.sampling import TokenLogprobs
from node.services.answers import AnswerPart
from node.services.frames import Tokens
from node.services.stops import StopFilter

STOP = "stop"


class DiffersError(Exception):
    """Made once more, the answer was another one: two executors disagree, and the user has seen the first's."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where to go on."""

    prefix: tuple[int, ...]
    """Tokens to go on after."""
    expected_ids: tuple[int, ...]
    """Tokens that the user has already and that are made once more."""
    expected_text: str
    """Their text."""


class Transcript:
    """The answer so far. `begins_anew`: it cannot go on from its middle; it is made once more from its beginning."""

    def __init__(self, stops: Sequence[str], *, begins_anew: bool = False) -> None:
        self.begins_anew = begins_anew
        self._filter = StopFilter(stops)
        self._has_stops = not self._filter.is_idle
        self.token_ids: list[int] = []
        """Tokens that the user has, or that came with text held back as the possible beginning of a stop text."""
        self._text: list[str] = []
        """Text after the anchor; from the beginning, if it begins anew."""
        self._pending_ids: list[int] = []
        self._pending_logprobs: list[TokenLogprobs] = []
        self._anchor = 0
        self._only_single_tokens = True
        self.finish_reason = ""

    def resume(self) -> ResumePoint:
        """Return where the next executor goes on; what is pending is dropped, for it will be made again."""
        self._pending_ids.clear()
        self._pending_logprobs.clear()
        anchor = 0 if self.begins_anew else self._anchor
        point = ResumePoint(tuple(self.token_ids[:anchor]), tuple(self.token_ids[anchor:]), "".join(self._text))
        # Of what is repeated the pieces are not seen, so the place after it is a boundary but no anchor.
        self._only_single_tokens = not point.expected_ids and not point.expected_text
        return point

    def resume_exactly(self) -> ResumePoint:
        """Return the end of what the user has, where no anchor helped: at worst a character is spoiled there."""
        self.resume()
        self._anchor = len(self.token_ids)
        self._text.clear()
        return ResumePoint(tuple(self.token_ids), (), "")

    def add(self, piece: Tokens) -> AnswerPart | None:
        """Take in a new piece; return what the user gets of it, if anything."""
        if self._is_plain(piece):
            self.token_ids.append(piece.token_ids[0])
            self._anchor = len(self.token_ids)
            if self.begins_anew:
                self._text.append(piece.text)
            elif self._text:
                self._text.clear()
            self.finish_reason = ""
            return AnswerPart(piece.text, piece.token_ids, piece.logprobs)
        text = piece.text
        if text and text[0].isascii():
            self._set_anchor()
            self._only_single_tokens = self._only_single_tokens and not self._pending_ids
        self._pending_ids.extend(piece.token_ids)
        self._pending_logprobs.extend(piece.logprobs)
        self._only_single_tokens = self._only_single_tokens and len(piece.token_ids) == 1
        if not text and not piece.finish_reason:
            return None
        self.token_ids.extend(self._pending_ids)
        self._text.append(text)
        if self._only_single_tokens:
            self._set_anchor()
        self._only_single_tokens = True
        self.finish_reason = piece.finish_reason
        part_text = self._filter.feed(text)
        if self._filter.stopped:
            self.finish_reason = STOP
        elif piece.finish_reason:
            part_text += self._filter.flush()
        part = AnswerPart(part_text, tuple(self._pending_ids), tuple(self._pending_logprobs))
        self._pending_ids.clear()
        self._pending_logprobs.clear()
        return part

    @property
    def tokens_seen(self) -> int:
        """Tokens that came, those included whose text has not."""
        return len(self.token_ids) + len(self._pending_ids)

    def would_stop(self, text: str) -> bool:
        """Whether more text would end the answer, by a stop text."""
        return self._filter.would_stop(text)

    def _is_plain(self, piece: Tokens) -> bool:
        """Whether a piece is like nearly all: a token with its text after others such. Then `add` is this much."""
        return (
            self._only_single_tokens
            and not self._has_stops
            and not self._pending_ids
            and len(piece.token_ids) == 1
            and piece.text != ""
            and not piece.finish_reason
        )

    def end(self, finish_reason: str) -> AnswerPart | None:
        """End an answer that has all its tokens; return what was still held back."""
        return self.add(Tokens((), "", finish_reason))

    def _set_anchor(self) -> None:
        self._anchor = len(self.token_ids)
        if not self.begins_anew:
            self._text.clear()


class Continuation:
    """One executor's part of a transcript: what it repeats of it is compared and left out."""

    def __init__(self, transcript: Transcript, point: ResumePoint) -> None:
        self._transcript = transcript
        self._ids = point.expected_ids
        self._text = point.expected_text
        self.is_new = not self._ids and not self._text
        """Whether all that comes now is new to the user."""

    def add(self, piece: Tokens) -> AnswerPart | None:
        """Take in a piece; return what the user gets of it. Raises DiffersError."""
        if self.is_new:
            return self._transcript.add(piece)
        ids = _after(self._ids, piece.token_ids)
        text = _after_text(self._text, piece.text)
        repeated = len(piece.token_ids) - len(ids)
        self._ids, self._text = self._ids[repeated:], self._text[len(piece.text) - len(text) :]
        self.is_new = not self._ids and not self._text
        if not ids and not text and not piece.finish_reason:
            return None
        if self._ids or (piece.finish_reason and self._text):
            raise DiffersError("it says more with fewer tokens, or ends before")
        return self._transcript.add(Tokens(ids, text, piece.finish_reason, piece.logprobs[repeated:]))


def _after(expected: tuple[int, ...], came: tuple[int, ...]) -> tuple[int, ...]:
    count = min(len(expected), len(came))
    if expected[:count] != came[:count]:
        raise DiffersError("another token than before")
    return came[count:]


def _after_text(expected: str, came: str) -> str:
    count = min(len(expected), len(came))
    if expected[:count] != came[:count]:
        raise DiffersError("another text than before")
    return came[count:]
