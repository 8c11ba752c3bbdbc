"""Who may come in is decided by counts and by conduct, before a byte is read, in tables that nobody can fill."""

import itertools

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from libp2p.network.exceptions import SwarmException
from libp2p.transport.exceptions import SecurityUpgradeFailure

from p2p.doorkeeper import (
    ADDRESSES_MAX,
    CONNECTIONS_INBOUND_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    HALF_OPEN_MAX,
    HALF_OPEN_PER_ADDRESS_MAX,
    KNOCKS_BURST,
    Doorkeeper,
    Refusal,
    Visit,
)
from p2p.repairs.negotiation import MalformedNegotiationError
from p2p.repairs.swarm import handshake_offence
from p2p.repairs.upgrader import BannedPeerError
from p2p.standing import Offence, Standing, address_name


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at_the_door() -> tuple[Doorkeeper, Clock]:
    clock = Clock()
    return Doorkeeper(Standing(clock), clock), clock


def let_in(door: Doorkeeper, ip: str) -> Visit:
    visit = door.knock(ip)
    assert isinstance(visit, Visit), visit
    door.entered(visit)
    return visit


def test_an_address_that_connects_too_often_waits_and_others_do_not() -> None:
    door, clock = at_the_door()
    for _ in range(int(KNOCKS_BURST)):
        door.leave(let_in(door, "203.0.113.7"))
    assert door.knock("203.0.113.7") is Refusal.TOO_FAST
    let_in(door, "203.0.113.8")
    clock.now += 1
    let_in(door, "203.0.113.7")


def test_an_address_has_its_share_of_the_room_and_gets_it_back() -> None:
    door, clock = at_the_door()
    visits = []
    for _ in range(CONNECTIONS_PER_ADDRESS_MAX):
        visits.append(let_in(door, "2001:db8::1"))
        clock.now += 1
    assert door.knock("2001:db8::2") is Refusal.ADDRESS_FULL  # the same customer's network
    let_in(door, "2001:db8:0:1::1")
    door.leave(visits[0])
    clock.now += 1
    let_in(door, "2001:db8::2")


def test_handshakes_are_bounded_by_address_and_altogether() -> None:
    door, _clock = at_the_door()
    for _ in range(HALF_OPEN_PER_ADDRESS_MAX):
        assert isinstance(door.knock("203.0.113.7"), Visit)
    assert door.knock("203.0.113.7") is Refusal.HALF_OPEN
    number = 0
    while door.half_open < HALF_OPEN_MAX:
        number += 1
        assert isinstance(door.knock(f"198.51.100.{number}"), Visit)
    assert door.knock("192.0.2.1") is Refusal.HALF_OPEN
    assert door.knock("127.0.0.1") is Refusal.HALF_OPEN


def test_a_banned_address_is_refused_until_its_ban_ends_but_this_machine_never_is() -> None:
    clock = Clock()
    standing = Standing(clock)
    door = Doorkeeper(standing, clock)
    standing.ban(address_name("203.0.113.7"), "why", 60)
    standing.ban(address_name("127.0.0.1"), "why", 60)
    assert door.knock("203.0.113.7") is Refusal.BANNED
    assert door.refused[Refusal.BANNED] == 1
    let_in(door, "127.0.0.1")
    clock.now += 60
    let_in(door, "203.0.113.7")


def test_inbound_connections_leave_room_to_dial() -> None:
    door, _clock = at_the_door()
    visits = [let_in(door, f"198.51.{n // 200}.{n % 200}") for n in range(CONNECTIONS_INBOUND_MAX)]
    assert door.knock("192.0.2.1") is Refusal.FULL
    door.leave(visits[0])
    let_in(door, "192.0.2.1")


def test_a_connection_whose_address_is_unknown_is_bounded_too() -> None:
    door, _clock = at_the_door()
    for _ in range(int(KNOCKS_BURST)):
        visit = door.knock(None)
        assert isinstance(visit, Visit)
        door.leave(visit)
    assert door.knock(None) is Refusal.TOO_FAST


class Visitors(RuleBasedStateMachine):
    """Anybody comes, finishes its handshake or not, and leaves, once or twice."""

    def __init__(self) -> None:
        super().__init__()
        self.door, self.clock = at_the_door()
        self.visits: list[Visit] = []

    @rule(host=st.integers(0, 9))
    def knock(self, host: int) -> None:
        visit = self.door.knock(f"203.0.113.{host}")
        if isinstance(visit, Visit):
            self.visits.append(visit)

    @precondition(lambda self: self.visits)
    @rule(data=st.data())
    def enter(self, data: st.DataObject) -> None:
        self.door.entered(data.draw(st.sampled_from(self.visits)))

    @precondition(lambda self: self.visits)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.door.leave(data.draw(st.sampled_from(self.visits)))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def counts_are_true(self) -> None:
        inside = [visit for visit in self.visits if not visit.ended]
        assert self.door.connections == len(inside)
        assert self.door.half_open == sum(visit.half_open for visit in inside)
        assert sum(address.connections for address in self.door._addresses.values()) == len(inside)


TestVisitors = Visitors.TestCase
TestVisitors.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_addresses_without_end_are_forgotten_but_not_those_that_are_inside() -> None:
    door, clock = at_the_door()
    inside = let_in(door, "203.0.113.7")
    for number in range(ADDRESSES_MAX + 500):
        door.leave(let_in(door, f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"))
        clock.now += 0.001
    assert len(door._addresses) <= ADDRESSES_MAX
    door.leave(inside)
    assert door.connections == 0


def caused_by(*causes: BaseException) -> BaseException:
    for outer, inner in itertools.pairwise(causes):
        outer.__cause__ = inner
    return causes[0]


@pytest.mark.parametrize(
    ("error", "offence"),
    [
        (caused_by(SwarmException(), SecurityUpgradeFailure(), trio.TooSlowError()), Offence.STALLED),
        (caused_by(SwarmException(), SecurityUpgradeFailure(), MalformedNegotiationError()), Offence.REFUSED),
        (caused_by(SwarmException(), SecurityUpgradeFailure(), ValueError("bad tag")), Offence.REFUSED),
        (caused_by(SwarmException(), SecurityUpgradeFailure(), ConnectionResetError()), None),
        (caused_by(SwarmException(), BannedPeerError("who")), None),
        (SwarmException("there is no room"), None),
    ],
    ids=["stalled", "no negotiation", "no handshake", "hung up", "banned already", "refused by us"],
)
def test_a_failed_handshake_is_held_against_its_address_only_if_no_honest_one_fails_so(
    error: BaseException, offence: Offence | None
) -> None:
    assert handshake_offence(error) is offence
