"""An answer that several executors give: text and tokens are those of one, wherever it was cut and however it came."""

import codecs
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.services.answers import AnswerPart
from node.services.frames import Tokens
from node.services.stops import StopFilter
from node.services.transcript import Continuation, DiffersError, Transcript

ALPHABET = "ab EN\nß磨🙂"
texts = st.text(ALPHABET, min_size=1, max_size=24)
stops = st.lists(st.text("abE.ND磨", min_size=1, max_size=4), max_size=3).map(tuple)


def engine(answer: bytes, prefix: int, sizes: Sequence[int]) -> Iterator[Tokens]:
    """A model whose tokens are bytes, as vLLM streams it: text when a character is whole, after a prompt that ends
    within a character the whole prompt's text again.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    if answer[:prefix].decode("utf-8", "replace").endswith("\N{REPLACEMENT CHARACTER}"):
        decoder.decode(answer[:prefix])
        spoiled = answer[:prefix].decode("utf-8", "ignore")
    else:
        spoiled = ""
    place, turn = prefix, 0
    while place < len(answer):
        size = sizes[turn % len(sizes)]
        turn += 1
        ids = answer[place : place + size]
        place += size
        text = decoder.decode(ids, final=place >= len(answer))
        if text:
            text, spoiled = spoiled + text, ""
        yield Tokens(tuple(ids), text, "length" if place >= len(answer) else "")


def sliced(pieces: Iterator[Tokens], size: int) -> Iterator[Tokens]:
    """As an executor cuts large chunks: tokens first, their text with the last."""
    for piece in pieces:
        ids = piece.token_ids
        last = max(0, (len(ids) - 1) // size * size)
        for start in range(0, last, size):
            yield Tokens(ids[start : start + size], "", "")
        yield Tokens(ids[last:], piece.text, piece.finish_reason)


def stopped(answer: str, stop: Sequence[str]) -> str:
    """The text up to the stop text that is complete first."""
    for end in range(len(answer) + 1):
        for text in stop:
            if answer[:end].endswith(text):
                return answer[: end - len(text)]
    return answer


sizes = st.lists(st.integers(1, 6), min_size=1, max_size=4)
executors = st.lists(st.tuples(st.integers(0, 12), sizes, st.integers(2, 8)), max_size=4)
"""For each that dies: after how many pieces, how its engine's chunks and its own pieces are cut."""


@settings(max_examples=500)
@given(texts, stops, executors, sizes, st.booleans())
def test_an_answer_is_the_same_wherever_executors_die(
    answer: str, stop: tuple[str, ...], dying: list[tuple[int, list[int], int]], last: list[int], begins_anew: bool
) -> None:
    data = answer.encode()
    transcript = Transcript(stop, begins_anew=begins_anew)
    parts: list[AnswerPart] = []
    for dies_after, chunk_sizes, piece_size in (*dying, (10_000, last, 100)):
        point = transcript.resume()
        continuation = Continuation(transcript, point)
        pieces = sliced(engine(data, len(point.prefix), chunk_sizes), piece_size)
        for count, piece in enumerate(pieces):
            if count == dies_after or transcript.finish_reason:
                break
            part = continuation.add(piece)
            if part is not None:
                parts.append(part)
        if transcript.finish_reason:
            break
    assert "".join(part.text for part in parts) == stopped(answer, stop)
    given_ids = [token for part in parts for token in part.token_ids]
    assert given_ids == transcript.token_ids == list(data[: len(given_ids)])
    assert transcript.finish_reason == ("stop" if stopped(answer, stop) != answer else "length")


@given(texts, stops, st.integers(1, 5))
def test_a_stop_text_ends_the_text_however_it_is_split(answer: str, stop: tuple[str, ...], size: int) -> None:
    stream = StopFilter(stop)
    out = "".join(stream.feed(answer[start : start + size]) for start in range(0, len(answer), size))
    if not stream.stopped:
        out += stream.flush()
    assert out == stopped(answer, stop)


@given(texts, stops)
def test_only_what_may_begin_a_stop_text_is_held_back(answer: str, stop: tuple[str, ...]) -> None:
    stream = StopFilter(stop)
    out = stream.feed(answer)
    if not stream.stopped:
        held = answer[len(out) :]
        assert not held or any(text.startswith(held) for text in stop)


def test_text_is_given_at_once_where_no_stop_text_can_begin() -> None:
    assert StopFilter(("END",)).feed("all of this") == "all of this"


def test_a_stop_text_over_the_cut_is_found() -> None:
    transcript = Transcript(("END",))
    Continuation(transcript, transcript.resume()).add(Tokens((1,), "go E", ""))
    continuation = Continuation(transcript, transcript.resume())
    part = continuation.add(Tokens((2,), "ND more", ""))
    assert part is not None
    assert part.text == ""
    assert transcript.finish_reason == "stop"


def test_one_token_at_a_time_nothing_is_made_twice() -> None:
    transcript = Transcript(())
    continuation = Continuation(transcript, transcript.resume())
    for token in range(5):
        continuation.add(Tokens((token,), "ö", ""))
    point = transcript.resume()
    assert (point.prefix, point.expected_ids, point.expected_text) == ((0, 1, 2, 3, 4), (), "")


@pytest.mark.parametrize(
    "piece",
    [
        Tokens((1, 3), "ax", ""),
        Tokens((1, 2), "bx", ""),
        Tokens((1,), "", "length"),
        Tokens((1,), "abc", ""),
    ],
)
def test_another_answer_than_the_user_has_is_noticed(piece: Tokens) -> None:
    transcript = Transcript(())
    Continuation(transcript, transcript.resume()).add(Tokens((1, 2), "ab", ""))
    point = transcript.resume()
    assert point.expected_ids == (1, 2)
    with pytest.raises(DiffersError):
        Continuation(transcript, point).add(piece)


def test_tokens_without_text_are_not_given_until_their_text_comes() -> None:
    transcript = Transcript(())
    continuation = Continuation(transcript, transcript.resume())
    assert continuation.add(Tokens((1, 2), "", "")) is None
    assert transcript.resume().expected_ids == ()
    continuation = Continuation(transcript, transcript.resume())
    part = continuation.add(Tokens((7, 8, 9), "new", "length"))
    assert part == AnswerPart("new", (7, 8, 9))


def test_a_piece_of_two_tokens_that_was_cut_is_not_taken_for_two_pieces() -> None:
    transcript = Transcript(())
    # The engine gave "a" and the first half of "ß" at once, with the text that is whole; the executor cut it in two.
    pieces = list(sliced(engine("aß".encode(), 0, (2, 1)), 1))[:2]
    assert [(len(piece.token_ids), piece.text) for piece in pieces] == [(1, ""), (1, "a")]
    for piece in pieces:
        transcript.add(piece)
    assert transcript.resume().prefix == ()
