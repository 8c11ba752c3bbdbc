"""Events that are put together from prepared parts are what a whole encoding gives."""

import json

from hypothesis import given
from hypothesis import strategies as st

from node.api.openai.chunks import ChunkWriter

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(NAMES, st.integers(0, 20), TEXTS, st.booleans())
def test_an_event_of_text_is_what_a_whole_encoding_gives(name: str, index: int, text: str, wants_usage: bool) -> None:
    chunks = ChunkWriter(
        identity=name, kind="chat.completion.chunk", created=5, model=name, fingerprint=name, wants_usage=wants_usage
    )
    event = chunks.content(index, text)
    assert event == chunks.content(index, text) == chunks.choice(index, "delta", {"content": text})
    assert event.endswith(b"\n\n")
    assert b"\n" not in event[:-2]
    assert json.loads(event.removeprefix(b"data: ")) == {
        "id": name,
        "object": "chat.completion.chunk",
        "created": 5,
        "model": name,
        "system_fingerprint": name,
        "choices": [{"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}],
        **({"usage": None} if wants_usage else {}),
    }
