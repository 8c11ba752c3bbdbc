"""The validator: neither content that others withhold nor a fault in what they signed costs it its votes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from netsim.chain import SimulatedChain
from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.ledger import Ledger
from netsim.scenario import BLOCK_SECONDS, PARAMETERS
from netsim.trace import Trace
from node.ports import ContentNotHeldError, Provider
from node.protocol.actions import ChainAction
from node.protocol.bundle_reading import PIECE_BYTES_MAX
from node.protocol.canonical import keccak_digest
from node.protocol.chain_state import ChainState
from node.protocol.codec import to_bytes, to_value
from node.protocol.events import CollateralDeposited, MinCollateralSet, PocCommitted, VotesCommitted
from node.protocol.findings import VoteCheck
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.judges import Judges
from node.protocol.nonces import VECTOR_BYTES, VectorsRoot
from node.protocol.records import PocVote, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import EVIDENCE_DIFFERS, NO_TIME
from node.protocol.verdicts import Verdict
from node.services import validating
from node.services.epochs import EpochBook
from node.services.judging import Judging
from node.services.presence import PresenceTable
from node.services.timing import until_head
from node.services.vote_checking import VoteChecker
from node.store.books import Books
from node.store.database import Database
from tests.builders import (
    NODE,
    SOME_CID,
    TINY,
    account,
    bundle_of,
    commit,
    group_set,
    key_of,
    model,
    registered,
    vote_on,
)
from tests.unit.services.test_omission_watch import receipt
from tests.unit.services.validator_scene import EPOCH, POISON, Auditing, Scene, cid_of, run


def test_a_fault_in_its_audits_costs_a_validator_its_audits_and_not_its_votes() -> None:
    bundle = run(commit(2, 8), auditing=Auditing()).bundle()
    assert bundle.audits == ()
    assert [vote.participant for vote in bundle.votes] == [account(2)]


def test_stored_votes_that_break_the_rules_are_mended_after_a_restart_alike() -> None:
    stored = replace(bundle_of(1), audits=(POISON,))

    def before(scene: Scene) -> None:
        scene.store.put_document("votes/0", to_bytes(stored))

    once, again = run(before=before), run(before=before)
    assert once.bundle() == again.bundle() == replace(stored, audits=())


def test_where_nothing_of_its_votes_may_be_committed_a_validator_goes_on_without() -> None:
    stored = bundle_of(1, replace(vote_on(commit(2, 8).commit, Verdict.ABSTAIN), reason="x" * 65))
    scene = run(before=lambda scene: scene.store.put_document("votes/0", to_bytes(stored)))
    assert EPOCH not in scene.ledger.state.vote_bundles


def test_other_votes_than_those_on_record_are_never_committed() -> None:
    recorded = keccak_digest(to_value(replace(bundle_of(1), audits=(POISON,))))
    scene = run(auditing=Auditing(), before=lambda scene: scene.store.record_duty("votes/0", recorded))
    assert EPOCH not in scene.ledger.state.vote_bundles


def test_votes_that_come_a_second_time_are_refused_and_the_sender_is_told() -> None:
    """By another daemon with the same key, whose votes were first: those stay."""
    first = VotesCommitted(EPOCH, account(1), SOME_CID)
    with capture_logs() as lines:
        scene = run(first, commit(2, 8))
    assert scene.ledger.state.vote_bundles[EPOCH] == {account(1): SOME_CID}
    assert refusals(lines) == ["AlreadyVoted"]


def test_votes_that_reach_the_chain_too_late_are_refused_and_the_sender_is_told() -> None:
    def before(scene: Scene) -> None:
        async def held_back(action: ChainAction) -> ChainAction:
            await until_head(scene.chain, first_block_of(0, Stage.FORM, PARAMETERS))
            return action

        scene.chain.rewrite = held_back

    with capture_logs() as lines:
        scene = run(commit(2, 8), before=before)
    assert EPOCH not in scene.ledger.state.vote_bundles
    assert refusals(lines) == ["WrongStage(0, FORM)"]


def test_votes_of_an_outsider_leave_nothing_on_the_chain_and_the_sender_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one whose endpoint told it that it is a member: by itself no outsider votes."""

    def before(scene: Scene) -> None:
        async def state_at(block: BlockNumber) -> ChainState:
            state = scene.ledger.state_at(block).copy()
            state.groups[EPOCH] = group_set(0, {1: 1, 2: 1}).weights
            return state

        monkeypatch.setattr(scene.chain, "state_at", state_at)

    with capture_logs() as lines:
        scene = run(commit(2, 8), before=before, weights={2: 1})
    assert EPOCH not in scene.ledger.state.vote_bundles
    assert not [event for event in scene.ledger.events if isinstance(event.body, VotesCommitted)]
    assert refusals(lines) == ["NotAMember"]


