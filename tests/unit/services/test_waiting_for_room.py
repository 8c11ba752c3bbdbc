"""A request that nobody has room for waits as long as somebody may take it, and is told when to come again."""

import itertools
from dataclasses import replace

import pytest
import trio

from node.ports import CallFailedError
from node.services.candidate_line import (
    AGAIN_SECONDS_MAX,
    BUSY_AGAIN_SECONDS_MAX,
    UNBEGUN_ROOM_SECONDS_MAX,
    UNBEGUN_WAIT_SECONDS_MAX,
)
from node.services.frames import METHOD
from node.services.gateway import GatewayError
from node.services.refusals import busy_error
from tests.builders import account
from tests.unit.services.scripted import Part, ask, evidence, first_drawn, honest_tokens, ids_of, install
from tests.unit.services.serving_network import GATEWAY, fund, serving_network


async def test_when_everybody_is_busy_the_user_is_told_when_to_come_again(autojump_clock: object) -> None:
    async def busy(part: Part) -> None:
        raise busy_error(7.0, "the queue is full")

    async with serving_network(2) as network:
        await fund(network)
        for number in (1, 2):
            install(network, number, busy)
        with pytest.raises(GatewayError) as caught:
            await ask(network)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after == pytest.approx(7.0, abs=0.5)
        assert not evidence(network)


async def test_an_answer_that_was_begun_waits_for_room(autojump_clock: object) -> None:
    async def dies(part: Part) -> None:
        await part.open()
        await part.give(20)
        raise CallFailedError("engine-failed", "it died")

    turns: list[float] = []

    async def busy_at_first(part: Part) -> None:
        turns.append(trio.current_time())
        if len(turns) < 3:
            raise busy_error(2.0, "the queue is full")
        await part.open()
        await part.give(part.request.max_tokens, finish_reason="length")

    async with serving_network(2) as network:
        first = first_drawn(network)
        install(network, first, dies)
        install(network, 3 - first, busy_at_first)
        _, parts = await ask(network)
        assert ids_of(parts) == await honest_tokens()
        assert len(turns) == 3


async def test_a_request_that_has_not_begun_waits_for_room_too(autojump_clock: object) -> None:
    """While another one restarts its users are here as well."""
    asked: list[float] = []

    async def busy_for_a_while(part: Part) -> None:
        asked.append(trio.current_time())
        if asked[-1] - asked[0] < 20.0:
            raise busy_error(0.1, "the queue is full")
        await part.open()
        await part.give(part.request.max_tokens, finish_reason="length")

    async with serving_network(1) as network:
        await fund(network)
        install(network, 1, busy_for_a_while)
        answer, parts = await ask(network)
        assert ids_of(parts) == await honest_tokens()
        assert answer.summary.finish_reason == "length"
        pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert max(pauses) == pytest.approx(BUSY_AGAIN_SECONDS_MAX, abs=0.5)


@pytest.mark.parametrize(
    ("others_fail", "patience"), [(False, UNBEGUN_ROOM_SECONDS_MAX), (True, UNBEGUN_WAIT_SECONDS_MAX)]
)
async def test_a_request_that_has_not_begun_waits_longer_for_room_where_somebody_failed(
    autojump_clock: object, others_fail: bool, patience: float
) -> None:
    async def busy(part: Part) -> None:
        raise busy_error(5.0, "the queue is full")

    async def is_gone(part: Part) -> None:
        if others_fail:
            raise CallFailedError("lost", "it is restarting")
        raise busy_error(5.0, "the queue is full")

    async with serving_network(2) as network:
        await fund(network)
        for number, program in ((1, busy), (2, is_gone)):
            install(network, number, program)
        began = trio.current_time()
        with pytest.raises(GatewayError) as caught:
            await ask(network)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after == pytest.approx(5.0, abs=0.5)
        assert patience - 6 < trio.current_time() - began <= patience + 1


async def test_room_that_is_promised_for_later_is_not_waited_for(autojump_clock: object) -> None:
    async def busy(part: Part) -> None:
        raise busy_error(UNBEGUN_ROOM_SECONDS_MAX + 1, "the queue is full")

    async with serving_network(1) as network:
        await fund(network)
        install(network, 1, busy)
        began = trio.current_time()
        with pytest.raises(GatewayError) as caught:
            await ask(network)
        assert caught.value.code == "overloaded"
        assert caught.value.retry_after == pytest.approx(UNBEGUN_ROOM_SECONDS_MAX + 1, abs=0.5)
        assert trio.current_time() - began < 1


async def test_own_requests_in_progress_count_as_load_where_presence_is_old(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        trade = network.gateway._trade
        first = first_drawn(network)
        for number in (1, 2):
            record = network.members[GATEWAY].presence.record_of(account(number))
            assert record is not None
            network.members[GATEWAY].presence._records[account(number)] = replace(record, capacity=4)
        trade.in_flight[account(first)] = 4
        assert first_drawn(network) == 3 - first
        del trade.in_flight[account(first)]
        assert first_drawn(network) == first


async def test_a_request_that_has_not_begun_waits_for_nodes_that_restart(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        starting = 3

        async def restarts(part: Part) -> None:
            nonlocal starting
            starting -= 1
            if not starting:
                executor = network.members[1].executor
                assert executor is not None
                network.members[1].network._served.pop(METHOD, None)
                network.members[1].network.serve(METHOD, executor.serve, concurrency=64)
            raise CallFailedError("lost", "it is restarting")

        install(network, 1, restarts)
        answer, parts = await ask(network)
        assert starting == 0
        assert ids_of(parts) == await honest_tokens()
        assert answer.summary.finish_reason == "length"


async def test_a_request_that_nobody_takes_fails_within_seconds(autojump_clock: object) -> None:
    async with serving_network(2) as network:

        async def is_gone(_: Part) -> None:
            raise CallFailedError("lost", "it is gone")

        for number in (1, 2):
            install(network, number, is_gone)
        began = trio.current_time()
        with pytest.raises(GatewayError, match="it is gone") as caught:
            await ask(network)
        assert caught.value.code == "failed"
        assert trio.current_time() - began <= UNBEGUN_WAIT_SECONDS_MAX + 2 * AGAIN_SECONDS_MAX
