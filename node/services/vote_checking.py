"""Checks how others came to their votes of the epoch before: recomputes a few tails of each (node.protocol.tails)."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
import trio

from node.ports import (
    BadContentError,
    Chain,
    Content,
    ContentNotHeldError,
    ContentUnavailableError,
    Engine,
    EngineRefusedError,
)
from node.protocol.agreement import committed_order
from node.protocol.bundles import CHECKS_MAX, BundleError
from node.protocol.codec import SchemaError
from node.protocol.findings import VoteCheck
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.judges import Judges, judges_for
from node.protocol.records import ModelRecord, PocVote, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import (
    EVIDENCE_DIFFERS,
    EVIDENCE_WITHHELD,
    NO_TIME,
    NOBODY_CHECKED,
    checkers_of,
    draw_checks,
    has_tails,
    judge_tails,
)
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from node.services import vote_evidence
from node.services.epochs import EpochBook
from node.services.expected_models import expected_models
from node.services.judging import Judging, check_seed, judging_of
from node.services.keeping import keep_proof
from node.services.loaded_versions import may_be_loaded
from node.services.presence import PresenceTable
from node.services.recomputing import AnswerWatch, ModelGoneError, recompute_tails, while_ready
from node.services.slicing import Slicer
from node.services.timing import cancel_at, epochs_at, window
from node.services.turns import NotNowError, Wait, take_turns
from node.services.vote_evidence import EvidenceDiffersError, ReadFigures, evidence_bytes_max

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0
CHECKED_AT_ONCE = 2
"""Validators in work side by side: fetching from one while the engine computes another's tails."""
EPOCHS_KEPT = 2
REFUSED_SECONDS = 30.0
"""For which an engine is left alone that refused."""
Found = dict[tuple[Address, ModelId], VoteCheck]
"""By validator and model."""


