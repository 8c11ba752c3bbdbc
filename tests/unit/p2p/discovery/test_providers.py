"""Provider records: bounded, expiring."""

from p2p.discovery.addresses import PeerAddress
from p2p.discovery.providers import (
    KEYS_MAX,
    KEYS_PER_PROVIDER_MAX,
    PROVIDERS_PER_KEY_MAX,
    RECORD_SECONDS,
    ProviderRecords,
)

ADDRESS = PeerAddress("peer", "ip4", "8.8.8.8", 1)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def key(number: int) -> bytes:
    return number.to_bytes(34)


def test_a_provider_that_repeats_itself_is_listed_once_and_first() -> None:
    records = ProviderRecords(Clock())
    for peer in ("a", "b", "a"):
        records.add(key(1), peer, [ADDRESS])
    assert [record.peer_id for record in records.get(key(1))] == ["a", "b"]


def test_records_are_forgotten_after_their_time() -> None:
    clock = Clock()
    records = ProviderRecords(clock)
    records.add(key(1), "a", [ADDRESS])
    clock.now += RECORD_SECONDS + 1
    assert records.get(key(1)) == ()
    records.expire()
    assert len(records) == 0


def test_one_peer_cannot_fill_the_records() -> None:
    records = ProviderRecords(Clock())
    assert sum(records.add(key(number), "liar", []) for number in range(2 * KEYS_PER_PROVIDER_MAX)) == (
        KEYS_PER_PROVIDER_MAX
    )
    assert records.add(key(1), "honest", [])


def test_many_peers_cannot_fill_memory_and_room_that_is_given_back_can_be_used() -> None:
    records = ProviderRecords(Clock())
    for number in range(KEYS_MAX + 100):
        assert records.add(key(number), f"peer-{number % 100}", [])
    assert len(records) == KEYS_MAX
    for number in range(PROVIDERS_PER_KEY_MAX + 10):
        records.add(key(1), f"other-{number}", [])
    assert len(records.get(key(1))) == PROVIDERS_PER_KEY_MAX
