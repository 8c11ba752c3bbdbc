"""An auditor that is handed something hostile votes on all the rest, and keeps what is its own."""

import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio.testing
from eth_hash.auto import keccak
from structlog.testing import capture_logs

from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.asking import ANSWER_EPOCHS_MAX
from node.protocol.audit_evidence import NO_ROOM, NO_TOKENS, OTHER_VERSION, AuditEvidence, what_is_wrong
from node.protocol.audit_majorities import DRAWN_AGAIN, EXCUSED, NOTHING_TO_JUDGE, WITHHELD
from node.protocol.audit_sampling import drawn_rows, draws_of
from node.protocol.audit_tasks import AuditTask, abstention, task_order
from node.protocol.audit_votes import REJUDGED, check_audits
from node.protocol.chain_state import ChainState
from node.protocol.codec import to_bytes
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.draws import Prefill
from node.protocol.events import ModelRecorded
from node.protocol.findings import AuditVote, CommittedBook, EarlierBook, MissingBook
from node.protocol.identifiers import Cid, EpochNumber, Hash32, ModelId, NodeId, RequestId
from node.protocol.omissions import EMPTY_BOOK
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import book_bytes, booked_row, make_book, order_rows
from node.protocol.records import VoteBundle
from node.protocol.schedules import ParameterSchedule
from node.protocol.shown_evidence import evidence_from_bytes, evidence_to_bytes
from node.protocol.sketches import (
    INPUTS_JUDGED_AGAIN_MAX,
    INPUTS_JUDGED_MAX,
    SKETCH_BYTES,
    TOKENS_MAX,
    inputs_commitment,
    judged_inputs,
    sketch_of,
    vectors_commitment,
)
from node.protocol.stages import Stage, first_block_of
from node.protocol.vector_audits import vector_band
from node.protocol.verdicts import Verdict
from node.services import auditing, evidence_keeping
from node.services.audit_asking import NotHandedOverError
from node.services.auditing import ASKED_AGAIN_MIN, ROUNDS_FOR_ALL, AuditingService, _Round, asked_again
from node.services.embedding_frames import EmbeddingInput, EmbeddingRequest
from node.services.kept_audits import KeptAudits
from node.store.database import Database
from node.store.given_answers import GivenAnswerTables
from tests.builders import NODE, PARAMETERS, SOME_CID, TINY, account, model, state_of, unasked_row
from tests.unit.protocol.audited_group import BAND, SEED, band_of, previous
from tests.unit.protocol.test_audit_evidence import (
    ANSWER,
    ASKING,
    EXECUTOR,
    REQUEST,
    evidence_of,
    receipt_for,
    vectors_of,
)
from tests.unit.protocol.test_receipt_books import group_of
from tests.unit.protocol.test_sketches import DIMENSIONS, vector

VOCABULARY = 100
CONTEXT = 512
"""Of the model."""
NO_PROMPT = replace(ANSWER, prompt_ids=())


class Engine:
    """Has the model, and fails in a way that nobody foresaw."""

    vocabulary_size = VOCABULARY

    def __init__(self, node_id: NodeId = NODE, model_id: ModelId | None = TINY) -> None:
        self.node_id, self.model_id = node_id, model_id
        self.asked: list[tuple[int, ...]] = []

    async def prefill(self, token_ids: tuple[int, ...], *_places: object, **_options: object) -> Any:
        self.asked.append(token_ids)
        raise KeyError("nobody foresaw this")


class Documents(dict[str, bytes]):
    """Documents of a store."""

    def put_document(self, name: str, data: bytes) -> None:
        self[name] = data

    put_documents = dict.update

    def document_keys(self, prefix: str) -> tuple[str, ...]:
        return tuple(sorted(name for name in self if name.startswith(prefix)))

    def get_document(self, name: str) -> bytes | None:
        return self.get(name)


