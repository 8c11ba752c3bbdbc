"""The validator: neither content that others withhold nor a fault in what they signed costs it its votes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from netsim.chain import SimulatedChain
from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.scenario import BLOCK_SECONDS, PARAMETERS
from netsim.trace import Trace
from node.ports import ContentNotHeldError, EngineFailedError, EngineRefusedError, Provider
from node.protocol.actions import ChainAction
from node.protocol.audits import NO_FIGURES
from node.protocol.bundle_reading import PIECE_BYTES_MAX
from node.protocol.canonical import keccak_digest
from node.protocol.chain_state import ChainState
from node.protocol.codec import from_bytes, to_bytes, to_value
from node.protocol.events import CollateralDeposited, EventBody, MinCollateralSet, PocCommitted, VotesCommitted
from node.protocol.findings import AuditVote, Observations, VoteCheck
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.judges import Judges
from node.protocol.nonces import BATCH_NONCES_MAX, VECTOR_BYTES, VectorsRoot, draw_sample
from node.protocol.records import PocVote, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import EVIDENCE_DIFFERS, NO_TIME
from node.protocol.verdicts import Verdict
from node.services import recomputing, validating
from node.services.epochs import EpochBook
from node.services.judging import Judging
from node.services.presence import PresenceTable
from node.services.timing import until_head
from node.services.validating import ValidatingService
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

EPOCH = EpochNumber(0)
ABSTENTION = AuditVote(
    account(2), 0, NodeId(""), ModelId(""), Hash32(b"\x01" * 32), Verdict.ABSTAIN, NO_FIGURES, "no-model"
)
OTHER = replace(model(), model_id=ModelId("other"))
POISON = replace(ABSTENTION, node_id=NodeId("x" * 65))
"""An audit that voids every bundle it is in."""


class Auditing:
    """Completes bundles with what a hostile executor made auditors say."""

    async def complete(self, bundle: VoteBundle) -> VoteBundle:
        await trio.lowlevel.checkpoint()
        return replace(bundle, audits=(POISON,))


@dataclass(slots=True)
class Scene:
    """One validator, account 1, in an epoch with the given events."""

    ledger: Ledger
    content: SimulatedContent
    store: Books
    chain: SimulatedChain
    epochs: EpochBook
    presence: PresenceTable
    observed: list[int] = field(default_factory=list)
    """Blocks at which it was asked what it saw."""

    def observe(self) -> Observations:
        self.observed.append(self.ledger.height)
        return Observations()

    def bundle(self) -> VoteBundle:
        return from_bytes(VoteBundle, self.content._blocks[self.ledger.state.vote_bundles[EPOCH][account(1)]])


def provers_of(events: Sequence[EventBody]) -> list[EventBody]:
    """Registrations of all ML nodes that `events` have batches of: others are not judged."""
    nodes = dict[Address, list[tuple[NodeId, ModelId]]]()
    for event in events:
        if isinstance(event, PocCommitted):
            nodes.setdefault(event.commit.participant, []).append((event.commit.node_id, event.commit.model_id))
    numbers = {account(number): number for number in range(1, 20)}
    return [body for prover, served in nodes.items() for body in registered(numbers[prover], *served)]


def run(
    *events: EventBody,
    auditing: Auditing | None = None,
    before: Callable[[Scene], None] = lambda _: None,
    blocks: bytes = b"",
    weights: dict[int, int] | None = None,
    engines: Sequence[SimulatedEngine] = (),
    after: tuple[int, Callable[[Ledger], None]] | None = None,
) -> Scene:
    """Run the validator through the first epoch; `blocks` is content that it holds. `after`: a block, and what happens
    to the chain right after it."""

    async def main() -> Scene:
        trace = Trace()
        ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 0, trace, group_set(0, weights or {1: 1, 2: 1}).weights)
        ledger.register_model(model())
        ledger.register_model(OTHER)
        ledger._seal_block([*provers_of(events), *events])
        content = SimulatedContent(ContentExchange(trace), "host", 1)
        await content.add_bytes(blocks)
        store = Books(Database(":memory:"), account(1))
        chain = SimulatedChain(ledger, key_of(1), confirmations=2)
        presence = PresenceTable(chain, lambda: 0)
        epochs = EpochBook(chain, content, store, presence)
        scene = Scene(ledger, content, store, chain, epochs, presence)
        before(scene)
        async with trio.open_nursery() as nursery:
            used: Any = engines or [SimulatedEngine(NODE, TINY, "honest", 0.0, 1)]
            service = ValidatingService(chain, content, store, presence, epochs, used, auditing, scene.observe)
            nursery.start_soon(ledger.produce_blocks)
            nursery.start_soon(service.run)
            for engine in used:
                if isinstance(engine, TroubledEngine):
                    nursery.start_soon(engine.revive)
            if after is not None:
                await trio.sleep((after[0] + 0.5 - ledger.height) * BLOCK_SECONDS)
                after[1](ledger)
            await trio.sleep((first_block_of(0, Stage.LOAD, PARAMETERS) - ledger.height) * BLOCK_SECONDS)
            nursery.cancel_scope.cancel()
        return scene

    return run_deterministically(main, 0)


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


def test_batches_that_nobody_serves_do_not_keep_others_from_being_judged() -> None:
    withheld = [commit(2, 8, node_id=NodeId(f"node-{number}")) for number in range(64)]
    held = b"\x00" * (8 * VECTOR_BYTES)
    served = replace(commit(3, 8).commit, vectors_cid=cid_of(held))
    votes = run(*withheld, PocCommitted(served), blocks=held).bundle().votes
    assert {vote.reason for vote in votes if vote.participant == account(3)} == {"root-mismatch"}
    assert {vote.reason for vote in votes if vote.participant == account(2)} == {"no-data"}


ZEROS = b"\x00" * VECTOR_BYTES


def batch_of(data: bytes, count: int, *, of: int) -> PocCommitted:
    """Account 2's batch of so many nonces, with the root of `of` vectors of zeros, and `data` for its file."""
    root = VectorsRoot()
    for _ in range(of):
        root.add(ZEROS)
    return PocCommitted(replace(commit(2, count).commit, root=root.root(), vectors_cid=cid_of(data)))


