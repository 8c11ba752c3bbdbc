"""The miner: one batch per node and epoch whatever happens, and none where the node was drawn to keep serving."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import structlog.testing
import trio

from netsim.chain import SimulatedChain
from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.network import SimulatedNetwork, Switchboard
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.identifiers import EpochNumber, Hash32, NodeId, PeerId
from node.protocol.nonces import VECTOR_BYTES, nonce_prompt, split_vectors, vectors_root
from node.protocol.records import MLNodeRegistration, PocCommit
from node.protocol.stages import Stage, first_block_of
from node.services.epochs import EpochBook
from node.services.mining import MiningService, MiningState
from node.services.poc_slots import PocSlots
from node.services.presence import PresenceTable
from node.services.registration import RegistrationService
from node.store.books import Books
from node.store.database import Database
from tests.builders import account, key_of
from tests.netsim.miners import BEGIN, NODE_ID, OTHER_MODEL, CountingEngine, Drawn, SlowEngine, counting, until_block


class FailingEngine(SimulatedEngine):
    """Fails at first; or refuses for good."""

    failures = 2
    error: Exception = EngineFailedError("gone")

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        if self.failures:
            self.failures -= 1
            raise self.error
        return await super().prompt_logprobs(prompts, priority=priority)


@dataclass
class NotingEngine(SimulatedEngine):
    """Notes what it was asked."""

    asked: set[tuple[int, ...]] = field(default_factory=set)

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        self.asked.update(map(tuple, prompts))
        return await super().prompt_logprobs(prompts, priority=priority)


async def take_out_of_service(ledger: Ledger, block: int) -> None:
    await trio.sleep((block + 0.5) * BLOCK_SECONDS)
    ledger.register_model(replace(MODEL, active=False))


async def act_after(ledger: Ledger, block: int, act: Callable[[Ledger], None]) -> None:
    await until_block(ledger, block)
    act(ledger)


async def register_from(registration: RegistrationService, block: int) -> None:
    await trio.sleep(block * BLOCK_SECONDS)
    await registration.run()


def mine(
    engine: SimulatedEngine | None = None,
    *,
    selected: bool | None = False,
    restart: bool = False,
    nonces_max: int = 50,
    out_of_service_at: int | None = None,
    registers_at: int | None = None,
    ready_block: int = 0,
    after: tuple[int, Callable[[Ledger], None]] | None = None,
) -> tuple[MiningState, dict[NodeId, PocCommit], bytes]:
    """Run a miner through one epoch; return its state, what is on chain of it, and its vectors file.

    `out_of_service_at`: the block at which the owner deactivates the model; `registers_at`: the one from which on the
    ML node registers. With either the draw is the real one. `after`: a block, and what happens to the chain right
    after it.
    """

    async def main() -> tuple[MiningState, dict[NodeId, PocCommit], bytes]:
        trace = Trace()
        ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 0, trace, ((account(1), 1),))
        ledger.register_model(MODEL)
        content = SimulatedContent(ContentExchange(trace), "host", 1)
        async with trio.open_nursery() as nursery:
            chain = SimulatedChain(ledger, key_of(1), confirmations=2)
            network = SimulatedNetwork(Switchboard(nursery, 0, trace), PeerId("peer"), account(1), chain.sign)
            nursery.start_soon(ledger.produce_blocks)
            registration = RegistrationService(chain, network, [MLNodeRegistration(NODE_ID, (MODEL_ID,), "cpu")])
            nursery.start_soon(register_from, registration, registers_at or 0)
            used = engine or SimulatedEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1)
            used.model_id = None if ready_block else MODEL_ID

            async def load() -> None:
                await trio.sleep(ready_block * BLOCK_SECONDS)
                used.model_id = MODEL_ID

            nursery.start_soon(load)
            if isinstance(used, DyingEngine):
                nursery.start_soon(used.revive)
            if after is not None:
                nursery.start_soon(act_after, ledger, *after)
            slots: PocSlots = Drawn(selected=selected)
            if out_of_service_at is not None:
                nursery.start_soon(take_out_of_service, ledger, out_of_service_at)
            if (out_of_service_at, registers_at) != (None, None):
                presence = PresenceTable(chain, lambda: 0)
                slots = PocSlots(chain, EpochBook(chain, content, Books(Database(":memory:"), account(1)), presence))
            service = MiningService(chain, content, used, slots, nonces_max=nonces_max)
            runs = trio.CancelScope()

            async def run(scope: trio.CancelScope) -> None:
                with scope:
                    await service.run()

            nursery.start_soon(run, runs)
            if restart:
                await trio.sleep((first_block_of(0, Stage.EXCHANGE, PARAMETERS) - 3) * BLOCK_SECONDS)
                runs.cancel()
                service = MiningService(chain, content, used, Drawn(selected=selected), nonces_max=90)
                nursery.start_soon(service.run)
            await trio.sleep((first_block_of(0, Stage.VALIDATE, PARAMETERS) - ledger.height) * BLOCK_SECONDS)
            nursery.cancel_scope.cancel()
        commits = {key[1]: commit for key, commit in ledger.state.poc_commits.get(EpochNumber(0), {}).items()}
        data = b""
        for commit in commits.values():
            data = await content.read_bytes(commit.vectors_cid, (), limit_bytes=commit.count * VECTOR_BYTES)
        return service.progress.state, commits, data

    return run_deterministically(main, 0)


@pytest.mark.parametrize("blocks", [1, 2])
def test_nonces_are_those_of_the_block_that_stays_where_the_one_that_draws_them_is_replaced(blocks: int) -> None:
    """Up to the last moment before it is confirmed; none of the other's is ever computed."""
    seeds: list[Hash32] = []

    def replace_blocks(ledger: Ledger) -> None:
        seeds.append(ledger.block_hashes[BEGIN])
        ledger.reorganise(blocks)
        seeds.append(ledger.block_hashes[BEGIN])

    engine = NotingEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1)
    state, commits, _ = mine(engine, after=(BEGIN + blocks - 1, replace_blocks))
    assert (state, commits[NODE_ID].count) == (MiningState.COMMITTED, 50)
    doomed, stays = seeds
    assert doomed != stays
    assert engine.asked == {
        nonce_prompt(stays, account(1), NODE_ID, nonce, engine.vocabulary_size) for nonce in range(50)
    }


