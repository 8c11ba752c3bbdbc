"""Checks how others came to their votes of the epoch before: recomputes a few tails of each (node.protocol.tails)."""

from collections.abc import Sequence

import structlog
import trio

from node.ports import BadContentError, Chain, Content, ContentNotHeldError, ContentUnavailableError, Engine
from node.protocol.agreement import committed_order
from node.protocol.bundles import VOTE_BUNDLE_BYTES_MAX, BundleError
from node.protocol.codec import SchemaError, from_bytes
from node.protocol.findings import VoteCheck, VoteEvidence, VoteFigures
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32, ModelId
from node.protocol.records import PocVote, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import (
    EVIDENCE_DIFFERS,
    EVIDENCE_WITHHELD,
    TAIL_MAX,
    checkers_of,
    draw_checks,
    has_tails,
    judge_tails,
)
from node.protocol.validation import mismatches_of, unrelated_among
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from node.services.epochs import EpochBook
from node.services.judging import Judging, check_seed, judging_of
from node.services.keeping import keep_proof
from node.services.presence import PresenceTable
from node.services.recomputing import recompute_tails
from node.services.timing import cancel_at, epochs_at
from node.services.turns import take_turns

log = structlog.get_logger(__name__)

EVIDENCE_BYTES_MAX = 64 * 1024 * 1024
"""Eight bytes per nonce: room for 10,000 batches at 600 nonces each."""
RETRY_SECONDS = 5.0
CHECKED_AT_ONCE = 2
"""Validators in work side by side: fetching from one while the engine computes another's tails."""
EPOCHS_KEPT = 2


class EvidenceDiffersError(ValueError):
    """Evidence that does not carry the votes."""


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
        self._checks: dict[EpochNumber, dict[Address, VoteCheck]] = {}
        """By the epoch of the votes, the newest EPOCHS_KEPT."""

    def checks(self, epoch: EpochNumber, judging: Judging) -> tuple[VoteCheck, ...]:
        """Return what was found of the votes of `epoch`, ascending by validator.

        `judging` is the epoch's in which it is committed: who was not drawn by its group has no say.
        """
        found = self._checks.get(epoch, {})
        drawn = (validator for validator in found if self._chain.account in judging.checkers(validator))
        return tuple(found[validator] for validator in sorted(drawn, key=str.lower))

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
        members = dict(self._chain.state.group_weights(epoch + 1))
        found = self._checks.setdefault(epoch, {})
        while len(self._checks) > EPOCHS_KEPT:
            del self._checks[min(self._checks)]
        committed = state.vote_bundles.get(epoch, {})
        bundles: dict[Address, VoteBundle | None] = {}

        async def check_one(validator: Address) -> None:
            if validator not in bundles:
                bundles[validator] = await self._bundle(validator, committed[validator], judging)
            bundle = bundles[validator]
            check = None if bundle is None else await self._check(bundle, judging, seed, found)
            if check is not None:
                found[validator] = check

        drawn = [
            validator
            for validator in committed_order(committed.keys())
            if judging.weights.get(validator, 0) > 0 and self._chain.account in checkers_of(seed, validator, members)
        ]
        await take_turns(check_one, drawn, at_once=CHECKED_AT_ONCE, retry_seconds=RETRY_SECONDS)
        differing = [check.validator for check in found.values() if check.verdict is Verdict.INVALID]
        log.info("votes of others are checked", epoch=epoch, checked=len(found), refuted=differing)

    async def _bundle(self, validator: Address, cid: Cid, judging: Judging) -> VoteBundle | None:
        """Return the bundle of `validator`; None if it is void. Raises ContentUnavailableError."""
        data = await self._read(cid, validator, VOTE_BUNDLE_BYTES_MAX)
        try:
            bundle = from_bytes(VoteBundle, data)
            judging.check(bundle, validator)
        except (SchemaError, BundleError):
            return None  # nobody counted its votes (forming.py)
        return bundle

    async def _check(
        self, bundle: VoteBundle, judging: Judging, seed: Hash32, found: dict[Address, VoteCheck]
    ) -> VoteCheck | None:
        """Return the vote on a validator; None where no evidence is due. Raises ContentUnavailableError."""
        validator = bundle.validator
        if bundle.evidence_cid is None:
            return None
        withheld = VoteCheck(validator, Verdict.INVALID, 0, 0, EVIDENCE_WITHHELD)
        found.setdefault(validator, withheld)  # what stays if it does not come by the end
        try:
            evidence = from_bytes(VoteEvidence, await self._read(bundle.evidence_cid, validator, EVIDENCE_BYTES_MAX))
            figures = checked_figures(evidence, bundle, judging)
            await keep_proof(self._content, bundle.evidence_cid, bundle.epoch)
        except ContentNotHeldError:
            found[validator] = VoteCheck(validator, Verdict.ABSTAIN, 0, 0, "no-time")  # nobody withheld it
            raise
        except (SchemaError, EvidenceDiffersError) as error:
            log.warning("a validator's evidence does not carry its votes", validator=validator, reason=str(error))
            return VoteCheck(validator, Verdict.INVALID, 0, 0, EVIDENCE_DIFFERS)
        found[validator] = VoteCheck(validator, Verdict.ABSTAIN, 0, 0, "no-time")
        claimed, recomputed = await self._tails(bundle, figures, judging, seed)
        return judge_tails(validator, claimed, recomputed)

    async def _tails(
        self, bundle: VoteBundle, figures: dict[NodeKey, VoteFigures], judging: Judging, seed: Hash32
    ) -> tuple[list[int], list[int]]:
        """Return some of a validator's tails, and the same as computed here, for the models that are loaded here."""
        claimed: list[int] = []
        recomputed: list[int] = []
        for engine in self._engines:
            model = None if engine.model_id is None else judging.models.get(engine.model_id)
            if model is None or not has_tails(model):
                continue
            drawn = drawn_tails(bundle, judging, seed, model.model_id)
            claimed += [figures[key].tails[place] for key, place, _ in drawn]
            nonces = [(key, nonce) for key, _, nonce in drawn]
            recomputed += await recompute_tails(
                engine, model, nonces, judging.generate_seed, judging.sample_seed, bundle.validator
            )
        return claimed, recomputed

    async def _read(self, cid: Cid, validator: Address, limit_bytes: int) -> bytes:
        """Return content that `validator` made. What is larger than allowed counts as empty: nobody can use it."""
        try:
            return await self._content.read_bytes(cid, self._presence.providers(validator), limit_bytes=limit_bytes)
        except ContentUnavailableError as error:
            log.debug("votes or their evidence are not to be had yet", reason=str(error))
            raise
        except BadContentError:
            return b""


