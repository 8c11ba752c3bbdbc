"""Every adversary in small populations: honest nodes agree and are paid, and each cheat is found as the rules say."""

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace
from itertools import count

import pytest

from netsim.adversaries import STRATEGIES
from netsim.population import Population
from netsim.trial import BAND_MISMATCH_PER_MILLION, Outcome, Trial, run_trial
from netsim.trial_findings import Findings, has_to_be_found, judge_trial
from netsim.trial_report import report_lines
from node.protocol.binomial import MILLION, detection_per_million, reject_from
from node.protocol.findings import ValidatorOutcome
from node.protocol.history import PARTS, POOLED_NONCES_MAX, WINDOWS_EPOCHS
from node.protocol.identifiers import Address, EpochNumber, Hash32, TokenAmount
from node.protocol.verdicts import Verdict

FORGERIES = ("other-model", "int4", "made-up-100", "ground-100", "replayed", "precomputed", "shared", "copied")
DUTIES = ("lazy", "withholds-votes", "hides-votes", "answers-other-model")


def trial(name: str, *cheats: str, nodes: int, epochs: int, questions: int = 0, **options: bool | int) -> Trial:
    population = Population(name, dict.fromkeys(cheats, 1), **options)  # type: ignore[arg-type]
    return Trial(population, nodes, epochs, 5, sample_size=32, nonces_max=40, questions=questions)


@pytest.fixture(scope="module")
def miners() -> Outcome:
    return run_trial(trial("miners", *FORGERIES, nodes=14, epochs=3))


@pytest.fixture(scope="module")
def members() -> Outcome:
    return run_trial(trial("members", *DUTIES, nodes=9, epochs=3, questions=20))


@pytest.fixture(scope="module")
def hiders() -> Outcome:
    cheats = ("hides-answers", "hides-half-its-answers")
    return run_trial(trial("hiders", *cheats, nodes=7, epochs=4, questions=24))


@pytest.fixture(scope="module")
def crowd() -> Outcome:
    """A cartel of a third beside honest nodes of which half come and go."""
    return run_trial(trial("crowd", "cartel-faker", nodes=12, epochs=3, with_cartel=True, churning_per_mille=500))


@pytest.fixture(scope="module")
def slandered() -> Outcome:
    """A cartel of a third that says of everybody that it cheats, beside some who do."""
    cheats = ("answers-int8", "answers-other-model", "lazy")
    slander = trial("slander", *cheats, nodes=13, epochs=4, questions=24, with_cartel=True)
    return run_trial(replace(slander, sample_size=8, nonces_max=20))


def reasons_of(findings: Findings) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in findings.found:
        found.setdefault(entry.participant.strategy, set()).update(entry.reasons)
    return found


def assert_promises_hold(outcome: Outcome) -> None:
    findings = judge_trial(outcome)
    assert findings.failures == ()
    assert len(outcome.results) == outcome.trial.epochs
    for epoch in findings.epochs:
        assert epoch.agreeing + epoch.away == sum(participant.is_honest for participant in outcome.participants)


def test_honest_nodes_agree_and_are_paid_beside_every_kind_of_forger(miners: Outcome) -> None:
    assert_promises_hold(miners)


@pytest.mark.parametrize("strategy", FORGERIES)
def test_who_forges_nonces_is_found(miners: Outcome, strategy: str) -> None:
    assert strategy in reasons_of(judge_trial(miners))


def test_who_forges_most_of_them_is_never_paid_for_it(miners: Outcome) -> None:
    paid = {share.participant for result in miners.results.values() for share in result.settled if share.amount}
    for participant in miners.participants:
        if participant.strategy in ("other-model", "int4", "precomputed", "shared", "copied"):
            assert participant.account not in paid


def test_honest_nodes_agree_and_are_paid_beside_members_who_neglect_their_duties(members: Outcome) -> None:
    assert_promises_hold(members)
    assert (members.answers, members.failed_answers) == (60, 0)


def test_who_neglects_a_duty_is_named_for_it(members: Outcome) -> None:
    found = reasons_of(judge_trial(members))
    assert found["lazy"] & {"not-computed", "evidence-differs"}
    assert found["withholds-votes"] == found["hides-votes"] == {"no-votes"}
    assert "accused" in found["answers-other-model"]


