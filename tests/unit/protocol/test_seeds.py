"""Seeds: both halves matter, nobody can make up the other's, and a made-up share is found out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.identifiers import RequestId
from node.protocol.seeds import (
    SeedShareError,
    check_share,
    commitment_of,
    drawn_seed,
    is_honest,
    make_share,
    share_of,
)
from node.protocol.signatures import sign
from tests.builders import account, key_of

SECRET = bytes(range(32))
REQUEST = RequestId(b"\x01" * 32)
PAYER, EXECUTOR = account(1), account(2)


def made(secret: bytes = SECRET):  # type: ignore[no-untyped-def]
    return make_share(secret, REQUEST, PAYER, EXECUTOR, lambda digest: sign(key_of(2), digest))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_seed_changes_with_either_half(secret: bytes, request_id: bytes) -> None:
    seed = drawn_seed(RequestId(request_id), PAYER, share_of(secret, RequestId(request_id), PAYER))
    assert 0 <= seed < 2**63
    other_secret, other_id = bytes([secret[0] ^ 1]) + secret[1:], RequestId(bytes([request_id[0] ^ 1]) + request_id[1:])
    assert seed != drawn_seed(RequestId(request_id), PAYER, share_of(other_secret, RequestId(request_id), PAYER))
    assert seed != drawn_seed(other_id, PAYER, share_of(secret, other_id, PAYER))


def test_a_share_is_taken_only_from_who_signed_it_and_for_its_request() -> None:
    share = made()
    check_share(share, REQUEST, PAYER)
    for request_id, payer, changed in (
        (RequestId(b"\x02" * 32), PAYER, share),
        (REQUEST, account(3), share),
        (REQUEST, PAYER, replace(share, share=bytes(32))),
        (REQUEST, PAYER, replace(share, executor=account(3))),
        (REQUEST, PAYER, replace(share, commitment=commitment_of(bytes(32)))),
        (REQUEST, PAYER, replace(share, signature=bytes(65))),
    ):
        with pytest.raises(SeedShareError):
            check_share(changed, request_id, payer)


def test_a_made_up_share_is_found_out_when_the_secret_is_published() -> None:
    assert is_honest(made(), SECRET, REQUEST, PAYER)
    assert not is_honest(replace(made(), share=b"\x09" * 32), SECRET, REQUEST, PAYER)
    with pytest.raises(ValueError, match="not the one"):
        is_honest(made(), bytes(32), REQUEST, PAYER)
