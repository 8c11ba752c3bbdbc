"""Prompts on the real contracts: asked at a desk, answered by whose turn it is, paid once; late answers cost no gas."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.trace import Trace
from node.chain.adapter import EvmChain
from node.ports import ActionStatus, Provider
from node.protocol.actions import AnswerPrompt, RegisterParticipant, SettlePrompt, SubmitHardwareDiff
from node.protocol.chain_prompts import answers_from, substitutes
from node.protocol.identifiers import ModelId, NodeId, PeerId
from node.protocol.peer_binding import peer_binding
from node.protocol.records import MLNodeRegistration
from node.services.chain_asking import ChainAsking
from node.services.chain_prompts import ChainPromptService
from node.services.frames import Prompt, Turn
from node.services.presence import PresenceTable
from node.services.prompt_asks import AskMode, AskState
from node.services.prompt_desk import PromptDesk, PromptWish
from node.services.timing import position
from node.store.books import Books
from node.store.database import Database
from p2p.identity import Identity
from tests.integration.chain.conftest import Network
from tests.integration.chain.test_chain_port import MODEL, caught_up, done, opened

pytestmark = pytest.mark.chain
TINY = ModelId("tiny")
NODE = NodeId("node-1")
WISH = PromptWish(AskMode.CHAIN, TINY, Prompt((Turn("user", "grind me something"),)), max_tokens=40)


class Everybody(PresenceTable):
    """All nodes of a test, whoever is registered."""

    def providers(self) -> tuple[Provider, ...]:
        return tuple(Provider(f"host-{number}", 1) for number in range(4))


@dataclass
class Node:
    chain: EvmChain
    content: SimulatedContent
    service: ChainPromptService


@dataclass
class Group:
    """A user with a desk, and the three members of the group."""

    user: EvmChain
    desk: PromptDesk
    members: list[Node]

    def drawn(self, prompt_id: int) -> Node:
        executor = self.user.state.prompts[prompt_id].submitted.executor
        return next(member for member in self.members if member.chain.account == executor)


@asynccontextmanager
async def group(network: Network) -> AsyncIterator[Group]:
    exchange = ContentExchange(Trace())
    async with AsyncExitStack() as stack:
        user = await stack.enter_async_context(opened(network, network.owner, "user"))
        await done(user, "model", MODEL)
        members = []
        for number, account in enumerate(network.miners, start=1):
            chain = await stack.enter_async_context(opened(network, account, f"miner-{number}"))
            content = SimulatedContent(exchange, f"host-{number}", 1)
            engine = SimulatedEngine(NODE, TINY, "honest", 0.0, number)
            store = Books(Database(":memory:"), chain.account)
            service = ChainPromptService(chain, content, store, Everybody(chain, lambda: 0), [engine])
            members.append(Node(chain, content, service))
        content = SimulatedContent(exchange, "host-0", 1)
        asking = ChainAsking(user, content, Everybody(user, lambda: 0))
        store = Books(Database(":memory:"), user.account)
        desk = PromptDesk(user, content, store, asking, None, wall_clock=lambda: 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.run)
            yield Group(user, desk, members)
            nursery.cancel_scope.cancel()


async def register(network: Network, member: Node, number: int) -> None:
    identity = Identity(bytes([number]) * 32)
    binding = peer_binding(31337, network.deployment.addresses.epoch_manager, member.chain.account)
    await done(member.chain, "register", RegisterParticipant(PeerId(identity.peer_id), identity.sign(binding)))
    nodes = (MLNodeRegistration(NODE, (TINY,), "simulated"),)
    assert (await done(member.chain, "nodes", SubmitHardwareDiff(nodes, ()))).status is ActionStatus.DONE


async def until_posted(group: Group, ask_id: str) -> int:
    with trio.fail_after(30):
        async for ask in group.desk.changes(ask_id):
            if ask.prompt_id is not None:
                await caught_up(group.user)
                return ask.prompt_id
    raise AssertionError("the prompt never got on chain")


async def test_only_who_was_drawn_answers_and_a_second_answer_costs_no_gas(network: Network) -> None:
    async with group(network) as found, trio.open_nursery() as nursery:
        for member in found.members:
            nursery.start_soon(member.service.run)
        before = await found.user.token_balance(found.user.account)
        ask = await found.desk.hand_in(WISH)
        with trio.fail_after(60):
            ended = await found.desk.until_ended(ask.ask_id)
        assert ended.state is AskState.ANSWERED
        assert ended.prompt_id is not None
        drawn = found.drawn(ended.prompt_id)
        assert ended.executor == drawn.chain.account
        assert len((await found.desk.answer(ended)).token_ids) == ended.output_tokens > 0
        assert [member.chain.gas_spent()[0] for member in found.members if member is not drawn] == [0, 0]

        assert ended.result_cid is not None
        late = await done(drawn.chain, "late", AnswerPrompt(ended.prompt_id, ended.result_cid, 1, 1))
        assert late.status is ActionStatus.FAILED
        assert late.gas_used == 0

        await network.mine(6)
        assert (await done(found.user, "settle", SettlePrompt(ended.prompt_id))).status is ActionStatus.DONE
        assert await found.user.token_balance(found.user.account) == before - ended.price
        nursery.cancel_scope.cancel()


async def test_when_the_drawn_one_is_silent_the_first_substitute_answers_in_the_second_half(network: Network) -> None:
    async with group(network) as found, trio.open_nursery() as nursery:
        for number, member in enumerate(found.members, start=1):
            await register(network, member, number)
        prompt_id = await until_posted(found, (await found.desk.hand_in(WISH)).ask_id)
        silent = found.drawn(prompt_id)
        working = [member for member in found.members if member is not silent]
        spent = [member.chain.gas_spent()[0] for member in working]
        for member in working:
            await caught_up(member.chain)
            nursery.start_soon(member.service.run)
        prompt = found.user.state.prompts[prompt_id]
        epoch = position(found.user).epoch
        (first, second) = substitutes(prompt_id, prompt, epoch, found.user.state)
        begins = answers_from(prompt_id, prompt, first, epoch, found.user.state)
        assert begins is not None
        await network.mine(begins - 1 - found.user.head.number)
        await caught_up(found.user)
        assert prompt.is_open
        await network.mine()
        with trio.fail_after(60):
            (ask,) = found.desk.asks()
            ended = await found.desk.until_ended(ask.ask_id)
        assert ended.executor == first != second
        (answering,) = (member for member in working if member.chain.account == first)
        with trio.fail_after(30):
            while sum(member.chain.gas_spent()[0] for member in working) == sum(spent):
                await trio.sleep(0.05)
        sent = [member.chain.gas_spent()[0] - before for member, before in zip(working, spent, strict=True)]
        assert sent == [int(member is answering) for member in working]
        nursery.cancel_scope.cancel()


async def test_the_escrow_of_a_prompt_that_nobody_answers_comes_back_by_itself(network: Network) -> None:
    async with group(network) as found:
        before = await found.user.token_balance(found.user.account)
        ask = await found.desk.hand_in(WISH)
        prompt_id = await until_posted(found, ask.ask_id)
        assert await found.user.token_balance(found.user.account) < before
        deadline = found.user.state.prompts[prompt_id].submitted.deadline_block
        await network.mine(deadline + 1 - found.user.head.number)
        with trio.fail_after(60):
            ended = await found.desk.until_ended(ask.ask_id)
        assert ended.state is AskState.RECLAIMED
        assert await found.user.token_balance(found.user.account) == before
