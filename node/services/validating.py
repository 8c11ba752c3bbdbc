"""Proof of Compute, the validator: recomputes a drawn sample of every batch, votes, commits the bundle on chain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from node.ports import (
    ActionStatus,
    Chain,
    Content,
    ContentUnavailableError,
    Engine,
    Network,
    Store,
)
from node.protocol.actions import CommitVotes
from node.protocol.bundles import check_bundle
from node.protocol.canonical import keccak_digest
from node.protocol.chain_state import ChainState
from node.protocol.codec import SchemaError, from_bytes, to_bytes, to_value
from node.protocol.findings import VoteEvidence, VoteFigures
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, Hash32, ModelId
from node.protocol.messages import VotesAnnouncement
from node.protocol.nonces import BATCH_NONCES_MAX, VECTOR_BYTES, VectorsRoot, draw_sample, squared_distance
from node.protocol.records import ModelRecord, PocCommit, PocVote, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import has_tails
from node.protocol.validation import SampleRule, judge, mismatches_of, rules_of
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from node.services.presence import PresenceTable
from node.services.recomputing import Recomputed, recompute
from node.services.timing import cancel_at, epochs_at
from node.services.vote_checking import VoteChecker

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
JUDGED_AT_ONCE = 4
"""Batches in work side by side: fetching one while the engine computes another. Each is at most 126 MB in memory."""
HASHED_AT_ONCE = 1024
"""Vectors between two looks at what else there is to do: some 3 ms. No worker thread: its timing would make
simulations irreproducible."""


@dataclass(slots=True)
class _Round:
    """What one epoch's judging knows and has found out so far."""

    epoch: EpochNumber
    commits: Mapping[NodeKey, PocCommit]
    rules: Mapping[NodeKey, SampleRule]
    models: Mapping[ModelId, ModelRecord]
    generate_seed: Hash32
    sample_seed: Hash32
    votes: dict[NodeKey, PocVote] = field(default_factory=dict)
    figures: dict[NodeKey, VoteFigures] = field(default_factory=dict)


