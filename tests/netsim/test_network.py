"""The simulated network keeps the real one's promises about when gossip goes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio
import trio.testing

from netsim.network import GATHER_SECONDS, MESSAGE_SECONDS, SimulatedNetwork, Switchboard
from netsim.trace import Trace
from node.ports import Validity
from node.protocol.identifiers import ZERO_HASH, EpochNumber
from node.protocol.messages import Message, Objection, Topic
from node.protocol.signatures import sign
from tests.builders import account, key_of, peer

LATENCY_SECONDS_MAX = 0.105


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[SimulatedNetwork, list[tuple[float, int]], list[int]]]:
    """A node, and what another received: when, and which epoch; and what the node itself received."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        board = Switchboard(nursery, 1, Trace())
        heard: list[tuple[float, int]] = []
        own: list[int] = []

        def judge(number: int, message: Message) -> Validity:
            assert isinstance(message.body, Objection)
            if message.body.epoch == 13:
                return Validity.IGNORE
            if number == 1:
                own.append(message.body.epoch)
            else:
                heard.append((trio.current_time(), message.body.epoch))
            return Validity.ACCEPT

        networks = []
        for number in (1, 2):
            key = key_of(number)
            network = SimulatedNetwork(board, peer(number), account(number), lambda digest, key=key: sign(key, digest))
            board.join(network)
            await stack.enter_async_context(
                network.subscribe(Topic.VOTES, lambda _peer, message, number=number: judge(number, message))
            )
            networks.append(network)
        yield networks[0], heard, own
        nursery.cancel_scope.cancel()


def vote(epoch: int) -> Objection:
    return Objection(EpochNumber(epoch), ZERO_HASH, b"")


async def test_items_wait_for_each_other_but_an_urgent_one_for_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as (network, heard, own):
        begin = trio.current_time()
        await network.publish(vote(1))
        await network.publish(vote(2))
        assert own == [1, 2]  # one's own subscriber has it at once
        await trio.sleep(0.5)
        await network.publish(vote(3))
        await trio.sleep(0.1)
        assert [epoch for _, epoch in heard] == [1, 2]
        assert heard[0][0] == heard[1][0] <= begin + GATHER_SECONDS + LATENCY_SECONDS_MAX
        await network.publish(vote(4), urgent=True)
        await trio.sleep(LATENCY_SECONDS_MAX)
        assert [epoch for _, epoch in heard] == [1, 2, 3, 4]
        await network.publish(vote(5))
        await trio.sleep(MESSAGE_SECONDS / 2)
        assert [epoch for _, epoch in heard] == [1, 2, 3, 4]
        await trio.sleep(MESSAGE_SECONDS)
        assert [epoch for _, epoch in heard] == [1, 2, 3, 4, 5]


async def test_what_ones_own_judge_does_not_accept_goes_nowhere(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as (network, heard, own):
        await network.publish(vote(13), urgent=True)
        await trio.sleep(2)
        assert heard == []
        assert own == []
