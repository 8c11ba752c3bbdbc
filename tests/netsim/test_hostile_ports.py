"""The switches by which simulated nodes misbehave or go down do what they say, and nothing else."""

from functools import partial

import pytest
import trio
import trio.testing

from netsim.chain import SimulatedChain
from netsim.content import ContentExchange, SimulatedContent
from netsim.ledger import Ledger
from netsim.network import SimulatedNetwork, Switchboard
from netsim.scenario import PARAMETERS
from netsim.trace import Trace
from node.ports import ActionStatus, Call, CallFailedError, ContentUnavailableError, Provider
from node.protocol.actions import ChainAction, FundChannel
from node.protocol.identifiers import TokenAmount
from node.protocol.signatures import sign
from tests.builders import account, key_of, peer


async def test_whoever_calls_a_node_that_goes_down_is_told_that_it_is_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended = False

    async def answer(call: Call) -> None:
        nonlocal ended
        try:
            await call.send(b"first")
            await trio.sleep_forever()
        finally:
            ended = True

    async with trio.open_nursery() as nursery:
        board = Switchboard(nursery, 1, Trace())
        one, other = (
            SimulatedNetwork(board, peer(number), account(number), partial(sign, key_of(number))) for number in (1, 2)
        )
        board.join(one)
        board.join(other)
        other.serve("talk", answer, concurrency=1)
        async with one.call(other.peer_id, "talk", b"", deadline_seconds=60) as call:
            assert await call.receive() == b"first"
            board.leave(other.peer_id)
            with pytest.raises(CallFailedError, match="is gone"):
                await call.receive()
        assert ended
        with pytest.raises(CallFailedError, match="not up"):
            async with one.call(other.peer_id, "talk", b"", deadline_seconds=60):
                pass


async def test_a_rewritten_action_is_what_the_ledger_gets_and_one_that_is_dropped_has_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), ())
    chain = SimulatedChain(ledger, key_of(1), confirmations=0)
    other = TokenAmount(7)

    async def rewrite(action: ChainAction) -> ChainAction | None:
        assert isinstance(action, FundChannel)
        return FundChannel(action.payee, other) if action.amount == 1 else None

    chain.rewrite = rewrite
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.produce_blocks)
        await chain.submit("kept", FundChannel(account(2), TokenAmount(1)))
        await chain.submit("dropped", FundChannel(account(2), TokenAmount(2)))
        assert (await chain.outcome("kept")).status is ActionStatus.DONE
        assert (await chain.outcome("dropped")).status is ActionStatus.FAILED
        nursery.cancel_scope.cancel()
    assert [channel.deposited for channel in ledger.state.channels.values()] == [other]


async def test_hidden_content_and_that_of_a_closed_store_is_given_to_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    exchange = ContentExchange(Trace())
    giver = SimulatedContent(exchange, "giver", 1)
    shown, hidden = await giver.add_bytes(b"shown"), await giver.add_bytes(b"hidden")
    giver.hidden.add(hidden)
    provider = [Provider("giver", 1)]

    async def get(cid: str) -> bytes:
        return await SimulatedContent(exchange, "getter", 1).read_bytes(cid, provider, limit_bytes=99)  # type: ignore[arg-type]

    assert await get(shown) == b"shown"
    with pytest.raises(ContentUnavailableError):
        await get(hidden)
    giver.close()
    with pytest.raises(ContentUnavailableError):
        await get(shown)
    giver.open()
    assert await get(shown) == b"shown"
