"""What the store keeps of epochs: what decides something stays, and what nobody asks for any more goes."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from netsim.chain import SimulatedChain
from netsim.disks import LARGE_BYTES_MIN, Disk, SimulatedBooks
from netsim.ledger import Ledger
from netsim.trace import Trace
from node.protocol.chain_state import EPOCHS_KEPT
from node.protocol.events import EpochResultPosted, GroupStored
from node.protocol.identifiers import EpochNumber, Hash32, TokenAmount
from node.protocol.records import EpochResultSummary
from node.services.tidying import TidyingService, first_kept, is_before
from node.store.books import Books
from node.store.database import Database
from tests.builders import PARAMETERS, SOME_CID, account, group_set, key_of

GROUP = group_set(0, {1: 1}).weights
SET_HASH = Hash32(b"\x05" * 32)


def test_the_last_accepted_result_stays_however_long_ago_it_was() -> None:
    assert first_kept(EpochNumber(1000), None) <= 0
    assert first_kept(EpochNumber(1000), EpochNumber(7)) <= 7
    assert first_kept(EpochNumber(1000), EpochNumber(999)) == 1000 - EPOCHS_KEPT


@pytest.mark.parametrize(
    ("key", "goes"),
    [
        ("result/4/bafy", True), ("votes/4", True), ("result/5/bafy", False), ("formed/12", False),
        ("audits/", False), ("votes/-1", False), ("votes/\u0664", False), ("objected/four/00", False),
    ],
)  # fmt: skip
def test_only_a_name_that_tells_of_an_old_epoch_is_forgotten(key: str, goes: bool) -> None:
    assert is_before(key, 5) is goes


def real_books() -> Books:
    return Books(Database(":memory:"), account(1))


def simulated_books() -> Books:
    """A simulated node's, which keeps large documents beside the database."""
    unused: Any = None
    return SimulatedBooks(Disk(unused, unused, Database(":memory:")), account(1))


BOOKS = pytest.mark.parametrize("books", [real_books, simulated_books])
SIZES = pytest.mark.parametrize("size", [1, LARGE_BYTES_MIN])


@BOOKS
@SIZES
async def test_documents_of_old_epochs_go_and_all_others_stay(
    books: Callable[[], Books], size: int, autojump_clock: object
) -> None:
    store = books()
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), GROUP)
    now = EPOCHS_KEPT + 3
    while ledger.height < now * PARAMETERS.epoch_blocks:
        ledger.mine()
    ledger._seal_block([GroupStored(SET_HASH, GROUP)])
    for epoch in (0, now - 1):
        summary = EpochResultSummary(EpochNumber(epoch), SOME_CID, SET_HASH, 1, Hash32(bytes(32)), TokenAmount(0))
        ledger._seal_block([EpochResultPosted(summary, account(1))])
    kept = {f"votes/{now}", f"result/{now - 1}/{SOME_CID}", "formed/3", "objected/3/00", "deposits", "prompts/0"}
    for key in (*kept, f"result/0/{SOME_CID}", "votes/2", "audits/1", "formed/2", f"formed/2/{SOME_CID}"):
        store.put_document(key, b"x" * size)
    chain = SimulatedChain(ledger, key_of(1), confirmations=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.produce_blocks)
        nursery.start_soon(TidyingService(chain, store).run)
        with trio.fail_after(60):
            while set(store.document_keys("")) != kept:
                await trio.sleep(0.5)
        nursery.cancel_scope.cancel()


@BOOKS
@SIZES
def test_keys_are_found_by_how_they_begin(books: Callable[[], Books], size: int) -> None:
    store = books()
    document = b"x" * size
    for key in ("result/1", "result/2/a", "results", "resul", "formed/1", "result/%"):
        store.put_document(key, b"older")
        store.put_document(key, document)
    assert store.document_keys("result/") == ("result/%", "result/1", "result/2/a")
    store.forget_document("result/%")
    store.forget_document("absent")
    assert store.get_document("result/%") is None
    assert store.get_document("result/1") == document
