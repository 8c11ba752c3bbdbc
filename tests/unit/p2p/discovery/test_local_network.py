"""The TXT records of the local network."""

from hypothesis import given
from hypothesis import strategies as st

from p2p.discovery.addresses import PeerAddress
from p2p.discovery.local_network import TEXTS_MAX, read_texts, texts_of
from p2p.identity import Identity

OWN = Identity(b"\1" * 32).peer_id


def test_addresses_are_read_as_they_were_written() -> None:
    addresses = [PeerAddress(OWN, "ip4", "192.168.7.9", port) for port in range(1, 4)]
    assert read_texts(texts_of(addresses)) == addresses


def test_the_number_of_addresses_is_bounded() -> None:
    addresses = [PeerAddress(OWN, "ip4", "192.168.7.9", port) for port in range(1, 100)]
    assert len(read_texts(texts_of(addresses))) == TEXTS_MAX


@given(st.binary(max_size=2000))
def test_any_record_is_read_without_harm(record: bytes) -> None:
    assert len(read_texts(record)) <= TEXTS_MAX


def test_other_texts_and_what_is_no_address_are_left_out() -> None:
    assert read_texts(b"\x03a=b\x0ddnsaddr=/ip4/\x00\xff") == []