def test_a_batch_is_committed_whose_file_has_its_root() -> None:
    state, commits, data = mine()
    commit = commits[NODE_ID]
    assert state is MiningState.COMMITTED
    assert (commit.count, commit.root) == (50, vectors_root(split_vectors(data, 50)))


def test_a_node_drawn_to_keep_serving_does_not_mine() -> None:
    assert mine(selected=True)[:2] == (MiningState.SERVING, {})


def test_a_model_out_of_service_before_mining_is_not_mined_for_nobody_would_judge_the_batch() -> None:
    before = first_block_of(0, Stage.GENERATE, PARAMETERS) - 3
    assert mine(out_of_service_at=before)[:2] == (MiningState.NOTHING, {})


def test_a_batch_of_a_model_taken_out_of_service_while_it_is_mined_is_committed_for_it_is_judged() -> None:
    during = first_block_of(0, Stage.GENERATE, PARAMETERS) + 1
    state, commits, _ = mine(out_of_service_at=during)
    assert (state, commits[NODE_ID].count) == (MiningState.COMMITTED, 50)


def test_a_node_registered_after_mining_began_does_not_mine_for_nobody_would_judge_the_batch() -> None:
    """It would have chosen its name and its hardware with the seed at hand (validation.rules_of)."""
    with structlog.testing.capture_logs() as lines:
        state, commits, _ = mine(registers_at=BEGIN + 1)
    assert (state, commits) == (MiningState.NOTHING, {})
    assert [line["node"] for line in lines if "was not registered before mining began" in line["event"]] == [NODE_ID]
    assert mine(registers_at=BEGIN - 8)[1].keys() == {NODE_ID}


def test_where_nobody_knows_the_draw_mining_goes_on() -> None:
    assert mine(selected=None)[1][NODE_ID].count == 50


def test_a_restart_commits_no_second_batch() -> None:
    state, commits, _ = mine(restart=True)
    assert (state, commits[NODE_ID].count) == (MiningState.COMMITTED, 50)


def test_a_failed_engine_is_waited_for_and_no_nonce_is_left_out() -> None:
    flawless = mine()[1][NODE_ID]
    assert mine(FailingEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1))[1][NODE_ID].root == flawless.root


def test_an_engine_that_is_ready_late_proves_in_what_is_left_of_the_stage() -> None:
    begin = first_block_of(0, Stage.GENERATE, PARAMETERS)
    state, commits, _ = mine(ready_block=begin + 4)
    assert (state, commits[NODE_ID].count) == (MiningState.COMMITTED, 50)


def test_an_engine_that_is_ready_after_the_stage_commits_nothing() -> None:
    assert mine(ready_block=first_block_of(0, Stage.EXCHANGE, PARAMETERS))[:2] == (MiningState.NOTHING, {})


def test_an_engine_that_refuses_for_a_moment_is_asked_again() -> None:
    engine = FailingEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1)
    engine.failures, engine.error = 1, EngineRefusedError("404 page not found")
    assert mine(engine)[1][NODE_ID].root == mine()[1][NODE_ID].root


