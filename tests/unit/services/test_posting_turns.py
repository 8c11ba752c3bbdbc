"""One member posts the result and pays for it; the next one looks before it does, and nobody waits until it is late."""

from types import SimpleNamespace
from typing import Any

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from netsim.chain import SimulatedChain
from netsim.ledger import CHAIN_ID, EPOCH_MANAGER, Ledger, Transaction
from netsim.trace import Trace
from node.protocol.actions import ChainAction, PostEpochResult, PunishParticipant, VoidEpochResult
from node.protocol.eip712 import epoch_result_digest
from node.protocol.identifiers import EpochNumber, Hash32, TokenAmount
from node.protocol.messages import ResultSignature
from node.protocol.records import EpochResultSummary, OffenceVerdict
from node.protocol.results import pack_validator_set
from node.protocol.signatures import sign
from node.protocol.stages import Stage
from node.protocol.verdicts import Offence
from node.services.forming import POSTER_PATIENCE_BLOCKS, POSTING_MARGIN_BLOCKS, FormingService, _Formed, posting_block
from node.services.giving_way import GivingWay
from node.services.timing import window
from node.store.books import Books
from node.store.database import Database
from tests.builders import PARAMETERS, SOME_CID, account, group_set, key_of

EPOCH = EpochNumber(0)
MEMBERS = tuple(sorted(range(1, 6), key=lambda number: account(number).lower()))
"""In the order in which they are to post."""
WEIGHTS = dict.fromkeys(MEMBERS, 100)
GROUP = group_set(1, WEIGHTS).weights
SET = pack_validator_set(GROUP)
SUMMARY = EpochResultSummary(EPOCH, SOME_CID, Hash32(keccak(SET)), 500, Hash32(bytes(32)), TokenAmount(0))
DIGEST = epoch_result_digest(SUMMARY, CHAIN_ID, EPOCH_MANAGER)
SIGNATURES = tuple((account(number), sign(key_of(number), DIGEST)) for number in MEMBERS)
POSTING = PostEpochResult(SUMMARY, SET, SIGNATURES)


class Unheard:
    async def publish(self, *_: object, **__: object) -> None:
        pass

    def register(self, *_: object) -> None:
        pass


class Scene:
    """A chain in FORM, and members that formed the same result, which all of them signed."""

    def __init__(self) -> None:
        self.ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), group_set(0, WEIGHTS).weights)
        self.mine_to(PARAMETERS.form_offset)
        self.formed = {turn: _Formed(SUMMARY, SET, DIGEST) for turn in range(len(MEMBERS))}
        self.services = [self.member(number) for number in MEMBERS]

    def member(self, number: int) -> FormingService:
        unused: Any = None
        network: Any = Unheard()
        chain = SimulatedChain(self.ledger, key_of(number), confirmations=2)
        store = Books(Database(":memory:"), account(number))
        service = FormingService(chain, network, unused, store, unused, unused, unused, network)
        for member, signature in SIGNATURES:
            service.signatures.add(member, ResultSignature(EPOCH, DIGEST, signature, 0, b"", SOME_CID))
        return service

    def mine_to(self, block: int) -> None:
        while self.ledger.height < block:
            self.ledger.mine()

    async def look(self, turn: int) -> None:
        """Have the member whose turn it is see what there is; it does not wait for its own transaction."""
        inputs: Any = SimpleNamespace(
            epoch=EPOCH,
            posters=tuple(account(number) for number in MEMBERS),
            judging=SimpleNamespace(weights={account(number): 100 for number in MEMBERS}),
        )
        service = self.services[turn]

        async def at_once(_key: str) -> Any:
            return SimpleNamespace(status=None, reason="AlreadyPosted")

        service._chain.outcome = at_once  # type: ignore[method-assign]
        await service._post_in_turn(inputs, self.formed[turn])

    def senders(self) -> list[str]:
        """Whoever sent the result."""
        chains: list[Any] = [service._chain for service in self.services]
        return [chain.account for chain in chains if "result/0" in chain._outcomes]


async def test_who_is_next_posts_nothing_that_another_has_on_its_way_or_in_a_block() -> None:
    scene = Scene()
    first, second = account(MEMBERS[0]), account(MEMBERS[1])
    begin = scene.ledger.height
    await scene.look(1)
    await scene.look(0)
    assert scene.senders() == [first]
    scene.formed[1].quorum_at = begin - POSTER_PATIENCE_BLOCKS  # as if the first had come very late
    await scene.look(1)
    assert scene.senders() == [first]  # it is on its way
    scene.ledger.mine()
    assert EPOCH not in scene.services[1]._chain.state.results  # in a block, and not confirmed
    await scene.look(1)
    assert scene.senders() == [first]
    assert second not in scene.senders()


