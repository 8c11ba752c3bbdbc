"""Audits the answers of others: fetches what is drawn, reads it with its own engine, and votes.

*Purpose.* The newest result before an epoch names the books; the draw follows from a block after them. Until VALIDATE
this node asks for the evidence of what it was drawn to audit and of whatever the group judges again, checks it, has its
own engine read it at low priority, and writes each vote down before it goes on. The votes travel in the bundle with
those on batches (`complete`).

*Detail.* Work is bounded by the draw. Who does not hand over is asked again and again, in rounds, so that it holds up
no other audit; what it has not handed over at the end is voted withheld. What this node lacks itself is an abstention.
"""

import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import structlog
import trio

from node.ports import BadContentError, Chain, Content, ContentNotHeldError, ContentUnavailableError, Network, Store
from node.protocol.asking import is_too_old
from node.protocol.audit_bands import bands_of
from node.protocol.audit_evidence import (
    AuditEvidence,
    are_names_short,
    what_is_wrong_in_slices,
    why_unjudged,
    without_surplus,
)
from node.protocol.audit_majorities import DRAWN_AGAIN, ENGINE_FAILED, NOT_DRAWN, WITHHELD, BandOf
from node.protocol.audit_sampling import drawn_rows_in_slices, own_draws_in_slices
from node.protocol.audit_tasks import AuditTask, abstention, accused_answers, judged_again, task_order
from node.protocol.audit_votes import CHALLENGES_MAX, NO_DIGEST, REJUDGED, as_many_as_fit
from node.protocol.audits import judge_figures
from node.protocol.due_books import BooksOfResult, is_late
from node.protocol.findings import AuditFigures, AuditVote, CommittedBook
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.model_changes import judged_from
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BOOK_BYTES_MAX, BookError, BookRow, BookRows, read_book_in_slices
from node.protocol.records import EpochResult, SignedReceipt, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.vector_audits import VECTORS
from node.protocol.verdicts import Verdict
from node.services.audit_asking import NotHandedOverError, ask_for_evidence
from node.services.audit_reading import is_readable, read_evidence
from node.services.epochs import EpochBook
from node.services.evidence_keeping import Challenged, EvidenceKeeping
from node.services.expected_models import expected_models
from node.services.kept_audits import KeptAudits
from node.services.kept_omissions import KeptOmissions
from node.services.omission_keeping import OmissionKeeping
from node.services.presence import PresenceTable
from node.services.receipt_book import ReceiptBookKeeper
from node.services.receipt_tokens import CheckingEngine
from node.services.recomputing import AnswerWatch, ModelGoneError, while_ready
from node.services.slicing import Slicer
from node.services.timing import cancel_at, epochs_at

log = structlog.get_logger(__name__)

ASKED_AT_ONCE = 64
"""Executors; of each, one answer after the other. Whoever keeps silent holds up no other audit."""
READ_AT_ONCE = 2
"""Answers that one of this node's engines reads side by side for audits: one that hangs keeps no other waiting."""
READ_SILENCE_SECONDS = 600.0
"""An engine that read nothing to an end for so long, of all that audits asked of it, is left alone for others that have
the model. As long as its connection waits: of a long answer, after all users, it may take minutes."""
OPEN_REASONS = frozenset({"no-time", WITHHELD, ENGINE_FAILED})
"""Of abstentions that another try may change."""
ROUND_SECONDS = 10.0
"""Between two rounds of asking those who have not handed over yet."""
HEAD_START_SECONDS = 2.0
"""For the book that says what was drawn, before accused answers are read: what was not needs not be. Most have it."""
ROUNDS_FOR_ALL = 10
"""After the first, in which all who judge an answer again ask all members: so many until each was asked once more."""
ASKED_AGAIN_MIN = 8
"""Members in each of these: in a small group everybody is asked in every round."""


