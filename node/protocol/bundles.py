"""Vote bundles: what a validator may commit for an epoch, checked by chain data alone so that all nodes agree."""

from collections.abc import Mapping
from itertools import pairwise

from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.nonces import draw_sample
from node.protocol.observations import ObservationError, check_observations
from node.protocol.records import PocCommit, PocVote, VoteBundle
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

REASON_LENGTH_MAX = 64
"""Reasons are short codes; without a limit a bundle could be padded to any size."""
VOTE_BUNDLE_BYTES_MAX = 16 * 1024 * 1024
"""A vote is about 1 KiB at 64 sampled nonces: room for 16,000 batches. A larger bundle is refused unread."""


class BundleError(ValueError):
    """The bundle is not one its validator may commit: nobody counts any of its votes."""


def check_bundle(
    bundle: VoteBundle,
    epoch: EpochNumber,
    validator: Address,
    commits: Mapping[NodeKey, PocCommit],
    *,
    sample_seed: Hash32,
    sample_size: int,
) -> None:
    """Raise BundleError unless `bundle` is what `validator` may have committed for `epoch`.

    `commits` are the epoch's PoC commits and `sample_seed` the hash of the first block of VALIDATE: a judgement must
    be of a batch that exists, on the sample that was drawn.
    """
    if bundle.epoch != epoch or bundle.validator != validator:
        raise BundleError("the bundle names another epoch or validator")
    order = [(vote.participant.lower(), vote.node_id) for vote in bundle.votes]
    if any(before >= after for before, after in pairwise(order)):
        raise BundleError("votes must ascend by (participant, node id), each once")
    try:
        check_observations(bundle.observations)
    except ObservationError as error:
        raise BundleError(str(error)) from error
    for vote in bundle.votes:
        commit = commits.get((vote.participant, vote.node_id))
        if commit is None:
            raise BundleError(f"{vote.participant}/{vote.node_id} committed no batch")
        _check_vote(vote, commit, sample_seed, sample_size)


def _check_vote(vote: PocVote, commit: PocCommit, sample_seed: Hash32, sample_size: int) -> None:
    name = f"{vote.participant}/{vote.node_id}"
    if len(vote.reason) > REASON_LENGTH_MAX:
        raise BundleError(f"{name}: reason longer than {REASON_LENGTH_MAX}")
    if (vote.reason == "") is not (vote.verdict is Verdict.VALID):
        raise BundleError(f"{name}: a reason for each verdict but valid")
    if not vote.sampled and not vote.distances and vote.verdict is not Verdict.VALID:
        return  # an abstention, or a file that is wrong as a whole: nothing was recomputed
    if vote.verdict is Verdict.ABSTAIN:
        raise BundleError(f"{name}: an abstention has no evidence")
    if len(vote.distances) != len(vote.sampled) or any(distance < 0 for distance in vote.distances):
        raise BundleError(f"{name}: one distance for each sampled nonce")
    if vote.sampled != draw_sample(sample_seed, vote.participant, vote.node_id, commit.count, sample_size):
        raise BundleError(f"{name}: not the sample that was drawn")