@pytest.mark.parametrize(
    ("data", "count", "of", "reason"),
    [
        pytest.param(ZEROS * 7, 8, 8, "wrong-size", id="a vector is missing"),
        pytest.param(ZEROS * 9, 8, 8, "wrong-size", id="there is one more than is told"),
        pytest.param(ZEROS * 8, 9, 8, "wrong-size", id="the count is not that of file and root"),
        pytest.param(ZEROS * 8 + b"\x00", 8, 8, "wrong-size", id="a byte too many"),
        pytest.param(ZEROS * 8 + b"\x00", 9, 8, "wrong-size", id="a piece of a vector"),
        pytest.param(b"", 8, 8, "wrong-size", id="nothing"),
        pytest.param(ZEROS * 9, 9, 8, "root-mismatch", id="the count is not that of the root"),
        pytest.param(ZEROS * 7 + b"\xff" * VECTOR_BYTES, 8, 8, "root-mismatch", id="another vector"),
    ],
)
def test_a_batch_whose_file_is_not_what_was_committed_is_refused_as_a_whole(
    data: bytes, count: int, of: int, reason: str
) -> None:
    with capture_logs() as lines:
        (vote,) = run(batch_of(data, count, of=of), blocks=data).bundle().votes
    assert (vote.verdict, vote.sampled, vote.mismatches, vote.reason) == (Verdict.INVALID, 0, (), reason)
    said = [line for line in lines if line["event"] == "a batch is refused as a whole"]
    assert [(line["log_level"], line["participant"], line["node"], line["reason"]) for line in said] == [
        ("warning", account(2), NODE, reason)
    ]