def drawn_tails(
    bundle: VoteBundle, judging: Judging, seed: Hash32, model_id: ModelId
) -> tuple[tuple[NodeKey, int, int], ...]:
    """Return which tails of a bundle's votes on batches of a model are recomputed: (batch, place, nonce)."""
    votes = [vote for vote in bundle.votes if vote.sampled and judging.commits[_key(vote)].model_id == model_id]
    drawn = [(_key(votes[index]), place) for index, place in draw_checks(seed, bundle.validator, votes)]
    return tuple((key, place, judging.sample_of(key)[place]) for key, place in drawn)


def checked_figures(evidence: VoteEvidence, bundle: VoteBundle, judging: Judging) -> dict[NodeKey, VoteFigures]:
    """Return the figures by batch. Raises EvidenceDiffersError unless they say what the votes say."""
    if evidence.epoch != bundle.epoch or evidence.validator != bundle.validator:
        raise EvidenceDiffersError("evidence of another epoch or validator")
    votes = [vote for vote in bundle.votes if vote.sampled]
    if [_key(vote) for vote in votes] != [(f.participant, f.node_id) for f in evidence.figures]:
        raise EvidenceDiffersError("figures for each vote on recomputed nonces, and no others")
    for vote, figures in zip(votes, evidence.figures, strict=True):
        key, name = _key(vote), f"{vote.participant}/{vote.node_id}"
        model = judging.models[judging.commits[key].model_id]
        if len(figures.distances) != vote.sampled or min(figures.distances) < 0:
            raise EvidenceDiffersError(f"{name}: one distance for each nonce")
        if mismatches_of(judging.sample_of(key), figures.distances, judging.rules[key]) != vote.mismatches:
            raise EvidenceDiffersError(f"{name}: other nonces differ than the vote says")
        if unrelated_among(figures.distances, judging.rules[key]) != vote.unrelated:
            raise EvidenceDiffersError(f"{name}: more or fewer nonces are unrelated than the vote says")
        if len(figures.tails) != (vote.sampled if has_tails(model) else 0):
            raise EvidenceDiffersError(f"{name}: one tail for each nonce")
        if any(not 0 <= tail <= TAIL_MAX for tail in figures.tails):
            raise EvidenceDiffersError(f"{name}: a tail is out of range")
    return {(figures.participant, figures.node_id): figures for figures in evidence.figures}


def _key(vote: PocVote) -> NodeKey:
    return vote.participant, vote.node_id