def test_a_model_that_cannot_be_mined_is_given_up() -> None:
    engine = FailingEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1)
    engine.failures, engine.error = 10**9, EngineRefusedError("too few dimensions")
    assert mine(engine)[:2] == (MiningState.NOTHING, {})


@pytest.mark.parametrize("nonces_max", [1, 16, 17])
def test_no_more_is_mined_than_was_allowed(nonces_max: int) -> None:
    assert mine(nonces_max=nonces_max)[1][NODE_ID].count == nonces_max


def slow(seconds: float) -> SlowEngine:
    engine = SlowEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1)
    engine.seconds, engine.computing = seconds, trio.Lock()
    return engine


def test_who_has_no_nonce_at_the_end_of_the_stage_commits_its_first_ones_in_the_next() -> None:
    begin, end = (first_block_of(0, stage, PARAMETERS) for stage in (Stage.GENERATE, Stage.EXCHANGE))
    late = slow((end - begin - 1) * BLOCK_SECONDS)
    state, commits, data = mine(late)
    commit = commits[NODE_ID]
    assert state in (MiningState.COMMITTING, MiningState.COMMITTED)  # its block is not confirmed in the same stage
    assert commit.count == 16  # one question, and no second one
    assert commit.root == vectors_root(split_vectors(data, 16))
    assert mine(slow(1000.0))[:2] == (MiningState.NOTHING, {})


def test_who_has_some_nonces_at_the_end_of_the_stage_stops_there() -> None:
    begin, end = (first_block_of(0, stage, PARAMETERS) for stage in (Stage.GENERATE, Stage.EXCHANGE))
    questions = 2
    state, commits, _ = mine(slow((end - begin - 3) * BLOCK_SECONDS / (questions + 0.5)))
    assert (state, commits[NODE_ID].count) == (MiningState.COMMITTED, 16 * questions)


def test_nobody_waits_for_the_draw_for_more_than_a_quarter_of_the_stage() -> None:
    begin, end = (first_block_of(0, stage, PARAMETERS) for stage in (Stage.GENERATE, Stage.EXCHANGE))
    engine = slow((end - begin) * BLOCK_SECONDS / 2)
    assert mine(engine, selected=None)[1][NODE_ID].count == 16


class DyingEngine(CountingEngine):
    """Its server ends in a block, and has loaded its model again two blocks later; meanwhile it has neither a model nor
    a vocabulary, as an EngineNode has not."""

    dies_at_block = 0.0
    comes_back_with = MODEL_ID
    death: float | None = None

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        if self.death is None and trio.current_time() >= self.dies_at_block * BLOCK_SECONDS:
            self.death = trio.current_time()
            self.model_id = None
            raise EngineFailedError("the server ended")
        if self.model_id is None:
            raise EngineFailedError("it takes no work: it is FAILED")
        return await super().prompt_logprobs(prompts, priority=priority)

    @property
    def vocabulary_size(self) -> int:
        return 0 if self.model_id is None else super().vocabulary_size

    async def revive(self) -> None:
        while self.death is None or trio.current_time() < self.death + 2 * BLOCK_SECONDS:
            await trio.sleep(BLOCK_SECONDS / 8)
        self.model_id = self.comes_back_with


def dying(block: float) -> DyingEngine:
    engine = DyingEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1)
    engine.seconds, engine.computing, engine.dies_at_block = 0.5, trio.Lock(), block
    return engine


@pytest.mark.parametrize("blocks", [1.0, 2.2, 4.0])
def test_an_engine_that_dies_once_costs_the_nonces_of_that_time_and_not_the_batch(blocks: float) -> None:
    undisturbed = mine(counting(0.5), nonces_max=10_000)[1][NODE_ID].count
    dead = dying(BEGIN + blocks)
    state, commits, data = mine(dead, nonces_max=10_000)
    assert dead.death is not None
    count = commits[NODE_ID].count
    assert (state, commits[NODE_ID].root) == (MiningState.COMMITTED, vectors_root(split_vectors(data, count)))
    away = (2 * BLOCK_SECONDS + 5) / 0.5 * 16  # and a moment until it is seen
    assert undisturbed - away < count < undisturbed


def test_an_engine_that_takes_up_another_model_ends_the_batch_of_the_first() -> None:
    engine = dying(BEGIN + 4)
    engine.comes_back_with = OTHER_MODEL
    state, commits, _ = mine(engine, nonces_max=10_000)
    assert state is MiningState.COMMITTED
    assert commits[NODE_ID].model_id == MODEL_ID
    assert 0 < commits[NODE_ID].count == engine.computed