class VoteChecker:
    """Looks into the evidence of other validators while nothing is mined; ValidatingService commits what it finds."""

    def __init__(
        self, chain: Chain, content: Content, presence: PresenceTable, epochs: EpochBook, engines: Sequence[Engine]
    ) -> None:
        self._chain = chain
        self._epochs = epochs
        self._content = content
        self._presence = presence
        self._engines = engines
        self._slicer = Slicer()
        self._watch = AnswerWatch()
        self._refused_until: dict[NodeId, float] = {}
        self._checks: dict[EpochNumber, Found] = {}
        """By the epoch of the votes, the newest EPOCHS_KEPT."""

    def checks(self, epoch: EpochNumber, judging: Judging) -> tuple[VoteCheck, ...]:
        """Return what was found of the votes of `epoch`, ascending by (validator, model), at most CHECKS_MAX.

        `judging` is the epoch's in which it is committed: who was not drawn by its group has no say.
        """
        found = self._checks.get(epoch, {})
        drawn = (key for key in found if self._chain.account in judging.checkers(*key))
        return tuple(found[key] for key in sorted(drawn, key=lambda key: (key[0].lower(), key[1]))[:CHECKS_MAX])

    async def run(self) -> None:
        """In every SERVE, check the votes of the epoch before; what is not checked by GENERATE is an abstention."""
        async for epoch in epochs_at(self._chain, Stage.SERVE, Stage.SERVE):
            if epoch == 0 or dict(self._chain.state.group_weights(epoch)).get(self._chain.account, 0) == 0:
                continue
            end = first_block_of(epoch, Stage.GENERATE, self._chain.schedule)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_at, self._chain, end, nursery.cancel_scope)
                await self._check_all(EpochNumber(epoch - 1))
                nursery.cancel_scope.cancel()

    async def _check_all(self, epoch: EpochNumber) -> None:
        state = await self._chain.state_at(BlockNumber(first_block_of(epoch, Stage.FORM, self._chain.schedule) - 1))
        judging = await judging_of(self._chain, self._epochs, epoch, state)
        seed = await check_seed(self._chain, epoch)
        members, judges = await self._in_charge(EpochNumber(epoch + 1))
        found = self._checks.setdefault(epoch, {})
        while len(self._checks) > EPOCHS_KEPT:
            del self._checks[min(self._checks)]
        committed = state.vote_bundles.get(epoch, {})
        bundles: dict[Address, VoteBundle | None] = {}
        left: dict[Address, list[ModelId]] = {}
        for validator in committed_order(committed.keys()):
            if judging.weights.get(validator, 0) > 0 and (drawn := self._drawn(validator, members, judges, seed)):
                left[validator] = drawn
                for model_id in drawn:  # silence would leave the say to those who lie
                    found.setdefault((validator, model_id), _unknown(validator, model_id, NO_TIME))

        async def check_one(validator: Address) -> None:
            if validator not in bundles:
                bundles[validator] = await self._bundle(validator, committed[validator], judging)
            bundle = bundles[validator]  # None: nobody counted its votes (forming.py)
            voted = frozenset[ModelId]() if bundle is None else _voted(bundle, judging)
            for model_id in left[validator]:
                if model_id not in voted:
                    found[validator, model_id] = _unknown(validator, model_id, NOBODY_CHECKED)
            left[validator] = [model_id for model_id in left[validator] if model_id in voted]
            if bundle is not None and left[validator]:
                await self._check(bundle, left[validator], judging, seed, found)

        await take_turns(check_one, list(left), at_once=CHECKED_AT_ONCE, retry_seconds=RETRY_SECONDS)
        differing = [check.validator for check in found.values() if check.verdict is Verdict.INVALID]
        log.info("votes of others are checked", epoch=epoch, checked=len(found), refuted=differing)

    def _drawn(self, validator: Address, members: Mapping[Address, int], judges: Judges, seed: Hash32) -> list[ModelId]:
        """Return the models on which this account checks `validator`."""
        able = {
            model_id: judges.able_to_check(validator, model_id, members)
            for model_id in judges.models_to_check(validator)
        }
        account = self._chain.account
        return [
            model_id
            for model_id, weights in able.items()
            if account in weights and account in checkers_of(seed, validator, weights)
        ]

    async def _in_charge(self, epoch: EpochNumber) -> tuple[Mapping[Address, int], Judges]:
        """Return the weights of the group in charge of an epoch, and who of it is able to check."""
        state = await self._chain.state_at(first_block_of(epoch, Stage.SERVE, self._chain.schedule))
        previous = await self._epochs.result_before(epoch, state)
        weights = dict(state.group_weights(epoch))
        return weights, judges_for(epoch, weights, state, None if previous is None else previous.group)

    async def _bundle(self, validator: Address, cid: Cid, judging: Judging) -> VoteBundle | None:
        """Return the bundle of `validator`; None if it is void. Raises ContentUnavailableError."""
        data = await self._read(cid, validator, judging.bundle_limits.bytes_max)
        try:
            bundle = await self._slicer.run(judging.read(data))
            judging.check(bundle, validator)
        except (SchemaError, BundleError):
            return None  # nobody counted its votes (forming.py)
        return bundle

    async def _check(
        self, bundle: VoteBundle, left: list[ModelId], judging: Judging, seed: Hash32, found: Found
    ) -> None:
        """Note in `found` what is to be said of a validator on each of the models `left`, and take out what is done.

        Raises ContentUnavailableError, and NotNowError where an engine is to come. Evidence is withheld that was not to
        be had while there was time, and is not computed in what time was left: who hands it out at the last moment has
        withheld it. Who asks late, or was cut off until then, blames nobody.
        """
        validator = bundle.validator

        def say(verdict: Verdict, reason: str) -> None:
            for model_id in left:
                found[validator, model_id] = VoteCheck(validator, model_id, verdict, 0, 0, reason)

        try:
            figures = await self._figures(bundle, judging)
        except ContentNotHeldError:
            say(Verdict.ABSTAIN, NO_TIME)  # nobody withheld it
            raise
        except ContentUnavailableError:
            if self._is_early(bundle.epoch):
                say(Verdict.INVALID, EVIDENCE_WITHHELD)
            raise
        except (SchemaError, EvidenceDiffersError) as error:
            log.warning("a validator's evidence does not carry its votes", validator=validator, reason=str(error))
            say(Verdict.INVALID, EVIDENCE_DIFFERS)
            left.clear()
            return
        if self._is_early(bundle.epoch):
            say(Verdict.ABSTAIN, NO_TIME)
        missing: list[NotNowError] = []
        for model_id in tuple(left):
            try:
                claimed, recomputed = await self._tails(bundle, figures, judging, seed, model_id)
            except NotNowError as error:
                missing.append(error)
                continue
            found[validator, model_id] = judge_tails(validator, model_id, claimed, recomputed)
            left.remove(model_id)
        if missing:
            raise _any_of(missing)

    async def _figures(self, bundle: VoteBundle, judging: Judging) -> Mapping[NodeKey, ReadFigures]:
        """Return a validator's evidence. Raises ContentUnavailableError, SchemaError, EvidenceDiffersError."""
        if bundle.evidence_cid is None:
            raise EvidenceDiffersError("votes on recomputed nonces without evidence")
        data = await self._read(bundle.evidence_cid, bundle.validator, evidence_bytes_max(bundle))
        figures = await self._slicer.run(vote_evidence.read_evidence(data, bundle, judging))
        del data  # up to 64 MiB, and the engine may take minutes
        await keep_proof(self._content, bundle.evidence_cid, bundle.epoch)
        return figures

    def _is_early(self, epoch: EpochNumber) -> bool:
        """Whether half of the time for checking the votes of `epoch` is still left."""
        begin, end = window(self._chain, EpochNumber(epoch + 1), Stage.SERVE, Stage.SERVE)
        return 2 * self._chain.head.number < begin + end

    async def _tails(
        self,
        bundle: VoteBundle,
        figures: Mapping[NodeKey, ReadFigures],
        judging: Judging,
        seed: Hash32,
        model_id: ModelId,
    ) -> tuple[list[int], list[int]]:
        """Return some of a validator's tails of a model, and the same as computed here; none where no engine is to
        have it.

        By one engine, however many have it: the test takes tails for independent of each other. None either of a model
        that was loaded in another version when it voted: its numbers are others. Raises NotNowError where an engine is
        not ready yet, died, hung or refused, and no other gave anything.
        """
        model = judging.models.get(model_id)
        if model is None or not has_tails(model) or not may_be_loaded(self._chain, self._epochs, model):
            return [], []
        ready = [engine for engine in self._engines if engine.model_id == model_id]
        if not ready and model_id in expected_models(self._chain, (engine.node_id for engine in self._engines)):
            wait = Wait(model_id, lambda: any(engine.model_id == model_id for engine in self._engines))
            raise NotNowError(f"no engine here has {model_id} ready yet", wait)
        drawn = drawn_tails(bundle, judging, seed, model_id)
        missing: NotNowError | None = None
        for engine in ready:
            if not self._is_askable(engine):
                continue
            try:
                made = await while_ready(
                    engine, model_id, _tails_of(engine, model, drawn, judging, bundle.validator), self._watch
                )
            except EngineRefusedError as error:
                log.error("an engine refuses to check votes; it is asked again", node=engine.node_id, reason=str(error))
                self._refused_until[engine.node_id] = trio.current_time() + REFUSED_SECONDS
            except ModelGoneError as error:
                log.warning("an engine checks no votes now", node=engine.node_id, reason=str(error))
                missing = error
            else:
                return [figures[key].tails[place] for key, place, _ in drawn], made
        if missing is not None:
            raise missing
        if ready:
            wait = Wait((model_id, "refused"), lambda: any(map(self._is_askable, ready)))
            raise NotNowError(f"all engines with {model_id} refused a moment ago", wait)
        return [], []

    def _is_askable(self, engine: Engine) -> bool:
        return self._refused_until.get(engine.node_id, -math.inf) <= trio.current_time()

    async def _read(self, cid: Cid, validator: Address, limit_bytes: int) -> bytes:
        """Return content that `validator` made. What is larger than allowed counts as empty: nobody can use it."""
        try:
            return await self._content.read_bytes(cid, self._presence.providers(validator), limit_bytes=limit_bytes)
        except ContentUnavailableError as error:
            log.debug("votes or their evidence are not to be had yet", reason=str(error))
            raise
        except BadContentError:
            return b""


