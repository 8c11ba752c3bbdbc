"""Audits the answers of others: fetches what is drawn, reads it with its own engine, and votes.

*Purpose.* The newest result before an epoch names the books; the draw follows from a block after them. Until VALIDATE
this node asks for the evidence of what it was drawn to audit and of whatever the group judges again, checks it, has its
own engine read it at low priority, and writes each vote down before it goes on. The votes travel in the bundle with
those on batches (`complete`).

*Detail.* Work is bounded by the draw. Who does not hand over is asked again and again, in rounds, so that it holds up
no other audit; what it has not handed over at the end is voted withheld. What this node lacks itself is an abstention.
"""

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import structlog
import trio

from node.ports import (
    BadContentError,
    Chain,
    Content,
    ContentUnavailableError,
    EngineFailedError,
    EngineRefusedError,
    Network,
    Store,
)
from node.protocol.asking import is_too_old
from node.protocol.audit_bands import bands_of
from node.protocol.audit_evidence import (
    AuditEvidence,
    KeptAnswer,
    are_names_short,
    what_is_wrong,
    without_surplus,
)
from node.protocol.audit_outcomes import DRAWN_AGAIN, WITHHELD, BandOf
from node.protocol.audit_sampling import auditors_of, drawn_rows_in_slices, judges_of, own_draws_in_slices
from node.protocol.audit_votes import CHALLENGES_MAX, NO_DIGEST, REJUDGED
from node.protocol.audits import NO_FIGURES, add_figures, answer_figures, judge_figures
from node.protocol.bands import HonestBand
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.draws import Drawn
from node.protocol.due_books import BooksOfResult, is_late
from node.protocol.findings import AUDIT_TOKENS_MAX, AuditFigures, AuditVote, CommittedBook
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId, PeerId
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BOOK_BYTES_MAX, BookError, BookRow, BookRows, read_book_in_slices, read_rows
from node.protocol.records import EpochResult, ModelRecord, SignedReceipt, VoteBundle
from node.protocol.sketches import INPUTS_JUDGED_AGAIN_MAX, INPUTS_JUDGED_MAX, judged_inputs
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import makes_vectors
from node.protocol.vector_audits import VECTORS
from node.protocol.verdicts import Verdict
from node.services.audit_asking import NotHandedOverError, ask_for_evidence
from node.services.epochs import EpochBook
from node.services.kept_audits import KeptAudits
from node.services.kept_omissions import KeptOmissions
from node.services.omission_keeping import OmissionKeeping
from node.services.presence import PresenceTable
from node.services.receipt_book import ReceiptBookKeeper
from node.services.receipt_tokens import CANDIDATES, CheckingEngine
from node.services.slicing import Slicer
from node.services.timing import cancel_at, epochs_at
from node.services.vector_checks import EmbeddingEngine, are_inputs_as_asked, read_vector_figures

log = structlog.get_logger(__name__)

AUDIT_PRIORITY = 10
"""Users' requests, at 0, run first."""
ASKED_AT_ONCE = 64
"""Executors; of each, one answer after the other. Whoever keeps silent holds up no other audit."""
READ_AT_ONCE = 2
"""Answers that this node's engines read side by side for audits."""
OPEN_REASONS = frozenset({"no-time", WITHHELD, "engine-failed"})
"""Of abstentions that another try may change."""
ROUND_SECONDS = 10.0
"""Between two rounds of asking those who have not handed over yet."""
ENGINE_TRIES = 3
TOKENS_PER_SLICE = 32
"""Tokens that are judged before others get their turn on this thread: some milliseconds."""
FORGOTTEN_AT_ONCE = 64
"""Pieces of evidence: more at once would save nothing."""
FORGOTTEN_FIRST = 4
"""So few before it is known how quick the disk is."""
FORGETTING_SECONDS = 0.005
"""What a lot of them may take, while nobody else has a turn: a disk that is busy, or reads what it has not at hand, is
given smaller lots."""
EPOCHS_KEPT = 3
"""Evidence of others is kept so long: an accusation may be open for some epochs. Counted from the newest result, as
long as there is none after it: its books are drawn from in every epoch until then."""
FETCHED_BYTES_MAX = 1 << 27
"""Of evidence of others that is kept in one epoch: what is kept of this node's own answers shares the room, and must
not be driven out. What is beyond is fetched anew if it is needed again."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One answer to audit."""

    executor: Address
    draw: int
    digest: Hash32
    booked: BookRow | None
    """Its row in the executor's book; None for what is judged again."""
    is_accused: bool = False
    """Whether it is judged again because its executor is accused by it, and not because it was challenged alone."""


