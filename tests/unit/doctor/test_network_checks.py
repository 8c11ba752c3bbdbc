"""What the doctor makes of what the daemon knows of its network."""

import socket
from dataclasses import replace

import pytest

from node.doctor.findings import Severity
from node.doctor.network import (
    CHECK_ADDRESSES,
    CHECK_DHT,
    CHECK_KNOWN,
    CHECK_LOCAL,
    CHECK_MAPPING,
    CHECK_REACHABLE,
    CHECK_RELAY,
    check_listening,
    judge_clock,
    judge_network,
)
from p2p.discovery.addresses import PeerAddress
from p2p.discovery.announced import AddressOrigin, AnnouncedAddress, Reachability
from p2p.discovery.dht import DhtStatus
from p2p.discovery.service import DiscoveryStatus

OK, SKIPPED, WARNING, FAULT = Severity.OK, Severity.SKIPPED, Severity.WARNING, Severity.FAULT


def announced(host: str) -> AnnouncedAddress:
    return AnnouncedAddress(PeerAddress("12D3KooWown", "ip4", host, 4801), AddressOrigin.LISTENING)


WELL = DiscoveryStatus(
    addresses=(announced("8.8.8.8"),),
    reachability=Reachability.PUBLIC,
    reachability_answers=3,
    reachability_error="",
    known_peers=7,
    connected=5,
    relayed=1,
    dht=DhtStatus(serving=True, peers=5, records=2, provided=1, announced=1),
    relay_places=(),
    relay_error="",
    relay_reservations=None,
    relay_circuits=None,
    mapped_port=4801,
    mapping_error="",
    local_peers=0,
    local_error="",
    holes_tried=0,
    holes_punched=0,
    hole_error="",
)


def severities(status: DiscoveryStatus, *, on_loopback: bool = False) -> dict[str, Severity]:
    findings = judge_network(status, 0.0, on_loopback=on_loopback)
    assert all(finding.remedy for finding in findings if finding.severity in (WARNING, FAULT))
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding.severity for finding in findings}


def test_a_node_that_is_found_and_reached_has_no_complaint() -> None:
    assert set(severities(WELL).values()) == {OK}


@pytest.mark.parametrize(
    ("status", "check", "severity"),
    [
        (replace(WELL, addresses=()), CHECK_ADDRESSES, FAULT),
        (replace(WELL, addresses=(announced("192.168.7.9"),)), CHECK_ADDRESSES, WARNING),
        (replace(WELL, reachability=Reachability.PRIVATE), CHECK_REACHABLE, WARNING),
        (replace(WELL, reachability=Reachability.UNKNOWN), CHECK_REACHABLE, SKIPPED),
        (replace(WELL, reachability=Reachability.PRIVATE), CHECK_RELAY, WARNING),
        (replace(WELL, reachability=Reachability.PRIVATE, relay_places=("12D3",)), CHECK_RELAY, OK),
        (replace(WELL, mapping_error="no router answers to UPnP"), CHECK_MAPPING, WARNING),
        (replace(WELL, mapping_error=None), CHECK_MAPPING, SKIPPED),
        (replace(WELL, mapped_port=None), CHECK_MAPPING, SKIPPED),
        (replace(WELL, known_peers=0), CHECK_KNOWN, WARNING),
        (replace(WELL, dht=None), CHECK_DHT, SKIPPED),
        (replace(WELL, dht=DhtStatus(True, 0, 0, 0, 0)), CHECK_DHT, WARNING),
        (replace(WELL, dht=DhtStatus(True, 4, 0, 3, 1)), CHECK_DHT, WARNING),
        (replace(WELL, local_error="mDNS is not available here"), CHECK_LOCAL, WARNING),
        (replace(WELL, local_error=None), CHECK_LOCAL, SKIPPED),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(status: DiscoveryStatus, check: str, severity: Severity) -> None:
    assert severities(status)[check] is severity


def test_local_addresses_are_as_they_should_be_on_a_network_that_is_all_on_this_machine() -> None:
    status = replace(WELL, addresses=(announced("127.0.0.1"),), reachability=Reachability.UNKNOWN)
    found = severities(status, on_loopback=True)
    assert (found[CHECK_ADDRESSES], found[CHECK_REACHABLE]) == (OK, SKIPPED)


@pytest.mark.parametrize(
    ("skew", "severity"), [(None, SKIPPED), (-3.0, OK), (31.0, WARNING), (-31.0, WARNING), (121.0, FAULT)]
)
def test_a_clock_that_is_off_is_reported_before_peers_stop_listening(skew: float | None, severity: Severity) -> None:
    assert judge_clock(skew).severity is severity


def test_a_port_that_is_taken_is_named_while_the_daemon_is_down() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        found = check_listening([f"/ip4/127.0.0.1/tcp/{port}"])
    assert found.severity is FAULT
    assert str(port) in found.message
    assert check_listening(["/ip4/127.0.0.1/tcp/0"]).severity is OK
    assert check_listening(["/ip4/127.0.0.1/udp/1"]).severity is FAULT
