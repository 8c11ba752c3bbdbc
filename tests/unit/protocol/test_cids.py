"""CIDs: one text for one binary form, nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.cids import DAG_PB_PREFIX, RAW_PREFIX, CidError, cid_from_bytes, cid_to_bytes
from node.protocol.identifiers import Cid
from tests.builders import SOME_CID


@given(st.sampled_from([RAW_PREFIX, DAG_PB_PREFIX]), st.binary(min_size=32, max_size=32))
def test_text_and_bytes_are_one_to_one(prefix: bytes, digest: bytes) -> None:
    assert cid_to_bytes(cid_from_bytes(prefix + digest)) == prefix + digest


@given(st.binary(max_size=40))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CidError):
        cid_from_bytes(data)


@given(st.text(max_size=60))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(CidError):
        cid_to_bytes(Cid(text))


@pytest.mark.parametrize(
    "text",
    [
        SOME_CID.upper(),
        SOME_CID[:-1] + "z",  # padding bits that are not zero
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnV5Qe",
        "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",  # dag-cbor
    ],
)
def test_another_spelling_of_a_cid_is_refused(text: str) -> None:
    with pytest.raises(CidError):
        cid_to_bytes(Cid(text))