def test_fakes_that_only_friends_vouch_for_and_empty_bundles_are_found_and_cost_what_the_rules_say() -> None:
    cheats = Population("friends", {"hides-fakes": 2, "judges-nothing": 1})
    outcome = run_trial(Trial(cheats, 9, 2, 5, sample_size=8, nonces_max=20))
    assert_promises_hold(outcome)
    found = reasons_of(judge_trial(outcome))
    assert found["hides-fakes"] >= {"file-withheld"}
    assert found["judges-nothing"] == {"unjudged"}
    hiding = {one.account for one in outcome.participants if one.strategy == "hides-fakes"}
    idle = next(one.account for one in outcome.participants if one.strategy == "judges-nothing")
    for result in outcome.results.values():
        assert not hiding & {share.participant for share in result.settled if share.amount}
        assert not hiding & {member.participant for member in result.group.members}
    score = next(one for one in outcome.results[EpochNumber(1)].scores if one.participant == idle)
    assert score.participation.per_mille == 500


def test_who_hides_what_it_answered_is_found_by_its_payers_or_by_its_next_book(hiders: Outcome) -> None:
    assert_promises_hold(hiders)
    found = judge_trial(hiders).found
    by_strategy = {entry.participant.strategy: entry for entry in found}
    assert by_strategy["hides-answers"].epoch == 2  # two results without a book, and the one that takes the proof
    assert by_strategy["hides-answers"].reasons == ("no-book",)
    half = by_strategy["hides-half-its-answers"]
    assert half.epoch == 2
    assert "accused" in half.reasons
    assert half.participant.account not in {book.executor for book in hiders.results[EpochNumber(0)].books}
    score = {one.participant: one for one in hiders.results[EpochNumber(2)].scores}
    assert score[by_strategy["hides-answers"].participant.account].quality.per_mille == 0


def test_every_answer_is_in_one_book_that_is_counted_though_some_bundles_are_not() -> None:
    questions = 12
    hiding = trial("hiding", "hides-half-its-answers", nodes=5, epochs=3, questions=questions)
    outcome = run_trial(replace(hiding, sample_size=8, nonces_max=20))
    booked = [sum(one.book.count for one in outcome.results[EpochNumber(epoch)].books) for epoch in range(3)]
    assert outcome.answers == 3 * questions
    assert booked[0] < questions < booked[1]
    # An executor that was slower than another books what it gave as well, though nobody took it.
    assert 2 * questions <= booked[0] + booked[1] <= 2 * questions + 1
    assert booked[2] < questions


def test_a_cartel_of_a_third_takes_nothing_from_those_who_come_and_go(crowd: Outcome) -> None:
    assert_promises_hold(crowd)
    findings = judge_trial(crowd)
    assert reasons_of(findings) == {"cartel-faker": {"batch-of-fakes", "mismatches"}}
    assert [participant.strategy for participant in findings.unfound] == ["cartel"] * len(findings.unfound)


def test_who_was_away_is_told_so_and_everyone_else_has_the_most(crowd: Outcome) -> None:
    lost = [
        (participant.attendance.fate.value, {part.reason for part in told.parts})
        for epoch in judge_trial(crowd).epochs
        for participant, told in epoch.paid_less
    ]
    assert lost
    for fate, reasons in lost:
        assert fate != "stays"
        assert reasons <= {"no-batch", "absent", "no-votes", "not-counted", "no-time", "nobody-could-judge", "no-data"}


def test_beside_a_cartel_nobody_is_found_by_what_it_says_of_honest_nodes_too(slandered: Outcome) -> None:
    assert_promises_hold(slandered)
    honest = {participant.account for participant in slandered.participants if participant.is_honest}
    audits = [audit for result in slandered.results.values() for audit in result.audits]
    assert any(audit.accused for audit in audits if audit.executor in honest)
    findings = judge_trial(slandered)
    assert reasons_of(findings) == {"answers-other-model": {"audit-margin"}, "lazy": {"not-computed"}}
    assert "  answers-int8: 1" in report_lines(slandered, findings)


def said_not_to_compute(outcome: Outcome, account: Address, epochs: Collection[int]) -> Outcome:
    said = {True: (Verdict.INVALID, "not-computed"), False: (Verdict.VALID, "")}
    results = {
        epoch: replace(
            result,
            validators=tuple(
                ValidatorOutcome(account, *said[epoch in epochs]) if found.validator == account else found
                for found in result.validators
            ),
        )
        for epoch, result in outcome.results.items()
    }
    return replace(outcome, results=results)


@pytest.mark.parametrize(("epochs", "is_found"), [((1,), False), ((1, 2, 3), True)])
def test_a_lazy_validator_is_found_beside_a_cartel_once_slander_alone_would_not_say_it_so_often(
    slandered: Outcome, epochs: tuple[int, ...], is_found: bool
) -> None:
    lazy = next(one for one in slandered.participants if one.strategy == "lazy")
    findings = judge_trial(said_not_to_compute(slandered, lazy.account, epochs))
    assert ("lazy" in reasons_of(findings)) == is_found
    assert any("(lazy, stays) was not found, and had to be" in failure for failure in findings.failures) != is_found