def refusals(lines: Sequence[Any]) -> list[str]:
    """Why the chain refused votes, by the sender's log; which has no line that they are committed."""
    assert not [line for line in lines if line["event"] == "votes are committed"]
    return [line["reason"] for line in lines if line["event"] == "the votes were refused"]


def test_who_was_no_member_does_not_tell_of_earlier_epochs_as_of_this_one() -> None:
    scene = run(weights={2: 1})
    assert len(scene.observed) == 1
    assert EPOCH not in scene.ledger.state.vote_bundles


def test_what_nobody_would_read_to_the_end_is_left_out_and_not_committed() -> None:
    """An executor chose how long its receipt is; the votes are none the less read by all."""

    class Challenging(Auditing):
        async def complete(self, bundle: VoteBundle) -> VoteBundle:
            await trio.lowlevel.checkpoint()
            signed = receipt(1)
            long = replace(signed.receipt, model_cid=Cid("b" * PIECE_BYTES_MAX))
            return replace(bundle, challenges=(replace(signed, receipt=long),))

    bundle = run(commit(2, 8), auditing=Challenging()).bundle()
    assert bundle.challenges == ()
    assert len(bundle.votes) == 1


COLLATERAL = (MinCollateralSet(TokenAmount(10)), CollateralDeposited(account(2), TokenAmount(10)))


def test_batches_that_do_not_count_are_no_burden_on_a_bundle_unless_they_are_judged() -> None:
    held = b"\x00" * (8 * VECTOR_BYTES)
    served = replace(commit(3, 8).commit, vectors_cid=cid_of(held))
    uncounted = [commit(4, 8, node_id=NodeId(f"node-{number}")) for number in range(64)]
    votes = run(*COLLATERAL, commit(2, 8), PocCommitted(served), *uncounted, blocks=held).bundle().votes
    said = {(vote.participant, vote.reason) for vote in votes}
    assert said == {(account(2), "no-data"), (account(3), "root-mismatch")}
    assert len(votes) == 2


def test_abstentions_go_first_where_nobody_would_read_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    held = b"\x00" * (8 * VECTOR_BYTES)
    served = replace(commit(3, 8).commit, vectors_cid=cid_of(held))
    withheld = [commit(2, 8, node_id=NodeId(f"node-{number}")) for number in range(64)]
    full = run(*withheld, PocCommitted(served), blocks=held).bundle()
    monkeypatch.setattr(validating, "VOTE_BUNDLE_BYTES_MAX", len(to_bytes(full)) - 1)
    assert [vote.reason for vote in run(*withheld, PocCommitted(served), blocks=held).bundle().votes] == [
        "root-mismatch"
    ]
    monkeypatch.setattr(validating, "VOTE_BUNDLE_BYTES_MAX", len(to_bytes(full)))
    assert run(*withheld, PocCommitted(served), blocks=held).bundle() == full