def asked_again(others: Sequence[Address], number: int) -> Sequence[Address]:
    """Return who else than its executor is asked for an answer that was asked for `number` times before: at first all.

    Then some, in turns: what nobody has would have everybody ask everybody until the votes are due.
    """
    if number == 0:
        return others
    count = max(ASKED_AGAIN_MIN, -(-len(others) // ROUNDS_FOR_ALL))
    start = (number - 1) * count % max(1, len(others))
    return (*others, *others)[start : start + min(count, len(others))]


@dataclass(frozen=True, slots=True)
class _Round:
    """What an epoch's audits are about."""

    epoch: EpochNumber
    previous: EpochResult
    seed: Hash32
    band_of: BandOf
    judged_from: Callable[[ModelId], int]
    """The first epoch whose answers of a model can be judged."""


@runtime_checkable
class AuditingEngine(CheckingEngine, Protocol):
    """An ML node that can read the answers of others."""

    @property
    def node_id(self) -> NodeId:
        """The ML node's name."""


class Challenges(Challenged, Protocol):
    """Where challenges come from."""

    def take(self, epoch: EpochNumber) -> tuple[SignedReceipt, ...]:
        """Return those for the bundle of an epoch, in its order; the same until that is written."""


def _which(signed: SignedReceipt) -> dict[str, str]:
    return {"executor": signed.receipt.executor, "receipt": receipt_digest(signed.receipt).hex()}


class AuditingService:
    """Audits in every epoch in whose group this account is; watches over the answers that this account paid for, in a
    group or not."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        content: Content,
        store: Store,
        presence: PresenceTable,
        epochs: EpochBook,
        engines: Sequence[object],
        keeper: ReceiptBookKeeper,
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`engines` are the ML nodes of this daemon; those that can prefill audit."""
        self._chain = chain
        self._network = network
        self._content = content
        self._store = store
        self._presence = presence
        self._epochs = epochs
        self._engines = [engine for engine in engines if isinstance(engine, AuditingEngine)]
        self._keeper = keeper
        self._votes = KeptAudits(store, EpochNumber(-1))
        """Of the present epoch."""
        self._slicer = Slicer()
        self._evidence = EvidenceKeeping(chain, store, keeper, self._slicer)
        self.omission_keeping = OmissionKeeping(chain, network, content, store, presence, self._slicer, random_bytes)
        self._asking = trio.CapacityLimiter(ASKED_AT_ONCE)
        self._reading = defaultdict[NodeId, trio.CapacityLimiter](partial(trio.CapacityLimiter, READ_AT_ONCE))
        self._gone_at: dict[NodeId, float] = {}
        """Engines that died or hung over an answer, and when, by trio's clock."""
        self._failed_at: dict[NodeId, float] = {}
        """Likewise, and those that refused one, or read it in no try: others with the model come first."""
        self._watch = AnswerWatch(READ_SILENCE_SECONDS)
        self.challenges: Challenges | None = None
        """Answers that this node paid for and wants judged; None where there are none."""
        keeper.serve(network, self._evidence)

    async def run(self) -> None:
        """Audit in every epoch."""
        async for epoch in epochs_at(self._chain, Stage.SERVE, Stage.EXCHANGE):
            end = first_block_of(epoch, Stage.VALIDATE, self._chain.schedule)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_at, self._chain, end, nursery.cancel_scope)
                await self._audit(epoch)
                nursery.cancel_scope.cancel()

    async def complete(self, bundle: VoteBundle) -> VoteBundle:
        """Return the bundle with this node's audits and its receipt book."""
        newest = self._epochs.newest_result()
        if newest is not None:  # also where this node was not there when it came
            await self._keeper.note_counted(BooksOfResult(newest).newest(self._chain.account))
        receipts = await self._keeper.book(bundle.epoch, max(self._chain.state.results, default=None))
        kept = KeptAudits(self._store, bundle.epoch)
        taken = () if self.challenges is None else self.challenges.take(bundle.epoch)
        able = [signed for signed in taken if are_names_short(signed.receipt)][:CHALLENGES_MAX]
        for signed in taken:
            if not are_names_short(signed.receipt):  # one such would void the bundle
                log.error("an answer cannot be challenged: its receipt has too long a name", **_which(signed))
        by_digest = {receipt_digest(signed.receipt): signed for signed in able}
        challenges = tuple(by_digest[digest] for digest in sorted(by_digest))
        omissions = self.omission_keeping.for_bundle(bundle.epoch)
        return replace(
            bundle,
            audits=as_many_as_fit(kept.votes, bundle.epoch),
            receipts=receipts,
            omissions=omissions,
            challenges=challenges,
        )

    def votes(self, epoch: EpochNumber) -> tuple[AuditVote, ...]:
        """Return this node's audits of an epoch, in a bundle's order."""
        return KeptAudits(self._store, epoch).votes

    def omissions(self, epoch: EpochNumber) -> KeptOmissions:
        """Return what this node knows of receipts that were not booked as they must, of an epoch's books."""
        return self.omission_keeping.of(epoch)

    async def _audit(self, epoch: EpochNumber) -> None:
        begin = first_block_of(epoch, Stage.SERVE, self._chain.schedule)
        state = await self._chain.state_at(begin)
        previous = await self._epochs.result_before(epoch, state)
        if previous is None:
            return
        seed = await self._chain.block_hash(first_block_of(previous.epoch, Stage.FORM, self._chain.schedule))
        since = partial(judged_from, state, self._chain.schedule)
        work = _Round(epoch, previous, seed, bands_of(state, previous.group), since)
        await self._keeper.note_counted(BooksOfResult(previous).newest(self._chain.account))
        self._warn_of_missing_book(previous)
        await self._evidence.begin(epoch, previous, seed, () if self.challenges is None else self.challenges.held())
        if self.challenges is not None:
            await self._evidence.forget_challenged(self.challenges, previous.epoch)
        if all(member.participant != self._chain.account for member in previous.group.members):
            await self.omission_keeping.run(epoch, previous)  # who is no member may be a payer
            return
        self._votes = KeptAudits(self._store, epoch)
        draws = await self._slicer.run(own_draws_in_slices(previous, seed, self._chain.account))
        again = judged_again(previous, seed, self._chain.account)
        await self._expect(draws, again)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.omission_keeping.run, epoch, previous)
            await self._audit_all(draws, again, work)
            counts = {verdict.value: sum(vote.verdict is verdict for vote in self.votes(epoch)) for verdict in Verdict}
            log.info("audits of this epoch are done", epoch=epoch, **counts)

    async def _audit_all(
        self, draws: Mapping[Address, Sequence[int]], again: Mapping[Address, Sequence[AuditTask]], work: _Round
    ) -> None:
        """Audit what was drawn, and judge `again` what this node is to."""
        async with trio.open_nursery() as nursery:
            for committed in work.previous.books:
                if committed.executor in draws:
                    nursery.start_soon(self._audit_book, committed, draws[committed.executor], work)
            for executor, tasks in again.items():
                nursery.start_soon(self._judge_again, executor, tasks, work)

    async def _expect(
        self, draws: Mapping[Address, Sequence[int]], again: Mapping[Address, Sequence[AuditTask]]
    ) -> None:
        """Write down what stays if time runs out: a book that does not come leaves all its draws withheld."""
        for executor, numbers in draws.items():
            for draw in numbers:
                task = AuditTask(executor, draw, NO_DIGEST, None)
                self._votes.setdefault(task_order(task), abstention(task, WITHHELD))
        for tasks in again.values():
            for task in tasks:
                self._votes.setdefault(task_order(task), abstention(task, "no-time"))
        await self._slicer.run(self._votes.write_in_slices())

    def _warn_of_missing_book(self, previous: EpochResult) -> None:
        """Tell the operator if the newest result has no votes, and so no book, of this node."""
        missing = next((one for one in previous.books_missing if one.executor == self._chain.account), None)
        if missing is None:
            return
        if missing.due_from < missing.due_before:
            log.error(
                "for the second time running no votes of this node were counted, and no book of its receipts with "
                "them: payers can prove that these are left out, which takes up to 30 % of its reward; see that its "
                "votes are committed, and that others can fetch them",
                epoch=previous.epoch,
            )
        else:
            log.warning(
                "no votes of this node were counted, and no book of its receipts with them: its next book has them "
                "too, and if that is missing as well, payers can prove that they are left out",
                epoch=previous.epoch,
            )

    async def _audit_book(self, committed: CommittedBook, draws: Sequence[int], work: _Round) -> None:
        """Audit what was drawn from one book, once it has come."""
        executor = committed.executor
        rows = await self._rows(committed, draws)
        drawn: Mapping[int, BookRow] = {}
        if rows is not None:
            drawn = await self._slicer.run(
                drawn_rows_in_slices(work.seed, executor, committed.book, rows, work.previous.group)
            )
        tasks = []
        for draw in draws:
            row, nameless = drawn.get(draw), AuditTask(executor, draw, NO_DIGEST, None)
            if row is not None:
                task = AuditTask(executor, draw, row.digest, row)
                tasks.append(task)
                if self._is_open(task) and self._handed_over(task) is None:
                    self._votes[task_order(task)] = abstention(task, "no-time")
            elif rows is None:
                self._votes[task_order(nameless)] = abstention(nameless, "not-the-book")
            else:
                self._votes[task_order(nameless)] = abstention(nameless, DRAWN_AGAIN)  # audited once
        self._votes.write()
        await self._in_rounds(tasks, work)

    def _is_open(self, task: AuditTask) -> bool:
        return self._votes[task_order(task)].reason in OPEN_REASONS

    async def _rows(self, committed: CommittedBook, draws: Sequence[int]) -> BookRows | None:
        """Fetch a book; None if it is not what was committed to. Tries until cancelled.

        Where it is this node's own disk that refuses, nothing is said against the executor meanwhile.
        """
        executor = committed.executor
        while True:
            try:
                data = await self._content.read_bytes(
                    committed.book.content_cid, self._presence.providers(executor), limit_bytes=BOOK_BYTES_MAX
                )
                return await self._slicer.run(read_book_in_slices(data, committed.book))
            except ContentUnavailableError as error:
                log.info("a receipt book is not to be had yet", executor=executor, reason=str(error))
                if isinstance(error, ContentNotHeldError):
                    for task in (AuditTask(executor, draw, NO_DIGEST, None) for draw in draws):
                        self._votes[task_order(task)] = abstention(task, "no-time")
                    self._votes.write()
                await trio.sleep(ROUND_SECONDS)
            except (BadContentError, BookError) as error:
                log.warning("a receipt book is void", executor=executor, reason=str(error))
                return None

    async def _judge_again(self, executor: Address, tasks: Sequence[AuditTask], work: _Round) -> None:
        """Judge answers of one executor again, but none that it is accused of and no draw fell on: such a one somebody
        chose among all that it ever gave.

        As long as nothing says what was drawn, all are judged: a book that does not come holds up nothing, and one that
        comes late takes votes back, until this is cancelled.
        """
        accused, undrawn = accused_answers(work.previous, executor), set[Hash32]()
        looked, judging = trio.Event(), trio.CancelScope()

        async def look() -> None:
            drawn = await self._drawn_before(executor, work.previous) if accused else None
            undrawn.update(() if drawn is None else accused - drawn)
            if undrawn:
                judging.cancel()
            looked.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            with judging:
                with trio.move_on_after(HEAD_START_SECONDS):
                    await looked.wait()
                await self._in_rounds(tasks, work)
        if undrawn:
            log.warning("accused answers are not judged: no draw fell on them", executor=executor, answers=len(undrawn))
            for task in tasks:
                if task.digest in undrawn:
                    self._votes[task_order(task)] = abstention(task, NOT_DRAWN)
            self._votes.write()
            await self._in_rounds(tasks, work)

    async def _drawn_before(self, executor: Address, previous: EpochResult) -> frozenset[Hash32] | None:
        """Return which answers of an executor draws fell on in the epoch of `previous`, whose audits accuse of these
        alone. None if that cannot be said here; tries until cancelled.

        They are drawn from the result before it, which does not change any more: results come, and go, in their epoch.
        """
        before = self._epochs.known_before(previous.epoch, self._chain.state)
        committed = None if before is None else next((one for one in before.books if one.executor == executor), None)
        if before is None or committed is None:
            return None
        rows = await self._rows(committed, ())
        if rows is None:
            return None
        seed = await self._chain.block_hash(first_block_of(before.epoch, Stage.FORM, self._chain.schedule))
        drawn = drawn_rows_in_slices(seed, executor, committed.book, rows, before.group)
        return frozenset(row.digest for row in (await self._slicer.run(drawn)).values())

    async def _in_rounds(self, tasks: Sequence[AuditTask], work: _Round) -> None:
        """Audit answers of one executor, one after the other; what is not handed over is asked for again and again."""
        number = 0
        while waiting := [task for task in tasks if self._is_open(task)]:
            for task in waiting:
                self._votes[task_order(task)] = await self._vote_or_abstain(task, work, number)
                self._votes.write()
            number += 1
            if any(self._is_open(task) for task in tasks):
                await trio.sleep(ROUND_SECONDS)

    async def _vote_or_abstain(self, task: AuditTask, work: _Round, number: int = 0) -> AuditVote:
        """Return the vote; an abstention that blames nobody if this node's own code fails at what it was handed.

        `number` says how often it was asked for before.
        """
        try:
            return await self._vote(task, work, number)
        except Exception:
            log.exception("an audit failed; the others go on", executor=task.executor, receipt=task.digest.hex())
            return replace(self._handed_over(task) or abstention(task, ENGINE_FAILED), reason=ENGINE_FAILED)

    async def _vote(self, task: AuditTask, work: _Round, number: int) -> AuditVote:
        handed_over = self._handed_over(task)
        if handed_over is not None and self._engine(handed_over.model_id) is None:
            return handed_over  # it is not asked for again before there is an engine for it
        try:
            async with self._asking:
                if handed_over is None and not (task.draw == REJUDGED and number == 0):  # all are asked first
                    self._votes[task_order(task)] = abstention(task, WITHHELD)
                    self._votes.write()
                evidence = await self._find_evidence(task, work.previous, number)
        except NotHandedOverError as error:
            return handed_over or abstention(task, error.code)
        receipt = evidence.signed.receipt
        named = replace(abstention(task, "no-model"), node_id=receipt.node_id, model_id=receipt.model_id)
        named = replace(named, receipt_digest=task.digest)
        wrong = await self._what_is_wrong(evidence, task)
        if task.booked is not None and (is_too_old(receipt) or is_late(receipt, work.previous)):
            wrong = wrong or "too-old"
        if wrong:
            return replace(named, reason=wrong)
        model = work.previous.group.get_epoch_model(receipt.model_id)
        if unjudged := why_unjudged(receipt, model, work.judged_from(receipt.model_id)):
            return replace(named, reason=unjudged)
        engine = self._engine(receipt.model_id)
        if model is None or engine is None:
            is_coming = model is not None and receipt.model_id in self._expected(work)
            return replace(named, reason="no-time") if is_coming else named
        if not is_readable(evidence, model, engine.vocabulary_size):
            return replace(named, reason="not-the-tokens")
        self._votes[task_order(task)] = replace(named, reason="no-time")
        self._votes.write()
        band = work.band_of(task.executor, receipt.node_id, receipt.model_id)
        is_again = task.draw == REJUDGED
        try:
            figures = await self._read(
                engine,
                model.model_id,
                lambda _: read_evidence(engine, model, evidence, band, work.seed, is_judged_again=is_again),
            )
        except ModelGoneError as error:
            log.warning("an engine reads no answers now", node=engine.node_id, reason=str(error))
            return self._votes[task_order(task)]
        if isinstance(figures, str):
            return replace(named, reason=figures)
        if figures is None:
            return replace(named, reason=ENGINE_FAILED)
        verdict, reason = judge_figures(figures, band)
        if verdict is Verdict.INVALID:
            reason = VECTORS if receipt.vectors else reason
            log.warning("an answer is not the model's", executor=task.executor, reason=reason, tokens=figures.tokens)
        return replace(named, verdict=verdict, figures=figures, reason=reason)

    def _handed_over(self, task: AuditTask) -> AuditVote | None:
        """Return what stands of an answer whose evidence came already: whoever handed it over withheld nothing."""
        vote = self._votes.get(task_order(task))
        return vote if vote is not None and vote.model_id and vote.reason in OPEN_REASONS else None

    def _engine(self, model_id: ModelId) -> AuditingEngine | None:
        """Return who reads an answer of a model: of those that have it ready, one that did not fail at any, or longest
        ago, and has least to read."""
        ready = (engine for engine in self._engines if engine.model_id == model_id)
        return min(ready, key=lambda one: (self._failed_at.get(one.node_id, 0.0), self._asked_of(one)), default=None)

    def _asked_of(self, engine: AuditingEngine) -> int:
        """How many answers an engine reads or is to read."""
        places = self._reading[engine.node_id]
        return places.borrowed_tokens + places.statistics().tasks_waiting

    async def _read(
        self,
        engine: AuditingEngine,
        model_id: ModelId,
        read: Callable[[Callable[[], bool]], Awaitable[AuditFigures | str | None]],
    ) -> AuditFigures | str | None:
        """Return what `read` has the engine find, when it is this one's turn. Raises ModelGoneError; of those who wait
        for an engine that hangs all go to another."""
        began = trio.current_time()
        async with self._reading[engine.node_id]:
            if self._gone_at.get(engine.node_id, -1.0) >= began:
                raise ModelGoneError(f"the ML node {engine.node_id} died or hung over another answer")
            try:
                figures = await while_ready(engine, model_id, read, self._watch)
            except ModelGoneError:
                self._failed_at[engine.node_id] = self._gone_at[engine.node_id] = trio.current_time()
                raise
        if figures is None:
            self._failed_at[engine.node_id] = trio.current_time()
        else:
            self._watch.answered(engine.node_id)
        return figures

    def _expected(self, work: _Round) -> set[ModelId]:
        """Return the models that engines here may have ready yet."""
        return expected_models(self._chain, (engine.node_id for engine in self._engines), work.previous.group)

    async def _find_evidence(self, task: AuditTask, previous: EpochResult, number: int) -> AuditEvidence:
        """Return the evidence: what is kept here, else from the executor, else from whoever else judges it."""
        kept = await self._evidence.kept(task.digest)
        if kept is not None and not await self._what_is_wrong(kept, task):
            return without_surplus(kept)
        holders = [task.executor]
        if task.draw == REJUDGED:
            own = (self._chain.account, task.executor)
            others = [m.participant for m in previous.group.members if m.participant not in own]
            holders += asked_again(others, number)
        participants = self._chain.state.participants
        peers = list(dict.fromkeys(participants[account].peer_id for account in holders if account in participants))
        evidence = await ask_for_evidence(
            self._network, peers, task.executor, task.digest, task.booked, self._slicer, is_accused=task.is_accused
        )
        evidence = without_surplus(evidence)  # nobody committed to it, so nothing is judged by it
        await self._evidence.keep_fetched(evidence)
        return evidence

    async def _what_is_wrong(self, evidence: AuditEvidence, task: AuditTask) -> str:
        return await self._slicer.run(
            what_is_wrong_in_slices(evidence, task.executor, task.digest, task.booked, is_accused=task.is_accused)
        )
