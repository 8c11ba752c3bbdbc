"""A miner that was ended without a word goes on with the nonces it had, and commits them though its disk was full."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from netsim.chain import SimulatedChain
from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.ledger import Ledger
from netsim.network import SimulatedNetwork, Switchboard
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.protocol.identifiers import Cid, EpochNumber, Hash32, ModelId, NodeId, PeerId
from node.protocol.nonces import VECTOR_BYTES, split_vectors, vectors_root
from node.protocol.records import MLNodeRegistration, PocCommit
from node.protocol.stages import Stage, first_block_of
from node.services.mining import MiningService
from node.services.registration import RegistrationService
from node.store.nonce_file import NonceFile
from tests.builders import account, key_of
from tests.netsim.miners import END, NODE_ID, OTHER_MODEL, Drawn, counting, until_block


class BlockingFile(NonceFile):
    """Without worker threads: simulated time does not wait for them."""

    async def batch(self) -> Hash32 | None:
        await trio.lowlevel.checkpoint()
        return self.batch_blocking()

    async def begin(self, batch: Hash32, vectors_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.begin_blocking(batch, vectors_max)

    async def sync(self) -> None:
        await trio.lowlevel.checkpoint()
        self.sync_blocking()

    async def drop(self) -> None:
        await trio.lowlevel.checkpoint()
        self.drop_blocking()


class RefusingContent(SimulatedContent):
    """A disk without room, for so many tries and while a file takes it."""

    refusals = 0
    taker: Path | None = None

    async def add_bytes(self, data: bytes) -> Cid:
        if self.taker is not None and self.taker.exists():
            raise OSError(28, "No space left on device")
        if self.refusals:
            self.refusals -= 1
            raise OSError(28, "No space left on device")
        return await super().add_bytes(data)


def mine_with_stop(
    path: Path,
    *,
    stop_block: int,
    start_block: int,
    seconds: float = 0.5,
    refusals: int = 0,
    has_room_for_one: bool = False,
    model: ModelId | None = MODEL_ID,
) -> tuple[dict[NodeId, PocCommit], int, int]:
    """Run a miner that is ended without a word at one block and started again at another one; return what is on chain,
    and the nonces that the first and the second run computed. The second one has `model`; None: it loads."""

    async def main() -> tuple[dict[NodeId, PocCommit], int, int]:
        trace = Trace()
        ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 0, trace, ((account(1), 1),))
        ledger.register_model(MODEL)
        ledger.register_model(replace(MODEL, model_id=OTHER_MODEL))
        content = RefusingContent(ContentExchange(trace), "host", 1)
        content.refusals, content.taker = refusals, path if has_room_for_one else None
        engines = [counting(seconds), counting(seconds)]
        async with trio.open_nursery() as nursery:
            chain = SimulatedChain(ledger, key_of(1), confirmations=2)
            network = SimulatedNetwork(Switchboard(nursery, 0, trace), PeerId("peer"), account(1), chain.sign)
            nursery.start_soon(ledger.produce_blocks)
            nodes = [MLNodeRegistration(NODE_ID, (MODEL_ID, OTHER_MODEL), "cpu")]
            nursery.start_soon(RegistrationService(chain, network, nodes).run)
            for engine, until, model_id in zip(engines, (stop_block, None), (MODEL_ID, model), strict=True):
                engine.model_id = model_id
                draw = Everything(selected=False)
                kept = BlockingFile(path)
                service = MiningService(chain, content, engine, draw, nonces_max=10_000, kept=kept)
                scope = trio.CancelScope()

                async def run(service: MiningService, scope: trio.CancelScope) -> None:
                    with scope:
                        await service.run()

                nursery.start_soon(run, service, scope)
                if until is not None:
                    await until_block(ledger, until)
                    scope.cancel()
                    await until_block(ledger, start_block)
            await until_block(ledger, first_block_of(0, Stage.VALIDATE, PARAMETERS))
            nursery.cancel_scope.cancel()
        commits = {key[1]: commit for key, commit in ledger.state.poc_commits.get(EpochNumber(0), {}).items()}
        for commit in commits.values():
            data = await content.read_bytes(commit.vectors_cid, (), limit_bytes=commit.count * VECTOR_BYTES)
            assert commit.root == vectors_root(split_vectors(data, commit.count))
        return commits, engines[0].computed, engines[1].computed

    return run_deterministically(main, 0)


class Everything(Drawn):
    """Judges both models."""

    async def judged_models(self, _epoch: EpochNumber) -> frozenset[ModelId]:
        return frozenset({MODEL_ID, OTHER_MODEL})


def test_a_restart_goes_on_with_the_nonces_that_were_computed(tmp_path: Path) -> None:
    stop = END - 5
    commits, before, after = mine_with_stop(tmp_path / "n" / "node", stop_block=stop, start_block=stop)
    assert before > after > 0
    assert commits[NODE_ID].count == before + after
    assert not (tmp_path / "n" / "node").exists()


def test_nonces_of_another_model_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    stop = END - 5
    commits, before, after = mine_with_stop(tmp_path / "node", stop_block=stop, start_block=stop, model=OTHER_MODEL)
    assert before > 0
    assert (commits[NODE_ID].model_id, commits[NODE_ID].count) == (OTHER_MODEL, after)


def test_who_is_back_only_in_the_next_stage_commits_what_it_had(tmp_path: Path) -> None:
    commits, before, after = mine_with_stop(tmp_path / "node", stop_block=END - 4, start_block=END)
    assert after == 0
    assert commits[NODE_ID].count == before > 0


@pytest.mark.parametrize("model", [None, OTHER_MODEL])
@pytest.mark.parametrize("start_block", [END - 3, END - 1, END, END + 1])
def test_nonces_that_were_kept_need_no_engine_to_be_committed(
    tmp_path: Path, start_block: int, model: ModelId | None
) -> None:
    path = tmp_path / "node"
    commits, before, after = mine_with_stop(path, stop_block=END - 4, start_block=start_block, model=model)
    if model is not None and start_block < END - 2:
        assert commits[NODE_ID].model_id == model  # there was time for its own
    else:
        assert (commits[NODE_ID].model_id, commits[NODE_ID].count, after) == (MODEL_ID, before, 0)
        assert not path.exists()


def test_who_begins_in_the_next_stage_mines_nothing(tmp_path: Path) -> None:
    assert mine_with_stop(tmp_path / "node", stop_block=4, start_block=END)[0] == {}


def test_a_batch_waits_for_room_on_the_disk_and_is_given_up_only_when_it_is_too_late(tmp_path: Path) -> None:
    commits, before, after = mine_with_stop(tmp_path / "a", stop_block=4, start_block=5, refusals=1)
    assert commits[NODE_ID].count == before + after > 0
    assert mine_with_stop(tmp_path / "b", stop_block=4, start_block=5, refusals=10**9)[0] == {}


class FullStore(RefusingContent):
    """Its own limit is reached until the daemon is started again with a higher one."""

    full_until_block = END

    async def add_bytes(self, data: bytes) -> Cid:
        if trio.current_time() < self.full_until_block * BLOCK_SECONDS:
            raise OSError("the content store is full: raise [content] cache_bytes_max")
        return await super().add_bytes(data)


def test_a_restart_with_a_higher_limit_of_the_content_store_commits_what_was_mined_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "RefusingContent", FullStore)
    commits, before, after = mine_with_stop(tmp_path / "node", stop_block=END - 1, start_block=END)
    assert commits[NODE_ID].count == before > after == 0


def test_nonces_that_are_kept_leave_their_room_to_the_batch(tmp_path: Path) -> None:
    commits, before, after = mine_with_stop(tmp_path / "a", stop_block=4, start_block=5, has_room_for_one=True)
    assert commits[NODE_ID].count == before + after > 0
