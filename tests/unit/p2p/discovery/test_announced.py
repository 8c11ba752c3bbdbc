"""Which addresses a node tells its peers."""

import ipaddress

from p2p.discovery.addresses import PeerAddress
from p2p.discovery.announced import ANNOUNCED_MAX, AddressOrigin, Reachability, choose_addresses
from p2p.discovery.observed import OBSERVERS_MAX, ObservedAddresses
from p2p.identity import Identity

OWN = Identity(b"\1" * 32).peer_id
RELAY = Identity(b"\2" * 32).peer_id


def at(host: str, port: int = 4801, relay: str | None = None) -> PeerAddress:
    return PeerAddress(OWN, "ip4", host, port, relay)


HOME, ROUTER, SEEN, CIRCUIT = at("192.168.7.9"), at("8.8.8.8", 4900), at("8.8.8.8"), at("8.8.4.4", relay=RELAY)


def chosen(reachability: Reachability, configured: tuple[PeerAddress, ...] = ()) -> list[PeerAddress]:
    announced = choose_addresses(
        configured=configured,
        listening=[HOME],
        mapped=[ROUTER],
        observed=[SEEN],
        relayed=[CIRCUIT],
        reachability=reachability,
    )
    return [each.address for each in announced]


def test_what_the_operator_wrote_down_is_announced_alone() -> None:
    assert chosen(Reachability.PUBLIC, (at("9.9.9.9"),)) == [at("9.9.9.9")]


def test_what_peers_observed_is_announced_only_after_peers_got_through() -> None:
    assert chosen(Reachability.PUBLIC) == [ROUTER, SEEN, HOME]
    assert SEEN not in chosen(Reachability.UNKNOWN)


def test_relays_are_announced_unless_peers_get_through_directly() -> None:
    assert chosen(Reachability.UNKNOWN) == [ROUTER, HOME, CIRCUIT]
    assert chosen(Reachability.PRIVATE) == [ROUTER, HOME, CIRCUIT]


def test_an_address_is_announced_once_and_what_nobody_can_dial_never() -> None:
    announced = choose_addresses(
        configured=[],
        listening=[SEEN, at("0.0.0.0"), at("8.8.8.8", 0)],
        mapped=[SEEN],
        observed=[SEEN],
        relayed=[],
        reachability=Reachability.PUBLIC,
    )
    assert [(each.address, each.origin) for each in announced] == [(SEEN, AddressOrigin.MAPPED)]


def test_many_interfaces_do_not_crowd_out_the_relays() -> None:
    announced = choose_addresses(
        configured=[],
        listening=[at(f"192.168.7.{number}") for number in range(1, 30)],
        mapped=[],
        observed=[],
        relayed=[CIRCUIT, at("8.8.4.5", relay=RELAY)],
        reachability=Reachability.PRIVATE,
    )
    assert len(announced) == ANNOUNCED_MAX
    assert [each.origin for each in announced[-2:]] == [AddressOrigin.RELAYED] * 2


def test_observers_of_one_network_have_one_vote() -> None:
    observed = ObservedAddresses(OWN)
    for number in range(1, 100):
        observed.vote(ipaddress.ip_address(f"9.9.9.{number}"), ipaddress.ip_address("1.1.1.1"))
    for number in range(3):
        observed.vote(ipaddress.ip_address(f"9.9.{10 + number}.1"), ipaddress.ip_address("8.8.8.8"))
    assert observed.candidates([HOME]) == [at("8.8.8.8"), at("1.1.1.1")]


def test_local_observers_and_local_sights_do_not_count_and_votes_are_bounded() -> None:
    observed = ObservedAddresses(OWN)
    public = ipaddress.ip_address("8.8.8.8")
    observed.vote(ipaddress.ip_address("127.0.0.1"), public)
    observed.vote(public, ipaddress.ip_address("10.0.0.1"))
    assert observed.candidates([HOME]) == []
    for number in range(2 * OBSERVERS_MAX):
        observed.vote(ipaddress.ip_address(f"9.{number}.1.1"), public)
    assert len(observed._votes) == OBSERVERS_MAX
    assert observed.candidates([HOME, PeerAddress(OWN, "ip6", "::1", 5)]) == [SEEN]
