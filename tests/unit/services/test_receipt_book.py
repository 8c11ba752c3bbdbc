"""The executor's side of audits: what it signs as verifiable, what it keeps, commits to and hands over, and to whom."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
import trio

from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.network import SimulatedNetwork, Switchboard
from netsim.scenario import MODEL_ID
from netsim.trace import Trace
from node.ports import Call, CallFailedError, Engine, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.asking import ANSWER_EPOCHS_MAX
from node.protocol.audit_evidence import AuditEvidence, what_is_wrong
from node.protocol.codec import to_bytes
from node.protocol.findings import EarlierBook, ReceiptBook
from node.protocol.identifiers import EpochNumber, Hash32, NodeId, PeerId
from node.protocol.omissions import EMPTY_BOOK, SearchedBook
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import NOBODY, BookRow, booked_row, booked_tokens, payer_bytes, read_book, read_rows
from node.protocol.sampling import SamplingParameters
from node.protocol.shown_evidence import evidence_from_bytes, evidence_to_bytes
from node.protocol.verification import Outcome, verify_offline
from node.services import audit_asking, receipt_book
from node.services.audit_asking import NotHandedOverError, ask_for_evidence
from node.services.audit_frames import ASK_BYTES_MAX, METHOD, AuditAsk
from node.services.faults import BURST_SECONDS, Fault
from node.services.receipt_book import RECEIPTS_PER_SLICE, ReceiptBookKeeper
from node.services.slicing import Slicer
from node.store.books import Books
from node.store.database import Database
from node.store.given_answers import GivenAnswerTables
from tests.builders import account, unasked_row
from tests.unit.protocol.test_audit_evidence import ANSWER, ASKING, EXECUTOR, GIVEN, REQUEST, evidence_of, vectors_of
from tests.unit.services.scripted import CHAT, ask, ids_of
from tests.unit.services.serving_network import GATEWAY, NODE, serving_network
from tests.unit.services.test_receipts import only_dossier, operations_of

EPOCH = EpochNumber(4)
AUDITOR, OTHER, SERVING = PeerId("auditor"), PeerId("other"), PeerId("serving")


class Unruly(SimulatedEngine):
    """An engine that knows that it does not draw by the rule."""

    draws_by_rule = False


class DiesEarly(SimulatedEngine):
    """An engine by the rule that dies before its first token; only then the node's other engine is ready."""

    draws_by_rule = True
    other: SimulatedEngine | None = None

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        if self.other is not None:
            self.other.model_id = MODEL_ID
            raise EngineFailedError("it died")
        async with super().generate(request) as chunks:
            yield chunks


