"""The broker at work: places are kept, nobody waits in vain, and every place comes back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import CallFailedError, GenerationRequest
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.sampling import SamplingParameters
from node.services.broker import BACKGROUND_PATIENCE_SECONDS, BACKGROUND_PLACES, WAIT_SECONDS_MAX, Broker, Lease
from node.services.brokered import brokered
from node.services.portions import PORTION_SECONDS, PROMPTS_MIN
from node.services.refusals import retry_after_seconds

PROMPT = tuple(range(40))


def engines(count: int) -> list[SimulatedEngine]:
    return [SimulatedEngine(NodeId(f"node-{n}"), MODEL_ID, "honest", 0.0, n) for n in range(count)]


@asynccontextmanager
async def leased(
    broker: Broker, payer: str = "payer", prompt: tuple[int, ...] = PROMPT, max_tokens: int = 40
) -> AsyncIterator[Lease]:
    async with broker.lease(MODEL_ID, payer=payer, prompt_ids=prompt, max_tokens=max_tokens) as lease:
        yield lease


async def work(broker: Broker, payer: str, done: list[str], seconds: float = 1.0) -> None:
    async with leased(broker, payer, max_tokens=10) as lease:
        await trio.sleep(seconds)
        lease.produced(5)
    done.append(payer)


async def test_requests_spread_over_the_nodes(autojump_clock: object) -> None:
    broker = Broker(engines(3))
    async with leased(broker) as one, leased(broker) as two, leased(broker) as three:
        assert len({lease.engine.node_id for lease in (one, two, three)}) == 3
        assert broker.load == 3
    assert broker.load == 0
    assert broker.capacity == 3 * 64


async def test_the_same_beginning_goes_to_the_same_node_while_it_is_free(autojump_clock: object) -> None:
    broker = Broker(engines(4))
    conversation = tuple(range(2000))
    async with leased(broker, prompt=(9,) * 2000), leased(broker, prompt=conversation) as first:
        home = first.engine.node_id
    for turn in range(1, 5):
        async with leased(broker, prompt=(*conversation, *range(turn))) as lease:
            assert lease.engine.node_id == home


async def test_no_node_runs_more_than_its_places(autojump_clock: object) -> None:
    nodes = engines(2)
    broker = Broker(nodes, {NodeId("node-0"): 2, NodeId("node-1"): 1})
    most: dict[str, int] = {}

    async def watch() -> None:
        while True:
            for view in broker.views():
                most[view.node_id] = max(most.get(view.node_id, 0), view.running)
            await trio.sleep(0.1)

    done: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        async with trio.open_nursery() as users:
            for number in range(9):
                users.start_soon(work, broker, f"payer-{number}", done)
        nursery.cancel_scope.cancel()
    assert len(done) == 9
    assert most == {"node-0": 2, "node-1": 1}


async def test_a_flood_of_one_payer_does_not_starve_another(autojump_clock: object) -> None:
    broker = Broker(engines(1), {NodeId("node-0"): 1})
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, broker, "flood", done)
        await trio.sleep(0.01)
        for _ in range(5):
            nursery.start_soon(work, broker, "flood", done)
        await trio.sleep(0.01)
        nursery.start_soon(work, broker, "quiet", done)
    assert done.index("quiet") <= 2


async def test_a_line_is_refused_before_it_grows_and_says_when_to_come_again(autojump_clock: object) -> None:
    broker = Broker(engines(1), {NodeId("node-0"): 1})
    refused: list[CallFailedError] = []

    async def ask(payer: str) -> None:
        try:
            async with leased(broker, payer, max_tokens=200):
                await trio.sleep(5)
        except CallFailedError as error:
            refused.append(error)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, f"payer-{number % 5}")
    assert 150 < len(refused) < 200
    assert all(error.code == "busy" for error in refused)
    seconds = [retry_after_seconds(error) for error in refused]
    assert all(value is not None and 0 < value < 60 for value in seconds)
    assert trio.current_time() - began < 6 * WAIT_SECONDS_MAX


async def test_a_request_that_leaves_the_line_holds_up_nobody(autojump_clock: object) -> None:
    broker = Broker(engines(1), {NodeId("node-0"): 1})
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, broker, "first", done)
        await trio.sleep(0.01)
        with trio.move_on_after(0.5):
            await work(broker, "impatient", done)
        assert broker.load == 1
        nursery.start_soon(work, broker, "last", done)
    assert done == ["first", "last"]
    assert broker.load == 0


async def test_a_place_is_given_back_when_its_owner_is_cancelled_as_it_is_called(autojump_clock: object) -> None:
    broker = Broker(engines(1), {NodeId("node-0"): 1})
    async with trio.open_nursery() as nursery:
        doomed = trio.CancelScope()

        async def wait_and_die() -> None:
            with doomed:
                async with leased(broker, "doomed"):
                    await trio.sleep_forever()

        async with leased(broker, "first"):
            nursery.start_soon(wait_and_die)
            await trio.sleep(0.1)
        doomed.cancel()  # called by the release just before, cancelled before it ran
    assert broker.load == 0


async def test_without_a_node_that_is_ready_nobody_waits(autojump_clock: object) -> None:
    nodes = engines(1)
    broker = Broker(nodes, {NodeId("node-0"): 1})
    with pytest.raises(CallFailedError, match="not-serving"):
        async with broker.lease(ModelId("other"), payer="p", prompt_ids=PROMPT, max_tokens=1):
            pass
    failures: list[str] = []

    async def ask() -> None:
        try:
            async with leased(broker, "waiting"):
                pass
        except CallFailedError as error:
            failures.append(error.code)

    async with trio.open_nursery() as nursery, leased(broker, "first"):
        nursery.start_soon(ask)
        await trio.sleep(0.1)
        nodes[0].model_id = None  # it died
    assert failures == ["not-serving"]
    assert broker.capacity == 0


async def test_a_node_that_just_failed_is_avoided(autojump_clock: object) -> None:
    broker = Broker(engines(2))
    for _ in range(3):
        async with broker.lease(
            MODEL_ID, payer="p", prompt_ids=PROMPT, max_tokens=9, avoid=(NodeId("node-0"),)
        ) as lease:
            assert lease.engine.node_id == "node-1"
    both = (NodeId("node-0"), NodeId("node-1"))
    with pytest.raises(CallFailedError, match="not-serving"):
        async with broker.lease(MODEL_ID, payer="p", prompt_ids=PROMPT, max_tokens=9, avoid=both):
            pass


async def test_the_faster_node_gets_more(autojump_clock: object) -> None:
    broker = Broker(engines(2), {NodeId("node-0"): 8, NodeId("node-1"): 8})
    pace = {"node-0": 10, "node-1": 40}
    served: list[str] = []

    async def ask() -> None:
        async with leased(broker) as lease:
            node = lease.engine.node_id
            for _ in range(100):
                await trio.sleep(1 / pace[node])
                lease.produced(1)
            served.append(node)

    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
    assert served.count("node-1") > 1.5 * served.count("node-0")


async def test_background_work_stands_back_for_waiting_users_but_not_for_ever(autojump_clock: object) -> None:
    nodes = engines(1)
    broker = Broker(nodes, {NodeId("node-0"): 1})
    (engine,) = brokered(nodes, broker)
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, broker, "running", done, 0.5)
        await trio.sleep(0.01)
        nursery.start_soon(work, broker, "waiting", done, 100.0)
        await trio.sleep(0.01)
        began = trio.current_time()
        await engine.embed([PROMPT], priority=10)
        assert 0.4 < trio.current_time() - began < 1  # until nobody waits
        nursery.start_soon(work, broker, "waits long", done, 0.1)
        await trio.sleep(0.01)
        began = trio.current_time()
        await engine.embed([PROMPT], priority=10)
        assert BACKGROUND_PATIENCE_SECONDS <= trio.current_time() - began < BACKGROUND_PATIENCE_SECONDS + 1
        assert broker.load == 2  # users' only
        nursery.cancel_scope.cancel()


async def test_background_work_has_few_places(autojump_clock: object) -> None:
    nodes = engines(1)
    broker = Broker(nodes)
    (engine,) = brokered(nodes, broker)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(2 * BACKGROUND_PLACES):
            nursery.start_soon(partial(engine.prompt_logprobs, [PROMPT] * 300, priority=10))
    assert trio.current_time() - began == pytest.approx(
        2, abs=0.1
    )  # as many at a time as there are places, a second each


class Watched(SimulatedEngine):
    """Notes what it is asked in the background: how many prompts, and how many questions at once."""

    asked: list[int]
    at_work = most_at_work = 0

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        self.asked.append(len(prompts))
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            return await super().prompt_logprobs(prompts, priority=priority)
        finally:
            self.at_work -= 1


class Idle(SimulatedEngine):
    """Answers at once."""

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        await trio.lowlevel.checkpoint()
        return [[-1.0]] * len(prompts)


def watched() -> Watched:
    engine = Watched(NodeId("node-0"), MODEL_ID, "honest", 0.0, 0)
    engine.asked = []
    return engine


async def test_beside_users_background_work_goes_on_in_portions_one_at_a_time(autojump_clock: object) -> None:
    node = watched()
    broker = Broker([node])
    (engine,) = brokered([node], broker)
    prompts = [tuple(range(number, number + 40)) for number in range(60)]
    alone = await engine.prompt_logprobs(prompts, priority=10)
    assert node.asked == [60]

    async def ask() -> None:
        assert await engine.prompt_logprobs(prompts, priority=10) == alone  # all of them, in their order

    node.asked.clear()
    async with leased(broker), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert sum(node.asked) == 3 * len(prompts)
    assert node.most_at_work == 1
    assert set(node.asked) <= {PROMPTS_MIN, PROMPTS_MIN // 2, *range(1, PROMPTS_MIN // 2)}  # a slow one: the least
    assert node.asked[:2] == [PROMPTS_MIN // 2, PROMPTS_MIN]


async def test_what_was_learned_of_one_model_is_not_believed_of_another(autojump_clock: object) -> None:
    node = Idle(NodeId("node-0"), MODEL_ID, "honest", 0.0, 0)
    broker = Broker([node])
    (engine,) = brokered([node], broker)
    async with leased(broker):
        await engine.prompt_logprobs([PROMPT] * 600, priority=10)
        assert engine._portion.prompts > PROMPTS_MIN
        node.model_id = ModelId("other")
        await engine.prompt_logprobs([PROMPT], priority=10)
        assert engine._portion.prompts == PROMPTS_MIN


async def test_what_is_left_when_users_are_gone_is_asked_at_once(autojump_clock: object) -> None:
    node = watched()
    broker = Broker([node])
    (engine,) = brokered([node], broker)
    async with trio.open_nursery() as nursery:
        async with leased(broker):
            nursery.start_soon(partial(engine.prompt_logprobs, [PROMPT] * 100, priority=10))
            await trio.sleep(0.1)
        assert 0 < sum(node.asked) < 50
        before = len(node.asked)
    assert len(node.asked) == before + 1
    assert sum(node.asked) == 100


async def test_work_in_portions_stands_back_for_waiting_users_for_about_one_of_them(autojump_clock: object) -> None:
    node = Idle(NodeId("node-0"), MODEL_ID, "honest", 0.0, 0)
    broker = Broker([node], {NodeId("node-0"): 1})
    (engine,) = brokered([node], broker)
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(partial(work, broker, f"payer {number}", done, 100.0))
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await engine.prompt_logprobs([PROMPT] * 60, priority=10)
        assert PORTION_SECONDS <= trio.current_time() - began < 2 * PORTION_SECONDS
        nursery.cancel_scope.cancel()


async def test_who_waits_for_another_model_holds_up_no_work_of_this_one(autojump_clock: object) -> None:
    nodes = [Idle(NodeId("node-0"), MODEL_ID, "honest", 0.0, 0), Idle(NodeId("b"), ModelId("other"), "honest", 0.0, 0)]
    broker = Broker(nodes, {NodeId("node-0"): 1})
    other = brokered(nodes, broker)[1]
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(partial(work, broker, f"payer {number}", done, 100.0))
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await other.prompt_logprobs([PROMPT], priority=10)
        await other.embed([PROMPT], priority=10)
        assert trio.current_time() - began < PORTION_SECONDS
        nursery.cancel_scope.cancel()


async def test_of_several_portions_only_the_first_stands_back_while_users_wait(autojump_clock: object) -> None:
    node = watched()
    broker = Broker([node], {NodeId("node-0"): 1})
    (engine,) = brokered([node], broker)
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(partial(work, broker, f"payer {number}", done, 5.0))
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await engine.prompt_logprobs([PROMPT] * 60, priority=10)
        assert trio.current_time() - began < BACKGROUND_PATIENCE_SECONDS + 1
        assert len(node.asked) > 1


async def test_what_other_services_generate_counts_as_load(autojump_clock: object) -> None:
    nodes = engines(1)
    broker = Broker(nodes)
    (engine,) = brokered(nodes, broker)
    request = GenerationRequest(PROMPT, 20, SamplingParameters(), 1, (), 0)
    async with engine.generate(request) as chunks:
        assert broker.load == 1
        assert sum([len(chunk.token_ids) async for chunk in chunks]) == 20
    assert broker.load == 0
