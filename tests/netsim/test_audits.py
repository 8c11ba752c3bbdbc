"""Audits on a whole network: who proves with the model and answers with another is found out by its answers alone."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import trio

from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.ledger import Ledger
from netsim.network import Switchboard
from netsim.node import NodePlan, run_node
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.ports import Call
from node.protocol.audit_majorities import WITHHELD
from node.protocol.audit_outcomes import ACCUSED, OMITTED
from node.protocol.findings import AuditOutcome, ReceiptBook
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import NOBODY, BookRow, read_rows
from node.protocol.records import EpochResult, ModelRecord, SignedReceipt
from node.protocol.stages import Stage, first_block_of
from node.protocol.vector_audits import VECTORS
from node.protocol.verdicts import Verdict
from node.services.embedding_frames import EmbeddingInput
from node.services.epochs import result_from_bytes
from node.services.evidence_keeping import EvidenceKeeping
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest, Gateway
from node.services.receipt_book import ReceiptBookKeeper
from node.store.given_answers import GivenAnswerTables

EPOCHS = 3
QUESTIONS_AT_ONCE = 40
TOKENS = 40
TEXTS_AT_ONCE = 3
EMBEDDING_MODEL = replace(MODEL, model_args=("--runner", "pooling"))


@dataclass
class Outcome:
    accounts: list[Address]
    results: dict[EpochNumber, EpochResult]
    unfinished: set[Hash32] = field(default_factory=set)
    """Receipts of what was given before somebody else was faster, or the user left: no payer has them."""

    def audits(self, epoch: int) -> dict[Address, AuditOutcome]:
        return {outcome.executor: outcome for outcome in self.results[EpochNumber(epoch)].audits}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    new_receipts, unfinished = GivenAnswerTables.new_receipts, set[Hash32]()

    def hide_one(given: GivenAnswerTables, *, limit: int) -> tuple[tuple[SignedReceipt, ...], int]:
        receipts, last = new_receipts(given, limit=limit)
        unfinished.update(receipt_digest(one.receipt) for one in receipts if not one.payer_signature)
        return receipts[given._account == NodePlan(OMITTING, 5, "honest", 32).account :], last

    new_rows = ReceiptBookKeeper._new_rows

    async def book_again(keeper: ReceiptBookKeeper) -> tuple[list[BookRow], int]:
        rows, last = await new_rows(keeper)
        if cast(GivenAnswerTables, keeper.given)._account == NodePlan(REPEATING, 5, "honest", 32).account:
            books = [data for epoch in range(EPOCHS) if (data := keeper.given.book(epoch))]
            rows += read_rows(books[-1]) if books else []
        return rows, last

    async def main() -> Outcome:
        return await _run(6, EPOCHS, {CHEAT: "another"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GivenAnswerTables, "new_receipts", hide_one)
        patch.setattr(ReceiptBookKeeper, "_new_rows", book_again)
        found = run_deterministically(main, 5)
    return replace(found, unfinished=unfinished)


REPEATING, OMITTING, CHEAT = 3, 4, 5
"""Executors of the first scenario: one has the rows of its first book in the second as well, one leaves a receipt out
of its book, one answers with another model."""
SILENT, GARBLING, FLOODING, SWAPPING, MISCOUNTING, BOOKLESS, NAMELESS = range(1, 8)
"""Executors of the second scenario that answer honestly, and hinder their audits each in its own way."""


@pytest.fixture(scope="module")
def hindered() -> Iterator[Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        _hinder(patch)

        async def main() -> Outcome:
            return await _run(10, 2, {})

        yield run_deterministically(main, 5)


def _hinder(patch: pytest.MonkeyPatch) -> None:
    numbers = {NodePlan(number, 5, "honest", 32).account: number for number in range(10)}
    serve, book, add_bytes = ReceiptBookKeeper._serve, ReceiptBookKeeper.book, SimulatedContent.add_bytes
    new_rows = ReceiptBookKeeper._new_rows

    def number_of(keeper: ReceiptBookKeeper) -> int:
        assert isinstance(keeper.given, GivenAnswerTables)
        return numbers[Address(keeper.given._account)]

    async def hostile_serve(keeper: ReceiptBookKeeper, call: Call) -> None:
        match number_of(keeper):
            case number if number == SILENT:
                await trio.sleep_forever()
            case number if number == GARBLING:
                await call.send(b"not canonical")
            case number if number == FLOODING:
                while True:
                    await call.send(bytes(1 << 20))
            case number if number == SWAPPING:
                rows = keeper.given.book(0) or b""
                other = next(row.digest for row in read_rows(rows) if row.digest not in call.payload)
                await call.send(keeper.given.kept(other) or b"")
            case _:
                await serve(keeper, call)

    async def hostile_book(
        keeper: ReceiptBookKeeper, epoch: EpochNumber, newest_result: EpochNumber | None
    ) -> ReceiptBook | None:
        made = await book(keeper, epoch, newest_result)
        if made is not None and number_of(keeper) == MISCOUNTING:
            return replace(made, count=made.count + 1)
        if made is not None and number_of(keeper) == BOOKLESS:
            data = keeper.given.book(epoch) or b""
            hidden = await add_bytes(SimulatedContent(ContentExchange(Trace()), "nowhere", 1), data)
            assert isinstance(keeper._content, SimulatedContent)
            keeper._content._blocks.pop(hidden)
        return made

    async def name_nobody(keeper: ReceiptBookKeeper) -> tuple[list[BookRow], int]:
        rows, last = await new_rows(keeper)
        return [replace(row, payer=NOBODY) if number_of(keeper) == NAMELESS else row for row in rows], last

    async def forget_nothing(*_what: object) -> None:
        """One of these executors hands over answers that were not drawn."""

    patch.setattr(ReceiptBookKeeper, "_new_rows", name_nobody)
    patch.setattr(ReceiptBookKeeper, "_serve", hostile_serve)
    patch.setattr(ReceiptBookKeeper, "book", hostile_book)
    patch.setattr(EvidenceKeeping, "_forget_all_but", forget_nothing)


async def _ask(gateway: Gateway) -> None:
    """Ask all at once, so that every executor gets some."""
    await trio.sleep(20)

    async def ask_one(number: int) -> None:
        prompt = Prompt((Turn("user", f"question number {number}"),))
        async with gateway.ask(ChatRequest(MODEL_ID, prompt, max_tokens=TOKENS)) as answer:
            async for _ in answer:
                pass

    async with trio.open_nursery() as nursery:
        for number in range(QUESTIONS_AT_ONCE):
            nursery.start_soon(ask_one, number)


async def _embed(gateway: Gateway) -> None:
    """Ask for vectors of a few texts at a time, so that every executor gives some."""
    await trio.sleep(20)

    async def ask_one(number: int) -> None:
        inputs = [EmbeddingInput(f"text {place} of question {number}") for place in range(TEXTS_AT_ONCE)]
        await gateway.vectors.embed(MODEL_ID, inputs)

    async with trio.open_nursery() as nursery:
        for number in range(QUESTIONS_AT_ONCE):
            nursery.start_soon(ask_one, number)


async def _run(
    nodes: int,
    epochs: int,
    cheats: Mapping[int, str],
    model: ModelRecord = MODEL,
    ask: Callable[[Gateway], Awaitable[None]] = _ask,
) -> Outcome:
    plans = [NodePlan(number, 5, "honest", 32, cheats.get(number, "")) for number in range(nodes)]
    accounts = [plan.account for plan in plans]
    trace = Trace()
    group = tuple((account, 1) for account in sorted(accounts, key=str.lower))
    ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 5, trace, group)
    ledger.register_model(model)
    exchange = ContentExchange(trace)
    last_block = first_block_of(epochs, Stage.SERVE, PARAMETERS)
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, 5, trace)
        nursery.start_soon(ledger.produce_blocks)
        for plan in plans:
            asking = ask if plan.number == 0 else None
            nursery.start_soon(run_node, plan, MODEL_ID, ledger, switchboard, exchange, asking)
        await trio.sleep((last_block - ledger.height) * BLOCK_SECONDS)
        nursery.cancel_scope.cancel()
    blocks = {cid: data for store in exchange.stores.values() for cid, data in store._blocks.items()}
    results = {
        epoch: result_from_bytes(blocks[summary.content_cid], summary)
        for epoch, summary in ledger.state.results.items()
    }
    return Outcome(accounts, results)


def test_all_executors_commit_to_the_receipts_of_their_answers(outcome: Outcome) -> None:
    books = outcome.results[EpochNumber(0)].books
    assert sum(committed.book.count for committed in books) == QUESTIONS_AT_ONCE - 1 + len(outcome.unfinished)
    assert len(outcome.unfinished) <= 2
    assert outcome.accounts[CHEAT] in {committed.executor for committed in books}


def test_honest_answers_pass_and_the_cheat_is_accused(outcome: Outcome) -> None:
    audits = outcome.audits(1)
    cheat = audits.pop(outcome.accounts[CHEAT])
    assert (cheat.fate, cheat.reason) == (Verdict.ABSTAIN, ACCUSED)
    assert audits
    assert {(audit.fate, audit.withheld) for audit in audits.values()} == {(Verdict.VALID, 0)}


def test_the_whole_group_confirms_fraud_and_a_payer_proves_what_was_left_out_or_booked_again(outcome: Outcome) -> None:
    audits = outcome.audits(2)
    assert audits[outcome.accounts[CHEAT]].fate is Verdict.INVALID
    omitting = audits[outcome.accounts[OMITTING]]
    assert (omitting.withheld, omitting.reason) == (1, OMITTED)
    repeating = audits[outcome.accounts[REPEATING]]
    assert (repeating.withheld > 0, repeating.reason) == (True, OMITTED)
    assert [penalty.participant for penalty in outcome.results[EpochNumber(2)].penalties] == [outcome.accounts[CHEAT]]


def test_who_proves_with_an_embedding_model_and_gives_other_vectors_is_found_out() -> None:
    async def main() -> Outcome:
        return await _run(6, EPOCHS, {CHEAT: "another"}, EMBEDDING_MODEL, _embed)

    outcome = run_deterministically(main, 5)
    first, second = outcome.audits(1), outcome.audits(2)
    cheat = outcome.accounts[CHEAT]
    assert (first[cheat].fate, first[cheat].reason) == (Verdict.ABSTAIN, ACCUSED)
    honest = [audit for account, audit in first.items() if account != cheat]
    assert len(honest) >= 3
    assert {(audit.fate, audit.withheld, audit.evidence) for audit in honest} == {(Verdict.VALID, 0, ())}
    assert all(audit.tokens >= TEXTS_AT_ONCE for audit in honest)
    assert (second[cheat].fate, second[cheat].reason) == (Verdict.INVALID, VECTORS)
    penalties = outcome.results[EpochNumber(2)].penalties
    assert [(penalty.participant, penalty.reason) for penalty in penalties] == [(cheat, f"audit-{VECTORS}")]


@pytest.mark.parametrize("number", [SILENT, GARBLING, FLOODING, SWAPPING, MISCOUNTING, BOOKLESS, NAMELESS])
def test_who_hinders_its_audits_has_them_counted_as_withheld(hindered: Outcome, number: int) -> None:
    executor = hindered.accounts[number]
    assert executor in {committed.executor for committed in hindered.results[EpochNumber(0)].books}
    audit = hindered.audits(1)[executor]
    assert (audit.fate, audit.answers, audit.reason) == (Verdict.ABSTAIN, 0, WITHHELD)
    assert audit.withheld > 0
    assert audit.accused == ()  # what nobody saw proves nothing


def test_honest_executors_beside_them_pass(hindered: Outcome) -> None:
    audits = hindered.audits(1)
    for number in range(8, 10):
        audit = audits[hindered.accounts[number]]
        assert (audit.fate, audit.withheld) == (Verdict.VALID, 0)
    assert hindered.results[EpochNumber(1)].penalties == ()
