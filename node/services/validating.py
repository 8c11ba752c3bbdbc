"""Proof of Compute, the validator: recomputes a drawn sample of every batch, votes, commits the bundle on chain."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog
import trio
from eth_hash.auto import keccak

from node.ports import (
    ActionStatus,
    BadContentError,
    Chain,
    Content,
    ContentNotHeldError,
    ContentUnavailableError,
    Engine,
    EngineRefusedError,
    EquivocationError,
    Store,
)
from node.protocol.actions import CommitVotes
from node.protocol.bundles import VOTE_BUNDLE_BYTES_MAX, BundleError
from node.protocol.chain_state import ChainState
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.findings import Observations, VoteEvidence, VoteFigures
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.nonces import BATCH_NONCES_MAX, VECTOR_BYTES, VectorsRoot, squared_distance
from node.protocol.records import PocCommit, PocVote, VoteBundle
from node.protocol.slices import finish
from node.protocol.stages import Stage, first_block_of
from node.protocol.validation import SampleRule, judge, mismatches_of, unrelated_among
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from node.services.epochs import EpochBook
from node.services.expected_models import expected_models
from node.services.judging import Judging, judging_of
from node.services.keeping import store_proof
from node.services.loaded_versions import may_be_loaded
from node.services.presence import PresenceTable
from node.services.recomputing import AnswerWatch, ModelGoneError, recompute, while_ready
from node.services.timing import cancel_at, epochs_at, window
from node.services.turns import NotNowError, Wait, take_turns
from node.services.vote_checking import VoteChecker

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
REFUSED_SECONDS = 30.0
"""An engine that refused is left alone for so long: its key was changed, or what stands before it answers instead. Each
try reads a batch's file of up to 126 MB."""
JUDGED_AT_ONCE = 4
"""Batches in work side by side: fetching one while the engine computes another. Each is at most 126 MB in memory."""
HASHED_AT_ONCE = 1024
"""Vectors between two looks at what else there is to do: some 3 ms. No worker thread: its timing would make
simulations irreproducible."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What one epoch's judging has found out so far."""

    votes: dict[NodeKey, PocVote] = field(default_factory=dict)
    figures: dict[NodeKey, VoteFigures] = field(default_factory=dict)
    asked_early: set[NodeKey] = field(default_factory=set)
    """Batches whose files were asked for while there was time for them."""
    not_held: set[NodeKey] = field(default_factory=set)
    """Batches that this node's own disk had no room for when they were tried last."""
    came: set[NodeKey] = field(default_factory=set)
    """Batches whose files were here in good time: they are not withheld, whatever happens here."""
    ready: set[ModelId] = field(default_factory=set)
    """Models that an engine here had ready, or is registered for: it may have them ready yet."""
    refused_until: dict[NodeId, float] = field(default_factory=dict)
    """Engines that refused to read, and when each is asked again; by trio's clock."""
    gone_at: dict[NodeId, float] = field(default_factory=dict)
    """Engines that died or hung over a batch, and when: those that did not, or longest ago, come first."""


class BundleAudits(Protocol):
    """What else goes into a bundle: audits of answers, and this node's own book of receipts."""

    async def complete(self, bundle: VoteBundle) -> VoteBundle:
        """Return the bundle with both."""