@dataclass(frozen=True, slots=True)
class _Round:
    """What an epoch's audits are about."""

    epoch: EpochNumber
    previous: EpochResult
    seed: Hash32
    band_of: BandOf


class Challenges(Protocol):
    """Where challenges come from."""

    def take(self, epoch: EpochNumber) -> tuple[SignedReceipt, ...]:
        """Return those for the bundle of an epoch, in its order; they are not given again."""


class AuditingService:
    """Audits in every epoch in whose group this account is; decides who may see this node's own answers; watches over
    the answers that this account paid for, in a group or not."""

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
        self._engines = [engine for engine in engines if isinstance(engine, CheckingEngine)]
        self._keeper = keeper
        self._allowed: Mapping[Hash32, frozenset[Address]] = {}
        """Who may see which answer; of the present epoch's draw."""
        self._votes = KeptAudits(store, EpochNumber(-1))
        """Of the present epoch."""
        self._still_asked: frozenset[EpochNumber] = frozenset()
        """Old epochs whose evidence is kept since no newer result has come. At most EPOCHS_KEPT; after a restart they
        are not known, and what is kept of them only goes when there is no room."""
        self._fetched_bytes = 0
        """Of evidence of others that was kept in this epoch."""
        self._slicer = Slicer()
        self.omission_keeping = OmissionKeeping(chain, network, content, store, presence, self._slicer, random_bytes)
        self._asking = trio.CapacityLimiter(ASKED_AT_ONCE)
        self._reading = trio.CapacityLimiter(READ_AT_ONCE)
        self.challenges: Challenges | None = None
        """Answers that this node paid for and wants judged; None where there are none."""
        keeper.serve(network, self)

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
        by_digest = {receipt_digest(signed.receipt): signed for signed in able}
        challenges = tuple(by_digest[digest] for digest in sorted(by_digest))
        omissions = self.omission_keeping.for_bundle(bundle.epoch)
        return replace(bundle, audits=kept.votes, receipts=receipts, omissions=omissions, challenges=challenges)

    def votes(self, epoch: EpochNumber) -> tuple[AuditVote, ...]:
        """Return this node's audits of an epoch, in a bundle's order."""
        return KeptAudits(self._store, epoch).votes

    def omissions(self, epoch: EpochNumber) -> KeptOmissions:
        """Return what this node knows of receipts that were not booked as they must, of an epoch's books."""
        return self.omission_keeping.of(epoch)

    def may_see(self, peer: PeerId, digest: Hash32) -> bool:
        """Whether a peer was drawn to audit the receipt `digest`, or judges it again."""
        allowed = self._allowed.get(digest, frozenset())
        participants = self._chain.state.participants
        return any(participants[account].peer_id == peer for account in allowed if account in participants)

    async def _audit(self, epoch: EpochNumber) -> None:
        begin = first_block_of(epoch, Stage.SERVE, self._chain.schedule)
        state = await self._chain.state_at(begin)
        previous = await self._epochs.result_before(epoch, state)
        if previous is None:
            return
        seed = await self._chain.block_hash(first_block_of(previous.epoch, Stage.FORM, self._chain.schedule))
        work = _Round(epoch, previous, seed, bands_of(state, previous.group))
        await self._keeper.note_counted(BooksOfResult(previous).newest(self._chain.account))
        self._warn_of_missing_book(previous)
        own = await self._own_drawn(work)
        self._allowed = {**own, **_accused(previous)}
        await self._forget_all_but(own, previous.epoch)
        await self._forget_old(epoch, previous.epoch)
        self._fetched_bytes = 0
        if all(member.participant != self._chain.account for member in previous.group.members):
            await self.omission_keeping.run(epoch, previous)  # who is no member may be a payer
            return
        self._votes = KeptAudits(self._store, epoch)
        draws = await self._slicer.run(own_draws_in_slices(previous, seed, self._chain.account))
        again = self._judged_again(previous, seed)
        await self._expect(draws, again)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.omission_keeping.run, epoch, previous)
            await self._audit_all(draws, again, work)
            counts = {verdict.value: sum(vote.verdict is verdict for vote in self.votes(epoch)) for verdict in Verdict}
            log.info("audits of this epoch are done", epoch=epoch, **counts)

    async def _audit_all(
        self, draws: Mapping[Address, Sequence[int]], again: Mapping[Address, Sequence[_Task]], work: _Round
    ) -> None:
        """Audit what was drawn, and judge `again` what this node is to."""
        async with trio.open_nursery() as nursery:
            for committed in work.previous.books:
                if committed.executor in draws:
                    nursery.start_soon(self._audit_book, committed, draws[committed.executor], work)
            for tasks in again.values():
                nursery.start_soon(self._in_rounds, tasks, work)

    async def _expect(self, draws: Mapping[Address, Sequence[int]], again: Mapping[Address, Sequence[_Task]]) -> None:
        """Write down what stays if time runs out: a book that does not come leaves all its draws withheld."""
        for executor, numbers in draws.items():
            for draw in numbers:
                task = _Task(executor, draw, NO_DIGEST, None)
                self._votes.setdefault(_order(task), _abstain(task, WITHHELD))
        for tasks in again.values():
            for task in tasks:
                self._votes.setdefault(_order(task), _abstain(task, "no-time"))
        await self._slicer.run(self._votes.write_in_slices())

    async def _own_drawn(self, work: _Round) -> dict[Hash32, frozenset[Address]]:
        """Return who audits which of this node's own answers; nothing if its book here is not the committed one."""
        account = self._chain.account
        own = next((committed for committed in work.previous.books if committed.executor == account), None)
        data = self._keeper.given.book(work.previous.epoch)
        if own is None or not data:
            return {}
        try:
            rows = await self._slicer.run(read_book_in_slices(data, own.book))
        except BookError as error:
            log.error(
                "this node's book of receipts is not the one that it committed to: its answers of that epoch cannot be "
                "shown to auditors and count as withheld; this happens when a backup from before the commitment is "
                "restored, and ends with the next epoch's book",
                epoch=work.previous.epoch,
                reason=str(error),
            )
            return {}
        drawn = await self._slicer.run(drawn_rows_in_slices(work.seed, account, own.book, rows, work.previous.group))
        return {
            row.digest: frozenset(auditors_of(work.seed, account, draw, work.previous.group))
            for draw, row in drawn.items()
        }

    async def _forget_all_but(self, drawn: Collection[Hash32], epoch: EpochNumber) -> None:
        """Forget this node's own answers in the book of `epoch` that were not drawn; all stay if none was drawn, for
        then the result has no book of this node's."""
        if drawn:
            rows = read_rows(self._keeper.given.book(epoch) or b"")
            await self._forget(row.digest for row in rows if row.digest not in drawn)

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

    async def _forget_old(self, epoch: EpochNumber, newest_result: EpochNumber) -> None:
        """Forget evidence that nobody asks for any more: this node's own and what it fetched."""
        old = self._still_asked | {EpochNumber(epoch - EPOCHS_KEPT)}
        last = min(epoch, newest_result + 1) - EPOCHS_KEPT
        self._still_asked = frozenset(number for number in old if last < number <= newest_result)
        for number in sorted(old - self._still_asked):
            if self._keeper.given.is_counted(number):  # what others have is booked again, and kept until then
                await self._forget(row.digest for row in read_rows(self._keeper.given.book(number) or b""))
            if number <= newest_result:  # after it, each epoch's audits are of the same answers, this one's as well
                await self._forget(vote.receipt_digest for vote in self.votes(number))
        # Nothing pushes vectors out: what books passed over, or was drawn while this node was away, has to go as well.
        await self._forget(self._keeper.given.old_vectors(newest_result - EPOCHS_KEPT))

    async def _forget(self, digests: Iterable[Hash32]) -> None:
        """Forget evidence in lots, between which others have their turn; but nothing that may be asked for now."""
        left, count = (digest for digest in digests if digest not in self._allowed), FORGOTTEN_FIRST
        while lot := list(islice(left, count)):
            began = trio.current_time()
            self._keeper.given.forget(lot)
            count = next_lot(len(lot), trio.current_time() - began)
            await trio.lowlevel.checkpoint()

    def _judged_again(self, previous: EpochResult, seed: Hash32) -> dict[Address, list[_Task]]:
        """Return what is judged again, by executor; each one's answers in an order that follows from `seed`.

        The same for all judges, so that they hear the same ones if time runs out, and nobody's choice: an executor
        could else give its true and heavy answers digests that come first.
        """
        found: dict[Address, list[_Task]] = {}
        for outcome in previous.audits:
            if self._chain.account in judges_of(outcome, previous.group):
                accused = set(outcome.accused)
                found.setdefault(outcome.executor, []).extend(
                    _Task(outcome.executor, REJUDGED, digest, None, digest in accused)
                    for digest in dict.fromkeys((*outcome.accused, *outcome.challenged))
                )
        for tasks in found.values():
            tasks.sort(key=lambda task: hashlib.sha256(seed + task.digest).digest())
        return found

    async def _audit_book(self, committed: CommittedBook, draws: Sequence[int], work: _Round) -> None:
        """Audit what was drawn from one book, once it has come."""
        executor = committed.executor
        rows = await self._rows(committed)
        drawn: Mapping[int, BookRow] = {}
        if rows is not None:
            drawn = await self._slicer.run(
                drawn_rows_in_slices(work.seed, executor, committed.book, rows, work.previous.group)
            )
        tasks = []
        for draw in draws:
            row, nameless = drawn.get(draw), _Task(executor, draw, NO_DIGEST, None)
            if row is not None:
                task = _Task(executor, draw, row.digest, row)
                tasks.append(task)
                if self._is_open(task):
                    self._votes[_order(task)] = _abstain(task, "no-time")
            elif rows is None:
                self._votes[_order(nameless)] = _abstain(nameless, "not-the-book")
            else:
                self._votes[_order(nameless)] = _abstain(nameless, DRAWN_AGAIN)  # audited once
        self._votes.write()
        await self._in_rounds(tasks, work)

    def _is_open(self, task: _Task) -> bool:
        return self._votes[_order(task)].reason in OPEN_REASONS

    async def _rows(self, committed: CommittedBook) -> BookRows | None:
        """Fetch a book; None if it is not what was committed to. Tries until cancelled."""
        executor = committed.executor
        while True:
            try:
                data = await self._content.read_bytes(
                    committed.book.content_cid, self._presence.providers(executor), limit_bytes=BOOK_BYTES_MAX
                )
                return await self._slicer.run(read_book_in_slices(data, committed.book))
            except ContentUnavailableError as error:
                log.info("a receipt book is not to be had yet", executor=executor, reason=str(error))
                await trio.sleep(ROUND_SECONDS)
            except (BadContentError, BookError) as error:
                log.warning("a receipt book is void", executor=executor, reason=str(error))
                return None

    async def _in_rounds(self, tasks: Sequence[_Task], work: _Round) -> None:
        """Audit answers of one executor, one after the other; what is not handed over is asked for again and again."""
        while waiting := [task for task in tasks if self._is_open(task)]:
            for task in waiting:
                self._votes[_order(task)] = await self._vote_or_abstain(task, work)
                self._votes.write()
            if any(self._is_open(task) for task in tasks):
                await trio.sleep(ROUND_SECONDS)

    async def _vote_or_abstain(self, task: _Task, work: _Round) -> AuditVote:
        """Return the vote; an abstention that blames nobody if this node's own code fails at what it was handed."""
        try:
            return await self._vote(task, work)
        except Exception:
            log.exception("an audit failed; the others go on", executor=task.executor, receipt=task.digest.hex())
            return _abstain(task, "engine-failed")

    async def _vote(self, task: _Task, work: _Round) -> AuditVote:
        try:
            async with self._asking:
                self._votes[_order(task)] = _abstain(task, WITHHELD)
                self._votes.write()
                evidence = await self._evidence(task, work.previous)
        except NotHandedOverError as error:
            return _abstain(task, WITHHELD if error.code == WITHHELD else error.code)
        receipt = evidence.signed.receipt
        named = replace(_abstain(task, "no-model"), node_id=receipt.node_id, model_id=receipt.model_id)
        named = replace(named, receipt_digest=task.digest)
        wrong = what_is_wrong(evidence, task.executor, task.digest, task.booked, is_accused=task.is_accused)
        if task.booked is not None and (is_too_old(receipt) or is_late(receipt, work.previous)):
            wrong = wrong or "too-old"
        if wrong:
            return replace(named, reason=wrong)
        model = work.previous.group.get_epoch_model(receipt.model_id)
        engine = next((engine for engine in self._engines if engine.model_id == receipt.model_id), None)
        if model is None or model.cid != receipt.model_cid or engine is None:
            return named
        if makes_vectors(model) is not bool(receipt.vectors):
            return replace(named, reason="not-the-receipt")
        if not _is_readable(evidence, model, engine.vocabulary_size):
            return replace(named, reason="not-the-tokens")
        self._votes[_order(task)] = replace(named, reason="no-time")
        self._votes.write()
        band = work.band_of(task.executor, receipt.node_id, receipt.model_id)
        async with self._reading:
            figures = await _read(engine, evidence, band, work.seed, is_judged_again=task.draw == REJUDGED)
        if isinstance(figures, str):
            return replace(named, reason=figures)
        if figures is None:
            return replace(named, reason="engine-failed")
        verdict, reason = judge_figures(figures, band)
        if verdict is Verdict.INVALID:
            reason = VECTORS if receipt.vectors else reason
            log.warning("an answer is not the model's", executor=task.executor, reason=reason, tokens=figures.tokens)
        return replace(named, verdict=verdict, figures=figures, reason=reason)

    async def _evidence(self, task: _Task, previous: EpochResult) -> AuditEvidence:
        """Return the evidence: what is kept here, else from the executor, else from whoever else judges it."""
        kept = self._kept_evidence(task.digest)
        if kept is not None and not what_is_wrong(
            kept, task.executor, task.digest, task.booked, is_accused=task.is_accused
        ):
            return without_surplus(kept)
        holders = [task.executor]
        if task.draw == REJUDGED:
            holders += [m.participant for m in previous.group.members if m.participant != self._chain.account]
        participants = self._chain.state.participants
        peers = list(dict.fromkeys(participants[account].peer_id for account in holders if account in participants))
        evidence = await ask_for_evidence(
            self._network, peers, task.executor, task.digest, task.booked, is_accused=task.is_accused
        )
        evidence = without_surplus(evidence)  # nobody committed to it, so nothing is judged by it
        self._keep_fetched(evidence)
        return evidence

    def _kept_evidence(self, digest: Hash32) -> AuditEvidence | None:
        data = self._keeper.given.kept(digest)
        try:
            return None if data is None else from_bytes(AuditEvidence, data)
        except SchemaError as error:
            log.error("stored evidence cannot be read; it is fetched anew", reason=str(error)[:200])
            self._keeper.given.forget([digest])
            return None

    def _keep_fetched(self, evidence: AuditEvidence) -> None:
        """Keep evidence of others for those who judge it as well, as far as there is room for it."""
        data = to_bytes(evidence)
        if self._fetched_bytes + len(data) <= FETCHED_BYTES_MAX:
            self._fetched_bytes += len(data)
            self._keeper.given.keep(receipt_digest(evidence.signed.receipt), data)


