"""A wrapped key opens for its recipient, its model and its version, and for nothing else."""

from dataclasses import replace

import base58
import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from node.models.encryption.container import WrongKeyError
from node.models.encryption.keys import ContentKey, create_content_key
from node.models.encryption.wrapping import (
    WRAPPED_BYTES,
    Recipient,
    RecipientError,
    Unwrapper,
    account_recipient,
    node_recipient,
    peer_encryption_key,
    peer_recipient,
    wrap_key,
)
from node.protocol.identifiers import Address, ModelId
from node.protocol.signatures import address_of
from p2p.identity import Identity

MODEL = ModelId("team/secret")
KEY = ContentKey(bytes(range(32)))
SEED, OTHER_SEED = bytes([7] * 32), bytes([8] * 32)
ACCOUNT, OTHER_ACCOUNT = PrivateKey(bytes([9] * 32)), PrivateKey(bytes([10] * 32))
MINE = Unwrapper(SEED, ACCOUNT)
PEER_ID = base58.b58decode(Identity(SEED).peer_id)


def to_account(key: PrivateKey = ACCOUNT) -> Recipient:
    return account_recipient(key.public_key.format(), address_of(key.public_key))


RECIPIENTS = [to_account(), node_recipient(peer_encryption_key(SEED))]


@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_a_recipient_unwraps_what_was_wrapped_for_it(recipient: Recipient) -> None:
    wrapped = wrap_key(KEY, MODEL, recipient)
    assert len(wrapped) == WRAPPED_BYTES[recipient.kind] <= 256
    assert KEY.secret not in wrapped
    assert MINE.unwrap(wrapped, MODEL, KEY.key_id) == KEY


def test_a_peer_id_alone_is_enough_to_wrap_a_key_for_its_node() -> None:
    assert peer_recipient(PEER_ID) == node_recipient(peer_encryption_key(SEED))


@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_two_wrappings_of_one_key_have_nothing_in_common(recipient: Recipient) -> None:
    assert wrap_key(KEY, MODEL, recipient)[1:33] != wrap_key(KEY, MODEL, recipient)[1:33]


@pytest.mark.parametrize("recipient", RECIPIENTS)
def test_nobody_else_unwraps_it_and_it_opens_no_other_model_or_version(recipient: Recipient) -> None:
    wrapped = wrap_key(KEY, MODEL, recipient)
    for wrong in (Unwrapper(OTHER_SEED, OTHER_ACCOUNT), Unwrapper()):
        with pytest.raises(WrongKeyError):
            wrong.unwrap(wrapped, MODEL, KEY.key_id)
    with pytest.raises(WrongKeyError, match="wrap it anew"):
        MINE.unwrap(wrapped, ModelId("team/other"), KEY.key_id)
    with pytest.raises(WrongKeyError, match="wrap it anew"):
        MINE.unwrap(wrapped, MODEL, create_content_key().key_id)


@pytest.mark.parametrize("recipient", RECIPIENTS)
@given(data=st.data())
def test_a_single_flipped_bit_of_a_wrapped_key_is_an_error(recipient: Recipient, data: st.DataObject) -> None:
    wrapped = bytearray(wrap_key(KEY, MODEL, recipient))
    bit = data.draw(st.integers(0, 8 * len(wrapped) - 1))
    wrapped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WrongKeyError):
        MINE.unwrap(bytes(wrapped), MODEL, KEY.key_id)


@given(wrapped=st.binary(max_size=300))
def test_no_bytes_at_all_are_unwrapped_by_chance_or_crash(wrapped: bytes) -> None:
    with pytest.raises(WrongKeyError):
        MINE.unwrap(wrapped, MODEL, KEY.key_id)


def test_a_public_key_must_be_the_accounts_own() -> None:
    with pytest.raises(RecipientError, match="not of 0x"):
        account_recipient(OTHER_ACCOUNT.public_key.format(), address_of(ACCOUNT.public_key))
    with pytest.raises(RecipientError, match="no secp256k1"):
        account_recipient(b"\x02" * 5, Address("0x" + "1" * 40))
    assert (
        account_recipient(ACCOUNT.public_key.format(compressed=False), address_of(ACCOUNT.public_key)) == to_account()
    )


@pytest.mark.parametrize("encryption_key", [bytes(32), b"\x01" * 31, b""])
def test_what_is_no_encryption_key_is_refused(encryption_key: bytes) -> None:
    with pytest.raises(RecipientError):
        node_recipient(encryption_key)


def test_an_encryption_key_that_gives_everybody_the_same_secret_is_refused() -> None:
    with pytest.raises(RecipientError, match="protects nothing"):
        wrap_key(KEY, MODEL, node_recipient(b"\x01" + bytes(31)))


@pytest.mark.parametrize("peer_id", [b"", PEER_ID[:-1], b"\x12\x20" + bytes(32), PEER_ID[:6] + b"\xff" * 32])
def test_a_peer_id_that_is_no_ed25519_key_is_refused(peer_id: bytes) -> None:
    with pytest.raises(RecipientError):
        peer_recipient(peer_id)


def test_a_key_never_stands_in_its_own_repr() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert str(KEY.secret) not in repr(replace(KEY))
