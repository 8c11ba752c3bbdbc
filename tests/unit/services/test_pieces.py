"""Chunks of an engine become pieces of any size, an executor dies after any of them, and no text is lost."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from node.ports import GenerationChunk
from node.services.frames import Tokens
from node.services.generation import join_chunks, take_chunks
from node.services.transcript import Continuation, Transcript

TOKENS = 40


def text_of(first: int, end: int) -> str:
    return "".join(f"<{token}>" for token in range(first, end))


def chunks(first: int, sizes: list[int]) -> deque[GenerationChunk]:
    """What an engine gives from token `first` on: as many tokens at once as it likes, with their whole text."""
    made: deque[GenerationChunk] = deque()
    while first < TOKENS:
        end = min(TOKENS, first + sizes[len(made) % len(sizes)])
        made.append(GenerationChunk(tuple(range(first, end)), text_of(first, end), "length" if end == TOKENS else None))
        first = end
    return made


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@given(SIZES, SIZES, st.integers(1, 32), st.integers(1, 32), st.integers(1, TOKENS))
def test_no_text_is_lost_wherever_a_piece_is_cut_and_the_executor_dies(
    first_sizes: list[int], second_sizes: list[int], first_max: int, second_max: int, dies_after: int
) -> None:
    transcript = Transcript(())
    continuation, tokens_max = Continuation(transcript, transcript.resume()), first_max
    gathered, pieces, given_text, has_died = chunks(0, first_sizes), 0, "", False
    while gathered:
        piece = join_chunks(take_chunks(gathered, tokens_max))
        assert 0 < len(piece.token_ids) <= tokens_max
        part = continuation.add(Tokens(piece.token_ids, piece.text, piece.finish_reason or ""))
        given_text += part.text if part is not None else ""
        pieces += 1
        if pieces == dies_after and gathered and not has_died:
            point, has_died, tokens_max = transcript.resume(), True, second_max
            continuation = Continuation(transcript, point)
            gathered = chunks(len(point.prefix), second_sizes)
    assert given_text == text_of(0, TOKENS)
    assert transcript.token_ids == list(range(TOKENS))