def next_lot(count: int, seconds: float) -> int:
    """Return how many to forget at once after `count` took so long: as many as fit, at most twice as many, and one."""
    fitting = 2 * count if 2 * seconds <= FORGETTING_SECONDS else int(count * FORGETTING_SECONDS / seconds)
    return max(1, min(fitting, FORGOTTEN_AT_ONCE))


def _is_readable(evidence: AuditEvidence, model: ModelRecord, vocabulary_size: int) -> bool:
    """Whether an engine that has the model can read what it is to check."""
    if evidence.signed.receipt.vectors:
        inputs = () if evidence.vectors is None else evidence.vectors.inputs
        longest, ids = max(map(len, inputs), default=0), [token for entry in inputs for token in entry]
        is_short = longest <= model.context_length
    elif evidence.kept is None or not evidence.kept.answer.prompt_ids or not evidence.kept.answer.output_ids:
        return False
    else:
        is_short, ids = True, [*evidence.kept.answer.prompt_ids, *evidence.kept.answer.output_ids]
    return is_short and min(ids, default=-1) >= 0 and max(ids) < vocabulary_size


async def _read(
    engine: CheckingEngine, evidence: AuditEvidence, band: HonestBand, seed: Hash32, *, is_judged_again: bool
) -> AuditFigures | str | None:
    """Return the figures of an answer; of vectors some by the `seed` of the epoch's draws, more if it is judged
    again. None if the engine fails, a code if they are of other inputs than were asked for."""
    if not evidence.signed.receipt.vectors:
        return None if evidence.kept is None else await read_figures(engine, evidence.kept, band)
    if evidence.vectors is None or not isinstance(engine, EmbeddingEngine):
        return None
    count = INPUTS_JUDGED_AGAIN_MAX if is_judged_again else INPUTS_JUDGED_MAX
    places = judged_inputs(evidence.vectors.inputs, receipt_digest(evidence.signed.receipt), seed, count)
    is_as_asked = await are_inputs_as_asked(engine, evidence.vectors, evidence.request, places)
    if not is_as_asked:
        return None if is_as_asked is None else "not-the-tokens"
    return await read_vector_figures(engine, evidence.vectors, places, band.poc_distance_max)


