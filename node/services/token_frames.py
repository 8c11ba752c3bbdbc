"""Reads the frames of an answer's middle, of which there is one for nearly every token, without building records.

*Detail.* It knows one form of `frames.tokens_bytes`: no reason to end, no log-probabilities. It gives up (None) on
all else, valid or not, which is then read by the schema. So there is one meaning, and what is done here may only be
faster (tests/unit/services/test_token_frames.py compares the two).
"""

import msgpack

from node.services.frames import TOKENS_PACKER, Tokens, tokens_bytes

TEXT_KEY = b"\xa4text"
IDS_KEY = b"\xa9token_ids"
HEAD = tokens_bytes(Tokens((), "", "")).partition(TEXT_KEY)[0] + TEXT_KEY
"""All before the text; maps of canonical bytes have their keys in order."""
SHORT_TEXT, SHORT_TEXT_BYTES_MAX = 0xA0, 31
"""MessagePack's head of a text that is so short, with its length added: nearly all are. Longer ones are left."""


def read_plain_tokens(data: bytes) -> Tokens | None:
    """Return the tokens of a frame that has the usual form and at least one token; None for any other bytes."""
    if not data.startswith(HEAD) or len(data) == len(HEAD):
        return None
    begin = len(HEAD) + 1
    length = data[len(HEAD)] - SHORT_TEXT
    end = begin + length
    if not 0 <= length <= SHORT_TEXT_BYTES_MAX or not data.startswith(IDS_KEY, end):
        return None
    packed = data[end + len(IDS_KEY) :]
    try:
        text = data[begin:end].decode()
        ids = msgpack.unpackb(packed)
    except (TypeError, ValueError, OverflowError, RecursionError, msgpack.exceptions.UnpackException):
        return None
    if type(ids) is not list or {*map(type, ids)} != {int} or TOKENS_PACKER.pack(ids) != packed:
        return None
    return Tokens(tuple(ids), text, "")
