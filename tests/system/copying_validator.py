"""A cheat's daemon: quernd, but for a validator that recomputes nothing and votes as the first other one did.

It waits until somebody else's votes are on chain, takes them with their evidence, and finds the batches of that other
one good without a look. All the rest is the honest daemon's.
"""

from collections.abc import Sequence
from statistics import median

import trio

import node.epoch_wiring
from node.process import main
from node.protocol.bundles import VOTE_BUNDLE_BYTES_MAX
from node.protocol.chain_state import ChainState
from node.protocol.codec import from_bytes
from node.protocol.findings import VoteEvidence, VoteFigures
from node.protocol.identifiers import Address
from node.protocol.records import PocCommit, PocVote, VoteBundle
from node.protocol.stages import Stage
from node.protocol.tails import has_tails
from node.protocol.verdicts import Verdict
from node.services.judging import Judging
from node.services.timing import cancel_at, window
from node.services.validating import Findings, ValidatingService
from node.services.vote_evidence import EVIDENCE_BYTES_MAX

LATEST_BLOCKS = 5
"""Before the end of VOTE_EXCHANGE: who finds nothing to copy by then votes for everything."""
TAIL_GUESS = 8_000
"""Thousandths; for want of anything to take it from."""


class CopyingValidator(ValidatingService):
    """Votes with the crowd."""

    async def _judge_all(self, judging: Judging, state: ChainState) -> Findings:
        """Return somebody else's votes, and good ones for what that one could not vote on."""
        copied: list[tuple[VoteBundle, VoteEvidence]] = []
        _, end = window(self._chain, judging.epoch, Stage.VALIDATE, Stage.VOTE_EXCHANGE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_at, self._chain, end - LATEST_BLOCKS, nursery.cancel_scope)
            copied.append(await self._somebody_elses(judging))
            nursery.cancel_scope.cancel()
        votes: dict[tuple[Address, str], PocVote] = {}
        figures: dict[tuple[Address, str], VoteFigures] = {}
        for bundle, evidence in copied:
            votes = {(vote.participant, vote.node_id): vote for vote in bundle.votes}
            figures = {(found.participant, found.node_id): found for found in evidence.figures}
        tails = [tail for found in figures.values() for tail in found.tails]
        findings = Findings()
        for key, commit in judging.commits.items():
            rule = judging.rules.get(key)
            if commit.participant == self._chain.account or rule is None:
                continue
            if key in figures:
                findings.votes[key], findings.figures[key] = votes[key], figures[key]
                continue
            model = judging.models[commit.model_id]
            findings.votes[key], findings.figures[key] = _found_good(
                commit, rule.sampled(commit.count), tails if has_tails(model) else None
            )
        return findings

    async def _somebody_elses(self, judging: Judging) -> tuple[VoteBundle, VoteEvidence]:
        """Wait for the votes of another validator that has evidence, and return both."""
        async for _ in self._chain.heads():
            committed = self._chain.state.vote_bundles.get(judging.epoch, {})
            for validator, cid in committed.items():
                if validator == self._chain.account:
                    continue
                providers = self._presence.providers(validator)
                data = await self._content.read_bytes(cid, providers, limit_bytes=VOTE_BUNDLE_BYTES_MAX)
                bundle = from_bytes(VoteBundle, data)
                if bundle.evidence_cid is None:
                    continue
                data = await self._content.read_bytes(bundle.evidence_cid, providers, limit_bytes=EVIDENCE_BYTES_MAX)
                return bundle, from_bytes(VoteEvidence, data)
        raise AssertionError("the chain has ended")


def _found_good(commit: PocCommit, sampled: int, tails: Sequence[int] | None) -> tuple[PocVote, VoteFigures]:
    """Say of a batch nobody looked at that all is well, with the most likely tails."""
    vote = PocVote(commit.participant, commit.node_id, Verdict.VALID, sampled, (), "")
    guess = round(median(tails)) if tails else TAIL_GUESS
    guessed = () if tails is None else (guess,) * sampled
    return vote, VoteFigures(commit.participant, commit.node_id, (0,) * sampled, guessed)


if __name__ == "__main__":
    vars(node.epoch_wiring)["ValidatingService"] = CopyingValidator
    main()
