"""Finds tool calls in a model's text as it comes.

The text comes in pieces that may end anywhere, inside a marker too. Whatever the pieces, calls and text are the same:
what may still become a call is held back, and only that. A call is told when it is complete. Text that began as a call
and turned out to be none is given as text, and so is everything after it. What is held back is bounded.
"""

from collections.abc import Collection, Generator, Sequence

from node.api.openai.call_formats import (
    CALLS_MAX,
    NAME_CHARACTERS_MAX,
    CallFormat,
    CallSyntax,
    ToolCall,
    call_of_arguments,
    calls_of_list,
)
from node.api.openai.json_extent import Extent, JsonExtent

HELD_CHARACTERS_MAX = 64 * 1024
"""Longest call. A model, or a hostile executor, that never ends one does not fill the memory."""

HERMES_BEGIN, HERMES_END = "<tool_call>", "</tool_call>"
LLAMA_TAG = "<|python_tag|>"
MISTRAL_BEGIN, MISTRAL_ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"
_BLANK = " \t\r\n"

Piece = str | ToolCall
"""Text to show, or a call."""
Reading = Generator[None, None, None]
"""A part of the grammar. It yields where it needs more text, and is resumed when there is more, or no more at all."""


class _NotACallError(Exception):
    """What is held is text after all."""