class ValidatingService:
    """Votes on the batches of others whenever this account is in the group in charge."""

    def __init__(
        self,
        chain: Chain,
        content: Content,
        store: Store,
        presence: PresenceTable,
        epochs: EpochBook,
        engines: Sequence[Engine],
        auditing: BundleAudits | None = None,
        observe: Callable[[], Observations] = Observations,
    ) -> None:
        """`observe` gives what this node saw since it was asked last (observing.py)."""
        self._chain = chain
        self._epochs = epochs
        self._observe = observe
        self._content = content
        self._store = store
        self._presence = presence
        self._engines = engines
        self._checker = VoteChecker(chain, content, presence, epochs, engines)
        self._auditing = auditing
        self._watch = AnswerWatch()

    async def run(self) -> None:
        """Validate in every epoch, and check before it how others came to their votes of the last one."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._checker.run)
            async for epoch in epochs_at(self._chain, Stage.VALIDATE, Stage.VOTE_EXCHANGE):
                begin = first_block_of(epoch, Stage.VALIDATE, self._chain.schedule)
                state = await self._chain.state_at(BlockNumber(begin - 1))
                if dict(state.group_weights(epoch)).get(self._chain.account, 0) > 0:
                    await self._validate(epoch, state)
                else:
                    self._observe()  # else the first bundle after joining would tell of all epochs before as of one

    async def _judging(self, epoch: EpochNumber, state: ChainState) -> Judging | None:
        """Return the rules, unless the content they need does not come before votes are too late."""
        judging: Judging | None = None
        _, end = window(self._chain, epoch, Stage.VALIDATE, Stage.VOTE_EXCHANGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at, self._chain, end, nursery.cancel_scope)
            judging = await judging_of(self._chain, self._epochs, epoch, state)
            nursery.cancel_scope.cancel()
        return judging

    async def _validate(self, epoch: EpochNumber, state: ChainState) -> None:
        judging = await self._judging(epoch, state)
        if judging is None:
            log.error("no votes this epoch: the result that made the group is not to be had", epoch=epoch)
            self._observe()
            return
        stored = await self._in_time(epoch, judging, state)
        if stored is None:
            return
        bundle, cid = stored
        await self._chain.submit(f"votes/{epoch}", CommitVotes(epoch, cid))
        outcome = await self._chain.outcome(f"votes/{epoch}")
        counts = {verdict.value: sum(vote.verdict is verdict for vote in bundle.votes) for verdict in Verdict}
        if outcome.status is ActionStatus.DONE:
            log.info("votes are committed", epoch=epoch, **counts)
        else:
            log.error("the votes were refused", epoch=epoch, reason=outcome.reason)

    async def _in_time(self, epoch: EpochNumber, judging: Judging, state: ChainState) -> tuple[VoteBundle, Cid] | None:
        """Return the bundle that may be committed, as it is stored; None if there is none while it may be."""
        stored: tuple[VoteBundle, Cid] | None = None
        is_late = True
        _, end = window(self._chain, epoch, Stage.VALIDATE, Stage.VOTE_EXCHANGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at, self._chain, end, nursery.cancel_scope)
            stored = await self._stored_bundle(epoch, judging, state)
            is_late = False
            nursery.cancel_scope.cancel()
        if is_late:
            log.error("no votes this epoch: they were not on the disk in time", epoch=epoch)
            self._observe()  # it may not have come so far
        return stored

    async def _stored_bundle(
        self, epoch: EpochNumber, judging: Judging, state: ChainState
    ) -> tuple[VoteBundle, Cid] | None:
        """Make the bundle, or take that of a run before a restart, and store it; None if none may be committed."""
        bundle = self._stored(epoch)
        if bundle is None:
            bundle = await self._bundle(judging, await self._judge_all(judging, state))
            if self._auditing is not None:
                bundle = await self._auditing.complete(bundle)
            self._store.put_document(votes_document(epoch), to_bytes(bundle))
        bundle = self._sound(judging, bundle)
        if bundle is None:
            return None
        data = to_bytes(bundle)
        try:
            self._store.record_duty(f"votes/{epoch}", Hash32(keccak(data)))
        except EquivocationError:
            log.error(
                "no votes are committed: other votes of this epoch were prepared before a restart, and they cannot be "
                "read or committed any more; from the next epoch on this node votes again",
                epoch=epoch,
            )
            return None
        self._store.put_document(votes_document(epoch), data)
        return bundle, await store_proof(self._content, data, epoch, "votes")

    def _sound(self, judging: Judging, bundle: VoteBundle) -> VoteBundle | None:
        """Return the bundle, as far as it may be committed: the same part of the same bundle after a restart.

        What others signed is in it, and a fault there must not void this node's votes. None if nothing of it may be.
        """
        bytes_max = min(judging.bundle_limits.bytes_max, VOTE_BUNDLE_BYTES_MAX)
        for fewer in _ever_fewer(bundle, bytes_max):
            try:
                _require_size(fewer, bytes_max)
                finish(judging.read(to_bytes(fewer)))
                judging.check(fewer, self._chain.account)
            except ValueError as error:
                log.error("this node's own votes break the rules: a part is left out", reason=str(error)[:200])
            else:
                return fewer
        log.error("no votes this epoch: no part of them may be committed; report this", epoch=bundle.epoch)
        return None

    async def _judge_all(self, judging: Judging, state: ChainState) -> Findings:
        """Judge every batch but one's own; what is not judged by VOTE_EXCHANGE is an abstention.

        None on batches that do not count: anybody may commit thousands of them, at the price of the gas.
        """
        found = Findings(ready=expected_models(self._chain, (engine.node_id for engine in self._engines)))
        others = {key: commit for key, commit in judging.commits.items() if commit.participant != self._chain.account}

        async def judge_one(key: NodeKey) -> None:
            found.votes[key] = await self._judge(key, others[key], judging, found)

        expected = {key[0] for key in others if state.counts(key[0], judging.epoch)} | judging.judges.counted
        counted = [key for key in others if key[0] in expected]
        other = [key for key in others if key[0] not in expected]  # collateral may come until FORM
        for key in counted:
            found.votes[key] = _abstain(others[key], "no-time")
        end = first_block_of(judging.epoch, Stage.VOTE_EXCHANGE, self._chain.schedule)
        async with trio.open_nursery() as clock:
            clock.start_soon(cancel_at, self._chain, end, clock.cancel_scope)
            await take_turns(
                judge_one,
                _by_turns(counted),
                _by_turns(other),
                at_once=JUDGED_AT_ONCE,
                retry_seconds=RETRY_SECONDS,
            )
            clock.cancel_scope.cancel()
        for key in other:
            counts = self._chain.state.counts(key[0], judging.epoch)  # by now
            if key in found.votes and _says_nothing(found.votes[key]) and not counts:
                del found.votes[key]
        return found

    async def _bundle(self, judging: Judging, found: Findings) -> VoteBundle:
        votes = tuple(found.votes[key] for key in sorted(found.votes, key=_order))
        figures = tuple(found.figures[key] for key in sorted(found.figures, key=_order) if found.votes[key].sampled)
        evidence_cid = None
        if figures:
            evidence = VoteEvidence(judging.epoch, self._chain.account, figures)
            evidence_cid = await store_proof(self._content, to_bytes(evidence), judging.epoch, "evidence of votes")
        checks = self._checker.checks(EpochNumber(judging.epoch - 1), judging)
        return VoteBundle(
            judging.epoch,
            self._chain.account,
            votes,
            evidence_cid=evidence_cid,
            checks=checks,
            observations=self._observe(),
        )

    async def _judge(self, key: NodeKey, commit: PocCommit, judging: Judging, found: Findings) -> PocVote:
        """Return the vote on a batch. Raises ContentUnavailableError if its vectors are not to be had yet, and
        NotNowError if its engine is not."""
        model, rule = judging.models.get(commit.model_id), judging.rules.get(key)
        engine = self._engine(commit.model_id, found)
        if engine is None or model is None or rule is None or not may_be_loaded(self._chain, self._epochs, model):
            return _abstain(commit, "no-model")
        if not 0 < commit.count <= BATCH_NONCES_MAX:
            return _abstain(commit, "no-such-size")
        if self._is_early(judging.epoch):
            found.asked_early.add(key)
        if key in found.asked_early and key not in found.not_held and key not in found.came:
            found.votes[key] = _abstain(commit, "no-data")  # what stays if time runs out
        try:
            data = await self._fetch(commit)
        except ContentNotHeldError:
            found.votes[key] = _abstain(commit, "no-time")  # nobody withheld it
            found.not_held.add(key)
            raise
        except ContentUnavailableError:
            found.votes[key] = _abstain(commit, "no-time" if key in found.came else "no-data")
            found.not_held.discard(key)
            raise
        if data is None or len(data) != commit.count * VECTOR_BYTES:
            return _refuse(commit, "wrong-size")
        if await root_of(data) != commit.root:
            return _refuse(commit, "root-mismatch")
        if self._is_early(judging.epoch) or key not in found.asked_early or key in found.came:
            found.came.add(key)
            found.votes[key] = _abstain(commit, "no-time")
        # else it was asked for in time and came too late for it: who hands out fakes at the last moment withheld them
        sample = judging.sample_of(key)
        seeds = judging.generate_seed, judging.sample_seed
        try:
            own = await while_ready(
                engine,
                commit.model_id,
                lambda may_go_on: recompute(
                    engine, model, key, sample, *seeds, self._chain.account, may_go_on=may_go_on
                ),
                self._watch,
            )
        except EngineRefusedError as error:
            log.error("an engine refuses to judge a batch; it is asked again", node=engine.node_id, reason=str(error))
            found.refused_until[engine.node_id] = trio.current_time() + REFUSED_SECONDS
            raise NotNowError(str(error)) from error
        except ModelGoneError:
            found.gone_at[engine.node_id] = trio.current_time()
            raise
        found.refused_until.pop(engine.node_id, None)
        found.gone_at.pop(engine.node_id, None)
        distances = tuple(
            squared_distance(data[nonce * VECTOR_BYTES : (nonce + 1) * VECTOR_BYTES], vector)
            for nonce, vector in zip(sample, own.vectors, strict=True)
        )
        found.figures[key] = VoteFigures(*key, distances, own.tails)
        return _vote(commit, rule, sample, distances)

    def _engine(self, model_id: ModelId, found: Findings) -> Engine | None:
        """Return the engine that judges batches of a model, None if there is none for them.

        Raises NotNowError where it may be there again: a batch takes no place meanwhile, and its file is left alone.
        """
        engine = min(
            (engine for engine in self._engines if engine.model_id == model_id),
            key=lambda one: (found.refused_until.get(one.node_id, 0.0), found.gone_at.get(one.node_id, 0.0)),
            default=None,
        )
        until_askable = Wait(model_id, lambda: self._is_askable(model_id, found))
        if engine is None:
            if model_id in found.ready:
                raise NotNowError(f"no engine has {model_id} ready now", until_askable)
            return None
        found.ready.add(model_id)
        asked_again_at = found.refused_until.get(engine.node_id)
        if asked_again_at is not None:
            if trio.current_time() < asked_again_at:
                raise NotNowError(f"all engines with {model_id} refused a moment ago", until_askable)
            found.refused_until[engine.node_id] = trio.current_time() + REFUSED_SECONDS  # one batch alone tries
        return engine

    def _is_askable(self, model_id: ModelId, found: Findings) -> bool:
        now = trio.current_time()
        with_it = [engine for engine in self._engines if engine.model_id == model_id]
        return any(found.refused_until.get(engine.node_id, now) <= now for engine in with_it)

    def _is_early(self, epoch: EpochNumber) -> bool:
        """Whether half of the time for judging is still left."""
        begin, end = window(self._chain, epoch, Stage.VALIDATE, Stage.VALIDATE)
        return 2 * self._chain.head.number < begin + end

    async def _fetch(self, commit: PocCommit) -> bytes | None:
        """Return the vectors file, or None if it is larger than its count allows."""
        try:
            return await self._content.read_bytes(
                commit.vectors_cid,
                self._presence.providers(commit.participant),
                limit_bytes=commit.count * VECTOR_BYTES,
            )
        except ContentUnavailableError as error:
            log.info("a batch is not to be had yet", participant=commit.participant, reason=str(error))
            raise
        except BadContentError:
            return None

    def _stored(self, epoch: EpochNumber) -> VoteBundle | None:
        """The bundle of a run before a restart: it may be committed already, so it is the only one allowed."""
        data = self._store.get_document(votes_document(epoch))
        if data is None:
            return None
        try:
            return from_bytes(VoteBundle, data)
        except SchemaError as error:
            # By another version of the daemon. The duty on record keeps this one from committing anything else.
            log.warning("the stored votes are of another version", epoch=epoch, reason=str(error))
            return None


async def root_of(data: bytes) -> Hash32:
    """Return the root of a vectors file; other tasks run in between."""
    root = VectorsRoot()
    for number, start in enumerate(range(0, len(data), VECTOR_BYTES)):
        root.add(data[start : start + VECTOR_BYTES])
        if number % HASHED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return root.root()


def votes_document(epoch: EpochNumber) -> str:
    """Key of this node's bundle of an epoch in the store, from before it is committed."""
    return f"votes/{epoch}"


