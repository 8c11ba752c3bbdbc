"""CIDs: one text and one binary form each, and nothing else is taken for one."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.cid import Cid, CidError, Codec

EMPTY_RAW = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
"""The well-known CID of no bytes."""
cids = st.builds(Cid, st.sampled_from(Codec), st.binary(min_size=32, max_size=32))


@given(cids)
def test_a_cid_survives_text_and_bytes(cid: Cid) -> None:
    assert Cid.parse(str(cid)) == cid
    assert Cid.from_bytes(cid.to_bytes()) == cid


def test_the_empty_block_has_its_well_known_cid() -> None:
    assert str(Cid.of(Codec.RAW, b"")) == EMPTY_RAW
    assert Cid.parse(EMPTY_RAW).matches(b"")
    assert not Cid.parse(EMPTY_RAW).matches(b"x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        EMPTY_RAW.upper(),
        EMPTY_RAW + "a",
        EMPTY_RAW[:-1],
        EMPTY_RAW[:-1] + "v",  # stray bits after the last byte
        EMPTY_RAW[:-1] + "=",
        EMPTY_RAW[:-1] + "é",
        EMPTY_RAW[:-1] + "1",
        "z" + EMPTY_RAW[1:],
        "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
        "bafyreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",  # dag-cbor
        f" {EMPTY_RAW[1:]}",
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(CidError):
        Cid.parse(text)


@given(st.text(max_size=70))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(CidError):
        assert str(Cid.parse(text)) == text


@pytest.mark.parametrize(
    "data",
    [b"", bytes(36), b"\x01\x71\x12\x20" + bytes(32), b"\x01\x55\x12\x20" + bytes(31), b"\x01\x55\x13\x20" + bytes(32)],
)
def test_other_binary_cids_are_refused(data: bytes) -> None:
    with pytest.raises(CidError):
        Cid.from_bytes(data)


def test_a_digest_of_another_length_is_refused() -> None:
    with pytest.raises(CidError):
        Cid(Codec.RAW, b"short")