def test_only_who_is_outvoted_or_silent_is_what_nothing_has_to_find() -> None:
    assert {name for name, one in STRATEGIES.items() if not one.reasons} == {"honest", "cartel", "silent"}


@pytest.mark.parametrize("window", WINDOWS_EPOCHS)
@pytest.mark.parametrize("strategy", ["made-up-10", "made-up-20"])
def test_a_cheat_has_to_be_found_where_the_history_that_nodes_keep_finds_it(window: int, strategy: str) -> None:
    """Each window by its own line: at the least sample from which a cheat has to be found, history.py finds it."""
    parts, one = dict(zip(WINDOWS_EPOCHS, PARTS, strict=True))[window], STRATEGIES[strategy]
    sampled = next(n for n in count(1) if has_to_be_found([(epoch, n) for epoch in range(window)], one))
    total = window * sampled
    line = max(3, reject_from(total, BAND_MISMATCH_PER_MILLION, parts))
    fakes = one.differing_per_mille * MILLION // 1000
    assert detection_per_million(total, line, fakes, BAND_MISMATCH_PER_MILLION) >= 999_000


def test_a_window_of_more_nonces_than_are_tested_finds_nobody() -> None:
    assert has_to_be_found([(0, POOLED_NONCES_MAX)], STRATEGIES["made-up-10"])
    assert not has_to_be_found([(0, POOLED_NONCES_MAX + 1)], STRATEGIES["made-up-10"])


def test_less_than_a_third_that_signs_nothing_halts_nothing() -> None:
    assert_promises_hold(run_trial(trial("silent", "silent", nodes=4, epochs=2)))


def test_one_seed_gives_one_trial() -> None:
    small = trial("small", nodes=4, epochs=1, questions=2)
    first, again, other = (run_trial(one) for one in (small, small, replace(small, seed=6)))
    assert first.trace_hash == again.trace_hash != other.trace_hash


def test_that_honest_nodes_agree_is_not_made_by_the_work_that_a_simulation_shares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {"with_cartel": True, "churning_per_mille": 600}
    mixed = replace(trial("mixed", "hides-votes", "made-up-100", nodes=9, epochs=3, **options), sample_size=8)
    shared = run_trial(mixed)
    monkeypatch.setattr("netsim.clock.shared_work", nullcontext)
    alone = run_trial(mixed)
    assert alone.trace_hash == shared.trace_hash
    assert alone.formed == shared.formed
    assert_promises_hold(alone)


def test_a_node_with_another_result_fails_the_trial_and_is_named(members: Outcome) -> None:
    gateway = members.participants[0]
    formed = members.formed[gateway.account]
    strange = {**formed, EpochNumber(1): replace(formed[EpochNumber(1)], digest=Hash32(bytes(32)))}
    changed = replace(members, formed={**members.formed, gateway.account: strange})
    findings = judge_trial(changed)
    assert findings.failures == ("epoch 1: node 0 (honest, stays) did not compute the result that was accepted",)
    assert any("NOT on nodes 0" in line for line in report_lines(changed, findings))


def test_an_honest_node_that_is_blamed_or_unpaid_fails_the_trial(members: Outcome) -> None:
    cheat = next(one for one in members.participants if one.strategy == "withholds-votes")
    honest = replace(cheat, strategy="honest")
    others = tuple(honest if one is cheat else one for one in members.participants)
    failures = judge_trial(replace(members, participants=others)).failures
    lost = [failure for failure in failures if "was there and lost pay for" in failure]
    assert len(lost) == members.trial.epochs
    assert all("no-votes" in failure for failure in lost)
    (blamed,) = set(failures) - set(lost)
    assert blamed.startswith("epoch 2: ")  # it answered, and has no book
    assert blamed.endswith(" is blamed for no-book")


def test_a_cheat_that_goes_unfound_fails_the_trial(members: Outcome) -> None:
    gateway = members.participants[0]
    lazy = replace(gateway, strategy="lazy")
    changed = replace(members, participants=(lazy, *members.participants[1:]))
    assert "node 0 (lazy, stays) was not found, and had to be" in judge_trial(changed).failures


def test_coins_from_nowhere_fail_the_trial(members: Outcome) -> None:
    failures = judge_trial(replace(members, minted=TokenAmount(members.minted + 10**30))).failures
    assert len(failures) == 2
    assert all("minted" in failure for failure in failures)


def test_the_report_says_for_every_epoch_what_came_of_it(members: Outcome) -> None:
    text = "\n".join(report_lines(members, judge_trial(members), hashes=True))
    for epoch, digest in members.digests.items():
        assert f"epoch {epoch}: result {digest.hex()[:16]} identical on all of 5 honest nodes" in text
    assert text.count(members.digests[EpochNumber(0)].hex()) == 5
    assert "lazy (node" in text
    assert text.endswith("every promise held")