def _says_nothing(vote: PocVote) -> bool:
    return vote.verdict is Verdict.ABSTAIN and not vote.sampled


def _require_size(bundle: VoteBundle, bytes_max: int) -> None:
    """Raise BundleError for a bundle that nobody would read."""
    size = len(to_bytes(bundle))
    if size > bytes_max:
        raise BundleError(f"it has {size} bytes; nobody reads more than {bytes_max}")


def _ever_fewer(bundle: VoteBundle, bytes_max: int) -> Iterator[VoteBundle]:
    """Yield the bundle, then it without what says least, then without what others had a hand in, most suspect first."""
    yield bundle
    if len(to_bytes(bundle)) > bytes_max:
        bundle = replace(bundle, votes=tuple(vote for vote in bundle.votes if not _says_nothing(vote)))
        yield bundle
    bundle = replace(bundle, audits=(), omissions=(), challenges=())
    yield bundle
    # Never without its book: what is in that would be left out, and one bundle that is missing is excused.
    yield replace(bundle, checks=(), observations=Observations())


def _by_turns(keys: Sequence[NodeKey]) -> list[NodeKey]:
    """Order batches: the first of each participant, then all second ones. Who has many takes no turn of others."""
    met: dict[Address, int] = {}
    ranks: dict[NodeKey, int] = {}
    for key in sorted(keys, key=_order):
        ranks[key] = met[key[0]] = met.get(key[0], 0) + 1
    return sorted(ranks, key=lambda key: (ranks[key], _order(key)))


