"""What the operator sees of one batch: who judged it by what, and what its own engine makes of it."""

from collections.abc import Mapping, Sequence

import trio

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.poc_methods import BatchParams
from node.control.poc_views import BatchEvidenceView, JudgeView, RecomputedView
from node.ports import Chain, Content, ContentUnavailableError, Engine, EngineRefusedError
from node.protocol import unpaid
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, NodeId
from node.protocol.records import EpochResult
from node.protocol.stages import Stage, first_block_of
from node.protocol.validation import judge, mismatches_of
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from node.services.batch_evidence import JudgesWord, VectorsError, recompute_distances, words_of_judges
from node.services.epochs import EpochBook
from node.services.judging import Judging, judging_of
from node.services.loaded_versions import may_be_loaded
from node.services.presence import PresenceTable
from node.services.recomputing import ModelGoneError
from node.services.timing import position

DIFFERING_SHOWN_MAX = 100
RULES_SECONDS_MAX = 10.0
"""How long to look for the result that froze the rules."""
RECOMPUTE_SECONDS_MAX = 600.0
"""Fetching a file of up to 126 MB, and reading its sample beside what else the engine does."""
ABSTAINED: Mapping[str, str] = {
    "no-model": "it does not have the model",
    "no-data": "the file of vectors did not come to it",
    "no-time": "it did not get to it in time",
    "no-such-size": "the batch has none of the sizes there are",
}
"""Why a validator said nothing; what it finds wrong has its words in unpaid.REASONS."""


class BatchEvidence:
    """Gathers what one batch was judged by."""

    def __init__(
        self, chain: Chain, content: Content, presence: PresenceTable, epochs: EpochBook, engines: Sequence[Engine]
    ) -> None:
        self._chain = chain
        self._content = content
        self._presence = presence
        self._epochs = epochs
        self._engines = engines

    async def view(self, params: BatchParams, result: EpochResult | None) -> BatchEvidenceView:
        """Return by what a batch was judged; `result` is the accepted one of its epoch. Raises RpcError."""
        epoch, key = EpochNumber(params.epoch), (Address(params.participant), NodeId(params.node_id))
        where = position(self._chain)
        if (epoch, Stage.FORM) > (where.epoch, where.stage):
            raise RpcError(
                ErrorCode.REFUSED,
                f"the votes of epoch {epoch} are not complete; this is {where.stage.name} of epoch {where.epoch}",
                "Ask again when FORM has begun: see `quern epoch`.",
            )
        state = await self._chain.state_at(BlockNumber(first_block_of(epoch, Stage.FORM, self._chain.schedule) - 1))
        judging = await self._judging(epoch, state)
        commit = judging.commits.get(key)
        if commit is None:
            raise RpcError(
                ErrorCode.REFUSED,
                f"no batch of {key[0]}/{key[1]} was committed in epoch {epoch}",
                f"`quern poc {epoch}` lists them.",
            )
        rule = judging.rules.get(key)
        if rule is None:
            raise RpcError(
                ErrorCode.REFUSED,
                f"the batch cannot be judged: {unpaid.REASONS['model-not-registered']}",
                "See `quern models`.",
            )
        words = await words_of_judges(self._content, self._presence, judging, state.vote_bundles.get(epoch, {}), key)
        outcome = None
        if result is not None:
            outcome = next((node for node in result.nodes if (node.participant, node.node_id) == key), None)
        sampled = rule.sampled(commit.count)
        return BatchEvidenceView(
            epoch=epoch,
            participant=commit.participant,
            node_id=commit.node_id,
            model_id=commit.model_id,
            nonces=commit.count,
            vectors=commit.vectors_cid,
            fate="committed" if outcome is None else outcome.fate.value,
            reason="" if outcome is None else outcome.reason,
            words="" if outcome is None else unpaid.REASONS.get(outcome.reason, ""),
            sample=sampled,
            distance_max=rule.distance_max,
            rejected_from=next(
                (count for count in range(sampled + 1) if judge(sampled, count, rule) is Verdict.INVALID), sampled + 1
            ),
            judges=[_judge_view(word, judging, key) for word in words],
            recomputed=await self._recomputed(judging, key) if params.recompute else None,
        )

    async def _judging(self, epoch: EpochNumber, state: ChainState) -> Judging:
        judging: Judging | None = None
        with trio.move_on_after(RULES_SECONDS_MAX):
            judging = await judging_of(self._chain, self._epochs, epoch, state)
        if judging is None:
            raise RpcError(
                ErrorCode.REFUSED,
                f"the result that made the group of epoch {epoch} is not to be had: its rules are unknown here",
                "Try again when more peers are connected: `quern peers`.",
            )
        return judging

    async def _recomputed(self, judging: Judging, key: NodeKey) -> RecomputedView:
        commit, rule = judging.commits[key], judging.rules[key]
        engine = next((engine for engine in self._engines if engine.model_id == commit.model_id), None)
        if engine is None:
            raise RpcError(
                ErrorCode.REFUSED,
                f"no ML node here has {commit.model_id} ready: the batch cannot be judged again",
                "See `quern nodes`; without --recompute the votes of others are shown.",
            )
        if not may_be_loaded(self._chain, self._epochs, judging.models[commit.model_id]):
            raise RpcError(
                ErrorCode.REFUSED,
                f"the batch was made with another version of {commit.model_id} than is loaded now: its numbers differ, "
                "and that says nothing against it",
                "Without --recompute the votes of others are shown.",
            )
        distances: tuple[int, ...] = ()
        try:
            with trio.fail_after(RECOMPUTE_SECONDS_MAX):
                distances = await recompute_distances(
                    self._content, self._presence, engine, judging, key, self._chain.account
                )
        except (ContentUnavailableError, VectorsError, trio.TooSlowError) as error:
            raise RpcError(
                ErrorCode.REFUSED,
                f"the batch cannot be judged again: {str(error) or 'it took too long'}",
                "Its owner, and members that judged it, keep the file for some epochs: see `quern peers`.",
            ) from error
        except (EngineRefusedError, ModelGoneError) as error:
            raise RpcError(
                ErrorCode.REFUSED,
                f"the batch cannot be judged again now: {error}",
                f"Ask again while an ML node here has {commit.model_id}: see `quern nodes`.",
            ) from error
        sample = judging.sample_of(key)
        differing = mismatches_of(sample, distances, rule)
        known = dict(zip(sample, distances, strict=True))
        return RecomputedView(
            node_id=engine.node_id,
            verdict=judge(len(sample), len(differing), rule).value,
            mismatches=len(differing),
            largest_distance=max(distances),
            differing=[(nonce, known[nonce]) for nonce in differing[:DIFFERING_SHOWN_MAX]],
        )


def _judge_view(word: JudgesWord, judging: Judging, key: NodeKey) -> JudgeView:
    vote, bench = word.vote, judging.judges.bench(judging.commits[key].model_id, key[0])
    reason = "" if vote is None else vote.reason
    return JudgeView(
        account=word.validator,
        weight=judging.weights.get(word.validator, 0),
        may_judge=word.validator != key[0] and word.validator in bench.weights,
        verdict="" if vote is None else vote.verdict.value,
        sampled=0 if vote is None else vote.sampled,
        mismatches=0 if vote is None else len(vote.mismatches),
        unrelated=0 if vote is None else vote.unrelated,
        largest_distance=None if word.figures is None else max(word.figures.distances),
        reason=reason,
        words=ABSTAINED.get(reason, unpaid.REASONS.get(reason, "")),
        problem=word.problem,
        bundle=word.bundle,
        evidence="" if word.evidence is None else word.evidence,
    )