class Auditor:
    """An auditing service whose evidence comes from `holders`, by receipt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = Engine()
        self.given = GivenAnswerTables(Database(":memory:"), account(3))
        self.holders: dict[Hash32, AuditEvidence] = {}
        self.asked: list[Hash32] = []
        """Receipts whose evidence was asked for."""
        chain = SimpleNamespace(account=account(3), state=SimpleNamespace(participants={}, results={}))

        async def book(_epoch: EpochNumber, _newest_result: EpochNumber | None) -> None:
            return None

        keeper = SimpleNamespace(given=self.given, serve=lambda _network, _admission: None, book=book)
        epochs = SimpleNamespace(newest_result=lambda: None)
        unused, network = cast(Any, None), SimpleNamespace(serve=lambda *_what, **_how: None)
        self.service = AuditingService(
            cast(Any, chain), cast(Any, network), unused, cast(Any, Documents()), unused, cast(Any, epochs),
            [self.engine], cast(Any, keeper),
        )  # fmt: skip
        monkeypatch.setattr(auditing, "ask_for_evidence", self._ask)
        group = group_of((3, 10, (TINY,)))
        group = replace(group, models=tuple(replace(model, cid=SOME_CID) for model in group.models))
        self.judged_from = 0
        self.round = _Round(
            EpochNumber(5), replace(previous(), group=group), SEED, band_of, lambda _model_id: self.judged_from
        )

    async def _ask(
        self, _network: object, _holders: object, _executor: object, digest: Hash32, *_how: object, **_more: object
    ) -> AuditEvidence:
        self.asked.append(digest)
        return self.holders[digest]

    async def votes_on(self, *evidence: AuditEvidence) -> list[AuditVote]:
        tasks = [AuditTask(EXECUTOR, REJUDGED, receipt_digest(one.signed.receipt), None) for one in evidence]
        self.holders |= {task.digest: one for task, one in zip(tasks, evidence, strict=True)}
        return [await self.service._vote_or_abstain(task, self.round) for task in tasks]


@pytest.fixture
def auditor(monkeypatch: pytest.MonkeyPatch) -> Auditor:
    return Auditor(monkeypatch)


async def test_an_answer_to_no_tokens_at_all_is_told_and_never_reaches_an_engine(auditor: Auditor) -> None:
    (vote,) = await auditor.votes_on(evidence_of(NO_PROMPT))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-tokens")
    assert auditor.engine.asked == []


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (replace(ANSWER, prompt_ids=(-1, 2)), (0, 2, *ANSWER.output_ids)),
        (replace(ANSWER, output_ids=(4, -5)), (*ANSWER.prompt_ids, 4, 0)),
        (replace(ANSWER, output_ids=(VOCABULARY, 4)), (*ANSWER.prompt_ids, 0, 4)),
    ],
)
async def test_token_ids_that_no_model_has_are_read_as_another_and_hide_none(
    auditor: Auditor, answer: AnswerEvidence, read: tuple[int, ...]
) -> None:
    await auditor.votes_on(evidence_of(answer))
    assert auditor.engine.asked == [read]


@pytest.mark.parametrize(
    ("changes", "answer", "reason"),
    [
        ({"model_cid": Cid("another")}, ANSWER, OTHER_VERSION),
        ({"model_id": ModelId("made-up")}, ANSWER, OTHER_VERSION),
        ({}, replace(ANSWER, prompt_ids=(1,) * (CONTEXT - 1)), NO_ROOM),
        ({}, replace(ANSWER, prompt_ids=(1,) * CONTEXT), NO_ROOM),
    ],
)
@pytest.mark.parametrize("has_engine", [True, False])
async def test_what_nobody_can_judge_all_say_alike_with_the_model_or_without(
    auditor: Auditor, changes: dict[str, Any], answer: AnswerEvidence, reason: str, has_engine: bool
) -> None:
    """Else one auditor who makes figures up would be the only judge among them."""
    if not has_engine:
        auditor.service._engines.clear()
    (vote,) = await auditor.votes_on(evidence_of(answer, **changes))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, reason)
    assert reason in NOTHING_TO_JUDGE
    assert auditor.engine.asked == []


@pytest.mark.parametrize(
    ("judged_from", "is_judged"), [(receipt_for(ANSWER).epoch, True), (receipt_for(ANSWER).epoch + 1, False)]
)
@pytest.mark.parametrize("runner", ["generate", "pooling"])
async def test_answers_by_another_specification_are_read_by_nobody_and_blame_nobody(
    auditor: Auditor, judged_from: int, is_judged: bool, runner: str
) -> None:
    """Also where the specification that came makes something else of the model, or leaves it less room."""
    auditor.judged_from = judged_from
    if not is_judged:
        group = auditor.round.previous.group
        models = tuple(replace(m, model_args=("--runner", runner), context_length=4) for m in group.models)
        auditor.round = replace(
            auditor.round, previous=replace(auditor.round.previous, group=replace(group, models=models))
        )
    (vote,) = await auditor.votes_on(evidence_of())
    assert (vote.verdict, vote.reason == OTHER_VERSION) == (Verdict.ABSTAIN, not is_judged)
    assert bool(auditor.engine.asked) is is_judged


async def test_a_prompt_that_leaves_room_for_one_token_is_read(auditor: Auditor) -> None:
    await auditor.votes_on(evidence_of(replace(ANSWER, prompt_ids=(1,) * (CONTEXT - 2), output_ids=(4, 5))))
    assert [len(asked) for asked in auditor.engine.asked] == [CONTEXT - 1]


@pytest.mark.parametrize("prompt_ids", [(), (1, 2)])
async def test_an_answer_without_any_token_blames_nobody(auditor: Auditor, prompt_ids: tuple[int, ...]) -> None:
    """An engine may end at once. There is nothing to read, and its payer knows how many tokens it has."""
    (vote,) = await auditor.votes_on(evidence_of(replace(ANSWER, prompt_ids=prompt_ids, output_ids=())))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, NO_TOKENS)
    assert NO_TOKENS in EXCUSED
    assert auditor.engine.asked == []


async def test_an_audit_that_fails_blames_nobody_and_holds_up_no_other(auditor: Auditor) -> None:
    first, second = await auditor.votes_on(evidence_of(), evidence_of(NO_PROMPT))
    assert (first.verdict, first.reason) == (Verdict.ABSTAIN, "engine-failed")
    assert second.reason == "not-the-tokens"


@pytest.mark.parametrize(
    ("asked_before", "book_before", "is_told"),
    [
        (ANSWER_EPOCHS_MAX, None, False),
        (ANSWER_EPOCHS_MAX, 0, False),
        (ANSWER_EPOCHS_MAX + 1, None, True),
        (ANSWER_EPOCHS_MAX, 1, True),
    ],
)
async def test_what_the_book_may_not_have_any_more_is_told(
    auditor: Auditor, asked_before: int, book_before: int | None, is_told: bool
) -> None:
    """Else a book could have, beside this epoch's answers, all that their payer ever asked for: in how many epochs it
    was answered, and by how many the receipt is older than the book before."""
    evidence = evidence_of(epoch=EpochNumber(ASKING.epoch + asked_before))
    receipt = evidence.signed.receipt
    digest, row = receipt_digest(receipt), booked_row(evidence.signed)
    auditor.holders[digest] = evidence
    before: tuple[EarlierBook, ...] = ()
    if book_before is not None:
        before = (EarlierBook(EXECUTOR, EpochNumber(receipt.epoch + book_before), EMPTY_BOOK),)
    round_ = replace(auditor.round, previous=replace(auditor.round.previous, books_before=before))
    vote = await auditor.service._vote_or_abstain(AuditTask(EXECUTOR, 1, digest, row), round_)
    # The engine always fails.
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "too-old" if is_told else "engine-failed")


def engine_with(context: int, asked: list[tuple[int, ...]]) -> Callable[..., Awaitable[list[Prefill]]]:
    """What an engine says to whom no token is likely, and which refuses what leaves no room for one of its own."""

    async def prefill(token_ids: tuple[int, ...], first: int, **_options: object) -> list[Prefill]:
        asked.append(token_ids)
        if len(token_ids) >= context:
            raise EngineRefusedError("longer than the context")
        return [Prefill({token: -20.0, 0: -0.001}, 2) for token in token_ids[first:]]

    return prefill


@pytest.mark.parametrize("longer", [0, 1, CONTEXT])
async def test_no_answer_escapes_its_audit_by_its_length(auditor: Auditor, longer: int) -> None:
    auditor.engine.prefill = engine_with(CONTEXT, auditor.engine.asked)  # type: ignore[method-assign]
    junk = (4,) * (CONTEXT - len(ANSWER.prompt_ids) + longer)
    (vote,) = await auditor.votes_on(evidence_of(replace(ANSWER, output_ids=junk)))
    assert vote.verdict is Verdict.INVALID
    assert vote.figures.tokens == CONTEXT - len(ANSWER.prompt_ids) - 1


async def test_what_is_drawn_again_is_audited_once_and_every_other_draw_of_it_is_voted_on(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence there would leave the draw to whoever says something."""
    rows = order_rows([unasked_row(Hash32(n.to_bytes(32)), 5) for n in range(1, 4)])
    book = make_book(rows, SOME_CID)
    asked: list[AuditTask] = []

    async def read_bytes(*_where: object, **_limit: object) -> bytes:
        return book_bytes(rows)

    async def in_rounds(tasks: Collection[AuditTask], _work: _Round) -> None:
        asked.extend(tasks)

    service = auditor.service
    service._content = cast(Any, SimpleNamespace(read_bytes=read_bytes))
    service._presence = cast(Any, SimpleNamespace(providers=lambda _executor: ()))
    monkeypatch.setattr(service, "_in_rounds", in_rounds)
    draws, drawn = range(draws_of(book)), drawn_rows(SEED, EXECUTOR, book, rows, auditor.round.previous.group)
    assert len(drawn) < len(draws)
    await service._expect({EXECUTOR: draws}, {})
    await service._audit_book(CommittedBook(EXECUTOR, book), draws, auditor.round)
    assert {task.draw: task.digest for task in asked} == {draw: row.digest for draw, row in drawn.items()}
    bundle = await service.complete(VoteBundle(service._votes.epoch, account(3), ()))
    check_audits(bundle)
    assert [vote.draw for vote in bundle.audits] == list(draws)
    assert {vote.draw for vote in bundle.audits if vote.reason == DRAWN_AGAIN} == set(draws) - drawn.keys()


