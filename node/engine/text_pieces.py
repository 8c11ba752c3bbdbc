"""Token ids for servers that know none: a piece is three ASCII characters, or two bytes of UTF-8, or one. Pure.

Purpose: a server that only takes and gives text can be an ML node like any other: what it reads and writes is counted
and committed to by pieces. Three characters are about what tokens of real vocabularies hold, so that prices and limits
in tokens mean roughly the same.

Detail: pieces are cut from the left, three ASCII characters where there are three in a row, else two bytes, at the end
one. Ids below 2^21 are three characters of seven bits, the next 2^16 are two bytes, the next 2^8 one byte (all
big-endian): every id has one reading, and all are within the ids that the network takes for tokens. A prompt is the
pieces of a tag and its content: `C` and a conversation as JSON, or `T` and a text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from node.ports import ChatMessage, EngineRefusedError

PIECE_BYTES_MAX = 3
ASCII_BITS = 7
ASCII_END = 1 << ASCII_BITS
PAIRS_FROM = 1 << (PIECE_BYTES_MAX * ASCII_BITS)
SINGLES_FROM = PAIRS_FROM + (1 << 16)
PIECES_END = SINGLES_FROM + (1 << 8)
"""Ids run from 0 to this, exclusive."""
CONVERSATION = b"C"
TEXT = b"T"


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """What was asked: a conversation, or a text to go on with."""

    messages: tuple[ChatMessage, ...] = ()
    text: str = ""


def to_pieces(data: bytes) -> tuple[int, ...]:
    """Return the ids of `data`."""
    pieces = []
    start = 0
    while start < len(data):
        piece, size = _first_piece(data[start : start + PIECE_BYTES_MAX])
        pieces.append(piece)
        start += size
    return tuple(pieces)


def _first_piece(data: bytes) -> tuple[int, int]:
    """Return the first piece of `data` and how many bytes it takes."""
    if len(data) == PIECE_BYTES_MAX and data.isascii():
        first, second, third = data
        return (first << 2 * ASCII_BITS) | (second << ASCII_BITS) | third, PIECE_BYTES_MAX
    if len(data) > 1:
        return PAIRS_FROM + int.from_bytes(data[:2]), 2
    return SINGLES_FROM + data[0], 1


def from_pieces(token_ids: Sequence[int]) -> bytes:
    """Return the bytes of ids. Raises ValueError for what is no piece."""
    return b"".join(_bytes_of(token) for token in token_ids)


def _bytes_of(piece: int) -> bytes:
    if not 0 <= piece < PIECES_END:
        raise ValueError(f"{piece} is no piece of text")
    if piece >= SINGLES_FROM:
        return bytes([piece - SINGLES_FROM])
    if piece >= PAIRS_FROM:
        return (piece - PAIRS_FROM).to_bytes(2)
    return bytes((piece >> shift) % ASCII_END for shift in (2 * ASCII_BITS, ASCII_BITS, 0))


def conversation_pieces(messages: Sequence[ChatMessage]) -> tuple[int, ...]:
    """Return the ids of a conversation."""
    turns = [[message.role, message.content, message.name] for message in messages]
    return to_pieces(CONVERSATION + json.dumps(turns, ensure_ascii=False, separators=(",", ":")).encode())


def text_pieces(text: str) -> tuple[int, ...]:
    """Return the ids of a text to go on with."""
    return to_pieces(TEXT + text.encode())


def read_prompt(token_ids: Sequence[int]) -> TextPrompt:
    """Return what the ids of a prompt say. Raises EngineRefusedError if they are not from here, or have a prefix.

    A prefix is what another node wrote before it failed. Who only takes text cannot be made to go on exactly there.
    """
    try:
        data = from_pieces(token_ids)
        tag, content = data[:1], data[1:].decode()
        if tag == TEXT:
            return TextPrompt(text=content)
        if tag != CONVERSATION:
            raise ValueError("it has no tag")
        turns = json.loads(content)
        return TextPrompt(tuple(ChatMessage(role, text, name) for role, text, name in turns))
    except (ValueError, TypeError) as error:
        raise EngineRefusedError(f"this server reads text only, and the prompt's tokens are none: {error}") from error


class PieceWriter:
    """Cuts an answer that comes as text into pieces, the same however the text was cut on its way."""

    def __init__(self, pieces_max: int) -> None:
        self._left = pieces_max
        self._waiting = b""
        self.was_cut = False
        """Whether pieces were left out at the end."""

    @property
    def is_full(self) -> bool:
        """Whether no more pieces are wanted."""
        return self._left <= 0

    @property
    def has_more(self) -> bool:
        """Whether there is text that no piece has yet."""
        return bool(self._waiting)

    def add(self, text: str) -> tuple[int, ...]:
        """Return the pieces that `text` completes: those that no later text can change."""
        self._waiting += text.encode("utf-8", "replace")
        pieces = []
        while len(self._waiting) >= PIECE_BYTES_MAX and not self.is_full:
            piece, size = _first_piece(self._waiting[:PIECE_BYTES_MAX])
            pieces.append(piece)
            self._waiting = self._waiting[size:]
            self._left -= 1
        return tuple(pieces)

    def end(self) -> tuple[int, ...]:
        """Return the last pieces, if something is left."""
        rest = to_pieces(self._waiting)
        pieces = rest[: max(0, self._left)]
        self.was_cut = len(pieces) < len(rest)
        self._waiting = b""
        self._left -= len(pieces)
        return pieces