def test_a_batch_that_no_file_can_hold_is_not_asked_for() -> None:
    """An empty one, and one of more nonces than count: the chain takes any number."""
    for count in (0, BATCH_NONCES_MAX + 1):
        (vote,) = run(batch_of(b"", count, of=0), blocks=b"").bundle().votes
        assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "no-such-size")


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


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_sample_is_drawn_by_the_block_that_stays_where_the_one_that_draws_it_is_replaced(blocks: int) -> None:
    """Up to the last moment before it is confirmed. Every nonce is wrong here, so the vote names the whole sample."""
    begin, count = first_block_of(0, Stage.VALIDATE, PARAMETERS), 64
    seeds: list[Hash32] = []

    def replace_blocks(ledger: Ledger) -> None:
        seeds.append(ledger.block_hashes[begin])
        ledger.reorganise(blocks)
        seeds.append(ledger.block_hashes[begin])

    data = ZEROS * count
    scene = run(batch_of(data, count, of=count), blocks=data, after=(begin + blocks - 1, replace_blocks))
    (vote,) = scene.bundle().votes
    doomed, stays = (draw_sample(seed, account(2), NODE, count, PARAMETERS.poc_sample_size) for seed in seeds)
    assert doomed != stays
    assert (vote.verdict, vote.sampled, vote.mismatches) == (Verdict.INVALID, len(stays), stays)


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


def cid_of(data: bytes) -> Cid:
    async def main() -> Cid:
        return await SimulatedContent(ContentExchange(Trace()), "host", 1).add_bytes(data)

    return trio.run(main)


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