@pytest.mark.parametrize("members", [0, 1, 8, 9, 40, 512])
def test_what_nobody_has_is_asked_for_of_all_at_first_and_then_of_few_in_turns(members: int) -> None:
    others = [account(number + 10) for number in range(members)]
    assert asked_again(others, 0) == others
    asked = [asked_again(others, number) for number in range(1, 2 * ROUNDS_FOR_ALL + 1)]
    assert {len(some) for some in asked} == {min(members, max(ASKED_AGAIN_MIN, -(-members // ROUNDS_FOR_ALL)))}
    assert all(len(set(some)) == len(some) for some in asked)
    for first in range(ROUNDS_FOR_ALL):
        assert {one for some in asked[first : first + ROUNDS_FOR_ALL] for one in some} == set(others)


async def test_an_answer_that_is_not_handed_over_is_asked_of_its_executor_in_every_round(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    numbers = range(20, 120)
    group = group_of((2, 10, (TINY,)), (3, 10, (TINY,)), *((number, 10, (TINY,)) for number in numbers))
    peers = {account(number): SimpleNamespace(peer_id=f"peer-{number}") for number in (2, 3, *numbers)}
    monkeypatch.setattr(auditor.service._chain, "state", SimpleNamespace(participants=peers, results={}))
    asked: list[Sequence[str]] = []

    async def ask(_network: object, holders: Sequence[str], *_what: object, **_how: object) -> AuditEvidence:
        asked.append(holders)
        if len(asked) == 4:
            return evidence_of(NO_PROMPT)
        raise NotHandedOverError(WITHHELD)

    monkeypatch.setattr(auditing, "ask_for_evidence", ask)
    task = AuditTask(EXECUTOR, REJUDGED, receipt_digest(evidence_of(NO_PROMPT).signed.receipt), None)
    work = replace(auditor.round, previous=replace(auditor.round.previous, group=group))
    await auditor.service._expect({}, {EXECUTOR: [task]})
    await auditor.service._in_rounds([task], work)
    assert {holders[0] for holders in asked} == {peers[EXECUTOR].peer_id}
    assert [len(holders) for holders in asked] == [101, 11, 11, 11]


# --- engines in trouble ---

OTHER = ModelId("other")
ROUND = auditing.ROUND_SECONDS


async def audit(auditor: Auditor, *evidence: AuditEvidence, seconds: float = 7200) -> list[AuditVote]:
    """Audit answers as if each were another executor's, in rounds, until the end of `seconds`."""
    tasks = [AuditTask(EXECUTOR, REJUDGED, receipt_digest(one.signed.receipt), None) for one in evidence]
    auditor.holders |= {task.digest: one for task, one in zip(tasks, evidence, strict=True)}
    service = auditor.service
    service._votes = KeptAudits(service._store, auditor.round.epoch)
    await service._expect({}, {EXECUTOR: tasks})
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(service._in_rounds, [task], auditor.round)
    return [service._votes[task_order(task)] for task in tasks]


def reads(engine: Engine) -> None:
    """Have an engine read answers, of which no token is likely to it."""
    vars(engine)["prefill"] = engine_with(CONTEXT, engine.asked)


def hangs(engine: Engine) -> None:
    """Have an engine answer nobody for as long as its connection waits."""

    async def prefill(token_ids: tuple[int, ...], _first: int, **_options: object) -> list[Prefill]:
        engine.asked.append(token_ids)
        await trio.sleep(600)
        raise EngineFailedError("silence")

    vars(engine)["prefill"] = prefill


def answers(count: int, model_id: ModelId = TINY) -> list[AuditEvidence]:
    return [evidence_of(replace(ANSWER, output_ids=(4, 5 + number)), model_id=model_id) for number in range(count)]


def serve_both(auditor: Auditor) -> None:
    """Have the group serve another model, too."""
    group = auditor.round.previous.group
    both = (*group.models, *(replace(model, model_id=OTHER) for model in group.models))
    auditor.round = replace(auditor.round, previous=replace(auditor.round.previous, group=replace(group, models=both)))


async def test_an_answer_waits_for_a_model_that_is_still_loading(auditor: Auditor, autojump_clock: object) -> None:
    """After a restart of the daemon, or of the engine: an audit that is not done costs its auditor, too."""
    reads(auditor.engine)
    auditor.engine.model_id = None
    async with trio.open_nursery() as nursery:

        async def load() -> None:
            await trio.sleep(300)
            asked = len(auditor.asked)
            auditor.engine.model_id = TINY
            assert asked == 1  # what cannot be read yet is not asked for in each round

        nursery.start_soon(load)
        (vote,) = await audit(auditor, evidence_of())
    assert vote.figures.tokens == 2
    assert len(auditor.engine.asked) == 1


async def test_a_model_that_never_comes_is_time_that_was_missing_and_one_that_is_not_expected_is_none(
    auditor: Auditor, autojump_clock: object
) -> None:
    auditor.engine.model_id = None
    (vote,) = await audit(auditor, evidence_of())
    assert vote.reason == "no-time"
    auditor.engine.node_id = NodeId("of another")
    (vote,) = await audit(auditor, evidence_of(replace(ANSWER, output_ids=(4, 6))))
    assert vote.reason == "no-model"


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
async def test_an_engine_in_trouble_leaves_its_audits_to_another_with_its_model(
    trouble: str, auditor: Auditor, autojump_clock: object
) -> None:
    if trouble == "hangs":
        hangs(auditor.engine)
    else:
        vars(auditor.engine)["prefill"] = engine_with(0, auditor.engine.asked)
    second = Engine(NodeId("second"))
    reads(second)
    auditor.service._engines.append(second)
    votes = await audit(auditor, *answers(8), seconds=600 + 6 * ROUND)
    assert [vote.figures.tokens for vote in votes] == [2] * 8
    assert auditor.engine.asked


async def test_an_engine_that_hangs_keeps_no_answer_of_another_model_waiting(
    auditor: Auditor, autojump_clock: object
) -> None:
    hangs(auditor.engine)
    second = Engine(NodeId("second"), OTHER)
    reads(second)
    auditor.service._engines.append(second)
    serve_both(auditor)
    votes = await audit(auditor, *answers(4), *answers(2, OTHER), seconds=60)
    assert [vote.reason for vote in votes[:4]] == ["no-time"] * 4
    assert [vote.figures.tokens for vote in votes[4:]] == [2, 2]


@pytest.mark.parametrize("trouble", ["fails", "crashes", "is gone"])
async def test_who_handed_over_and_left_withheld_nothing(
    trouble: str, auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Though what came was too much to be kept, and could not be read at once."""
    monkeypatch.setattr(evidence_keeping, "FETCHED_BYTES_MAX", 0)
    evidence, gone = evidence_of(), list[Hash32]()
    if trouble == "fails":
        vars(auditor.engine)["prefill"] = engine_with(0, auditor.engine.asked)

    async def once(
        _network: object, _holders: object, _executor: object, digest: Hash32, *_: object, **__: object
    ) -> Any:
        if digest in gone:
            raise NotHandedOverError(WITHHELD)
        gone.append(digest)
        if trouble == "is gone":
            auditor.engine.model_id = None
        return evidence

    async def load() -> None:
        await trio.sleep(3 * ROUND)
        auditor.engine.model_id = TINY

    monkeypatch.setattr(auditing, "ask_for_evidence", once)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        (vote,) = await audit(auditor, evidence, seconds=100)
    assert vote.reason == ("no-time" if trouble == "is gone" else "engine-failed")
    assert vote.receipt_digest == receipt_digest(evidence.signed.receipt)


async def test_who_never_handed_over_withheld_it(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async def nothing(*_what: object, **_how: object) -> Any:
        raise NotHandedOverError(WITHHELD)

    monkeypatch.setattr(auditing, "ask_for_evidence", nothing)
    (vote,) = await audit(auditor, evidence_of(), seconds=100)
    assert vote.reason == WITHHELD


@pytest.mark.parametrize(
    ("draw", "hanging", "reason"), [(REJUDGED, 1, "no-time"), (REJUDGED, 2, WITHHELD), (0, 1, WITHHELD)]
)
async def test_what_is_judged_again_was_not_withheld_before_all_were_asked_for_it(
    draw: int,
    hanging: int,
    reason: str,
    auditor: Auditor,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else slow asking, at the end of the votes, would be a vote against whoever judged it."""
    asked: list[object] = []

    async def ask(*what: object, **_how: object) -> AuditEvidence:
        asked.append(what)
        if len(asked) == hanging:
            await trio.sleep_forever()
        raise NotHandedOverError(WITHHELD)

    monkeypatch.setattr(auditing, "ask_for_evidence", ask)
    evidence = evidence_of()
    digest = receipt_digest(evidence.signed.receipt)
    task = AuditTask(EXECUTOR, draw, digest, None)
    service = auditor.service
    service._votes = KeptAudits(service._store, auditor.round.epoch)
    service._votes[task_order(task)] = abstention(task, "no-time")
    with trio.move_on_after(100):
        await service._in_rounds([task], auditor.round)
    assert len(asked) == hanging
    assert service._votes[task_order(task)].reason == reason


# --- vectors ---

INPUTS = tuple((number, 1) for number in range(40))
HONEST_VECTORS = VectorEvidence(INPUTS, DIMENSIONS, b"".join(sketch_of(vector(number)) for number in range(40)))


class VectorEngine(Engine):
    """Has the embedding model: the vector of (n, ...) is that of the seed n, with a little noise of its own."""

    dimensions = DIMENSIONS

    async def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split()))

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        assert priority > 0
        self.asked += [tuple(prompt) for prompt in prompts]
        return [vector(prompt[0], noise=0.001, dimensions=self.dimensions) for prompt in prompts]


def request_for(inputs: Sequence[tuple[int, ...]], *, in_words: bool = False) -> EmbeddingRequest:
    """What somebody asked: token ids, or texts of which VectorEngine makes these."""
    asked = [EmbeddingInput(" ".join(map(str, ids))) if in_words else EmbeddingInput(None, ids) for ids in inputs]
    return EmbeddingRequest(RequestId(bytes(32)), TINY, account(1), EXECUTOR, 5, EpochNumber(3), tuple(asked))


def given_as(given: VectorEvidence, request: bytes = b"") -> AuditEvidence:
    """Evidence of vectors that fits its receipt."""
    asked = request or to_bytes(request_for(given.inputs))
    evidence = vectors_of(
        given, asking=replace(ASKING, max_tokens=10**6, body=Hash32(keccak(asked))),
        vectors=len(given.inputs), prompt_tokens=sum(map(len, given.inputs)),
        prompt_commitment=inputs_commitment(given.inputs),
        output_commitment=vectors_commitment(given.dimensions, given.sketches),
    )  # fmt: skip
    return replace(evidence, request=asked)


@pytest.fixture
def vector_auditor(auditor: Auditor) -> Auditor:
    """One that serves an embedding model."""
    auditor.engine = VectorEngine()
    auditor.service._engines = [cast(Any, auditor.engine)]
    group = auditor.round.previous.group
    embedding = ("--runner", "pooling")
    group = replace(group, models=tuple(replace(model, model_args=embedding) for model in group.models))
    band = vector_band(replace(BAND, poc_distance_max=100_000))
    auditor.round = replace(
        auditor.round, previous=replace(auditor.round.previous, group=group), band_of=lambda *_: band
    )
    return auditor


async def test_honest_vectors_are_found_to_be_the_model_s_and_all_are_read_where_they_are_judged_again(
    vector_auditor: Auditor,
) -> None:
    (vote,) = await vector_auditor.votes_on(given_as(HONEST_VECTORS))
    assert (vote.verdict, vote.reason) == (Verdict.VALID, "")
    assert vote.figures.tokens == len(vector_auditor.engine.asked) == 40
    assert vote.figures.mismatches == 0


async def test_of_a_drawn_answer_some_inputs_are_read_by_the_seed_of_the_draw(vector_auditor: Auditor) -> None:
    evidence = given_as(HONEST_VECTORS)
    digest, row = receipt_digest(evidence.signed.receipt), booked_row(evidence.signed)
    vector_auditor.holders[digest] = evidence
    vote = await vector_auditor.service._vote_or_abstain(AuditTask(EXECUTOR, 1, digest, row), vector_auditor.round)
    assert vote.verdict is Verdict.VALID
    assert vote.figures.tokens == INPUTS_JUDGED_MAX
    places = judged_inputs(INPUTS, digest, vector_auditor.round.seed)
    assert vector_auditor.engine.asked == [INPUTS[place] for place in places]


async def test_of_an_answer_with_many_inputs_that_is_judged_again_some_more_are_read(vector_auditor: Auditor) -> None:
    vector_auditor.engine.vocabulary_size = 500
    inputs = tuple((number, 1) for number in range(INPUTS_JUDGED_AGAIN_MAX + 40))
    sketches = b"".join(sketch_of(vector(number)) for number, _ in inputs)
    evidence = given_as(VectorEvidence(inputs, DIMENSIONS, sketches))
    (vote,) = await vector_auditor.votes_on(evidence)
    assert (vote.verdict, vote.figures.tokens) == (Verdict.VALID, INPUTS_JUDGED_AGAIN_MAX)
    digest, seed = receipt_digest(evidence.signed.receipt), vector_auditor.round.seed
    places = judged_inputs(inputs, digest, seed, INPUTS_JUDGED_AGAIN_MAX)
    assert vector_auditor.engine.asked == [inputs[place] for place in places]


JUNK = random.Random(1).randbytes(SKETCH_BYTES * 40)
FIVE_MADE_UP = JUNK[: 5 * SKETCH_BYTES] + HONEST_VECTORS.sketches[5 * SKETCH_BYTES :]


@pytest.mark.parametrize(
    "given",
    [
        replace(HONEST_VECTORS, sketches=JUNK),
        replace(HONEST_VECTORS, sketches=bytes(SKETCH_BYTES * 40)),
        replace(HONEST_VECTORS, sketches=FIVE_MADE_UP),
        replace(HONEST_VECTORS, sketches=b"".join(sketch_of(vector(n, times=2)) for n in range(40))),
        replace(HONEST_VECTORS, dimensions=DIMENSIONS // 2),
    ],
    ids=["junk", "nothing", "five of forty", "another length", "other dimensions"],
)
async def test_vectors_that_are_not_the_model_s_are_proven_by_one_answer(
    vector_auditor: Auditor, given: VectorEvidence
) -> None:
    (vote,) = await vector_auditor.votes_on(given_as(given))
    assert (vote.verdict, vote.reason) == (Verdict.INVALID, "vectors")


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (evidence_of(), "not-the-receipt"),
        (given_as(replace(HONEST_VECTORS, inputs=((-1, 1), *INPUTS[1:])), REQUEST), "not-the-tokens"),
        (given_as(replace(HONEST_VECTORS, inputs=((VOCABULARY, 1), *INPUTS[1:]))), "not-the-tokens"),
        (given_as(replace(HONEST_VECTORS, inputs=((1,) * (TOKENS_MAX - 100), *INPUTS[1:]))), "not-the-tokens"),
    ],
)
async def test_what_no_embedding_model_was_asked_never_reaches_the_engine(
    vector_auditor: Auditor, evidence: AuditEvidence, reason: str
) -> None:
    (vote,) = await vector_auditor.votes_on(evidence)
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, reason)
    assert vector_auditor.engine.asked == []


async def test_true_vectors_of_other_inputs_than_were_asked_for_count_as_withheld(vector_auditor: Auditor) -> None:
    """Else one vector, made once, would do for everybody: whoever asks in words cannot tell which tokens were read."""
    asked = request_for(INPUTS, in_words=True)
    (vote,) = await vector_auditor.votes_on(given_as(HONEST_VECTORS, to_bytes(asked)))
    assert vote.verdict is Verdict.VALID
    others = replace(HONEST_VECTORS, inputs=(*INPUTS[1:], INPUTS[0]))
    for request in (to_bytes(asked), to_bytes(request_for(INPUTS)), to_bytes(request_for(INPUTS[1:])), b"no request"):
        vector_auditor.engine.asked.clear()
        (vote,) = await vector_auditor.votes_on(given_as(others, request))
        assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-tokens")
        assert vector_auditor.engine.asked == []


async def test_what_nobody_committed_to_changes_no_audit(auditor: Auditor) -> None:
    """A holder may put vectors beside tokens, or tokens beside vectors: neither excuses, and nothing of it stays."""
    beside = VectorEvidence((), 0, b"")
    (vote,) = await auditor.votes_on(replace(evidence_of(NO_PROMPT), vectors=beside, request=REQUEST))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-tokens")
    (vote,) = await auditor.votes_on(replace(evidence_of(), vectors=beside))
    assert auditor.engine.asked == [(*ANSWER.prompt_ids, *ANSWER.output_ids)]
    data = auditor.given.kept(vote.receipt_digest)
    assert data is not None
    assert evidence_from_bytes(data) == evidence_of()


async def test_tokens_beside_vectors_that_are_not_the_model_s_save_nobody(vector_auditor: Auditor) -> None:
    evidence = given_as(replace(HONEST_VECTORS, sketches=JUNK))
    (vote,) = await vector_auditor.votes_on(replace(evidence, kept=evidence_of().kept))
    assert (vote.verdict, vote.reason) == (Verdict.INVALID, "vectors")


async def test_a_text_that_no_engine_takes_is_told(vector_auditor: Auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tokenize(text: str) -> tuple[int, ...]:
        raise EngineRefusedError(f"not {text}")

    monkeypatch.setattr(vector_auditor.engine, "tokenize", tokenize)
    (vote,) = await vector_auditor.votes_on(given_as(HONEST_VECTORS, to_bytes(request_for(INPUTS, in_words=True))))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-tokens")


async def test_vectors_of_a_model_that_makes_none_are_told(auditor: Auditor) -> None:
    (vote,) = await auditor.votes_on(given_as(HONEST_VECTORS))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-receipt")


async def test_an_engine_that_makes_no_vectors_blames_nobody(
    vector_auditor: Auditor, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def embed(_prompts: object, *, priority: int) -> list[bytes]:
        raise EngineFailedError(f"not at priority {priority}")

    monkeypatch.setattr(vector_auditor.engine, "embed", embed)
    (vote,) = await vector_auditor.votes_on(given_as(replace(HONEST_VECTORS, sketches=JUNK)))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "engine-failed")


async def test_stored_evidence_that_cannot_be_read_is_fetched_anew(auditor: Auditor) -> None:
    evidence = evidence_of(NO_PROMPT)
    digest = receipt_digest(evidence.signed.receipt)
    auditor.given.keep(digest, b"no evidence")
    (vote,) = await auditor.votes_on(evidence)
    assert vote.reason == "not-the-tokens"
    assert auditor.given.kept(digest) == evidence_to_bytes(evidence)


async def test_evidence_of_others_is_kept_without_what_nobody_committed_to_and_only_so_much(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = [evidence_of(replace(ANSWER, output_ids=(4, VOCABULARY + number))) for number in range(2)]
    kept = bare[0].kept
    assert kept is not None
    bloated = replace(bare[0], kept=replace(kept, answer=replace(kept.answer, text="x" * 10_000)))
    monkeypatch.setattr(evidence_keeping, "FETCHED_BYTES_MAX", len(evidence_to_bytes(bare[0])))
    await auditor.votes_on(bloated, bare[1])
    first, second = (receipt_digest(one.signed.receipt) for one in bare)
    data = auditor.given.kept(first)
    assert data is not None
    assert evidence_from_bytes(data) == bare[0]
    assert what_is_wrong(bare[0], EXECUTOR, first, None) == ""
    assert auditor.given.kept(second) is None


async def test_a_challenge_that_would_void_the_bundle_stays_out_of_it(auditor: Auditor) -> None:
    good, bad = (evidence_of(payer=account(3), node_id=NodeId(name)).signed for name in ("node", "n" * 33))
    auditor.service.challenges = cast(Any, SimpleNamespace(take=lambda _epoch: (good, bad)))
    with capture_logs() as logs:
        bundle = await auditor.service.complete(VoteBundle(EpochNumber(5), account(3), ()))
    assert bundle.challenges == (good,)
    (told,) = [entry for entry in logs if entry["log_level"] == "error"]  # it does not come back
    assert told["receipt"] == receipt_digest(bad.receipt).hex()


OWN = account(3)


async def test_audits_are_done_though_nobody_takes_its_proofs(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    service, result = auditor.service, replace(auditor.round.previous, books=())

    async def nothing(*_what: object) -> None:
        return None

    async def found(*_what: object) -> object:
        return result

    async def seed(_block: int) -> Hash32:
        return SEED

    async def hand_over(*_what: object) -> None:
        await trio.sleep_forever()

    chain = SimpleNamespace(account=OWN, schedule=None, state_at=nothing, block_hash=seed, state=service._chain.state)
    monkeypatch.setattr(service, "_chain", chain)
    monkeypatch.setattr(service, "_epochs", SimpleNamespace(result_before=found))
    monkeypatch.setattr(service, "_keeper", SimpleNamespace(note_counted=nothing, given=auditor.given))
    monkeypatch.setattr(service._evidence, "_forget_old", nothing)
    monkeypatch.setattr(service.omission_keeping, "run", hand_over)
    monkeypatch.setattr(auditing, "first_block_of", lambda *_what: 0)
    monkeypatch.setattr(auditing, "bands_of", lambda *_what: band_of)
    challenged, forgotten = Hash32(b"c" * 32), list[Hash32]()
    auditor.given.keep(challenged, b"of a private answer")
    over = SimpleNamespace(
        held=set, over=lambda newest: (challenged,) * (newest == result.epoch), forgotten=forgotten.extend
    )
    service.challenges = cast(Any, over)
    with capture_logs() as logs, trio.move_on_after(60) as limit:
        await service._audit(EpochNumber(5))
    assert forgotten == [challenged]
    assert auditor.given.kept(challenged) is None
    assert limit.cancelled_caught  # what is handed over goes on
    assert "audits of this epoch are done" in [line["event"] for line in logs]


async def test_what_can_be_judged_follows_from_the_chain_at_the_first_block_of_serve(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, result, asked = auditor.service, replace(auditor.round.previous, books=()), list[int]()
    changed = state_of(ModelRecorded(model()), ModelRecorded(replace(model(), quantization="fp8")))
    schedule = ParameterSchedule(PARAMETERS)
    summaries = cast(Any, {EpochNumber(0): None})
    changed.results = summaries

    async def state_at(block: int) -> ChainState:
        asked.append(block)
        return changed

    async def nothing(*_what: object) -> None:
        return None

    async def found(*_what: object) -> object:
        return result

    async def audited(_draws: object, _again: object, work: _Round) -> None:
        assert work.judged_from(TINY) == 2
        asked.append(-1)

    chain = SimpleNamespace(account=OWN, schedule=schedule, state_at=state_at, block_hash=nothing)
    monkeypatch.setattr(service, "_chain", chain)
    monkeypatch.setattr(service, "_epochs", SimpleNamespace(result_before=found))
    monkeypatch.setattr(service, "_keeper", SimpleNamespace(note_counted=nothing, given=auditor.given))
    monkeypatch.setattr(service, "_evidence", SimpleNamespace(begin=nothing))
    monkeypatch.setattr(service, "_warn_of_missing_book", lambda *_what: None)
    monkeypatch.setattr(service.omission_keeping, "run", nothing)
    monkeypatch.setattr(service, "_audit_all", audited)
    await service._audit(EpochNumber(5))
    assert asked == [first_block_of(5, Stage.SERVE, schedule), -1]


UNSEEN = replace(previous(books=()), epoch=EpochNumber(4), books_before=(EarlierBook(OWN, EpochNumber(2), EMPTY_BOOK),))
"""A result without a book of this node, which was away when the one of epoch 2 took its book up."""


async def test_what_is_counted_is_noted_before_the_next_book_is_made_also_by_who_was_away(auditor: Auditor) -> None:
    noted: list[EarlierBook | None] = []

    async def note_counted(counted: EarlierBook | None) -> None:
        noted.append(counted)

    async def book(_epoch: EpochNumber, _newest_result: EpochNumber | None) -> None:
        assert noted

    service = auditor.service
    service._keeper = cast(Any, SimpleNamespace(note_counted=note_counted, book=book))
    service._epochs = cast(Any, SimpleNamespace(newest_result=lambda: UNSEEN))
    await service.complete(VoteBundle(EpochNumber(5), OWN, ()))
    assert noted == [EarlierBook(OWN, EpochNumber(2), EMPTY_BOOK)]


@pytest.mark.parametrize(
    ("missing_books", "levels"),
    [
        ((), []),
        ((MissingBook(account(9), EpochNumber(0), EpochNumber(3)),), []),
        ((MissingBook(OWN, EpochNumber(0), EpochNumber(0)),), ["warning"]),
        ((MissingBook(OWN, EpochNumber(0), EpochNumber(3)),), ["error"]),
    ],
)
def test_an_operator_is_told_when_its_votes_were_not_counted(
    auditor: Auditor, missing_books: tuple[MissingBook, ...], levels: list[str]
) -> None:
    with capture_logs() as logs:
        auditor.service._warn_of_missing_book(replace(UNSEEN, books_missing=missing_books))
    assert [entry["log_level"] for entry in logs] == levels
