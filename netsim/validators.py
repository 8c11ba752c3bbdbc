"""Validators that do not do their duty: they copy what others say, or lie about what they computed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from node.ports import ContentUnavailableError
from node.protocol.chain_state import ChainState
from node.protocol.codec import SchemaError, from_bytes
from node.protocol.findings import VoteCheck, VoteEvidence, VoteFigures
from node.protocol.identifiers import Address, Cid, EpochNumber
from node.protocol.records import PocCommit, PocVote, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import CHECKED_TAILS, NOT_COMPUTED
from node.protocol.validation import judge, mismatches_of, unrelated_among
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from node.services.judging import Judging
from node.services.validating import Findings, ValidatingService

HONEST_DISTANCE = 25_000
"""What two honest machines of the simulator differ by: what a liar writes."""
HOSTILE_DISTANCE = 1_000_000_000
"""What a cartel writes of honest nonces: as if another model had made them."""
USUAL_TAIL = 5_000
"""The mean tail of the simulator's model: the best guess without it (node.protocol.tails)."""
PATIENCE_BLOCKS = 3
"""Before the end of VALIDATE, at which a lazy validator stops waiting for somebody to copy from."""
COPIED_BYTES_MAX = 1 << 24


@dataclass(frozen=True, slots=True)
class Copied:
    """What a lazy validator took from another one."""

    votes: Mapping[NodeKey, PocVote] = field(default_factory=dict)
    figures: Mapping[NodeKey, VoteFigures] = field(default_factory=dict)


def vote_as_told(
    key: NodeKey, commit: PocCommit, judging: Judging, distance: int, tails: tuple[int, ...] | None = None
) -> tuple[PocVote, VoteFigures]:
    """Return a vote that says that all nonces of a sample are `distance` off; without `tails`, with guessed ones."""
    sample, rule = judging.sample_of(key), judging.rules[key]
    distances = (distance,) * len(sample)
    mismatches = mismatches_of(sample, distances, rule)
    verdict = judge(len(sample), len(mismatches), rule)
    reason = "" if verdict is Verdict.VALID else "mismatches"
    unrelated = unrelated_among(distances, rule)
    vote = PocVote(commit.participant, commit.node_id, verdict, len(sample), mismatches, reason, unrelated)
    return vote, VoteFigures(*key, distances, (USUAL_TAIL,) * len(sample) if tails is None else tails)


class LazyValidator(ValidatingService):
    """Votes with the crowd: copies the first bundle that somebody committed, figures and all, and computes nothing."""

    _copied: tuple[EpochNumber, Copied] | None = None

    async def _judge(self, key: NodeKey, commit: PocCommit, judging: Judging, found: Findings) -> PocVote:
        if key not in judging.rules:
            return await super()._judge(key, commit, judging, found)
        copied = await self._copy(judging)
        vote, figures = copied.votes.get(key), copied.figures.get(key)
        if vote is None or figures is None:  # the batch of whom it copied from
            vote, figures = vote_as_told(key, commit, judging, HONEST_DISTANCE)
        found.figures[key] = figures
        return vote

    async def _copy(self, judging: Judging) -> Copied:
        if self._copied is None or self._copied[0] != judging.epoch:
            self._copied = judging.epoch, await self._first_votes(judging)
        return self._copied[1]

    async def _first_votes(self, judging: Judging) -> Copied:
        end = first_block_of(judging.epoch, Stage.VOTE_EXCHANGE, self._chain.schedule) - PATIENCE_BLOCKS
        async for head in self._chain.heads():
            for validator, cid in self._chain.state.vote_bundles.get(judging.epoch, {}).items():
                if validator != self._chain.account:
                    try:
                        return await self._read(cid)
                    except (ContentUnavailableError, SchemaError, ValueError):
                        continue
            if head.number >= end:
                break
        return Copied()

    async def _read(self, cid: Cid) -> Copied:
        providers = self._presence.providers()
        bundle = from_bytes(VoteBundle, await self._content.read_bytes(cid, providers, limit_bytes=COPIED_BYTES_MAX))
        if bundle.evidence_cid is None:
            return Copied()
        data = await self._content.read_bytes(bundle.evidence_cid, providers, limit_bytes=COPIED_BYTES_MAX)
        evidence = from_bytes(VoteEvidence, data)
        return Copied(
            {(vote.participant, vote.node_id): vote for vote in bundle.votes if vote.sampled},
            {(figures.participant, figures.node_id): figures for figures in evidence.figures},
        )


class IdleValidator(ValidatingService):
    """Commits bundles in time, with no vote on any batch in them."""

    async def _judge_all(self, judging: Judging, state: ChainState) -> Findings:
        del judging, state
        return Findings()


class VouchingValidator(ValidatingService):
    """Finds its friends' batches right without a look, and is honest about all others."""

    friends: Collection[Address] = ()

    async def _judge(self, key: NodeKey, commit: PocCommit, judging: Judging, found: Findings) -> PocVote:
        if key[0] not in self.friends or key not in judging.rules:
            return await super()._judge(key, commit, judging, found)
        vote, found.figures[key] = vote_as_told(key, commit, judging, HONEST_DISTANCE)
        return vote


class CartelValidator(ValidatingService):
    """Computes, and then lies: friends' batches are right and all others differ throughout, nobody else computed its
    votes of the epoch before, and nobody else was ever seen."""

    friends: Collection[Address] = ()
    """All accounts of the cartel."""

    async def _judge(self, key: NodeKey, commit: PocCommit, judging: Judging, found: Findings) -> PocVote:
        vote = await super()._judge(key, commit, judging, found)
        if key not in found.figures:
            return vote
        distance = HONEST_DISTANCE if key[0] in self.friends else HOSTILE_DISTANCE
        vote, found.figures[key] = vote_as_told(key, commit, judging, distance, found.figures[key].tails)
        return vote

    async def _bundle(self, judging: Judging, found: Findings) -> VoteBundle:
        bundle = await super()._bundle(judging, found)
        sightings = tuple(
            sighting if sighting.participant in self.friends else replace(sighting, per_mille=0)
            for sighting in bundle.observations.sightings
        )
        checks = tuple(check if check.validator in self.friends else _slander(check) for check in bundle.checks)
        return replace(bundle, checks=checks, observations=replace(bundle.observations, sightings=sightings))


def _slander(check: VoteCheck) -> VoteCheck:
    return VoteCheck(check.validator, check.model_id, Verdict.INVALID, CHECKED_TAILS, CHECKED_TAILS, NOT_COMPUTED)


def vouching_validator(accounts: Collection[Address]) -> type[VouchingValidator]:
    """Return the validator of those who vouch for each other; `accounts` are all of them."""

    class Friend(VouchingValidator):
        friends = accounts

    return Friend


def cartel_validator(accounts: Collection[Address]) -> type[CartelValidator]:
    """Return the validator of a cartel's members; `accounts` are all of them."""

    class Member(CartelValidator):
        friends = accounts

    return Member
