"""What is done the short way for most pieces of an answer is what the long way does."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node.services.frames import Tokens
from node.services.stops import StopFilter
from node.services.transcript import Transcript

TEXT = st.text("ab é", max_size=3)
PIECES = st.lists(st.builds(Tokens, st.lists(st.integers(0, 9), max_size=2).map(tuple), TEXT, st.just("")), max_size=12)


class LongWay(Transcript):
    """As if no piece were like most."""

    def _is_plain(self, piece: Tokens) -> bool:
        return False


@given(PIECES, st.booleans(), st.sampled_from(["", "stop", "length"]))
def test_a_transcript_is_the_same_by_the_short_way(pieces: list[Tokens], begins_anew: bool, reason: str) -> None:
    short, long = Transcript((), begins_anew=begins_anew), LongWay((), begins_anew=begins_anew)
    if pieces:
        pieces[-1] = replace(pieces[-1], finish_reason=reason)
    for piece in pieces:
        assert short.add(piece) == long.add(piece)
        assert (short.token_ids, short.tokens_seen) == (long.token_ids, long.tokens_seen)
        assert short.finish_reason == long.finish_reason
    assert short.resume() == long.resume()


@given(st.lists(TEXT, max_size=8), st.lists(st.text("ab é", min_size=1, max_size=3), max_size=3))
def test_whether_text_would_stop_an_answer_is_known_before_it_is_fed(texts: list[str], stops: list[str]) -> None:
    fed = StopFilter(stops)
    for text in texts:
        foretold = fed.would_stop(text)
        fed.feed(text)
        assert fed.stopped == foretold
        if fed.stopped:
            break
