"""Which addresses are read, and which are dialled."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.discovery.addresses import (
    AddressError,
    PeerAddress,
    Reach,
    Surroundings,
    is_peer_id,
    may_dial,
    parse_address,
    reach_of,
    surroundings_of,
    worth_telling,
)
from p2p.identity import Identity

PEER = Identity(b"\1" * 32).peer_id
RELAY = Identity(b"\2" * 32).peer_id
AT_HOME = Surroundings(loopback=False, networks=(ipaddress.ip_network("192.168.7.0/24"),))
ON_LOOPBACK = Surroundings(loopback=True)


def at(host: str, kind: str = "ip4", port: int = 4801, relay: str | None = None) -> PeerAddress:
    return PeerAddress(PEER, kind, host, port, relay)


@pytest.mark.parametrize(
    "text",
    [
        f"/ip4/203.0.113.7/tcp/4801/p2p/{PEER}",
        f"/ip6/2001:db8::1/tcp/1/p2p/{PEER}",
        f"/dns4/node.example.org/tcp/4801/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/4801/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
    ],
)
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "nonsense",
        f"/ip4/203.0.113.7/tcp/4801/p2p/{PEER}/",
        "/ip4/203.0.113.7/tcp/4801",
        f"/ip4/203.0.113.7/udp/4801/quic-v1/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/4801/ws/p2p/{PEER}",
        f"/ip4/203.0.113/tcp/4801/p2p/{PEER}",
        f"/ip4/0x7f.0.0.1/tcp/4801/p2p/{PEER}",
        f"/ip6/fe80::1%eth0/tcp/4801/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/65536/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/-1/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/٤/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/4801/p2p/{PEER[:-1]}",
        "/ip4/203.0.113.7/tcp/4801/p2p/12D3KooW",
        f"/ip4/203.0.113.7/tcp/4801/p2p/{PEER}/p2p-circuit/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/4801/p2p/{RELAY}/p2p-circuit/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
        f"/dns4/no de/tcp/4801/p2p/{PEER}",
        f"/unix/tmp/tcp/4801/p2p/{PEER}",
        f"/dns4/{'a' * 250}.org/tcp/4801/p2p/{PEER}",
    ],
)
def test_what_is_not_the_address_of_a_peer_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_but_breaks_nothing(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert parse_address(str(address)) == address


def test_an_address_of_another_peer_is_refused_where_the_peer_is_known() -> None:
    with pytest.raises(AddressError, match="is not an address of"):
        parse_address(f"/ip4/203.0.113.7/tcp/4801/p2p/{PEER}", RELAY)


@pytest.mark.parametrize(
    ("host", "reach"),
    [
        ("8.8.8.8", Reach.PUBLIC),
        ("2606:4700::1111", Reach.PUBLIC),
        ("127.0.0.53", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("10.0.0.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("169.254.169.254", Reach.PRIVATE),
        ("fe80::1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("0.0.0.0", Reach.NOWHERE),
        ("224.0.0.1", Reach.NOWHERE),
        ("255.255.255.255", Reach.NOWHERE),
        ("::", Reach.NOWHERE),
        ("::ffff:127.0.0.1", Reach.NOWHERE),
        ("2002:7f00:1::", Reach.NOWHERE),
    ],
)
def test_addresses_are_classed_by_how_far_they_reach(host: str, reach: Reach) -> None:
    assert reach_of(ipaddress.ip_address(host)) is reach


def test_a_strangers_address_is_dialled_where_it_leads_to_the_net_or_to_our_own_network() -> None:
    assert may_dial(at("8.8.8.8"), AT_HOME)
    assert may_dial(at("192.168.7.9"), AT_HOME)
    assert may_dial(at("8.8.8.8", relay=RELAY), AT_HOME)


@pytest.mark.parametrize(
    "address",
    [
        at("192.168.8.9"),
        at("169.254.169.254", port=80),
        at("127.0.0.1"),
        at("::1", "ip6"),
        at("0.0.0.0"),
        at("::ffff:192.168.7.9", "ip6"),
        at("localhost", "dns4"),
        at("8.8.8.8", port=0),
        at("10.0.0.1", relay=RELAY),
    ],
)
def test_a_stranger_cannot_have_us_dial_into_other_networks_or_into_this_machine(address: PeerAddress) -> None:
    assert not may_dial(address, AT_HOME)


def test_a_node_that_listens_on_loopback_dials_its_neighbours_there() -> None:
    assert may_dial(at("127.0.0.1"), ON_LOOPBACK)
    assert surroundings_of(["/ip4/127.0.0.1/tcp/0"]).loopback
    assert not surroundings_of(["/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0"]).loopback


def test_a_peer_is_told_only_what_it_could_dial() -> None:
    internet, lan, here = (ipaddress.ip_address(host) for host in ("8.8.4.4", "192.168.7.2", "127.0.0.1"))
    assert [worth_telling(at("127.0.0.1"), asker) for asker in (here, lan, internet, None)] == [True] + 3 * [False]
    assert [worth_telling(at("192.168.7.9"), asker) for asker in (here, lan, internet)] == [True, True, False]
    assert all(worth_telling(at("8.8.8.8"), asker) for asker in (here, lan, internet, None))


def test_a_peer_id_has_one_spelling() -> None:
    assert is_peer_id(PEER)
    assert not is_peer_id("1" + PEER)
    assert not is_peer_id("")
