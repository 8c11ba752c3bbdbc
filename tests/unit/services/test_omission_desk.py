"""A member's desk: a proof that holds is taken from anybody, and nobody makes it work or keep beyond its bounds."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from node.ports import Call, CallFailedError
from node.protocol.codec import to_bytes
from node.protocol.findings import CommittedBook, MissingBook
from node.protocol.identifiers import EpochNumber, Hash32, NodeId, PeerId, RequestId
from node.protocol.omissions import EMPTY_BOOK, SearchedBook
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import booked_row, make_book, order_rows
from node.protocol.records import BookGap, EpochGroup, EpochResult, Omission, SignedReceipt
from node.protocol.signatures import sign
from node.services import omission_desk
from node.services.kept_omissions import KeptOmissions
from node.services.omission_desk import (
    KEPT_PER_EXECUTOR_MAX,
    PEER_CALLS_MAX,
    PEER_FAILURES_MAX,
    OmissionDesk,
)
from node.services.omission_frames import HANDED_BYTES_MAX, METHOD, HandedOmission, handed_bytes, read_handed
from node.services.omission_handing import NOT_NOW
from node.services.rates import Rate
from node.store.books import Books
from node.store.database import Database
from tests.builders import SOME_CID, account, key_of
from tests.unit.protocol.test_audit_evidence import ANSWER, receipt_for
from tests.unit.protocol.test_omissions import ROWS

EPOCH = EpochNumber(5)
EXECUTORS = range(2, 6)
MEMBER = 9
RESULT = EpochResult(
    EpochNumber(EPOCH - 1),
    EpochGroup(EPOCH, (), ()),
    (),
    cast(Any, 0),
    books=tuple(CommittedBook(account(number), make_book(ROWS, SOME_CID)) for number in EXECUTORS),
)
SOME_PEER = PeerId("somebody")
REGISTERED = PeerId("registered")


def signed_by(executor: int, number: int, **changes: Any) -> SignedReceipt:
    made = replace(
        receipt_for(ANSWER), executor=account(executor), request_id=RequestId(number.to_bytes(32)), **changes
    )
    return SignedReceipt(made, sign(key_of(executor), receipt_digest(made)))


def proof_of(signed: SignedReceipt) -> Omission:
    return Omission(signed, None, SearchedBook(ROWS).missing(signed.receipt))


def proof(executor: int, number: int, **changes: Any) -> Omission:
    return proof_of(signed_by(executor, number, **changes))


class Member:
    """A member with a desk, and whoever calls it."""

    def __init__(self, result: EpochResult = RESULT) -> None:
        self.store = Books(Database(":memory:"), account(MEMBER))
        self.served: dict[str, Callable[[Call], Any]] = {}
        network = SimpleNamespace(serve=lambda method, handler, concurrency: self.served.update({method: handler}))
        state = SimpleNamespace(participants={account(1): SimpleNamespace(peer_id=REGISTERED)})
        chain = SimpleNamespace(account=account(MEMBER), state=state)
        self.desk = OmissionDesk(cast(Any, chain), cast(Any, network), bytes)
        self.kept = KeptOmissions(self.store, EPOCH)
        self.result = result
        self.desk.open(result, self.kept)

    async def hand(self, payload: bytes | Omission, peer: PeerId = SOME_PEER) -> str:
        """Return the word of the refusal; nothing if it was taken."""
        data = payload if isinstance(payload, bytes) else handed_bytes(self.result.epoch, payload)
        try:
            await self.served[METHOD](cast(Any, SimpleNamespace(peer_id=peer, payload=data)))
        except CallFailedError as error:
            return error.code
        return ""

    @property
    def on_disk(self) -> list[Omission]:
        return list(KeptOmissions(self.store, EPOCH).handed)


@pytest.fixture
def member() -> Member:
    return Member()


async def test_a_proof_that_holds_is_taken_from_anybody_and_is_on_the_disk(member: Member) -> None:
    omission = proof(2, 1)
    assert await member.hand(omission) == ""
    assert member.on_disk == [omission]
    assert await member.hand(omission, PeerId("another")) == ""  # again: it is here
    assert member.on_disk == [omission]


async def test_what_does_not_hold_is_not_taken(member: Member) -> None:
    booked = signed_by(2, 1)
    rows = order_rows([*ROWS, booked_row(booked)])
    other = replace(member.result, books=(CommittedBook(account(2), make_book(rows, SOME_CID)),))
    asked = [
        (member, proof_of(replace(signed_by(2, 1), signature=sign(key_of(3), receipt_digest(booked.receipt))))),
        (member, proof_of(replace(booked, signature=b""))),
        (member, Omission(booked, None, BookGap(None, None))),
        (member, Omission(booked, None, None)),
        (member, proof(7, 1)),  # of no book
        (Member(other), proof_of(booked)),  # it is in that book
    ]
    for number, (whose, omission) in enumerate(asked):
        assert await whose.hand(omission, PeerId(str(number))) == "not-proven"
        assert whose.on_disk == []


async def test_what_is_malformed_is_refused_before_anything_is_looked_up(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omission_desk, "is_proven", lambda *_what: pytest.fail("it was looked at"))
    good = proof(2, 1)
    gap = good.later
    assert gap is not None
    assert gap.before is not None
    deep = replace(gap, before=replace(gap.before, siblings=gap.before.siblings * 19))
    wrong = [
        b"",
        b"no proof",
        bytes(HANDED_BYTES_MAX + 1),
        to_bytes(good),
        handed_bytes(RESULT.epoch, replace(good, later=deep)),
        handed_bytes(RESULT.epoch, proof(2, 1, node_id=NodeId("n" * 33))),
    ]
    for number, payload in enumerate(wrong):
        assert await member.hand(payload, PeerId(str(number))) == "bad-request"


async def test_who_hands_over_what_does_not_hold_is_not_listened_to_any_more(
    member: Member,
) -> None:
    for _ in range(PEER_FAILURES_MAX):
        assert await member.hand(b"rubbish") == "bad-request"
    assert await member.hand(proof(2, 1)) == "enough"
    assert await member.hand(proof(2, 1), PeerId("another")) == ""
    member.desk.open(RESULT, member.kept)  # the next epoch
    assert await member.hand(proof(2, 3)) == ""


async def test_what_costs_nothing_to_refuse_takes_nothing_from_others(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers are free of charge, and so many of them could shut the desk for all."""
    few_checks(member, monkeypatch)
    assert await member.hand(proof(2, 1)) == ""
    frames = [b"rubbish", handed_bytes(EpochNumber(RESULT.epoch + 1), proof(2, 2)), proof(2, 1), proof(MEMBER, 1)]
    words = {await member.hand(frame, PeerId(f"{number}")) for number in range(30) for frame in frames}
    assert words == {"bad-request", "other-epoch", "", "own"}
    assert await member.hand(proof(2, 2), PeerId("honest")) == ""