def _order(key: NodeKey) -> tuple[str, str]:
    return key[0].lower(), key[1]


def _vote(commit: PocCommit, rule: SampleRule, sample: Sequence[int], distances: Sequence[int]) -> PocVote:
    mismatches = mismatches_of(sample, distances, rule)
    verdict = judge(len(sample), len(mismatches), rule)
    log.info(
        "a batch is judged",
        epoch=commit.epoch,
        participant=commit.participant,
        node=commit.node_id,
        verdict=verdict.value,
        sampled=len(sample),
        mismatches=len(mismatches),
        distance_max=max(distances),
    )
    reason = "" if verdict is Verdict.VALID else "mismatches"
    unrelated = unrelated_among(distances, rule)
    return PocVote(commit.participant, commit.node_id, verdict, len(sample), mismatches, reason, unrelated)


def _abstain(commit: PocCommit, reason: str) -> PocVote:
    return PocVote(commit.participant, commit.node_id, Verdict.ABSTAIN, 0, (), reason)


def _refuse(commit: PocCommit, reason: str) -> PocVote:
    log.warning(
        "a batch is refused as a whole",
        epoch=commit.epoch,
        participant=commit.participant,
        node=commit.node_id,
        reason=reason,
    )
    return PocVote(commit.participant, commit.node_id, Verdict.INVALID, 0, (), reason)
