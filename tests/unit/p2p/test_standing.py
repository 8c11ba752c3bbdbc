"""The book of conduct: offences add up and fade, bans grow and end, and nobody can fill it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.standing import (
    ADDRESS_BAN_SECONDS_MAX,
    BAN_POINTS,
    BAN_SECONDS_MAX,
    BAN_SECONDS_MIN,
    BANS_MAX,
    CLOCK_BACK_SECONDS_MAX,
    HALF_LIFE_SECONDS,
    PEERS_MAX,
    REASON_CHARACTERS_MAX,
    Ban,
    Offence,
    Standing,
    address_name,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def ban_by_conduct(standing: Standing, peer: str) -> None:
    while not standing.is_banned(peer):
        standing.blame(peer, Offence.MALFORMED, "nonsense")


def test_offences_add_up_to_a_ban_that_says_why() -> None:
    standing = Standing(Clock())
    for _ in range(4):
        standing.blame("liar", Offence.MALFORMED, "no frame")
    assert not standing.is_banned("liar")
    standing.blame("liar", Offence.MALFORMED, "no frame")
    (ban,) = standing.bans()
    assert (ban.peer, ban.reason, ban.until - ban.since) == ("liar", "malformed: no frame", BAN_SECONDS_MIN)
    assert not standing.is_banned("other")


def test_each_offence_is_one_of_its_own_though_its_points_are_anothers_too() -> None:
    standing = Standing(Clock())
    for offence in Offence:
        for _ in range(30):
            standing.blame(offence.name, offence, "detail")
    words = {ban.peer: ban.reason.partition(":")[0].replace(" ", "_").upper() for ban in standing.bans()}
    assert words == {offence.name: offence.name for offence in Offence}
    assert len(words) == 8


def test_offences_fade_so_that_a_rare_bug_never_bans() -> None:
    clock = Clock()
    standing = Standing(clock)
    for _ in range(1000):
        standing.blame("clumsy", Offence.FORGED, "once")
        clock.now += 1.1 * HALF_LIFE_SECONDS
        assert not standing.is_banned("clumsy")


def test_each_ban_lasts_twice_as_long_up_to_a_day_and_ends() -> None:
    clock = Clock()
    standing = Standing(clock)
    lengths = []
    for _ in range(10):
        ban_by_conduct(standing, "liar")
        (ban,) = standing.bans()
        lengths.append(ban.until - ban.since)
        clock.now = ban.until - 1
        assert standing.is_banned("liar")
        clock.now = ban.until
        assert not standing.is_banned("liar")
        assert standing.bans() == ()
    assert lengths[:4] == [BAN_SECONDS_MIN * 2**n for n in range(4)]
    assert lengths[-1] == BAN_SECONDS_MAX


def test_an_address_is_banned_for_an_hour_at_most() -> None:
    clock = Clock()
    standing = Standing(clock)
    name = address_name("203.0.113.7")
    for _ in range(10):
        ban_by_conduct(standing, name)
        (ban,) = standing.bans()
        clock.now = ban.until
    assert ban.until - ban.since == ADDRESS_BAN_SECONDS_MAX


def test_three_banned_peers_in_a_row_ban_their_address() -> None:
    clock = Clock()
    standing = Standing(clock)
    name = address_name("203.0.113.7")
    for _ in range(2):
        standing.blame(name, Offence.HARBOURED, "a peer")
        clock.now += 30
    assert not standing.is_banned(name)
    standing.blame(name, Offence.HARBOURED, "a peer")
    assert standing.is_banned(name)


def test_what_arrives_after_the_ban_does_not_prolong_it() -> None:
    clock = Clock()
    standing = Standing(clock)
    ban_by_conduct(standing, "liar")
    (ban,) = standing.bans()
    for _ in range(100):
        standing.blame("liar", Offence.CORRUPT_BLOCK, "still in the buffer")
    assert standing.bans() == (ban,)
    clock.now = ban.until
    assert standing.points("liar") == 0


def test_bans_that_were_stored_hold_after_a_restart_and_still_double() -> None:
    clock = Clock()
    before = Standing(clock)
    ban_by_conduct(before, "liar")
    clock.now += 60
    after = Standing(clock, before.bans())
    assert after.bans() == before.bans()
    clock.now += BAN_SECONDS_MIN
    ban_by_conduct(after, "liar")
    (ban,) = after.bans()
    assert ban.until - ban.since == 2 * BAN_SECONDS_MIN


def test_a_ban_from_a_clock_that_was_far_ahead_does_not_hold() -> None:
    clock = Clock()
    ahead = Ban("peer", "why", int(clock.now) + CLOCK_BACK_SECONDS_MAX + 10, int(clock.now) + 10**9)
    assert Standing(clock, [ahead]).bans() == ()


def test_a_pardon_lifts_the_ban_and_forgets_the_offences() -> None:
    standing = Standing(Clock())
    ban_by_conduct(standing, "liar")
    version = standing.version
    assert standing.pardon("liar")
    assert not standing.is_banned("liar")
    assert standing.version > version
    assert not standing.pardon("liar")
    ban_by_conduct(standing, "liar")
    (ban,) = standing.bans()
    assert ban.until - ban.since == BAN_SECONDS_MIN


def test_listeners_hear_of_a_ban_at_once_even_if_they_blame_another() -> None:
    standing = Standing(Clock())
    heard: list[str] = []

    def listen(ban: Ban) -> None:
        heard.append(ban.peer)
        if ban.peer == "liar":
            standing.ban("accomplice", "harboured", 10)

    standing.on_ban(listen)
    ban_by_conduct(standing, "liar")
    assert heard == ["liar", "accomplice"]


def test_a_reason_is_fit_for_a_terminal() -> None:
    standing = Standing(Clock())
    ban = standing.ban("liar", "\x1b[2J\n" + "x" * 1000, 10)
    assert len(ban.reason) == REASON_CHARACTERS_MAX
    assert ban.reason.isprintable()


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_ban_of_no_time_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match="at least a second"):
        Standing(Clock()).ban("peer", "why", seconds)


def test_addresses_of_one_network_share_a_name() -> None:
    assert address_name("203.0.113.7") == address_name("::ffff:203.0.113.7") == "/ip4/203.0.113.7"
    assert address_name("2001:db8:1:2::1") == address_name("2001:db8:1:2:ffff::9%eth0")
    assert address_name("2001:db8:1:2::1") != address_name("2001:db8:1:3::1")
    with pytest.raises(ValueError, match="nowhere"):
        address_name("nowhere")


def test_new_names_without_end_fill_neither_table_and_push_out_the_shortest_bans() -> None:
    clock = Clock()
    standing = Standing(clock)
    standing.ban("operator's choice", "for long", 10 * BAN_SECONDS_MAX)
    for number in range(PEERS_MAX + 100):
        standing.blame(f"peer {number}", Offence.CORRUPT_BLOCK, "lie")
        clock.now += 0.001
    assert len(standing.bans()) <= BANS_MAX
    assert len(standing._conduct) <= PEERS_MAX
    assert standing.is_banned("operator's choice")
    stored = [Ban(f"old {number}", "why", int(clock.now), int(clock.now) + 99) for number in range(3 * BANS_MAX)]
    assert len(Standing(clock, stored).bans()) == BANS_MAX


actions = st.lists(
    st.tuples(
        st.sampled_from(["blame", "ban", "pardon", "wait"]),
        st.sampled_from([f"peer {n}" for n in range(6)] + ["/ip4/192.0.2.1"]),
        st.sampled_from(Offence),
        st.integers(-100_000, 400_000),
    ),
    max_size=60,
)


@given(actions)
def test_points_are_never_negative_or_above_a_ban_and_every_ban_ends(
    steps: list[tuple[str, str, Offence, int]],
) -> None:
    clock = Clock()
    standing = Standing(clock)
    for action, peer, offence, seconds in steps:
        match action:
            case "blame":
                standing.blame(peer, offence, "detail")
            case "ban":
                standing.ban(peer, "operator", max(1, seconds))
            case "pardon":
                standing.pardon(peer)
            case "wait":
                clock.now += seconds
        assert 0 <= standing.points(peer) < BAN_POINTS
        for ban in standing.bans():
            assert ban.since < ban.until
            assert standing.is_banned(ban.peer)
    clock.now += 2 * 400_000 + BAN_SECONDS_MAX * 61
    assert standing.bans() == ()