def _voted(bundle: VoteBundle, judging: Judging) -> frozenset[ModelId]:
    """Return the models of which a bundle's votes say that nonces were recomputed."""
    return frozenset(judging.commits[_key(vote)].model_id for vote in bundle.votes if vote.sampled)


def _unknown(validator: Address, model_id: ModelId, reason: str) -> VoteCheck:
    return VoteCheck(validator, model_id, Verdict.ABSTAIN, 0, 0, reason)


def _any_of(missing: Sequence[NotNowError]) -> NotNowError:
    """Return what says that any of these is to be there before it goes on."""
    waits = [error.wait for error in missing if error.wait is not None]
    if len(waits) < len(missing):
        return next(error for error in missing if error.wait is None)
    return NotNowError(
        "; ".join(map(str, missing)),
        Wait(tuple(wait.what for wait in waits), lambda: any(wait.is_over() for wait in waits)),
    )


def drawn_tails(
    bundle: VoteBundle, judging: Judging, seed: Hash32, model_id: ModelId
) -> tuple[tuple[NodeKey, int, int], ...]:
    """Return which tails of a bundle's votes on batches of a model are recomputed: (batch, place, nonce)."""
    votes = [vote for vote in bundle.votes if vote.sampled and judging.commits[_key(vote)].model_id == model_id]
    drawn = [(_key(votes[index]), place) for index, place in draw_checks(seed, bundle.validator, votes)]
    return tuple((key, place, judging.sample_of(key)[place]) for key, place in drawn)


def _tails_of(
    engine: Engine,
    model: ModelRecord,
    drawn: Sequence[tuple[NodeKey, int, int]],
    judging: Judging,
    validator: Address,
) -> Callable[[Callable[[], bool]], Awaitable[list[int]]]:
    """Return what computes a validator's tails at drawn_tails(), given `may_go_on`."""
    nonces = [(key, nonce) for key, _, nonce in drawn]
    return lambda may_go_on: recompute_tails(
        engine, model, nonces, judging.generate_seed, judging.sample_seed, validator, may_go_on=may_go_on
    )


def _key(vote: PocVote) -> NodeKey:
    return vote.participant, vote.node_id
