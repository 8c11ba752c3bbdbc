"""Vote bundles: what a validator may commit for an epoch, checked by chain data alone so that all nodes agree."""

import functools
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import pairwise

from node.protocol.audit_votes import AuditVoteError, check_audits
from node.protocol.findings import VoteCheck
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.nonces import draw_sample
from node.protocol.observations import ObservationError, check_observations
from node.protocol.records import PocCommit, PocVote, VoteBundle
from node.protocol.validation import SampleRule, judge
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

REASON_LENGTH_MAX = 64
"""Reasons are short codes; without a limit a bundle could be padded to any size."""
VOTE_BUNDLE_BYTES_MAX = 16 * 1024 * 1024
"""A vote is about 120 bytes: room for 100,000 batches. A larger bundle is refused unread."""
REFUSALS = frozenset({"wrong-size", "root-mismatch"})
"""Why a batch can be voted invalid without recomputing anything. Whoever fetches the file sees it, without a model."""

SAMPLES_KEPT = 16_384
"""Each is drawn once and not for each of the hundreds of bundles that name mismatches in it: these have the batches in
one order, so with fewer than an epoch has each would be gone by the next bundle. 10 MiB for 5,000 batches with samples
of 512; with three times as many ML nodes in a network this has to grow."""
SMALL_COUNT = 1 << 32
"""Nonces of a batch up to this many are kept in 4 bytes each, others in 8: the chain takes any count."""
CHECKS_MAX = 2048
"""In one bundle, each of a validator and one of its models: a member is drawn for some 24 of each model it has."""
Checkers = Callable[[Address, ModelId], frozenset[Address]]
"""By validator and model, who was drawn to check its votes of the epoch before; see tails.py."""


class BundleError(ValueError):
    """The bundle is not one its validator may commit: nobody counts any of its votes."""


def check_bundle(
    bundle: VoteBundle,
    epoch: EpochNumber,
    validator: Address,
    commits: Mapping[NodeKey, PocCommit],
    rules: Mapping[NodeKey, SampleRule],
    *,
    sample_seed: Hash32,
    checkers: Checkers,
    checked: Set[Address],
) -> None:
    """Raise BundleError unless `bundle` is what `validator` may have committed for `epoch`.

    `commits` are the epoch's PoC commits, `rules` those by which they are judged (validation.py), and `sample_seed` the
    hash of the first block of VALIDATE: a judgement must be of a batch that exists, on the sample that was drawn, and
    say what its figures say. `checked` are the validators that committed a bundle the epoch before, as the chain writes
    them, and `checkers` tells who was drawn to check the votes of one of them on a model.
    """
    if bundle.epoch != epoch or bundle.validator != validator:
        raise BundleError("the bundle names another epoch or validator")
    _require_order(
        ((vote.participant.lower(), vote.node_id) for vote in bundle.votes), "votes", "(participant, node id)"
    )
    try:
        check_observations(bundle.observations)
    except ObservationError as error:
        raise BundleError(str(error)) from error
    for vote in bundle.votes:
        key = (vote.participant, vote.node_id)
        commit = commits.get(key)
        if commit is None:
            raise BundleError(f"{vote.participant[:64]}/{vote.node_id[:64]} committed no batch")
        _check_vote(vote, commit, rules.get(key), sample_seed)
    if bundle.evidence_cid is None and any(vote.sampled for vote in bundle.votes):
        raise BundleError("votes on recomputed nonces without evidence")
    if len(bundle.checks) > CHECKS_MAX:
        raise BundleError(f"more than {CHECKS_MAX} checks of validators in one bundle")
    _require_order(
        ((check.validator.lower(), check.model_id) for check in bundle.checks),
        "checks of validators",
        "(validator, model)",
    )
    for check in bundle.checks:
        if check.validator not in checked:  # before the draw, which is a hash for each member
            raise BundleError("a check of somebody who committed no votes the epoch before")
        _check_check(check, validator, checkers)
    try:
        check_audits(bundle)
    except AuditVoteError as error:
        raise BundleError(str(error)) from error


def _check_vote(vote: PocVote, commit: PocCommit, rule: SampleRule | None, sample_seed: Hash32) -> None:
    name = f"{vote.participant}/{vote.node_id}"
    if len(vote.reason) > REASON_LENGTH_MAX:
        raise BundleError(f"{name}: reason longer than {REASON_LENGTH_MAX}")
    if (vote.reason == "") is not (vote.verdict is Verdict.VALID):
        raise BundleError(f"{name}: a reason for each verdict but valid")
    if not 0 <= vote.unrelated <= len(vote.mismatches):
        raise BundleError(f"{name}: {vote.unrelated} unrelated of {len(vote.mismatches)} mismatches")
    if vote.sampled == 0:
        # An abstention, or a file that is wrong as a whole: nothing was recomputed.
        if vote.mismatches or vote.verdict is Verdict.VALID:
            raise BundleError(f"{name}: a verdict on nonces that were not recomputed")
        if vote.verdict is Verdict.INVALID and vote.reason not in REFUSALS:
            raise BundleError(f"{name}: invalid without recomputing, and not for a reason anyone can see")
        return
    if rule is None or vote.sampled != rule.sampled(commit.count):
        raise BundleError(f"{name}: not the sample that was drawn")
    if any(before >= after for before, after in pairwise(vote.mismatches)):
        raise BundleError(f"{name}: mismatches must ascend, each once")
    if vote.verdict is not judge(vote.sampled, len(vote.mismatches), rule):
        raise BundleError(
            f"{name}: {len(vote.mismatches)} mismatches of {vote.sampled} do not say {vote.verdict.value}"
        )
    if vote.mismatches:
        drawn = _drawn(sample_seed, vote.participant, vote.node_id, commit.count, rule.sample_size)
        places = ((bisect_left(drawn, nonce), nonce) for nonce in vote.mismatches)
        if not all(place < len(drawn) and drawn[place] == nonce for place, nonce in places):
            raise BundleError(f"{name}: mismatches outside the sample that was drawn")


@functools.lru_cache(maxsize=SAMPLES_KEPT)
def _drawn(seed: Hash32, participant: Address, node_id: NodeId, count: int, sample_size: int) -> "array[int]":
    return array("I" if count <= SMALL_COUNT else "Q", draw_sample(seed, participant, node_id, count, sample_size))


def _check_check(check: VoteCheck, validator: Address, checkers: Checkers) -> None:
    if validator not in checkers(check.validator, check.model_id):
        raise BundleError(f"it was not drawn to check {check.validator} on {check.model_id[:64]}")
    if len(check.reason) > REASON_LENGTH_MAX or (check.reason == "") is not (check.verdict is Verdict.VALID):
        raise BundleError(f"check of {check.validator}: a short reason for each verdict but valid")
    if not 0 <= check.differing <= check.checked:
        raise BundleError(f"check of {check.validator}: {check.differing} of {check.checked} differ")


def _require_order(keys: Iterable[tuple[str, ...]], what: str, by: str) -> None:
    if any(before >= after for before, after in pairwise(keys)):
        raise BundleError(f"{what} must ascend by {by}, each once")
