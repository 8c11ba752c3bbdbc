"""A binding counts only with the consent of the very key that is the peer id, to this account on this network."""

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.peer_binding import peer_binding, peer_consents
from p2p.identity import Identity
from tests.builders import account

IDENTITY = Identity(b"\x07" * 32)
PEER = base58.b58decode(IDENTITY.peer_id)
MANAGER = account(90)
BINDING = peer_binding(1, MANAGER, account(1))
CONSENT = IDENTITY.sign(BINDING)


def test_the_peers_own_signature_is_consent() -> None:
    assert peer_consents(PEER, BINDING, CONSENT)


@pytest.mark.parametrize(
    "binding",
    [
        peer_binding(2, MANAGER, account(1)),
        peer_binding(1, account(91), account(1)),
        peer_binding(1, MANAGER, account(2)),
    ],
)
def test_consent_is_to_one_chain_network_and_account(binding: bytes) -> None:
    assert not peer_consents(PEER, binding, CONSENT)


def test_another_peers_consent_is_none() -> None:
    assert not peer_consents(PEER, BINDING, Identity(b"\x08" * 32).sign(BINDING))


@given(st.binary(max_size=80), st.binary(max_size=130))
def test_no_other_bytes_are_consent_and_none_of_them_breaks_the_check(peer_id: bytes, signature: bytes) -> None:
    assert not peer_consents(peer_id, BINDING, CONSENT) or peer_id == PEER
    assert not peer_consents(PEER, BINDING, signature) or signature == CONSENT
    assert not peer_consents(PEER[:6] + peer_id[:32].ljust(32, b"\0"), BINDING, signature)


@given(st.integers(0, 63), st.integers(1, 255))
def test_a_flipped_byte_is_no_consent(place: int, change: int) -> None:
    changed = bytearray(CONSENT)
    changed[place] ^= change
    assert not peer_consents(PEER, BINDING, bytes(changed))
