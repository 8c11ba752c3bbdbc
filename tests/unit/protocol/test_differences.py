"""Differences of results: found to the field, by what a record is about, and bounded."""

from dataclasses import replace

from node.protocol.differences import ABSENT, DIFFERENCES_MAX, VALUE_CHARACTERS_MAX, differences
from node.protocol.findings import NodeFate, NodeOutcome
from node.protocol.identifiers import EpochNumber, TokenAmount
from node.protocol.records import EpochGroup, EpochResult, RewardShare
from tests.builders import NODE, TINY, account, model

OUTCOMES = tuple(NodeOutcome(account(n), NODE, TINY, NodeFate.ACCEPTED, 100, 8, 0, 100, "") for n in (1, 2, 3))
RESULT = EpochResult(
    EpochNumber(4),
    EpochGroup(EpochNumber(5), (), (model(),)),
    tuple(RewardShare(account(n), TokenAmount(7)) for n in (1, 2, 3)),
    TokenAmount(21),
    nodes=OUTCOMES,
)


def test_equal_results_do_not_differ() -> None:
    assert differences(RESULT, replace(RESULT)) == ()


def test_a_field_is_named_with_what_its_record_is_about() -> None:
    other = replace(RESULT, nodes=(OUTCOMES[0], replace(OUTCOMES[1], mismatches=3, weight=0), OUTCOMES[2]))
    found = differences(RESULT, other)
    assert [(d.path, d.ours, d.theirs) for d in found] == [
        (f"nodes[{account(2)}, {NODE}].mismatches", "0", "3"),
        (f"nodes[{account(2)}, {NODE}].weight", "100", "0"),
    ]
    assert {d.subject for d in found} == {account(2)}


def test_a_missing_record_is_one_difference_and_not_one_in_every_place() -> None:
    (found,) = differences(RESULT, replace(RESULT, rewards=RESULT.rewards[1:]))
    assert (found.path, found.subject, found.theirs) == (f"rewards[{account(1)}]", account(1), ABSENT)


def test_fields_deep_in_a_record_are_found() -> None:
    group = replace(RESULT.group, models=(replace(model(), poc_distance_max=5, model_args=("--x",)),))
    paths = [d.path for d in differences(RESULT, replace(RESULT, group=group))]
    assert paths == [f"group.models[{TINY}].model_args[0]", f"group.models[{TINY}].poc_distance_max"]


def test_what_is_told_is_bounded() -> None:
    many = replace(RESULT, rewards=tuple(RewardShare(account(n), TokenAmount(n)) for n in range(1, 400)))
    assert len(differences(RESULT, many)) == DIFFERENCES_MAX
    described = replace(RESULT, group=replace(RESULT.group, models=(replace(model(), description="x" * 10_000),)))
    assert len(differences(RESULT, described)[0].theirs) == VALUE_CHARACTERS_MAX