class CallReader:
    """Reads one answer. `feed` it the text as it comes, then `finish`; both return what is certain by then."""

    def __init__(self, syntax: CallSyntax) -> None:
        self._syntax = syntax
        self._text = ""
        """From the last certain point on."""
        self._at = 0
        """How far the grammar has read in it."""
        self._is_complete = False
        self._pieces: list[Piece] = []
        self.found = 0
        """Calls so far."""
        self._grammar: Reading | None = self._read()
        next(self._grammar)

    def feed(self, text: str) -> list[Piece]:
        """Take a piece of the answer."""
        if self._grammar is None:
            return [text] if text and not self._is_only_calls else []
        self._text += text
        self._resume()
        if len(self._text) > HELD_CHARACTERS_MAX:
            self._give_up()
        return self._certain_pieces()

    def finish(self) -> list[Piece]:
        """The answer is complete: what was begun and is no call is text."""
        self._is_complete = True
        if self._grammar is not None:
            self._resume()
            self._give_up()
        return self._certain_pieces()

    def _resume(self) -> None:
        try:
            if self._grammar is not None:
                next(self._grammar)
        except (_NotACallError, StopIteration):
            self._give_up()

    def _give_up(self) -> None:
        """All else is text, unless there is only to be a list of calls."""
        if not self._is_only_calls:
            self._tell(self._text)
        self._text, self._at, self._grammar = "", 0, None

    @property
    def _is_only_calls(self) -> bool:
        """Whether the engine was made to write calls, and did: what follows them is one that was cut off."""
        return self._syntax.form is CallFormat.LIST and self.found > 0

    def _tell(self, text: str) -> None:
        if text:
            self._pieces.append(text)

    def _call(self, calls: Sequence[ToolCall]) -> None:
        """What was read are calls: it is not text any more."""
        if not calls:
            raise _NotACallError
        told = calls[: max(0, self._syntax.calls_max - self.found)]
        self._pieces += told
        self.found += len(told)
        self._text, self._at = self._text[self._at :], 0

    def _certain_pieces(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # --- The formats --------------------------------------------------------------------------------------------------

    def _read(self) -> Reading:
        match self._syntax.form:
            case CallFormat.HERMES:
                yield from self._hermes()
            case CallFormat.LLAMA:
                yield from self._blanks()
                yield from self._llama((yield from self._one_of((LLAMA_TAG,))) is not None)
            case CallFormat.MISTRAL:
                yield from self._blanks()
                yield from self._mistral((yield from self._one_of((MISTRAL_BEGIN,))) is not None)
            case CallFormat.DETECTED:
                yield from self._detect()
            case CallFormat.ARGUMENTS:
                yield from self._arguments()
            case CallFormat.LIST:
                yield from self._blanks()
                yield from self._mistral(has_marker=False)

    def _detect(self) -> Reading:
        yield from self._blanks()
        marker = yield from self._one_of((LLAMA_TAG, MISTRAL_BEGIN))
        character = self._text[self._at : self._at + 1]
        if marker == MISTRAL_BEGIN or (marker is None and character == "["):
            yield from self._mistral(marker is not None)
        elif marker == LLAMA_TAG or character == "{":
            yield from self._llama(marker is not None)
        else:
            self._at = 0
            yield from self._hermes()

    def _hermes(self) -> Reading:
        """Text with calls between; a last call may lack its end."""
        while self.found < CALLS_MAX and (yield from self._text_before(HERMES_BEGIN)):
            self._at += len(HERMES_BEGIN)
            yield from self._blanks()
            calls = calls_of_list((yield from self._json()), None)
            yield from self._blanks()
            if not self._is_over():
                yield from self._expect(HERMES_END)
            self._call(calls)

    def _llama(self, has_marker: bool) -> Reading:
        """Objects, with `;` or `,` between or nothing. Engines may leave the marker out: it is a special token."""
        names = None if has_marker else self._syntax.names
        while self.found < CALLS_MAX:
            yield from self._blanks()
            if self._text.startswith((";", ","), self._at) and self.found:
                self._at += 1
                yield from self._blanks()
            self._call(calls_of_list((yield from self._json("{")), names))

    def _mistral(self, has_marker: bool) -> Reading:
        """An array of calls, or names with objects, each behind a marker. Engines may leave out the one of an array."""
        while self.found < CALLS_MAX:
            yield from self._blanks()
            if self._text.startswith("[", self._at):
                yield from self._array(None if has_marker else self._syntax.names)
            elif has_marker:
                name = yield from self._name()
                call = call_of_arguments(name, (yield from self._json("{")))
                self._call([call] if call else [])
            yield from self._blanks()
            yield from self._expect(MISTRAL_BEGIN)
            has_marker = True

    def _array(self, names: Collection[str] | None) -> Reading:
        """Calls between brackets; each is certain by itself, for an answer may be cut off by its length."""
        self._at += 1
        while True:
            yield from self._blanks()
            self._call(calls_of_list((yield from self._json("{")), names))
            yield from self._blanks()
            separator = self._text[self._at : self._at + 1]
            if separator not in (",", "]"):
                raise _NotACallError
            self._at += 1
            if separator == "]":
                self._text, self._at = self._text[self._at :], 0
                return

    def _arguments(self) -> Reading:
        yield from self._blanks()
        call = call_of_arguments(self._syntax.demanded, (yield from self._json("{")))
        self._call([call] if call else [])
        yield from self._blanks()

    # --- What the formats are made of ---------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        return self._is_complete and self._at == len(self._text)

    def _more(self) -> Reading:
        """Wait for more text."""
        if self._is_complete:
            raise _NotACallError
        yield

    def _blanks(self) -> Reading:
        """Skip blanks, up to something else or the end of the answer."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text) or self._is_complete:
                return
            yield

    def _one_of(self, markers: Sequence[str]) -> Generator[None, None, str | None]:
        """Read the marker that stands here, if one does."""
        while True:
            here = self._text[self._at :]
            for marker in markers:
                if here.startswith(marker):
                    self._at += len(marker)
                    return marker
            if self._is_complete or not any(marker.startswith(here) for marker in markers):
                return None
            yield

    def _expect(self, marker: str) -> Reading:
        if (yield from self._one_of((marker,))) is None:
            raise _NotACallError

    def _text_before(self, marker: str) -> Generator[None, None, bool]:
        """Tell all text up to a marker, and whether there is one. Blanks before it go with it."""
        while True:
            place = self._text.find(marker)
            end = place if place >= 0 else len(self._text) - _begun(marker, self._text)
            told = self._text[:end].rstrip(_BLANK)
            self._tell(told)
            self._text, self._at = self._text[len(told) :], 0
            if place >= 0:
                self._at = place - len(told)
                return True
            if self._is_complete:
                return False
            yield

    def _json(self, opening: str = "") -> Generator[None, None, str]:
        """Read a JSON object or array; with `opening`, one that begins with it."""
        start = self._at
        if not self._text.startswith(opening, self._at):
            raise _NotACallError
        extent = JsonExtent()
        while True:
            extent.feed(self._text[self._at :])
            self._at = start + extent.end
            if extent.state is Extent.CLOSED:
                return self._text[start : self._at]
            if extent.state is Extent.BROKEN:
                raise _NotACallError
            yield from self._more()

    def _name(self) -> Generator[None, None, str]:
        """Read a function's name, up to the brace of its arguments."""
        while (brace := self._text.find("{", self._at)) < 0:
            if len(self._text) - self._at > NAME_CHARACTERS_MAX + len(MISTRAL_ARGUMENTS):
                raise _NotACallError
            yield from self._more()
        name = self._text[self._at : brace].strip(_BLANK).removesuffix(MISTRAL_ARGUMENTS).strip(_BLANK)
        self._at = brace
        return name


def _begun(marker: str, text: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `marker`."""
    longest = min(len(marker) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if marker.startswith(text[-length:])), 0)
