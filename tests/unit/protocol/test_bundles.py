"""Vote bundles: only judgements of batches that exist, on the sample that was drawn, are counted."""

from dataclasses import replace

import pytest

from node.protocol.bundles import CHECKS_MAX, BundleError, check_bundle
from node.protocol.findings import VoteCheck
from node.protocol.identifiers import Address, EpochNumber, ModelId
from node.protocol.nonces import draw_sample
from node.protocol.records import PocVote, VoteBundle
from node.protocol.validation import SampleRule
from node.protocol.verdicts import Verdict
from tests.builders import NODE, PARAMETERS, SAMPLE_SEED, TINY, account, bundle_of, commit, vote_on

BATCHES = {(account(number), NODE): commit(number, 50).commit for number in (2, 3)}
FIRST, SECOND = (BATCHES[account(number), NODE] for number in (2, 3))
RULE = SampleRule(1_000_000, 1000, PARAMETERS.poc_reject_mismatches, PARAMETERS.poc_sample_size)
DRAWN = draw_sample(SAMPLE_SEED, FIRST.participant, NODE, FIRST.count, PARAMETERS.poc_sample_size)


def checkers(validator: Address, model_id: ModelId) -> frozenset[Address]:
    return frozenset({account(1)}) if validator == account(2) and model_id in (TINY, "other") else frozenset()


CHECKED = frozenset({account(1), account(2), account(3)})


def check(bundle: VoteBundle) -> None:
    check_bundle(
        bundle,
        EpochNumber(0),
        account(1),
        BATCHES,
        dict.fromkeys(BATCHES, RULE),
        sample_seed=SAMPLE_SEED,
        checkers=checkers,
        checked=CHECKED,
    )


@pytest.mark.parametrize("verdict", list(Verdict))
def test_an_honest_bundle_passes(verdict: Verdict) -> None:
    check(bundle_of(1, vote_on(FIRST, verdict), vote_on(SECOND, Verdict.VALID)))


def test_a_file_wrong_as_a_whole_needs_no_figures() -> None:
    check(bundle_of(1, PocVote(FIRST.participant, NODE, Verdict.INVALID, 0, (), "root-mismatch")))


def test_a_few_mismatches_are_named_and_forgiven() -> None:
    check(bundle_of(1, replace(vote_on(FIRST, Verdict.VALID), mismatches=DRAWN[:2])))
    check(bundle_of(1, replace(vote_on(FIRST, Verdict.VALID), mismatches=DRAWN[:2], unrelated=2)))


def test_who_was_drawn_may_check_another_validator() -> None:
    check(replace(bundle_of(1), checks=(CHECK,)))
    check(replace(bundle_of(1), checks=(replace(CHECK, model_id=ModelId("other")), CHECK)))


def test_an_empty_bundle_passes() -> None:
    check(bundle_of(1))


VALID = vote_on(FIRST, Verdict.VALID)
CHECK = VoteCheck(account(2), TINY, Verdict.VALID, 16, 0, "")
OUTSIDE = next(nonce for nonce in range(50) if nonce not in DRAWN)
REFUSED = {
    "another epoch": bundle_of(1, VALID, epoch=1),
    "another validator": bundle_of(2, VALID),
    "a vote twice": bundle_of(1, VALID, VALID),
    "out of order": VoteBundle(
        EpochNumber(0), account(1), tuple(reversed(bundle_of(1, VALID, vote_on(SECOND, Verdict.VALID)).votes))
    ),
    "no such batch": bundle_of(1, replace(VALID, participant=account(9))),
    "a smaller sample": bundle_of(1, replace(VALID, sampled=7)),
    "a negative sample": bundle_of(1, replace(VALID, sampled=-1)),
    "a mismatch outside the sample": bundle_of(1, replace(VALID, mismatches=(OUTSIDE,))),
    "mismatches out of order": bundle_of(1, replace(VALID, mismatches=tuple(reversed(DRAWN[:2])))),
    "a mismatch twice": bundle_of(1, replace(VALID, mismatches=(DRAWN[0], DRAWN[0]))),
    "more unrelated than differ": bundle_of(1, replace(VALID, mismatches=DRAWN[:1], unrelated=2)),
    "a negative number of unrelated ones": bundle_of(1, replace(VALID, mismatches=DRAWN[:1], unrelated=-1)),
    "unrelated without recomputing": bundle_of(1, replace(vote_on(FIRST, Verdict.ABSTAIN), unrelated=1)),
    "valid against its own figures": bundle_of(1, replace(VALID, mismatches=DRAWN)),
    "invalid against its own figures": bundle_of(1, replace(VALID, verdict=Verdict.INVALID, reason="mismatches")),
    "valid without recomputing": bundle_of(1, replace(VALID, sampled=0)),
    "valid with a reason": bundle_of(1, replace(VALID, reason="because")),
    "invalid without a reason": bundle_of(1, replace(vote_on(FIRST, Verdict.INVALID), reason="")),
    "invalid for a reason nobody sees": bundle_of(1, PocVote(FIRST.participant, NODE, Verdict.INVALID, 0, (), "ugly")),
    "an abstention with figures": bundle_of(1, replace(VALID, verdict=Verdict.ABSTAIN, reason="no-model")),
    "an endless reason": bundle_of(1, replace(vote_on(FIRST, Verdict.ABSTAIN), reason="x" * 65)),
    "no evidence": replace(bundle_of(1, VALID), evidence_cid=None),
    "a check of oneself": replace(bundle_of(1), checks=(replace(CHECK, validator=account(1)),)),
    "a check it was not drawn for": replace(bundle_of(1), checks=(replace(CHECK, validator=account(3)),)),
    "a check on a model it was not drawn for": replace(bundle_of(1), checks=(replace(CHECK, model_id=ModelId("m")),)),
    "a check twice": replace(bundle_of(1), checks=(CHECK, CHECK)),
    "checks out of order": replace(bundle_of(1), checks=(CHECK, replace(CHECK, model_id=ModelId("other")))),
    "more differ than were checked": replace(bundle_of(1), checks=(replace(CHECK, differing=17),)),
    "a check without a reason": replace(bundle_of(1), checks=(replace(CHECK, verdict=Verdict.INVALID),)),
}


