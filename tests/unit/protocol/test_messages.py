"""Gossip envelopes: only what an account signed for this network, on the right topic, comes through."""

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.canonical import decode, encode
from node.protocol.identifiers import Address, Hash32, ModelId, PeerId
from node.protocol.messages import (
    ENVELOPE_BYTES_MAX,
    Message,
    MessageError,
    Presence,
    Topic,
    UnknownVersionError,
    seal,
    unseal,
)
from node.protocol.signatures import address_of, sign

KEY = PrivateKey(bytes(31) + b"\x07")
SENDER = address_of(KEY.public_key)
PRESENCE = Presence(PeerId("12D3KooW"), "host.example", 4001, (ModelId("tiny"),), 0, "0.1.0", 1_000)


def sealed(network_id: str = "test", sender: Address = SENDER) -> bytes:
    _, data = seal(network_id, sender, 990, PRESENCE, lambda digest: sign(KEY, Hash32(digest)))
    return data


def test_a_sealed_message_is_read_back() -> None:
    assert unseal("test", Topic.PRESENCE, sealed()) == Message(SENDER, 990, PRESENCE)


def test_a_message_of_another_network_is_refused() -> None:
    with pytest.raises(MessageError, match="signed by"):
        unseal("test", Topic.PRESENCE, sealed("other"))


def test_a_message_in_anothers_name_is_refused() -> None:
    stranger = address_of(PrivateKey(bytes(31) + b"\x08").public_key)
    with pytest.raises(MessageError, match="signed by"):
        unseal("test", Topic.PRESENCE, sealed(sender=stranger))


def test_a_message_on_the_wrong_topic_is_refused() -> None:
    with pytest.raises(MessageError, match="does not belong"):
        unseal("test", Topic.VOTES, sealed())


def test_an_unknown_version_is_told_apart_from_a_fault() -> None:
    value = decode(sealed())
    with pytest.raises(UnknownVersionError):
        unseal("test", Topic.PRESENCE, encode({**value, "v": 2}))


def test_an_oversized_message_is_refused_unread() -> None:
    with pytest.raises(MessageError, match="over"):
        unseal("test", Topic.PRESENCE, bytes(ENVELOPE_BYTES_MAX + 1))


@given(st.integers(min_value=0), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position: int, change: int) -> None:
    data = bytearray(sealed())
    data[position % len(data)] ^= change
    with pytest.raises(MessageError):
        unseal("test", Topic.PRESENCE, bytes(data))


@given(st.binary(max_size=300))
def test_noise_is_refused_without_another_exception(data: bytes) -> None:
    with pytest.raises(MessageError):
        unseal("test", Topic.PRESENCE, data)