async def test_the_next_one_posts_when_nothing_came_of_the_one_before() -> None:
    scene = Scene()
    begin = scene.ledger.height
    await scene.look(1)
    scene.mine_to(begin + POSTER_PATIENCE_BLOCKS - 1)
    await scene.look(1)
    assert scene.senders() == []
    scene.mine_to(begin + POSTER_PATIENCE_BLOCKS)
    await scene.look(2)
    await scene.look(1)
    assert scene.senders() == [account(MEMBERS[1])]


async def test_near_the_end_of_form_turns_come_block_by_block() -> None:
    scene = Scene()
    _, end = window(scene.services[2]._chain, EPOCH, Stage.FORM, Stage.FORM)
    await scene.look(2)
    scene.mine_to(end - POSTING_MARGIN_BLOCKS + 1)
    await scene.look(2)
    assert scene.senders() == []
    scene.ledger.mine()
    await scene.look(2)
    assert scene.senders() == [account(MEMBERS[2])]
    scene.ledger.mine()
    assert scene.ledger.state.results == {EPOCH: SUMMARY}


async def seen_on_its_way_alone(_action: ChainAction, *, in_a_block: bool = False) -> bool:
    """Somebody sends the same before each block, and replaces it by something else in time."""
    return not in_a_block


@pytest.mark.parametrize("begins_before_end", [40, POSTING_MARGIN_BLOCKS + 1, 2])
async def test_a_posting_that_never_gets_into_a_block_silences_nobody(
    begins_before_end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene()
    _, end = window(scene.services[0]._chain, EPOCH, Stage.FORM, Stage.FORM)
    scene.mine_to(end - begins_before_end)
    begin = scene.ledger.height
    for service in scene.services:
        monkeypatch.setattr(service._chain, "is_overtaken", seen_on_its_way_alone)
    while not scene.senders():
        assert scene.ledger.height < min(begin + POSTER_PATIENCE_BLOCKS + 1, end - 1)
        for turn in range(len(MEMBERS)):
            await scene.look(turn)
        scene.ledger.mine()
    assert scene.ledger.state.results == {EPOCH: SUMMARY}
    assert scene.senders() == [account(MEMBERS[0])]  # one at a time, all the same


async def test_a_node_gives_way_once_and_asks_only_for_blocks_then() -> None:
    asked: list[bool] = []
    chain: Any = SimpleNamespace()

    async def is_overtaken(_action: ChainAction, *, in_a_block: bool = False) -> bool:
        asked.append(in_a_block)
        return not in_a_block

    chain.is_overtaken = is_overtaken
    giving_way = GivingWay(3)
    assert [await giving_way.is_overtaken(chain, POSTING, block) for block in (10, 12, 13, 14)] == [
        True,
        True,
        False,
        False,
    ]
    assert asked == [False, False, True, True]
    assert not await GivingWay(3).is_overtaken(chain, POSTING, 20, late=20)
    assert await GivingWay(3).is_overtaken(chain, POSTING, 19, late=20)


@given(st.integers(0, 50), st.integers(0, 50))
def test_members_post_in_turn_and_no_two_at_once(quorum_at: int, late: int) -> None:
    blocks = [posting_block(quorum_at, turn, late) for turn in range(20)]
    assert blocks[0] == quorum_at
    assert blocks == sorted(set(blocks))
    assert all(block <= max(quorum_at, late) + turn for turn, block in enumerate(blocks))


async def test_what_members_do_once_for_all_is_overtaken_when_one_did_it() -> None:
    scene = Scene()
    chain = scene.services[0]._chain
    void = VoidEpochResult(EPOCH, DIGEST, ())
    assert not await chain.is_overtaken(POSTING)
    assert await chain.is_overtaken(void)  # there is nothing to void
    await scene.look(0)
    assert await chain.is_overtaken(POSTING)
    scene.ledger.mine()
    assert await chain.is_overtaken(POSTING)
    assert not await chain.is_overtaken(void)
    assert await chain.is_overtaken(VoidEpochResult(EPOCH, Hash32(bytes(32)), ()))
    verdict = OffenceVerdict(EPOCH, account(1), next(iter(Offence)), SOME_CID)
    punishing = PunishParticipant(verdict, ())
    assert not await chain.is_overtaken(punishing)
    scene.ledger.send(Transaction(account(1), punishing, lambda _reason: None))
    assert await chain.is_overtaken(punishing)
    assert not await chain.is_overtaken(punishing, in_a_block=True)
