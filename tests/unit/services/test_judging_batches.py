"""What is said of batches: a false file is refused as a whole, and no engine in trouble keeps others from judging."""

from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs

from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.scenario import BLOCK_SECONDS, PARAMETERS
from node.protocol.events import PocCommitted
from node.protocol.identifiers import Address, Hash32, ModelId, NodeId
from node.protocol.nonces import BATCH_NONCES_MAX, VECTOR_BYTES, VectorsRoot, draw_sample
from node.protocol.stages import Stage, first_block_of
from node.protocol.verdicts import Verdict
from node.services import recomputing, validating
from node.services.timing import until_head
from tests.builders import NODE, TINY, account, commit, registered
from tests.unit.services.validator_scene import OTHER, ZEROS, Scene, TroubledEngine, batch_of, cid_of, run


def test_batches_that_nobody_serves_do_not_keep_others_from_being_judged() -> None:
    withheld = [commit(2, 8, node_id=NodeId(f"node-{number}")) for number in range(64)]
    held = b"\x00" * (8 * VECTOR_BYTES)
    served = replace(commit(3, 8).commit, vectors_cid=cid_of(held))
    votes = run(*withheld, PocCommitted(served), blocks=held).bundle().votes
    assert {vote.reason for vote in votes if vote.participant == account(3)} == {"root-mismatch"}
    assert {vote.reason for vote in votes if vote.participant == account(2)} == {"no-data"}


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