@pytest.mark.parametrize("bundle", REFUSED.values(), ids=REFUSED.keys())
def test_a_bundle_nobody_may_commit_is_refused(bundle: VoteBundle) -> None:
    with pytest.raises(BundleError):
        check(bundle)


def test_a_batch_of_a_model_that_was_not_registered_in_time_cannot_be_judged() -> None:
    with pytest.raises(BundleError, match="not the sample"):
        check_bundle(
            bundle_of(1, VALID),
            EpochNumber(0),
            account(1),
            BATCHES,
            {},
            sample_seed=SAMPLE_SEED,
            checkers=checkers,
            checked=CHECKED,
        )


@pytest.mark.parametrize("name", [account(2).lower(), account(9), "0x" + "a" * 5_000_000])
def test_nobody_is_checked_but_who_voted_the_epoch_before_and_for_others_nothing_is_drawn(name: str) -> None:
    def drawn(validator: Address, model_id: ModelId) -> frozenset[Address]:
        raise AssertionError(f"a draw for {validator[:50]} on {model_id}")

    bundle = replace(bundle_of(1), checks=(replace(CHECK, validator=Address(name)),))
    with pytest.raises(BundleError, match="committed no votes") as raised:
        check_bundle(
            bundle, EpochNumber(0), account(1), {}, {}, sample_seed=SAMPLE_SEED, checkers=drawn, checked=CHECKED
        )
    assert len(str(raised.value)) < 200  # it is logged


def test_more_checks_than_anybody_is_drawn_for_are_refused_by_their_number() -> None:
    names = [Address(f"0x{number:040x}") for number in range(CHECKS_MAX + 1)]
    bundle = replace(bundle_of(1), checks=tuple(replace(CHECK, validator=name) for name in names))

    def check_all(bundle: VoteBundle) -> None:
        check_bundle(
            bundle, EpochNumber(0), account(1), {}, {},
            sample_seed=SAMPLE_SEED, checkers=lambda *_: frozenset({account(1)}), checked=frozenset(names),
        )  # fmt: skip

    check_all(replace(bundle, checks=bundle.checks[:-1]))
    with pytest.raises(BundleError, match="more than"):
        check_all(bundle)


def test_votes_on_a_batch_of_any_size_the_chain_takes_are_judged_without_falling_over() -> None:
    huge = {(account(2), NODE): replace(FIRST, count=2**64 - 1)}
    drawn = draw_sample(SAMPLE_SEED, account(2), NODE, 2**64 - 1, RULE.sample_size)
    vote = PocVote(account(2), NODE, Verdict.VALID, RULE.sample_size, drawn[:1], "")
    bundle = bundle_of(1, vote)
    check_bundle(
        bundle,
        EpochNumber(0),
        account(1),
        huge,
        dict.fromkeys(huge, RULE),
        sample_seed=SAMPLE_SEED,
        checkers=checkers,
        checked=CHECKED,
    )
