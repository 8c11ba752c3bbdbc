"""What was due: who does nothing cannot say that there was nothing to do, and nobody owes what it could not do."""

from dataclasses import replace

import pytest

from node.protocol.bundles import REFUSALS
from node.protocol.findings import NodeFate, NodeOutcome
from node.protocol.identifiers import Address, EpochNumber, ModelId, NodeId
from node.protocol.participation import NOT_TO_JUDGE, Duties, vote_duties_in_slices
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot, PocVote
from node.protocol.slices import finish
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account, bundle_of, peer

RARE = ModelId("rare")
SECOND = NodeId("node-2")


def member(number: int, *models: ModelId) -> GroupMember:
    nodes = [MLNodeSnapshot(NodeId(f"of-{model_id}"), model_id, 10, 10, (True, False)) for model_id in models]
    return GroupMember(account(number), peer(number), 10 * len(nodes), tuple(nodes))


GROUP = EpochGroup(EpochNumber(4), (member(1, TINY), member(2, TINY, RARE), member(3, TINY)), ())


def outcome(number: int, model_id: ModelId = TINY, node_id: NodeId = NODE, reason: str = "") -> NodeOutcome:
    return NodeOutcome(account(number), node_id, model_id, NodeFate.ACCEPTED, 100, 8, 0, 100, reason)


NODES = (outcome(1), outcome(2), outcome(2, RARE, SECOND), outcome(3), outcome(8))
"""The last one is no member yet."""


def cast(number: int, reason: str = "", node_id: NodeId = NODE) -> PocVote:
    if not reason:
        return PocVote(account(number), node_id, Verdict.VALID, 8, (), "")
    verdict = Verdict.INVALID if reason in REFUSALS else Verdict.ABSTAIN
    return PocVote(account(number), node_id, verdict, 0, (), reason)


EVERYBODY = frozenset(account(number) for number in range(1, 10))


def duties(
    *votes: PocVote,
    handed_out: tuple[int, ...] = (),
    counted: frozenset[Address] = EVERYBODY,
    nodes: tuple[NodeOutcome, ...] = NODES,
) -> Duties:
    """What the first member had to judge, whose votes these are."""
    given = frozenset((account(number), NODE) for number in handed_out)
    bundles = {account(1): bundle_of(1, *votes, epoch=4)}
    return finish(vote_duties_in_slices(GROUP, nodes, counted, given, bundles))[account(1)]


def test_an_empty_bundle_leaves_everything_undone() -> None:
    assert duties() == Duties(3, 3)  # of others, and of the model it has


def test_who_judged_all_batches_of_its_models_owes_nothing() -> None:
    assert duties(cast(2), cast(2, "no-model", SECOND), cast(3), cast(8)) == Duties(3, 0)


def test_who_refuses_files_that_the_group_recomputed_judged_nothing() -> None:
    """Nobody checks a refusal, and whoever fetches the file sees whether it is wrong."""
    assert duties(cast(2, "wrong-size"), cast(3, "root-mismatch"), cast(8, "wrong-size")) == Duties(3, 3)
    assert duties(cast(2), cast(3, "wrong-size"), cast(8)) == Duties(3, 1)


@pytest.mark.parametrize(
    ("fate", "reason", "undone"),
    [
        (NodeFate.REJECTED, "wrong-size", 0),
        (NodeFate.REJECTED, "root-mismatch", 0),
        (NodeFate.REJECTED, "mismatches", 1),
        (NodeFate.ACCEPTED, "nonces-differ", 1),
        (NodeFate.UNDECIDED, "too-few-to-reject", 0),
        (NodeFate.UNDECIDED, "judges-split", 0),
    ],
)
def test_a_refusal_is_a_judgement_where_the_group_refuses_too_or_leaves_it_open(
    fate: NodeFate, reason: str, undone: int
) -> None:
    """Of a model that two have, the one who refuses a wrong file is too few: it did what was due."""
    nodes = tuple(replace(one, fate=fate, reason=reason) if one is NODES[3] else one for one in NODES)
    assert duties(cast(2), cast(3, "wrong-size"), cast(8), nodes=nodes) == Duties(3, undone)


@pytest.mark.parametrize("reason", ["no-model", "no-time", "engine-failed", "whatever"])
def test_no_excuse_but_a_file_that_was_not_to_be_had_is_one(reason: str) -> None:
    assert duties(cast(2, reason), cast(3), cast(8)) == Duties(3, 1)


def test_a_file_that_most_of_those_able_had_was_to_be_had() -> None:
    votes = (cast(2, "no-data"), cast(3), cast(8))
    assert duties(*votes) == Duties(3, 0)
    assert duties(*votes, handed_out=(3,)) == Duties(3, 0)
    assert duties(*votes, handed_out=(2, 3)) == Duties(3, 1)


def test_who_deposits_after_the_votes_are_cast_takes_no_points_from_those_who_did_not_name_its_batch() -> None:
    late = EVERYBODY - {account(8)}
    assert duties(cast(2), cast(3), counted=late) == Duties(2, 0)
    assert duties(cast(2), cast(3), cast(8), counted=late) == Duties(3, 0)
    assert duties(cast(2), cast(3), cast(8, "no-time"), counted=late) == Duties(3, 1)
    assert duties(cast(2), cast(3), counted=late, handed_out=(8,)) == Duties(3, 1)  # most of those able judged it


def test_votes_on_batches_of_other_models_do_not_make_up_for_what_is_due() -> None:
    assert duties(cast(1), cast(2, node_id=SECOND), cast(9), cast(3)) == Duties(3, 2)


@pytest.mark.parametrize("reason", sorted(NOT_TO_JUDGE))
def test_what_no_vote_decides_is_not_due(reason: str) -> None:
    nodes = (outcome(2, reason=reason), replace(outcome(3), fate=NodeFate.PRESERVED))
    assert set(finish(vote_duties_in_slices(GROUP, nodes, EVERYBODY, frozenset(), {})).values()) == {Duties()}


def test_where_nothing_was_frozen_nothing_is_due() -> None:
    assert finish(vote_duties_in_slices(EpochGroup(EpochNumber(0), (), ()), NODES, EVERYBODY, frozenset(), {})) == {}


def test_each_member_has_the_duties_of_its_own_models() -> None:
    found = finish(vote_duties_in_slices(GROUP, NODES, EVERYBODY, frozenset(), {}))
    expected: dict[Address, Duties] = {account(1): Duties(3, 3), account(2): Duties(3, 3), account(3): Duties(3, 3)}
    assert found == expected
