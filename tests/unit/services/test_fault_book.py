"""How long an executor waits at the end of the line: longer for each lie, ten minutes for a word that may change."""

from node.protocol.identifiers import Hash32, ModelId, RequestId
from node.services.faults import (
    DISHONEST_SECONDS_MAX,
    UNRULY_SECONDS,
    Evidence,
    Fault,
    FaultBook,
)
from node.store.books import Books
from node.store.database import Database
from tests.builders import account

EXECUTOR = account(7)
DIGEST = Hash32(bytes(32))


class Scene:
    def __init__(self) -> None:
        self.now = 1_000_000
        self.store = Books(Database(":memory:"), account(1))
        self.book = FaultBook(self.store, lambda: self.now)

    def blame(self, fault: Fault) -> None:
        request = RequestId(bytes(32))
        self.book.add(
            Evidence(
                self.now, EXECUTOR, request, ModelId("tiny"), fault.value, "", DIGEST, DIGEST, 0, DIGEST, b"", None
            )
        )


def test_an_engine_that_follows_no_rule_is_asked_again_soon_however_often_it_said_so() -> None:
    scene = Scene()
    for _ in range(20):
        scene.blame(Fault.NOT_BY_RULE)
        assert scene.book.is_faulty(EXECUTOR)
        scene.now += int(UNRULY_SECONDS)
        assert not scene.book.is_faulty(EXECUTOR)
    assert scene.book.counts[Fault.NOT_BY_RULE] == 20  # each of them is evidence


def test_what_it_says_with_its_next_answer_decides() -> None:
    scene = Scene()
    scene.blame(Fault.NOT_BY_RULE)
    scene.book.absolve(EXECUTOR)
    assert not scene.book.is_faulty(EXECUTOR)


def test_who_lied_as_well_is_not_let_off_by_saying_that_it_follows_no_rule() -> None:
    scene = Scene()
    for _ in range(12):
        scene.blame(Fault.TOKENS)
        scene.now += 10
    scene.blame(Fault.NOT_BY_RULE)
    scene.book.absolve(EXECUTOR)
    scene.now += int(DISHONEST_SECONDS_MAX) - 100
    assert scene.book.is_faulty(EXECUTOR)


def test_after_a_restart_the_wait_goes_on_from_the_evidence() -> None:
    scene = Scene()
    scene.blame(Fault.NOT_BY_RULE)
    scene.now += int(UNRULY_SECONDS) - 1
    again = FaultBook(scene.store, lambda: scene.now)
    assert again.is_faulty(EXECUTOR)
    scene.now += 1
    assert not again.is_faulty(EXECUTOR)