class ValidatingService:
    """Votes on the batches of others whenever this account is in the group in charge."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        content: Content,
        store: Store,
        presence: PresenceTable,
        engines: Sequence[Engine],
    ) -> None:
        self._chain = chain
        self._network = network
        self._content = content
        self._store = store
        self._presence = presence
        self._engines = engines
        self._checker = VoteChecker(chain, content, presence, engines)

    async def run(self) -> None:
        """Validate in every epoch, and check before it how others came to their votes of the last one."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._checker.run)
            async for epoch in epochs_at(self._chain, Stage.VALIDATE, Stage.VOTE_EXCHANGE):
                begin = first_block_of(epoch, Stage.VALIDATE, self._chain.parameters)
                state = await self._chain.state_at(BlockNumber(begin - 1))
                if dict(state.group_weights(epoch)).get(self._chain.account, 0) > 0:
                    await self._validate(epoch, state)

    async def _validate(self, epoch: EpochNumber, state: ChainState) -> None:
        parameters = self._chain.parameters
        mining = first_block_of(epoch, Stage.GENERATE, parameters)
        before_mining = await self._chain.state_at(BlockNumber(mining - 1))
        commits = state.poc_commits.get(epoch, {})
        work = _Round(
            epoch,
            commits,
            rules_of(commits, before_mining, parameters),
            before_mining.models,
            await self._chain.block_hash(mining),
            await self._chain.block_hash(first_block_of(epoch, Stage.VALIDATE, parameters)),
        )
        bundle = self._stored(epoch)
        if bundle is None:
            await self._judge_all(work)
            bundle = await self._bundle(work)
            self._store.put_document(_document(epoch), to_bytes(bundle))
        check_bundle(bundle, epoch, self._chain.account, commits, work.rules, sample_seed=work.sample_seed)
        self._store.record_duty(f"votes/{epoch}", keccak_digest(to_value(bundle)))
        cid = await self._content.add_bytes(to_bytes(bundle))
        await self._chain.submit(f"votes/{epoch}", CommitVotes(epoch, cid))
        await self._network.publish(VotesAnnouncement(epoch, cid))
        outcome = await self._chain.outcome(f"votes/{epoch}")
        counts = {verdict.value: sum(vote.verdict is verdict for vote in bundle.votes) for verdict in Verdict}
        if outcome.status is ActionStatus.DONE:
            log.info("votes are committed", epoch=epoch, **counts)
        else:
            log.error("the votes were refused", epoch=epoch, reason=outcome.reason)

    async def _judge_all(self, work: _Round) -> None:
        """Judge every batch but one's own; what is not judged by VOTE_EXCHANGE is an abstention."""
        others = {key: commit for key, commit in work.commits.items() if commit.participant != self._chain.account}
        for key, commit in others.items():
            work.votes[key] = _abstain(commit, "no-time")
        limit = trio.CapacityLimiter(JUDGED_AT_ONCE)

        async def judge_one(key: NodeKey, commit: PocCommit) -> None:
            async with limit:
                work.votes[key] = await self._judge(key, commit, work)

        end = first_block_of(work.epoch, Stage.VOTE_EXCHANGE, self._chain.parameters)
        async with trio.open_nursery() as clock:
            clock.start_soon(cancel_at, self._chain, end, clock.cancel_scope)
            async with trio.open_nursery() as nursery:
                for key, commit in others.items():
                    nursery.start_soon(judge_one, key, commit)
            clock.cancel_scope.cancel()

    async def _bundle(self, work: _Round) -> VoteBundle:
        votes = tuple(work.votes[key] for key in sorted(work.votes, key=_order))
        figures = tuple(work.figures[key] for key in sorted(work.figures, key=_order) if work.votes[key].sampled)
        evidence_cid = None
        if figures:
            evidence = VoteEvidence(work.epoch, self._chain.account, figures)
            evidence_cid = await self._content.add_bytes(to_bytes(evidence))
        checks = self._checker.checks(EpochNumber(work.epoch - 1))
        return VoteBundle(work.epoch, self._chain.account, votes, evidence_cid, checks)

    async def _judge(self, key: NodeKey, commit: PocCommit, work: _Round) -> PocVote:
        engine = next((engine for engine in self._engines if engine.model_id == commit.model_id), None)
        model, rule = work.models.get(commit.model_id), work.rules.get(key)
        if engine is None or model is None or rule is None:
            return _abstain(commit, "no-model")
        if not 0 < commit.count <= BATCH_NONCES_MAX:
            return _abstain(commit, "no-such-size")
        work.votes[key] = _abstain(commit, "no-data")  # what stays if time runs out
        data = await self._fetch(commit)
        if data is None or len(data) != commit.count * VECTOR_BYTES:
            return _refuse(commit, "wrong-size")
        if await _root_of(data) != commit.root:
            return _refuse(commit, "root-mismatch")
        work.votes[key] = _abstain(commit, "no-time")
        sample = draw_sample(work.sample_seed, commit.participant, commit.node_id, commit.count, rule.sample_size)
        validator: Address | None = self._chain.account if has_tails(model) else None
        own = await recompute(engine, key, sample, work.generate_seed, work.sample_seed, validator)
        return self._vote(commit, rule, data, sample, own, work)

    def _vote(
        self,
        commit: PocCommit,
        rule: SampleRule,
        data: bytes,
        sample: Sequence[int],
        own: Recomputed,
        work: _Round,
    ) -> PocVote:
        key = (commit.participant, commit.node_id)
        distances = tuple(
            squared_distance(data[nonce * VECTOR_BYTES : (nonce + 1) * VECTOR_BYTES], vector)
            for nonce, vector in zip(sample, own.vectors, strict=True)
        )
        mismatches = mismatches_of(sample, distances, rule)
        verdict = judge(len(sample), len(mismatches), rule)
        work.figures[key] = VoteFigures(*key, distances, own.tails)
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
        return PocVote(*key, verdict, len(sample), mismatches, "" if verdict is Verdict.VALID else "mismatches")

    async def _fetch(self, commit: PocCommit) -> bytes | None:
        """Return the vectors file, or None if it is larger than its count allows. Tries until cancelled."""
        while True:
            try:
                return await self._content.read_bytes(
                    commit.vectors_cid, self._presence.providers(), limit_bytes=commit.count * VECTOR_BYTES
                )
            except ContentUnavailableError as error:
                log.info("a batch is not to be had yet", participant=commit.participant, reason=str(error))
                await trio.sleep(RETRY_SECONDS)
            except ValueError:
                return None

    def _stored(self, epoch: EpochNumber) -> VoteBundle | None:
        """The bundle of a run before a restart: it may be committed already, so it is the only one allowed."""
        data = self._store.get_document(_document(epoch))
        if data is None:
            return None
        try:
            return from_bytes(VoteBundle, data)
        except SchemaError as error:
            # By another version of the daemon. The duty on record keeps this one from committing anything else.
            log.warning("the stored votes are of another version", epoch=epoch, reason=str(error))
            return None


async def _root_of(data: bytes) -> Hash32:
    """Return the root of a vectors file; other tasks run in between."""
    root = VectorsRoot()
    for number, start in enumerate(range(0, len(data), VECTOR_BYTES)):
        root.add(data[start : start + VECTOR_BYTES])
        if number % HASHED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    return root.root()


def _document(epoch: EpochNumber) -> str:
    return f"votes/{epoch}"


def _order(key: NodeKey) -> tuple[str, str]:
    return key[0].lower(), key[1]


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