async def test_who_does_not_draw_by_the_rule_signs_nothing_as_verifiable_and_is_paid(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return Unruly(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        answer, parts = await ask(network)
        assert len(ids_of(parts)) == 50
        (signed,) = network.members[1].store.receipts(limit=9)
        assert not signed.receipt.is_verifiable
        assert booked_tokens(signed.receipt) == 50  # drawn all the same: its word takes nothing out of the draw
        assert signed.payer_signature
        dossier = await only_dossier(operations_of(network, GATEWAY))
        (draw,) = [check for check in verify_offline(dossier) if check.what == "draw"]
        assert draw.outcome is Outcome.HOLDS
        assert "does not follow the rule" in draw.detail
        await trio.sleep(5)
        assert network.paid_to(1) == answer.summary.price


async def test_whoever_says_that_it_follows_no_rule_is_asked_after_those_who_can_be_audited(
    autojump_clock: object,
) -> None:
    def engine(number: int) -> Engine:
        kind = Unruly if number == 1 else SimulatedEngine
        return kind(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(2, engine=engine) as network:
        faults = network.gateway.faults
        for _ in range(40):
            await ask(network)
            if faults.counts[Fault.NOT_BY_RULE]:
                break
        unruly, ruled = (network.members[number].chain.account for number in (1, 2))
        assert faults.is_faulty(unruly)
        assert not faults.is_faulty(ruled)
        given = len(network.members[1].store.receipts(limit=99))
        for _ in range(5):
            await ask(network)
        assert len(network.members[1].store.receipts(limit=99)) == given


async def test_an_engine_outside_the_rule_is_written_down_once_and_not_for_each_of_its_answers(
    autojump_clock: object,
) -> None:
    def engine(number: int) -> Engine:
        return Unruly(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        faults = network.gateway.faults
        await ask(network)
        written_at = trio.current_time()
        for _ in range(2):
            assert faults.is_faulty(network.members[1].chain.account)
            await ask(network)
        assert trio.current_time() - written_at < BURST_SECONDS
        assert faults.counts[Fault.NOT_BY_RULE] == 1


async def test_what_the_user_asked_for_outside_the_rule_is_no_fault_of_an_engine(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return Unruly(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        await ask(network, replace(CHAT, sampling=SamplingParameters(presence_penalty_milli=500)))
        assert not network.gateway.faults.counts[Fault.NOT_BY_RULE]
        (signed,) = network.members[1].store.receipts(limit=9)
        assert not signed.receipt.is_within_rule


async def test_an_answer_begun_by_the_rule_is_not_gone_on_with_by_an_engine_outside_it(autojump_clock: object) -> None:
    def engines(number: int) -> list[Engine]:
        ruled = DiesEarly(NODE, MODEL_ID, "honest", 0.0, number)
        ruled.other = Unruly(NodeId("node-2"), None, "honest", 0.0, number)
        return [ruled, ruled.other]

    async with serving_network(1, engine=engines) as network:
        _, parts = await ask(network)  # asked anew, of an executor that says so in its opening
        assert len(ids_of(parts)) == 50
        (signed,) = network.members[1].store.receipts(limit=9)
        assert not signed.receipt.is_verifiable


@dataclass
class Bench:
    """One executor's keeper on a network with an auditor and somebody else."""

    keeper: ReceiptBookKeeper
    store: Books
    content: SimulatedContent
    allowed: set[tuple[PeerId, Hash32]]
    auditor: SimulatedNetwork

    def may_see(self, peer: PeerId, digest: Hash32) -> bool:
        return (peer, digest) in self.allowed

    def give(self, evidence: AuditEvidence) -> Hash32:
        """Answer a user: keep what auditors may ask for, then the receipt."""
        assert evidence.kept is not None
        self.keeper.keep(evidence.signed, evidence.kept.answer, (), evidence.request_signature)
        self.store.save_receipt(evidence.signed)
        return receipt_digest(evidence.signed.receipt)


def bench(nursery: trio.Nursery) -> Bench:
    trace = Trace()
    switchboard = Switchboard(nursery, 1, trace)
    networks = {
        name: SimulatedNetwork(switchboard, name, account(n), lambda _digest: b"")
        for n, name in enumerate((AUDITOR, OTHER, SERVING), 1)
    }
    for network in networks.values():
        switchboard.join(network)
    database = Database(":memory:")
    store = Books(database, EXECUTOR)
    content = SimulatedContent(ContentExchange(trace), "host", 1)
    keeper = ReceiptBookKeeper(content, store, GivenAnswerTables(database, EXECUTOR))
    made = Bench(keeper, store, content, set(), networks[AUDITOR])
    keeper.serve(networks[SERVING], made)
    return made


def row_of(evidence: AuditEvidence) -> BookRow:
    return booked_row(evidence.signed)


async def test_a_book_names_every_receipt_and_is_the_same_after_a_restart(nursery: trio.Nursery) -> None:
    made = bench(nursery)
    assert await made.keeper.book(EpochNumber(EPOCH - 1)) is None
    first = made.give(evidence_of())
    private = evidence_of(replace(ANSWER, output_ids=(9,)), is_private=True, request_id=bytes([1]) * 32)
    second = made.give(private)
    book = await made.keeper.book(EPOCH)
    assert book is not None
    rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
    # Of what is private, no token is drawn, and its payer is not named.
    assert set(rows) == {row_of(evidence_of()), row_of(private)}
    assert {row.digest: (row.output_tokens, row.payer) for row in rows} == {
        first: (2, payer_bytes(account(1))),
        second: (0, NOBODY),
    }
    now = replace(ASKING, epoch=EPOCH)
    made.give(evidence_of(replace(ANSWER, output_ids=(7, 8)), request_id=bytes([2]) * 32, epoch=EPOCH, asking=now))
    again = ReceiptBookKeeper(made.content, made.store, made.keeper.given)
    assert await again.book(EPOCH) == book
    await again.note_counted(EarlierBook(EXECUTOR, EPOCH, book))
    following = await again.book(EpochNumber(EPOCH + 1))
    assert following is not None
    assert following.count == 1


async def test_of_a_private_answer_only_the_receipt_and_who_asked_are_kept(nursery: trio.Nursery) -> None:
    made = bench(nursery)
    evidence = evidence_of(is_private=True)
    kept = made.keeper.given.kept(made.give(evidence))
    assert kept is not None
    assert evidence_from_bytes(kept) == replace(evidence, kept=None)


@pytest.mark.parametrize("evidence", [evidence_of(is_private=True), vectors_of(is_private=True)])
async def test_of_what_nobody_can_audit_the_receipt_is_shown_if_its_row_is_drawn(
    nursery: trio.Nursery, autojump_clock: object, evidence: AuditEvidence
) -> None:
    made = bench(nursery)
    made.store.save_receipt(evidence.signed)
    digest = receipt_digest(evidence.signed.receipt)
    made.allowed.add((AUDITOR, digest))
    assert await made.keeper.book(EPOCH) is not None
    row = row_of(evidence)
    assert row.output_tokens == 0
    shown = await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row, Slicer())
    assert shown == AuditEvidence(evidence.signed, None)
    assert what_is_wrong(shown, EXECUTOR, digest, row) == "private"
    with pytest.raises(NotHandedOverError, match="not-the-length"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, replace(row, output_tokens=100), Slicer())


@pytest.mark.parametrize("is_private", [False, True])
async def test_vectors_that_were_given_are_kept_for_auditors_but_private_ones(
    nursery: trio.Nursery, autojump_clock: object, is_private: bool
) -> None:
    made, evidence = bench(nursery), vectors_of(is_private=is_private)
    made.keeper.keep_vectors(evidence.signed, GIVEN, REQUEST, evidence.request_signature)
    made.store.save_receipt(evidence.signed)
    row, digest = row_of(evidence), receipt_digest(evidence.signed.receipt)
    made.allowed.add((AUDITOR, digest))
    assert await made.keeper.book(EPOCH) is not None
    shown = await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row, Slicer())
    assert shown == (replace(evidence, vectors=None, request=b"") if is_private else evidence)


async def test_an_executor_does_not_hide_a_private_answer_from_a_challenge_behind_its_receipt(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    made = bench(nursery)
    evidence = evidence_of(is_private=True)
    digest = receipt_digest(evidence.signed.receipt)
    made.store.save_receipt(evidence.signed)
    await made.keeper.book(EPOCH)
    made.allowed.add((AUDITOR, digest))
    payer = made.auditor.switchboard.find(OTHER)
    assert payer is not None

    async def hand_over(call: Call) -> None:
        await call.send(evidence_to_bytes(evidence))

    payer.serve(METHOD, hand_over, concurrency=4)
    assert await ask_for_evidence(made.auditor, [SERVING, OTHER], EXECUTOR, digest, None, Slicer()) == evidence
    with pytest.raises(NotHandedOverError, match="withheld"):  # asked again in the next round
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, None, Slicer())


async def test_what_was_asked_long_before_it_was_answered_stays_out_of_the_book(nursery: trio.Nursery) -> None:
    """No auditor would take it, so it would count as withheld."""
    made = bench(nursery)
    late = EpochNumber(ASKING.epoch + ANSWER_EPOCHS_MAX + 1)
    made.give(evidence_of(epoch=late))
    assert await made.keeper.book(late) is None
    digest = made.give(evidence_of(request_id=bytes([1]) * 32, epoch=EpochNumber(late - 1)))
    book = await made.keeper.book(EpochNumber(late + 1))
    assert book is not None
    rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
    assert [row.digest for row in rows] == [digest]


async def test_of_one_id_asked_with_twice_both_answers_are_booked(nursery: trio.Nursery) -> None:
    """A payer that asks anew under the same id finds neither receipt left out, paid for or not."""
    made = bench(nursery)
    first = evidence_of(both=False)
    second = evidence_of(asking=replace(ASKING, body=Hash32(bytes([8]) * 32)))
    digests = {made.give(first), made.give(second)}
    book = await made.keeper.book(EPOCH)
    assert book is not None
    rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
    assert {row.digest for row in rows} == digests
    assert all(SearchedBook(rows).books_rightly(one.signed.receipt) for one in (first, second))


async def test_a_book_of_several_pages_has_every_receipt_once(nursery: trio.Nursery) -> None:
    made = bench(nursery)
    count = 2 * RECEIPTS_PER_SLICE + 1
    digests = {made.give(evidence_of(request_id=number.to_bytes(32))) for number in range(count)}
    book = await made.keeper.book(EPOCH)
    assert book is not None
    rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=100_000), book)
    assert {row.digest for row in rows} == digests
    assert len(rows) == count
    await made.keeper.note_counted(EarlierBook(EXECUTOR, EPOCH, book))
    assert await made.keeper.book(EpochNumber(EPOCH + 1)) is None


async def test_what_no_result_has_is_in_the_next_book_again_also_after_a_restart(nursery: trio.Nursery) -> None:
    """Whether the bundle was not counted or the epoch has no result, and whatever this node missed."""
    made = bench(nursery)
    keeper, digests, books = made.keeper, list[Hash32](), list[ReceiptBook]()

    async def give_and_book(epoch: int) -> set[Hash32]:
        digests.append(made.give(evidence_of(request_id=epoch.to_bytes(32))))
        book = await keeper.book(EpochNumber(epoch))
        assert book is not None
        books.append(book)
        rows = read_book(await made.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
        return {row.digest for row in rows}

    assert await give_and_book(0) == set(digests)
    await keeper.note_counted(EarlierBook(EXECUTOR, EpochNumber(0), books[0]))
    assert await give_and_book(1) == set(digests[1:])
    await keeper.note_counted(None)  # a result in which nothing is known of this node
    await keeper.note_counted(EarlierBook(EXECUTOR, EpochNumber(0), books[0]))  # that has no book of epoch 1
    assert await give_and_book(2) == set(digests[1:])
    keeper = ReceiptBookKeeper(made.content, made.store, made.keeper.given)
    assert await keeper.book(EpochNumber(2)) == books[2]
    assert await give_and_book(3) == set(digests[1:])
    await keeper.note_counted(EarlierBook(EXECUTOR, EpochNumber(2), books[2]))  # learned late
    assert await give_and_book(4) == set(digests[3:])


async def test_what_may_be_in_a_counted_book_that_is_not_here_is_not_booked_again(nursery: trio.Nursery) -> None:
    """A backup was restored: what stands in two books running is proven against this node."""
    made = bench(nursery)
    made.give(evidence_of())
    made.give(evidence_of(asking=None, request_id=bytes([1]) * 32))
    book = await made.keeper.book(EPOCH)
    assert book is not None
    for other in (replace(book, count=3), EMPTY_BOOK):
        await made.keeper.note_counted(EarlierBook(EXECUTOR, EPOCH, other))
        assert not made.keeper.given.is_counted(EPOCH)
    epoch = EpochNumber(EPOCH + 1)
    asking = replace(ASKING, epoch=epoch)
    later = made.give(evidence_of(request_id=bytes([2]) * 32, epoch=epoch, asking=asking))
    assert await made.keeper.book(EpochNumber(EPOCH + 1)) is not None
    assert [row.digest for row in read_rows(made.keeper.given.book(EPOCH + 1) or b"")] == [later]


async def test_of_what_was_due_before_the_counted_book_nothing_is_booked_late(nursery: trio.Nursery) -> None:
    """It is omitted already; late it would be surplus as well, and no auditor would take it."""
    made = bench(nursery)
    await made.keeper.note_counted(EarlierBook(EXECUTOR, EpochNumber(EPOCH + 1), EMPTY_BOOK))
    made.give(evidence_of())
    open_prompt = made.give(evidence_of(asking=None, request_id=bytes([1]) * 32))  # its epoch is when it was posted
    made.keeper._lost_before = EpochNumber(0)
    assert await made.keeper.book(EpochNumber(EPOCH + 2)) is not None
    assert [row.digest for row in read_rows(made.keeper.given.book(EPOCH + 2) or b"")] == [open_prompt]


async def test_an_empty_book_is_counted_as_well(nursery: trio.Nursery) -> None:
    made = bench(nursery)
    assert await made.keeper.book(EPOCH) is None
    await made.keeper.note_counted(EarlierBook(EXECUTOR, EPOCH, EMPTY_BOOK))
    assert made.keeper.given.is_counted(EPOCH)


async def test_evidence_goes_to_whom_it_was_drawn_for_and_to_nobody_else(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    made = bench(nursery)
    digest = made.give(evidence_of(both=False))
    made.store.save_receipt(evidence_of().signed)  # the payer's signature came later
    with pytest.raises(NotHandedOverError, match="withheld"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())
    made.allowed.add((AUDITOR, digest))
    evidence = await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())
    assert evidence == evidence_of()


async def test_a_malformed_question_and_one_for_what_is_not_kept_are_refused(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    made = bench(nursery)
    unknown = Hash32(b"\x05" * 32)
    made.allowed.add((AUDITOR, unknown))
    with pytest.raises(NotHandedOverError, match="withheld"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, unknown, unasked_row(unknown, 2), Slicer())
    with pytest.raises(CallFailedError, match="bad-request"):
        async with made.auditor.call(SERVING, METHOD, b"what", deadline_seconds=5) as call:
            await call.receive()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"no evidence", "malformed"),
        (evidence_to_bytes(evidence_of(replace(ANSWER, output_ids=(9, 9)))), "not-the-receipt"),
        (bytes(9 * 1024 * 1024), "malformed"),
    ],
)
async def test_what_is_of_no_use_is_told_and_the_next_holder_is_asked(
    nursery: trio.Nursery, autojump_clock: object, sent: bytes, code: str
) -> None:
    made = bench(nursery)
    digest = made.give(evidence_of())
    made.allowed.add((AUDITOR, digest))
    liar = made.auditor.switchboard.find(OTHER)
    assert liar is not None

    async def lie(call: Call) -> None:
        for start in range(0, len(sent), 1 << 18):
            await call.send(sent[start : start + (1 << 18)])

    liar.serve(METHOD, lie, concurrency=4)
    with pytest.raises(NotHandedOverError, match=code):
        await ask_for_evidence(made.auditor, [OTHER], EXECUTOR, digest, row_of(evidence_of()), Slicer())
    shown = await ask_for_evidence(made.auditor, [OTHER, SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())
    assert shown == evidence_of()


async def test_evidence_that_breaks_its_own_check_is_malformed_and_no_excuse(
    nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_what: object, **_how: object) -> str:
        raise OverflowError("nobody foresaw this")

    made = bench(nursery)
    digest = made.give(evidence_of())
    made.allowed.add((AUDITOR, digest))
    monkeypatch.setattr(audit_asking, "what_is_wrong_in_slices", break_down)
    with pytest.raises(NotHandedOverError, match="malformed"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())


async def test_who_never_answers_is_left_after_a_while(nursery: trio.Nursery, autojump_clock: object) -> None:
    made = bench(nursery)
    silent = made.auditor.switchboard.find(OTHER)
    assert silent is not None

    async def say_nothing(_call: Call) -> None:
        await trio.sleep_forever()

    silent.serve(METHOD, say_nothing, concurrency=4)
    with trio.fail_after(30), pytest.raises(NotHandedOverError, match="withheld"):
        await ask_for_evidence(
            made.auditor, [OTHER], EXECUTOR, Hash32(bytes(32)), unasked_row(Hash32(bytes(32)), 2), Slicer()
        )


async def test_a_payer_that_leaves_before_the_receipt_takes_nothing_out_of_the_book(autojump_clock: object) -> None:
    """It has read the tokens by then: else it would leave to audits what it likes of an honest executor's answers."""
    async with serving_network(1) as network:
        member = network.members[1]
        given = GivenAnswerTables(member.store.database, member.chain.account)
        executor = member.executor
        assert executor is not None
        keeper = executor._book = ReceiptBookKeeper(member.content, member.store, given)
        async with network.gateway.ask(replace(CHAT, max_tokens=400)) as answer:
            left = 20
            async for _ in answer:
                left -= 1
                if not left:
                    break
        await trio.sleep(5)
        (signed,) = member.store.receipts(limit=9)
        assert signed.payer_signature == b""
        assert 20 <= signed.receipt.output_tokens < 400
        book = await keeper.book(EpochNumber(0))
        assert book is not None
        (row,) = read_book(await member.content.read_bytes(book.content_cid, (), limit_bytes=1000), book)
        assert row.payer == payer_bytes(network.members[GATEWAY].chain.account)
        evidence = given.kept(row.digest)
        assert evidence is not None
        assert what_is_wrong(evidence_from_bytes(evidence), member.chain.account, row.digest, row) == ""


async def test_an_answer_is_on_the_disk_before_anybody_has_its_receipt(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        member = network.members[1]
        given = GivenAnswerTables(member.store.database, member.chain.account)
        executor = member.executor
        assert executor is not None
        executor._book = ReceiptBookKeeper(member.content, member.store, given)
        disk, kept_by_then = trio.Event(), list[int]()

        def count(table: str) -> int:
            (rows,) = member.store.database.connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
            return int(rows)

        async def durable() -> None:
            if count("given_answers"):
                kept_by_then.append(count("given_answers"))
                await disk.wait()

        member.store.durable = durable  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, network)
            with trio.fail_after(60):
                while not kept_by_then:
                    await trio.sleep(0.1)
            await trio.sleep(1)  # less than its gateway's patience
            assert not network.members[GATEWAY].store.receipts(limit=9)  # the power may fail: nobody has it
            disk.set()
        assert len(network.members[GATEWAY].store.receipts(limit=9)) == 1


async def sent(made: Bench, payload: bytes) -> bytes:
    """Return all that an auditor is sent for a question of these bytes."""
    parts = []
    async with made.auditor.call(SERVING, METHOD, payload, deadline_seconds=5) as call:
        with suppress(trio.EndOfChannel):
            while True:
                parts.append(await call.receive())
    return b"".join(parts)


async def test_a_long_question_is_refused_unread(
    nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may send one, of 256 KiB, before it is known who was drawn."""
    made = bench(nursery)
    monkeypatch.setattr(receipt_book, "from_bytes", lambda *_: pytest.fail("it was read"))
    with pytest.raises(CallFailedError) as caught:
        await sent(made, to_bytes(AuditAsk(Hash32(bytes(32)))) + bytes(ASK_BYTES_MAX))
    assert caught.value.code == "bad-request"


async def test_what_is_kept_is_handed_over_with_the_newest_receipt_and_unread(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Of a long answer it has 16 MiB, and every auditor asks for it."""
    made, signed = bench(nursery), evidence_of().signed
    digest = receipt_digest(signed.receipt)
    made.allowed.add((AUDITOR, digest))
    made.keeper.given.keep(digest, to_bytes(replace(signed, payer_signature=b"")) + b"whatever follows")
    made.store.save_receipt(signed)
    assert await sent(made, to_bytes(AuditAsk(digest))) == to_bytes(signed) + b"whatever follows"


async def test_what_is_kept_and_is_no_evidence_is_not_kept_to_who_asks(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    made, digest = bench(nursery), Hash32(bytes(32))
    made.allowed.add((AUDITOR, digest))
    made.keeper.given.keep(digest, b"of another version")
    with pytest.raises(CallFailedError) as caught:
        await sent(made, to_bytes(AuditAsk(digest)))
    assert caught.value.code == "not-kept"


async def test_of_evidence_of_another_receipt_nothing_but_that_is_read(
    nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is asked chose the rest, up to 16 MiB."""
    made = bench(nursery)
    digest = made.give(evidence_of())
    made.allowed.add((AUDITOR, digest))
    made.keeper.given.forget([digest])
    made.keeper.given.keep(digest, evidence_to_bytes(evidence_of(request_id=bytes([9]) * 32)))
    monkeypatch.setattr(audit_asking, "read_evidence_in_slices", lambda _: pytest.fail("it was read"))
    with pytest.raises(NotHandedOverError, match="not-the-receipt"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())
