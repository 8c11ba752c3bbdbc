"""Proof of Compute, the validator: recomputes a drawn sample of every batch, votes, commits the bundle on chain."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog
import trio

from node.ports import (
    ActionStatus,
    Chain,
    Content,
    ContentUnavailableError,
    Engine,
    EngineFailedError,
    Network,
    Store,
)
from node.protocol.actions import CommitVotes
from node.protocol.bundles import check_bundle
from node.protocol.canonical import decode, encode, keccak_digest
from node.protocol.chain_state import ChainState
from node.protocol.codec import from_value, to_value
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32, ModelId
from node.protocol.messages import VotesAnnouncement
from node.protocol.nonces import (
    VECTOR_BYTES,
    draw_sample,
    nonce_prompt,
    quantise,
    split_vectors,
    squared_distance,
    vectors_root,
)
from node.protocol.records import ModelRecord, PocCommit, PocVote, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.validation import judge
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from node.services.presence import PresenceTable
from node.services.timing import cancel_at, epochs_at

log = structlog.get_logger(__name__)

VALIDATION_PRIORITY = 10
"""Users' requests, at 0, run first."""
RETRY_SECONDS = 1.0
JUDGED_AT_ONCE = 4
"""Batches in work side by side: fetching one while the engine computes another."""


class BundleAudits(Protocol):
    """What else goes into a bundle: audits of answers, and this node's own book of receipts."""

    async def complete(self, bundle: VoteBundle) -> VoteBundle:
        """Return the bundle with both."""


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
        auditing: BundleAudits | None = None,
    ) -> None:
        self._chain = chain
        self._network = network
        self._content = content
        self._store = store
        self._presence = presence
        self._engines = engines
        self._auditing = auditing

    async def run(self) -> None:
        """Validate in every epoch."""
        async for epoch in epochs_at(self._chain, Stage.VALIDATE, Stage.VOTE_EXCHANGE):
            begin = first_block_of(epoch, Stage.VALIDATE, self._chain.parameters)
            state = await self._chain.state_at(BlockNumber(begin - 1))
            if dict(state.group_weights(epoch)).get(self._chain.account, 0) > 0:
                await self._validate(epoch, state, await self._chain.block_hash(begin))

    async def _validate(self, epoch: EpochNumber, state: ChainState, seed: Hash32) -> None:
        bundle = self._stored(epoch)
        if bundle is None:
            bundle = await self._judge_all(epoch, state, seed)
            if self._auditing is not None:
                bundle = await self._auditing.complete(bundle)
            self._store.put_document(_document(epoch), encode(to_value(bundle)))
        commits = state.poc_commits.get(epoch, {})
        parameters = self._chain.parameters
        check_bundle(
            bundle,
            epoch,
            self._chain.account,
            commits,
            sample_seed=seed,
            sample_size=parameters.poc_sample_size,
        )
        value = to_value(bundle)
        self._store.record_duty(f"votes/{epoch}", keccak_digest(value))
        cid = await self._content.add_bytes(encode(value))
        await self._chain.submit(f"votes/{epoch}", CommitVotes(epoch, cid))
        await self._network.publish(VotesAnnouncement(epoch, cid))
        outcome = await self._chain.outcome(f"votes/{epoch}")
        counts = {verdict.value: sum(vote.verdict is verdict for vote in bundle.votes) for verdict in Verdict}
        if outcome.status is ActionStatus.DONE:
            log.info("votes are committed", epoch=epoch, **counts)
        else:
            log.error("the votes were refused", epoch=epoch, reason=outcome.reason)

    async def _judge_all(self, epoch: EpochNumber, state: ChainState, seed: Hash32) -> VoteBundle:
        """Judge every batch but one's own; what is not judged by VOTE_EXCHANGE is an abstention."""
        commits = {
            key: commit
            for key, commit in state.poc_commits.get(epoch, {}).items()
            if commit.participant != self._chain.account
        }
        votes: dict[NodeKey, PocVote] = {
            (commit.participant, commit.node_id): _abstain(commit, "no-time") for commit in commits.values()
        }
        limit = trio.CapacityLimiter(JUDGED_AT_ONCE)
        generate_seed = await self._chain.block_hash(first_block_of(epoch, Stage.GENERATE, self._chain.parameters))

        async def judge_one(key: NodeKey, commit: PocCommit) -> None:
            async with limit:
                votes[key] = await self._judge(commit, state.models, generate_seed, seed, votes)

        end = first_block_of(epoch, Stage.VOTE_EXCHANGE, self._chain.parameters)
        async with trio.open_nursery() as clock:
            clock.start_soon(cancel_at, self._chain, end, clock.cancel_scope)
            async with trio.open_nursery() as nursery:
                for key, commit in commits.items():
                    nursery.start_soon(judge_one, key, commit)
            clock.cancel_scope.cancel()
        ordered = sorted(votes.values(), key=lambda vote: (vote.participant.lower(), vote.node_id))
        return VoteBundle(epoch, self._chain.account, tuple(ordered))

    async def _judge(
        self,
        commit: PocCommit,
        models: Mapping[ModelId, ModelRecord],
        generate_seed: Hash32,
        sample_seed: Hash32,
        votes: dict[NodeKey, PocVote],
    ) -> PocVote:
        engine = next((engine for engine in self._engines if engine.model_id == commit.model_id), None)
        model = models.get(commit.model_id)
        if engine is None or model is None:
            return _abstain(commit, "no-model")
        votes[commit.participant, commit.node_id] = _abstain(commit, "no-data")  # what stays if time runs out
        data = await self._fetch(commit)
        if data is None:
            return _refuse(commit, "wrong-size")
        try:
            vectors = split_vectors(data, commit.count)
        except ValueError:
            return _refuse(commit, "wrong-size")
        await trio.lowlevel.checkpoint()
        # About 2 µs per nonce on this thread. No worker thread: its timing would make simulations irreproducible.
        if vectors_root(vectors) != commit.root:
            return _refuse(commit, "root-mismatch")
        sample = draw_sample(
            sample_seed, commit.participant, commit.node_id, commit.count, self._chain.parameters.poc_sample_size
        )
        votes[commit.participant, commit.node_id] = _abstain(commit, "no-time")
        own = await self._recompute(engine, commit, generate_seed, sample)
        distances = tuple(squared_distance(vectors[nonce], vector) for nonce, vector in zip(sample, own, strict=True))
        verdict = judge(distances, model.poc_distance_max, self._chain.parameters.poc_reject_mismatches)
        log.info(
            "a batch is judged",
            epoch=commit.epoch,
            participant=commit.participant,
            verdict=verdict.value,
            distance_max=max(distances),
        )
        return PocVote(
            commit.participant,
            commit.node_id,
            verdict,
            sample,
            distances,
            "" if verdict is Verdict.VALID else "mismatches",
        )

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

    async def _recompute(self, engine: Engine, commit: PocCommit, seed: Hash32, sample: Sequence[int]) -> list[bytes]:
        prompts = [
            nonce_prompt(seed, commit.participant, commit.node_id, nonce, engine.vocabulary_size) for nonce in sample
        ]
        while True:
            try:
                logprobs = await engine.prompt_logprobs(prompts, priority=VALIDATION_PRIORITY)
            except EngineFailedError as error:
                log.warning("the engine failed while validating; trying again", reason=str(error))
                await trio.sleep(RETRY_SECONDS)
            else:
                return [quantise(values) for values in logprobs]

    def _stored(self, epoch: EpochNumber) -> VoteBundle | None:
        """The bundle of a run before a restart: it may be committed already, so it is the only one allowed."""
        data = self._store.get_document(_document(epoch))
        if data is None:
            return None
        bundle: VoteBundle = from_value(VoteBundle, decode(data))
        return bundle


def _document(epoch: EpochNumber) -> str:
    return f"votes/{epoch}"


def _abstain(commit: PocCommit, reason: str) -> PocVote:
    return PocVote(commit.participant, commit.node_id, Verdict.ABSTAIN, (), (), reason)


def _refuse(commit: PocCommit, reason: str) -> PocVote:
    return PocVote(commit.participant, commit.node_id, Verdict.INVALID, (), (), reason)
