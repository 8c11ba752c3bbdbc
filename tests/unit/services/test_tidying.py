"""What the store keeps of epochs: what decides something stays, and what nobody asks for any more goes."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from netsim.chain import SimulatedChain
from netsim.content import ContentExchange, SimulatedContent
from netsim.disks import LARGE_BYTES_MIN, Disk, SimulatedBooks
from netsim.ledger import Ledger
from netsim.trace import Trace
from node.models.content import open_content
from node.protocol.chain_state import EPOCHS_KEPT, ChainState
from node.protocol.events import EpochResultPosted, GroupStored, PocCommitted
from node.protocol.findings import CommittedBook
from node.protocol.identifiers import Cid, EpochNumber, Hash32, NodeId, TokenAmount
from node.protocol.omissions import EMPTY_BOOK
from node.protocol.records import EpochResultSummary
from node.services import tidying
from node.services.epochs import EpochBook
from node.services.keeping import PROOF_EPOCHS_KEPT, store_proof
from node.services.tidying import TidyingService, first_kept, is_before
from node.store.books import Books
from node.store.database import Database
from tests.builders import PARAMETERS, SOME_CID, account, commit, group_set, key_of

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


def content() -> SimulatedContent:
    return SimulatedContent(ContentExchange(Trace()), "host", 1)


class NoContents(EpochBook):
    """Has the content of no result."""

    def __init__(self) -> None:
        pass

    def known_before(self, epoch: EpochNumber, state: ChainState) -> None:
        return None


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
        nursery.start_soon(TidyingService(chain, store, content(), NoContents()).run)
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


@pytest.mark.parametrize("fails", [False, True])
async def test_proofs_go_when_no_verdict_may_rest_on_them_and_the_newest_result_stays(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), GROUP)
    now = EPOCHS_KEPT + 9
    own, theirs = content(), content()
    votes = {epoch: await store_proof(own, b"votes %d" % epoch, EpochNumber(epoch), "votes") for epoch in range(now)}
    vectors = {epoch: await theirs.add_bytes(b"vectors %d" % epoch) for epoch in range(now)}
    own._blocks |= theirs.blocks  # as fetched
    mine = await own.add_bytes(b"a copy of this is a batch of somebody else")
    result = await store_proof(own, b"the newest result", EpochNumber(0), "result")
    ledger._seal_block([GroupStored(SET_HASH, GROUP)])
    summary = EpochResultSummary(EpochNumber(0), result, SET_HASH, 1, Hash32(bytes(32)), TokenAmount(0))
    ledger._seal_block([EpochResultPosted(summary, account(1))])
    while ledger.height < now * PARAMETERS.epoch_blocks:
        ledger.mine()
    commits = [replace(commit(2, 8, epoch=epoch).commit, vectors_cid=vectors[epoch]) for epoch in range(now)]
    commits.append(replace(commits[-PROOF_EPOCHS_KEPT - 1], node_id=NodeId("2"), vectors_cid=mine))
    ledger._seal_block([PocCommitted(batch) for batch in commits])
    ledger.mine()  # so that they are confirmed
    chain = SimulatedChain(ledger, key_of(1), confirmations=1)
    real, failed = own.forget, []

    async def forget(epoch: EpochNumber, named: object) -> None:
        if fails and not failed:
            failed.append(epoch)
            raise OSError(5, "Input/output error")
        await real(epoch, named)  # type: ignore[arg-type]  # as it was given

    monkeypatch.setattr(own, "forget", forget)
    first = now - PROOF_EPOCHS_KEPT + len(failed) + fails
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.produce_blocks)
        nursery.start_soon(TidyingService(chain, Books(Database(":memory:"), account(1)), own, NoContents()).run)
        with trio.fail_after(10 * PARAMETERS.epoch_blocks):
            while votes[first - 1] in own.blocks:
                await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    assert [epoch for epoch in votes if votes[epoch] in own.blocks] == list(range(first, now))
    assert [epoch for epoch in range(first - 8, now) if vectors[epoch] in own.blocks] == list(range(first, now))
    assert {mine, result} <= own.blocks.keys()


async def test_books_without_a_content_id_or_with_a_false_one_hold_up_no_tidying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real store, which reads content ids: a member without a receipt has an empty book, and one can name any."""
    false = replace(EMPTY_BOOK, count=1, content_cid=Cid("x"))
    books = [CommittedBook(account(2), EMPTY_BOOK), CommittedBook(account(3), false)]
    now = EpochNumber(PROOF_EPOCHS_KEPT + 20)

    async def one_epoch(*_: object) -> AsyncIterator[EpochNumber]:
        yield now

    monkeypatch.setattr(tidying, "epochs_at", one_epoch)
    async with open_content(tmp_path, host="127.0.0.1", port=0, cache_bytes_max=0, serve=False) as held:
        old, result = await held.add_bytes(b"an old proof"), await held.add_bytes(b"the newest result")
        await held.keep(old, EpochNumber(now - 1))
        state = SimpleNamespace(results={EpochNumber(20): SimpleNamespace(content_cid=result)}, poc_commits={})
        chain: Any = SimpleNamespace(account=account(1), state=state)
        epochs: Any = SimpleNamespace(known_before=lambda *_: SimpleNamespace(books=books))
        await TidyingService(chain, Books(Database(":memory:"), account(1)), held, epochs).run()
        assert not await held.has(old)
        assert await held.has(result)


@pytest.mark.parametrize(("results", "stays"), [((0, 20), True), ((0, 1), True), ((0, 19, 20), False)])
async def test_books_stay_as_long_as_the_newest_result_accuses_of_what_was_drawn_from_them(
    monkeypatch: pytest.MonkeyPatch, results: tuple[int, ...], *, stays: bool
) -> None:
    now, held = EpochNumber(21), content()
    book = await store_proof(held, b"the book", EpochNumber(0), "receipt book")
    await held.keep(book, EpochNumber(20))

    async def one_epoch(*_: object) -> AsyncIterator[EpochNumber]:
        yield now

    monkeypatch.setattr(tidying, "epochs_at", one_epoch)
    known = {EpochNumber(epoch): SimpleNamespace(content_cid=Cid(f"result {epoch}")) for epoch in results}
    chain: Any = SimpleNamespace(account=account(1), state=SimpleNamespace(results=known, poc_commits={}))
    books = [CommittedBook(account(2), replace(EMPTY_BOOK, count=1, content_cid=book))]
    epochs: Any = SimpleNamespace(known_before=lambda epoch, _: SimpleNamespace(books=books if epoch == 1 else ()))
    await TidyingService(chain, Books(Database(":memory:"), account(1)), held, epochs).run()
    assert (book in held.blocks) is stays
