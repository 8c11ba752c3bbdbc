"""Executors name nodes that they have, and payers sign nothing else: else evidence would never add up."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import Chain
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, NodeId, PeerId
from node.protocol.node_names import UNNAMED
from node.protocol.records import EpochGroup, MLNodeRegistration, ParticipantRecord, Receipt
from node.services.embedding_frames import EmbeddingInput
from node.services.epochs import EpochBook
from node.services.faults import Fault
from node.services.frames import Closing, closing_bytes
from node.services.node_naming import REGISTERED_SECONDS_MAX, is_its_node, named_node
from tests.builders import NODE, TINY, account
from tests.unit.protocol.test_audit_evidence import evidence_of
from tests.unit.protocol.test_receipt_books import group_of
from tests.unit.services.scripted import Part, ask, evidence, install
from tests.unit.services.serving_network import GATEWAY, serving_network
from tests.unit.services.test_embedding import embedder
from tests.unit.services.test_open_prompts import ask as ask_openly

EXECUTOR = account(1)
YOUNG = NodeId("young")
HEAD_SECONDS = 2.0


@dataclass
class ChangingChain:
    """A chain on which EXECUTOR has registered YOUNG from one moment on."""

    registered_at: float
    account: Address = EXECUTOR
    state: ChainState = field(default_factory=ChainState)

    async def heads(self) -> AsyncIterator[None]:
        while True:
            if trio.current_time() >= self.registered_at:
                nodes = (MLNodeRegistration(YOUNG, (TINY,), "hardware"),)
                self.state.participants[EXECUTOR] = ParticipantRecord(EXECUTOR, PeerId("p"), nodes, BlockNumber(1))
            yield
            await trio.sleep(HEAD_SECONDS)


class FrozenBook:
    """An epoch book whose group has NODE of EXECUTOR."""

    def group(self) -> EpochGroup:
        return group_of((1, 10, (TINY,)))


def book() -> EpochBook:
    return cast(EpochBook, FrozenBook())


def receipt_naming(name: str) -> Receipt:
    return replace(evidence_of().signed.receipt, executor=EXECUTOR, node_id=NodeId(name))


async def is_taken(name: str, registered_after: float) -> bool:
    chain = ChangingChain(trio.current_time() + registered_after)
    return await is_its_node(cast(Chain, chain), book(), receipt_naming(name))


@pytest.mark.parametrize("name", [NODE, UNNAMED])
async def test_a_frozen_node_and_one_without_a_name_are_taken_at_once(name: str, autojump_clock: object) -> None:
    began = trio.current_time()
    assert await is_taken(name, 1000.0)
    assert trio.current_time() == began


async def test_a_registration_that_its_payer_hears_of_some_blocks_later_is_waited_for(autojump_clock: object) -> None:
    assert await is_taken(YOUNG, REGISTERED_SECONDS_MAX - HEAD_SECONDS)


@pytest.mark.parametrize("name", [YOUNG, "made-up", "n" * 33])
async def test_a_name_that_the_chain_does_not_know_in_time_is_refused(name: str, autojump_clock: object) -> None:
    began = trio.current_time()
    assert not await is_taken(name, 1000.0)
    assert trio.current_time() - began <= REGISTERED_SECONDS_MAX


async def test_a_name_too_long_for_votes_is_refused_even_if_it_is_registered(autojump_clock: object) -> None:
    chain = ChangingChain(trio.current_time())
    nodes = (MLNodeRegistration(NodeId("n" * 33), (TINY,), "hardware"),)
    chain.state.participants[EXECUTOR] = ParticipantRecord(EXECUTOR, PeerId("p"), nodes, BlockNumber(1))
    assert not await is_its_node(cast(Chain, chain), book(), receipt_naming("n" * 33))


async def test_an_executor_names_frozen_and_registered_nodes_and_no_others(autojump_clock: object) -> None:
    chain = ChangingChain(trio.current_time())
    names = [named_node(cast(Chain, chain), book(), name) for name in (NODE, YOUNG)]
    assert names == [NODE, UNNAMED]
    async for _ in chain.heads():
        break
    assert named_node(cast(Chain, chain), book(), YOUNG) == YOUNG
    chain.account = account(5)  # not one of its own
    assert named_node(cast(Chain, chain), book(), YOUNG) == UNNAMED


@pytest.mark.parametrize("name", ["made-up", "n" * 33])
async def test_a_receipt_that_names_no_node_of_its_executor_is_not_countersigned(
    name: str, autojump_clock: object
) -> None:
    async def names_what_it_likes(part: Part) -> None:
        await part.open()
        await part.give(50, finish_reason="length")
        await part.call.send(closing_bytes(Closing(part.receipt(50, node_id=NodeId(name)))))
        await trio.sleep_forever()

    async with serving_network(1) as network:
        install(network, 1, names_what_it_likes)
        await ask(network)
        assert network.members[GATEWAY].store.receipts(limit=9) == ()
        (found,) = evidence(network)
        assert found.code == Fault.RECEIPT.value
        assert found.receipt is not None


async def test_a_node_that_serves_before_it_is_registered_is_paid_for_everything(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        engine = network.members[1].engine
        assert isinstance(engine, SimulatedEngine)
        engine.node_id = NodeId("renamed")
        await ask(network)
        await embedder(network).embed(MODEL_ID, [EmbeddingInput("what is a quern")])
        await ask_openly(network)
        await trio.sleep(5)
        signed = network.members[GATEWAY].store.receipts(limit=9)
        assert [one.receipt.node_id for one in signed] == [UNNAMED] * 3
        assert all(one.payer_signature for one in signed)
        assert network.paid_to(1) == sum(one.receipt.price for one in signed)
        assert evidence(network) == []