async def read_figures(engine: CheckingEngine, kept: KeptAnswer, band: HonestBand) -> AuditFigures | None:
    """Return the figures of an answer, of a very long one those of its beginning; None if the engine fails.

    They are to be judged by `band`: with the rule's winners if it was measured with them, and else without.
    """
    answer = kept.answer
    drawn = Drawn(answer.seed, answer.sampling) if band.knows_winners else None
    first, tokens = len(answer.prompt_ids), answer.output_ids[:AUDIT_TOKENS_MAX]
    for _ in range(ENGINE_TRIES):
        try:
            prefills = await engine.prefill(
                (*answer.prompt_ids, *tokens), first, top=CANDIDATES, priority=AUDIT_PRIORITY, drawn=drawn
            )
            figures = NO_FIGURES
            for start in range(0, len(tokens), TOKENS_PER_SLICE):
                part = slice(start, start + TOKENS_PER_SLICE)
                fresh = answer_figures(
                    first + start, tokens[part], prefills[part], answer.seed, answer.sampling,
                    engine.vocabulary_size, kept.claimed[part],
                )  # fmt: skip
                figures = add_figures(figures, fresh)
                await trio.lowlevel.checkpoint()
        except (EngineFailedError, EngineRefusedError, ValueError) as error:
            log.warning("the engine failed while auditing", reason=str(error)[:200])
            await trio.sleep(1.0)
        else:
            return figures
    return None


def _accused(previous: EpochResult) -> dict[Hash32, frozenset[Address]]:
    return {
        digest: judges_of(outcome, previous.group)
        for outcome in previous.audits
        for digest in (*outcome.accused, *outcome.challenged)
    }


def _order(task: _Task) -> tuple[str, int, bytes]:
    return task.executor.lower(), task.draw, task.digest if task.draw == REJUDGED else b""


def _abstain(task: _Task, reason: str) -> AuditVote:
    digest = task.digest if task.draw == REJUDGED else NO_DIGEST
    return AuditVote(task.executor, task.draw, NodeId(""), ModelId(""), digest, Verdict.ABSTAIN, NO_FIGURES, reason)