@pytest.mark.parametrize(("came_after_blocks", "reason"), [(0, "no-time"), (6, "no-data")])
def test_a_file_that_comes_too_late_to_be_judged_was_withheld_and_is_no_fault_of_who_asked_in_time(
    came_after_blocks: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever hands its fakes to honest judges at the last moment would be judged by its friends alone."""
    data = b"\x00" * (8 * VECTOR_BYTES)
    root = VectorsRoot()
    for _ in range(8):
        root.add(data[:VECTOR_BYTES])
    batch = replace(commit(2, 8).commit, root=root.root())

    async def never(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    def slow(scene: Scene) -> None:
        async def read_bytes(*_: object, **__: object) -> bytes:
            begin = first_block_of(0, Stage.VALIDATE, PARAMETERS)
            await until_head(scene.chain, begin + came_after_blocks)
            return data

        monkeypatch.setattr(scene.content, "read_bytes", read_bytes)

    monkeypatch.setattr(validating, "recompute", never)
    (vote,) = run(PocCommitted(batch), before=slow).bundle().votes
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, reason)


EIGHT_ZEROS = b"\x00" * (8 * VECTOR_BYTES)


def batch_of_zeros(number: int, model_id: ModelId) -> PocCommitted:
    """A batch whose root is right, so that its nonces are recomputed, and differ."""
    root = VectorsRoot()
    for _ in range(8):
        root.add(EIGHT_ZEROS[:VECTOR_BYTES])
    batch = commit(number, 8).commit
    return PocCommitted(replace(batch, root=root.root(), vectors_cid=cid_of(EIGHT_ZEROS), model_id=model_id))


class TroubledEngine(SimulatedEngine):
    """Does not answer at first, in one way or another, and does from `until_block` on; dead or hanging until then."""

    trouble = ""
    until_block = 0

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        while self.trouble and trio.current_time() < self.until_block * BLOCK_SECONDS:
            if self.trouble == "refuses":
                raise EngineRefusedError("/v1/completions: 401 unauthorized")
            if self.trouble == "dies":
                self.model_id = None
                raise EngineFailedError("the server ended")
            await trio.sleep(BLOCK_SECONDS / 4)
        return await super().prompt_logprobs(prompts, priority=priority)

    async def revive(self) -> None:
        await trio.sleep(self.until_block * BLOCK_SECONDS)
        self.model_id = TINY


def troubled(trouble: str, until_block: int) -> TroubledEngine:
    engine = TroubledEngine(NODE, TINY, "honest", 0.0, 1)
    engine.trouble, engine.until_block = trouble, until_block
    return engine


def with_trouble(trouble: str, *, until_block: int) -> dict[Address, tuple[Verdict, str]]:
    """Judge six batches of a model whose engine is in trouble, and six of another; return the votes by whom on."""
    engine = troubled(trouble, until_block)
    batches = [batch_of_zeros(number, TINY if number < 8 else OTHER.model_id) for number in range(2, 14)]

    scene = run(
        *batches,
        blocks=EIGHT_ZEROS,
        engines=[engine, SimulatedEngine(NodeId("second"), OTHER.model_id, "honest", 0.0, 1)],
    )
    return {vote.participant: (vote.verdict, vote.reason) for vote in scene.bundle().votes}


JUDGED_FALSE = (Verdict.INVALID, "mismatches")


@pytest.mark.parametrize("trouble", ["refuses", "dies", "hangs"])
def test_an_engine_in_trouble_keeps_no_batch_of_another_model_from_being_judged(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recomputing, "SILENCE_SECONDS_MAX", BLOCK_SECONDS)
    votes = with_trouble(trouble, until_block=10**9)
    assert [votes[account(number)] for number in range(8, 14)] == [JUDGED_FALSE] * 6
    assert {votes[account(number)] for number in range(2, 8)} == {(Verdict.ABSTAIN, "no-time")}


@pytest.mark.parametrize("trouble", ["refuses", "dies", "hangs"])
def test_batches_are_judged_when_their_engine_is_out_of_trouble(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recomputing, "SILENCE_SECONDS_MAX", BLOCK_SECONDS)
    monkeypatch.setattr(validating, "REFUSED_SECONDS", BLOCK_SECONDS)
    votes = with_trouble(trouble, until_block=first_block_of(0, Stage.VALIDATE, PARAMETERS) + 6)
    assert set(votes.values()) == {JUDGED_FALSE}


class LoadingEngine(TroubledEngine):
    """Has its model only from `until_block` on: the daemon was started again while judging went on."""

    async def revive(self) -> None:
        self.model_id = None
        await super().revive()


@pytest.mark.parametrize(("blocks", "expected"), [(3, JUDGED_FALSE), (10**9, (Verdict.ABSTAIN, "no-time"))])
def test_a_model_that_is_still_loading_when_judging_begins_is_waited_for(
    blocks: int, expected: tuple[Verdict, str]
) -> None:
    begin = first_block_of(0, Stage.VALIDATE, PARAMETERS)
    engine = LoadingEngine(NODE, TINY, "honest", 0.0, 1)
    engine.until_block = begin + blocks
    batches = [batch_of_zeros(number, TINY) for number in range(2, 8)]
    scene = run(*registered(1), *batches, blocks=EIGHT_ZEROS, engines=[engine])
    assert {(vote.verdict, vote.reason) for vote in scene.bundle().votes} == {expected}


def test_a_model_that_no_node_here_is_registered_for_is_not_waited_for() -> None:
    """Though another daemon of the account serves it."""
    engine = LoadingEngine(NodeId("second"), TINY, "honest", 0.0, 1)
    engine.until_block = 10**9
    scene = run(*registered(1), batch_of_zeros(2, TINY), blocks=EIGHT_ZEROS, engines=[engine])
    assert [vote.reason for vote in scene.bundle().votes] == ["no-model"]


@pytest.mark.parametrize("trouble", ["refuses", "dies", "hangs"])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_engine_in_trouble_keeps_no_other_with_its_model_idle(
    trouble: str, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recomputing, "SILENCE_SECONDS_MAX", BLOCK_SECONDS)
    good = SimulatedEngine(NodeId("second"), TINY, "honest", 0.0, 1)
    engines = [troubled(trouble, until_block=10**9), good]
    batches = [batch_of_zeros(number, TINY) for number in range(2, 8)]
    scene = run(*batches, blocks=EIGHT_ZEROS, engines=engines if is_first else engines[::-1])
    assert {(vote.verdict, vote.reason) for vote in scene.bundle().votes} == {JUDGED_FALSE}
