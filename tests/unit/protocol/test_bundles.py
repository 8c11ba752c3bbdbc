"""Vote bundles: only judgements of batches that exist, on the sample that was drawn, are counted."""

from dataclasses import replace

import pytest

from node.protocol.bundles import BundleError, check_bundle
from node.protocol.identifiers import EpochNumber
from node.protocol.records import PocVote, VoteBundle
from node.protocol.verdicts import Verdict
from tests.builders import NODE, PARAMETERS, SAMPLE_SEED, account, bundle_of, commit, vote_on

BATCHES = {(account(number), NODE): commit(number, 50).commit for number in (2, 3)}
FIRST, SECOND = (BATCHES[account(number), NODE] for number in (2, 3))


def check(bundle: VoteBundle) -> None:
    check_bundle(
        bundle,
        EpochNumber(0),
        account(1),
        BATCHES,
        sample_seed=SAMPLE_SEED,
        sample_size=PARAMETERS.poc_sample_size,
    )


@pytest.mark.parametrize("verdict", list(Verdict))
def test_an_honest_bundle_passes(verdict: Verdict) -> None:
    check(bundle_of(1, vote_on(FIRST, verdict), vote_on(SECOND, Verdict.VALID)))


def test_a_file_wrong_as_a_whole_needs_no_distances() -> None:
    check(bundle_of(1, PocVote(FIRST.participant, NODE, Verdict.INVALID, (), (), "root-mismatch")))


def test_an_empty_bundle_passes() -> None:
    check(bundle_of(1))


VALID = vote_on(FIRST, Verdict.VALID)
REFUSED = {
    "another epoch": bundle_of(1, VALID, epoch=1),
    "another validator": bundle_of(2, VALID),
    "a vote twice": bundle_of(1, VALID, VALID),
    "out of order": VoteBundle(
        EpochNumber(0), account(1), tuple(reversed(bundle_of(1, VALID, vote_on(SECOND, Verdict.VALID)).votes))
    ),
    "no such batch": bundle_of(1, replace(VALID, participant=account(9))),
    "another sample": bundle_of(1, replace(VALID, sampled=tuple(range(len(VALID.sampled))))),
    "a distance missing": bundle_of(1, replace(VALID, distances=VALID.distances[1:])),
    "a negative distance": bundle_of(1, replace(VALID, distances=(-1, *VALID.distances[1:]))),
    "valid without evidence": bundle_of(1, replace(VALID, sampled=(), distances=())),
    "valid with a reason": bundle_of(1, replace(VALID, reason="because")),
    "invalid without a reason": bundle_of(1, replace(VALID, verdict=Verdict.INVALID)),
    "an abstention with evidence": bundle_of(1, replace(VALID, verdict=Verdict.ABSTAIN, reason="no-model")),
    "an endless reason": bundle_of(1, replace(vote_on(FIRST, Verdict.ABSTAIN), reason="x" * 65)),
}


@pytest.mark.parametrize("bundle", REFUSED.values(), ids=REFUSED.keys())
def test_a_bundle_nobody_may_commit_is_refused(bundle: VoteBundle) -> None:
    with pytest.raises(BundleError):
        check(bundle)
