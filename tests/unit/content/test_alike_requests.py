"""Which requests may be answered like the one before them, and that the answers say the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.cid import Cid, Codec
from p2p.content.gateway.heads import block_headers, head_for, whole_block_head
from p2p.content.gateway.request import common_end, parse_request

CID = str(Cid.of(Codec.RAW, b"leaf"))
LINE = f"GET /ipfs/{CID}?format=raw HTTP/1.1\r\nHost: a"


def _end(head: str) -> bytes | None:
    return common_end(parse_request(head.encode()), head.encode())


@given(data=st.binary(max_size=20), size=st.integers(0, 2**21))
def test_the_head_that_is_filled_in_is_the_head_that_is_built(data: bytes, size: int) -> None:
    text = str(Cid.of(Codec.RAW, data))
    request = parse_request(LINE.encode())
    assert whole_block_head(text.encode(), size) == head_for(request, 200, block_headers(text), size)


def test_others_like_it_have_the_same_form_token_and_connection() -> None:
    assert _end(LINE) == b"?format=raw HTTP/1.1\r\nHost: a"
    assert _end(f"{LINE}\r\nAuthorization: Bearer x") == b"?format=raw HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x"


@pytest.mark.parametrize(
    "head",
    [
        LINE.replace("GET", "HEAD"),
        LINE.replace("HTTP/1.1", "HTTP/1.0"),
        LINE.replace("HTTP/1.1", "HTTP/1.0") + "\r\nConnection: keep-alive",
        f"{LINE}\r\nConnection: close",
        f"{LINE}\r\nRange: bytes=0-5",
        f'{LINE}\r\nIf-None-Match: "x"',
        f'{LINE}\r\nRange: bytes=0-5\r\nIf-Range: "x"',
        LINE.replace(CID, "%62" + CID[1:]),
        LINE.replace("/ipfs", "//ipfs"),
    ],
)
def test_what_means_something_else_for_another_cid_is_read_anew(head: str) -> None:
    assert _end(head) is None