def few_checks(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """The member looks at four proofs a minute, two of them kept for those that it knows."""
    monkeypatch.setattr(omission_desk, "KEPT_FOR_KNOWN", 2)
    monkeypatch.setattr(member.desk, "_rate", Rate(4, 60.0))


async def flood(member: Member, count: int = 20) -> list[str]:
    bad = replace(signed_by(3, 1), signature=b"")
    return [await member.hand(proof_of(bad), PeerId(f"flood {number}")) for number in range(count)]


async def test_a_crowd_of_strangers_delays_others_and_shuts_nobody_out(
    member: Member, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    few_checks(member, monkeypatch)
    assert await flood(member) == ["not-proven"] * 2 + ["busy"] * 18
    for _ in range(PEER_CALLS_MAX + 1):  # to wait for its turn is no call
        assert await member.hand(proof(2, 1)) == "busy"
    await trio.sleep(30)
    assert await member.hand(proof(2, 1)) == ""
    assert "busy" in NOT_NOW


async def test_what_is_kept_for_those_it_knows_no_stranger_takes(
    member: Member, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    few_checks(member, monkeypatch)
    proved = PeerId("proved something before")
    assert await member.hand(proof(2, 1), proved) == ""
    member.desk.open(RESULT, KeptOmissions(member.store, EPOCH))  # the next epoch
    assert (await flood(member))[-1] == "busy"
    assert await member.hand(proof(2, 2)) == "busy"
    assert await member.hand(proof(2, 2), proved) == ""
    assert await member.hand(proof(2, 3), REGISTERED) == ""
    assert await member.hand(proof(2, 4), REGISTERED) == "busy"
    await trio.sleep(3600)  # no more gathers than a minute's
    assert (await flood(member)).count("not-proven") == 2


async def test_callers_whose_proofs_held_are_bounded(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omission_desk, "PEERS_MAX", 3)
    for number in range(10):
        assert await member.hand(proof(2, number), PeerId(str(number))) == ""
    assert [*member.desk._proved] == [PeerId(str(number)) for number in (7, 8, 9)]


async def test_a_caller_has_so_many_calls_even_if_all_hold(member: Member) -> None:
    omission = proof(2, 1)
    assert {await member.hand(omission) for _ in range(PEER_CALLS_MAX)} == {""}
    assert await member.hand(omission) == "enough"


async def test_callers_that_are_remembered_are_bounded(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omission_desk, "PEERS_MAX", 3)
    for number in range(10):
        await member.hand(b"rubbish", PeerId(str(number)))
    assert len(member.desk._callers) == 3


async def test_another_epoch_s_proof_is_refused_and_blames_nobody(member: Member) -> None:
    for _ in range(PEER_FAILURES_MAX + 1):
        assert await member.hand(handed_bytes(EpochNumber(RESULT.epoch + 1), proof(2, 1))) == "other-epoch"
    assert await member.hand(proof(2, 1)) == ""


async def test_nothing_is_taken_before_the_epoch_begins_nor_after_the_bundle_is_made(member: Member) -> None:
    member.desk.close(EpochNumber(EPOCH - 1))  # a bundle of before, which came late
    assert await member.hand(proof(2, 1)) == ""
    member.desk.close(EPOCH)
    assert await member.hand(proof(2, 2)) == "other-epoch"


async def test_its_own_omissions_it_leaves_to_others() -> None:
    books = (CommittedBook(account(MEMBER), make_book(ROWS, SOME_CID)),)
    member = Member(replace(RESULT, books=books))
    assert await member.hand(proof(MEMBER, 1)) == "own"
    assert member.on_disk == []


async def test_against_one_executor_as_many_are_kept_as_a_bundle_carries_and_it_is_all_one_who_comes_first() -> None:
    proofs = [proof(2, number) for number in range(KEPT_PER_EXECUTOR_MAX + 30)]
    kept = []
    for order in (proofs, proofs[::-1]):
        member = Member()
        words = [await member.hand(omission, PeerId(str(number))) for number, omission in enumerate(order)]
        assert set(words) == {"", "enough"}
        assert len(member.on_disk) == KEPT_PER_EXECUTOR_MAX
        assert await member.hand(proof(3, 1)) == ""  # against another there is room
        kept.append({receipt_digest(one.signed.receipt) for one in member.on_disk})
    assert kept[0] == kept[1]


async def test_when_the_desk_is_full_a_proof_against_who_has_most_gives_way(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omission_desk, "KEPT_MAX", 6)
    for number in range(6):
        assert await member.hand(proof(2, number)) == ""
    assert [await member.hand(proof(3, number)) for number in range(4)] == ["", "", "", "enough"]
    against = [one.signed.receipt.executor for one in member.on_disk]
    assert (against.count(account(2)), against.count(account(3))) == (3, 3)


async def test_what_does_not_hold_drives_nothing_out(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(omission_desk, "KEPT_MAX", 2)
    for number in range(2):
        assert await member.hand(proof(2, number)) == ""
    assert await member.hand(proof_of(replace(signed_by(3, 1), signature=b""))) == "not-proven"
    assert len(member.on_disk) == 2


async def test_of_an_executor_without_a_book_one_proof_is_enough() -> None:
    missing = (MissingBook(account(2), EpochNumber(0), EpochNumber(EPOCH - 1)),)
    member = Member(replace(RESULT, books=(), books_missing=missing))
    proofs = [Omission(signed_by(2, number), None, None) for number in range(3)]
    assert [await member.hand(omission) for omission in proofs] == ["", "", ""]
    assert member.on_disk == proofs[:1]


async def test_an_empty_book_lacks_everything() -> None:
    member = Member(replace(RESULT, books=(CommittedBook(account(2), EMPTY_BOOK),)))
    assert await member.hand(Omission(signed_by(2, 1), None, BookGap(None, None))) == ""


def test_the_largest_proof_has_room_in_a_call() -> None:
    """Of two books with the deepest trees and the longest names, with both signatures and claims."""
    row = proof(2, 1, node_id=NodeId("n" * 32)).later
    assert row is not None
    assert row.before is not None
    deep = replace(row.before, index=1 << 17, output_tokens=(1 << 32) - 1, siblings=(Hash32(bytes(32)),) * 18)
    signed = replace(signed_by(2, 1, node_id=NodeId("n" * 32)), payer_signature=bytes(65))
    largest = Omission(signed, BookGap(deep, deep), BookGap(deep, deep))
    data = handed_bytes(EpochNumber(1 << 40), largest)
    assert len(data) < HANDED_BYTES_MAX // 2
    assert read_handed(data) == HandedOmission(EpochNumber(1 << 40), largest)