class FullDisk(SimulatedContent):
    """Takes nothing of its own until `own_refused` tries failed, and nothing of others."""

    own_refused = 0

    async def add_bytes(self, data: bytes) -> Cid:
        if self.own_refused:
            self.own_refused -= 1
            await trio.lowlevel.checkpoint()
            raise OSError(28, "No space left on device")
        return await super().add_bytes(data)

    async def read_bytes(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        if cid not in self.blocks:
            await trio.lowlevel.checkpoint()
            raise ContentNotHeldError("the disk is full")
        return await super().read_bytes(cid, providers, limit_bytes=limit_bytes)


def fill_disk(scene: Scene, refused: int) -> None:
    scene.content.__class__ = FullDisk
    scene.content.own_refused = refused  # type: ignore[attr-defined]  # of the class just given


def test_a_validator_whose_disk_is_full_blames_nobody_and_votes_when_there_is_room() -> None:
    scene = run(commit(2, 8), before=lambda scene: fill_disk(scene, 1))
    assert [vote.reason for vote in scene.bundle().votes] == ["no-time"]


def test_a_validator_whose_disk_stays_full_goes_on_without_votes() -> None:
    scene = run(commit(2, 8), before=lambda scene: fill_disk(scene, 10**9))
    assert EPOCH not in scene.ledger.state.vote_bundles


def test_what_was_seen_in_an_epoch_without_votes_is_not_told_of_as_of_the_next() -> None:
    data = b"\x00" * (8 * VECTOR_BYTES)
    root = VectorsRoot()
    for _ in range(8):
        root.add(data[:VECTOR_BYTES])
    judged = replace(commit(2, 8).commit, root=root.root(), vectors_cid=cid_of(data))
    scene = run(PocCommitted(judged), before=lambda scene: fill_disk(scene, 10**9), blocks=data)
    assert scene.content.own_refused < 10**9 - 1  # type: ignore[attr-defined]  # it waited, with the evidence
    assert len(scene.observed) == 1
    assert EPOCH not in scene.ledger.state.vote_bundles


@pytest.mark.parametrize("is_full", [False, True])
def test_votes_that_nobody_serves_do_not_keep_those_of_others_from_being_checked(*, is_full: bool) -> None:
    """And evidence that this node has no room for is not held against who made it."""
    evidence = b"no evidence"
    batch = commit(1, 64)
    sampled = min(64, PARAMETERS.poc_sample_size)
    vote = PocVote(account(1), NODE, Verdict.VALID, sampled, (), "")
    faulty = replace(bundle_of(6, vote), evidence_cid=cid_of(evidence))
    missing = [VotesCommitted(EPOCH, account(number), SOME_CID) for number in range(2, 6)]

    async def main() -> dict[tuple[Address, ModelId], VoteCheck]:
        trace = Trace()
        ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 0, trace, group_set(0, dict.fromkeys(range(1, 7), 1)).weights)
        content = SimulatedContent(ContentExchange(trace), "host", 1)
        if is_full:
            content.__class__ = FullDisk
        else:
            await content.add_bytes(evidence)
        ledger.register_model(model())
        ledger._seal_block([*(event for number in range(1, 7) for event in registered(number)), batch])
        ledger._seal_block([*missing, VotesCommitted(EPOCH, account(6), await content.add_bytes(to_bytes(faulty)))])
        chain = SimulatedChain(ledger, key_of(1), confirmations=2)
        presence = PresenceTable(chain, lambda: 0)
        epochs = EpochBook(chain, content, Books(Database(":memory:"), account(1)), presence)
        checker = VoteChecker(chain, content, presence, epochs, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.produce_blocks)
            nursery.start_soon(checker.run)
            await trio.sleep((first_block_of(1, Stage.EXCHANGE, PARAMETERS) - ledger.height) * BLOCK_SECONDS)
            nursery.cancel_scope.cancel()
        return checker._checks[EPOCH]

    found = run_deterministically(main, 0)
    reason = NO_TIME if is_full else EVIDENCE_DIFFERS
    assert found.pop((account(6), TINY)).reason == reason
    assert {(check.verdict, check.reason) for check in found.values()} == {(Verdict.ABSTAIN, NO_TIME)}
    assert found.keys() == {(account(number), TINY) for number in range(2, 6)}


def test_only_who_voted_before_is_checked_by_anyone() -> None:
    weights = {account(number): 1 for number in (1, 2, 3)}
    seed = Hash32(bytes(32))
    judges = Judges({TINY: weights})
    judging = Judging(EpochNumber(1), {}, {}, {}, judges, weights, seed, seed, seed, frozenset({account(2)}))
    assert judging.checkers(account(2), TINY) == {account(1), account(3)}
    assert judging.checkers(account(2), ModelId("other")) == frozenset()
    assert judging.checkers(account(3), TINY) == frozenset()
    assert judging.checkers(Address(account(2).lower()), TINY) == frozenset()
