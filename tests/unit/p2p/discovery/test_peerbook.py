"""What the peer book keeps, forgets and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from p2p.discovery.addresses import PeerAddress
from p2p.discovery.peerbook import (
    ADDRESSES_PER_PEER_MAX,
    CLAIMED_SECONDS,
    PEERS_MAX,
    REACHED_SECONDS,
    TOLD_SECONDS,
    UNREACHED_PER_SOURCE_MAX,
    Origin,
    PeerBook,
)
from p2p.discovery.peerfile import keep_peers, load_peers
from p2p.identity import Identity


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000

    def __call__(self) -> float:
        return self.now


def peer(number: int) -> str:
    return Identity(number.to_bytes(32)).peer_id


OWN, ALICE, BOB = peer(1), peer(2), peer(3)


def at(peer_id: str, port: int = 4801, host: str = "8.8.8.8") -> PeerAddress:
    return PeerAddress(peer_id, "ip4", host, port)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> PeerBook:
    return PeerBook(OWN, clock)


def test_what_was_reached_is_dialled_before_what_was_told(book: PeerBook) -> None:
    for port, origin in ((1, Origin.TOLD), (2, Origin.CLAIMED), (3, Origin.TOLD)):
        book.learn(at(ALICE, port), origin)
    book.reached(at(ALICE, 3))
    book.failed(at(ALICE, 2))
    assert [address.port for address in book.addresses(ALICE)] == [3, 1, 2]


def test_neither_the_own_address_nor_one_that_nobody_can_dial_is_kept(book: PeerBook) -> None:
    assert not book.learn(at(OWN), Origin.CLAIMED)
    assert not book.learn(at(ALICE, host="0.0.0.0"), Origin.CLAIMED)
    assert not book.learn(at(ALICE, port=0), Origin.CLAIMED)
    assert len(book) == 0


def test_one_source_cannot_fill_the_book(book: PeerBook) -> None:
    learned = sum(book.learn(at(peer(number)), Origin.TOLD, "liar") for number in range(10, 400))
    assert learned == UNREACHED_PER_SOURCE_MAX
    assert book.learn(at(ALICE), Origin.TOLD, "another")


def test_a_source_that_told_truth_may_tell_more(book: PeerBook) -> None:
    for number in range(10, 10 + UNREACHED_PER_SOURCE_MAX):
        book.learn(at(peer(number)), Origin.TOLD, "honest")
    assert not book.learn(at(ALICE), Origin.TOLD, "honest")
    book.reached(at(peer(10)))
    assert book.learn(at(ALICE), Origin.TOLD, "honest")


def test_a_full_book_keeps_what_was_reached_and_the_operators(book: PeerBook) -> None:
    book.learn(at(ALICE), Origin.OPERATOR)
    book.learn(at(BOB), Origin.CLAIMED)
    book.reached(at(BOB))
    for number in range(10, 10 + PEERS_MAX + 50):
        book.learn(PeerAddress(f"peer-{number}", "ip4", "8.8.8.8", 1), Origin.CLAIMED)
    assert len(book) == PEERS_MAX
    assert ALICE in book
    assert BOB in book
    assert f"peer-{10 + PEERS_MAX + 49}" in book


def test_a_rumour_pushes_out_nothing_that_the_peer_itself_told(book: PeerBook) -> None:
    for number in range(PEERS_MAX):
        book.learn(PeerAddress(f"peer-{number}", "ip4", "8.8.8.8", 1), Origin.CLAIMED)
    assert not book.learn(at(ALICE), Origin.TOLD, "liar")


def test_a_peer_has_a_bounded_number_of_addresses_and_rumours_push_out_none_that_works(book: PeerBook) -> None:
    for port in range(1, ADDRESSES_PER_PEER_MAX + 1):
        book.learn(at(ALICE, port), Origin.CLAIMED)
        book.reached(at(ALICE, port))
    assert not book.learn(at(ALICE, 99), Origin.TOLD, "liar")
    assert book.learn(at(ALICE, 100), Origin.CLAIMED)
    assert len(book.addresses(ALICE)) == ADDRESSES_PER_PEER_MAX


def test_a_peers_new_claim_replaces_its_old_one_and_none_of_another_peer(book: PeerBook) -> None:
    book.claim(ALICE, [at(ALICE, 1), at(ALICE, 2), at(BOB, 3)])
    book.reached(at(ALICE, 2))
    book.claim(ALICE, [at(ALICE, 4)])
    assert {address.port for address in book.addresses(ALICE)} == {2, 4}
    assert BOB not in book


@pytest.mark.parametrize(
    ("origin", "reached", "seconds"),
    [
        (Origin.TOLD, False, TOLD_SECONDS),
        (Origin.CLAIMED, False, CLAIMED_SECONDS),
        (Origin.TOLD, True, REACHED_SECONDS),
    ],
)
def test_peers_are_forgotten_after_their_time(
    book: PeerBook, clock: Clock, origin: Origin, reached: bool, seconds: int
) -> None:
    book.learn(at(ALICE), origin)
    if reached:
        book.reached(at(ALICE))
    clock.now += seconds
    book.expire()
    assert ALICE in book
    clock.now += 1
    book.expire()
    assert ALICE not in book


def test_the_operators_address_is_never_forgotten(book: PeerBook, clock: Clock) -> None:
    book.learn(at(ALICE), Origin.OPERATOR)
    clock.now += 10 * REACHED_SECONDS
    book.expire()
    assert ALICE in book


def test_a_stored_book_comes_back_without_rumours(book: PeerBook, clock: Clock) -> None:
    book.learn(at(ALICE), Origin.CLAIMED)
    book.reached(at(ALICE))
    book.failed(at(ALICE))
    book.learn(at(BOB), Origin.TOLD, "someone")
    restored = PeerBook(OWN, clock)
    assert restored.load(book.dump()) == 1
    (known,) = restored.known(ALICE)
    assert (known.reached_at, known.successes, known.failures) == (clock.now, 1, 1)
    assert BOB not in restored


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"format": 2, "addresses": []}',
        b'{"format": 1, "addresses": [{"address": 5}]}',
        b'{"format": 1, "addresses": [{"address": "/ip4/8.8.8.8/tcp/1", "learned_at": 1}]}',
    ],
)
def test_a_damaged_file_costs_the_known_peers_and_nothing_else(book: PeerBook, data: bytes) -> None:
    assert book.load(data) == 0
    assert book.learn(at(ALICE), Origin.CLAIMED)


def test_times_in_the_future_do_not_make_an_address_eternal(book: PeerBook, clock: Clock) -> None:
    row = {"address": str(at(ALICE)), "learned_at": clock.now * 2, "reached_at": clock.now * 2}
    assert book.load(json.dumps({"format": 1, "addresses": [row]}).encode()) == 1
    clock.now += REACHED_SECONDS + 1
    book.expire()
    assert ALICE not in book


async def test_peers_are_on_disk_soon_after_they_are_met(book: PeerBook, clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    restored = PeerBook(OWN, clock)  # what a kill -9 would leave
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_peers, path, book, 0.01)
        await trio.testing.wait_all_tasks_blocked()
        book.learn(at(ALICE), Origin.CLAIMED)
        with trio.fail_after(10):
            while ALICE not in restored:
                await trio.sleep(0.01)
                load_peers(path, restored)
        book.learn(at(BOB), Origin.CLAIMED)
        nursery.cancel_scope.cancel()
    load_peers(path, restored)
    assert BOB in restored
    assert [each.name for each in tmp_path.iterdir()] == ["peers.json"]


def test_a_missing_or_unreadable_file_is_no_error(book: PeerBook, tmp_path: Path) -> None:
    load_peers(tmp_path / "nothing", book)
    load_peers(tmp_path, book)
    assert len(book) == 0


WRITER = """
import sys, trio
from pathlib import Path
from p2p.discovery.addresses import PeerAddress
from p2p.discovery.peerbook import Origin, PeerBook
from p2p.discovery.peerfile import keep_peers

async def main():
    book = PeerBook("own", lambda: 1_800_000_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_peers, Path(sys.argv[1]), book, 0.0)
        number = 0
        while True:
            number += 1
            book.learn(PeerAddress(sys.argv[2], "ip4", "8.8.8.8", 1 + number % 60000), Origin.CLAIMED)
            print(number, flush=True)
            await trio.sleep(0)

trio.run(main)
"""


def test_the_file_is_whole_whenever_the_writer_is_killed(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    for lines in (50, 200, 400):
        with subprocess.Popen([sys.executable, "-c", WRITER, path, ALICE], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            while not path.exists():
                assert writer.stdout.readline()
            for _ in range(lines):
                assert writer.stdout.readline()
            writer.kill()
        restored = PeerBook(OWN, clock)
        load_peers(path, restored)
        assert ALICE in restored
