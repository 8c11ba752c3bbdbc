"""A payer without weight gets its proofs to members: to a few of each, in spite of those that refuse or are away."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from node.ports import CallFailedError
from node.protocol.identifiers import Address, EpochNumber, PeerId
from node.protocol.pricing import receipt_digest
from node.protocol.records import EpochGroup, EpochResult, GroupMember, Omission
from node.services.kept_omissions import KeptOmissions
from node.services.omission_frames import METHOD, read_handed
from node.services.omission_handing import (
    AWAY,
    CALL_SECONDS_MAX,
    HANDED_MAX,
    HOLDERS,
    ROUND_SECONDS,
    SIDE_BY_SIDE,
    OmissionHanding,
)
from node.store.books import Books
from node.store.database import Database
from tests.builders import account, peer
from tests.unit.services.test_omission_desk import EPOCH, RESULT, proof

PAYER = 1
MEMBERS = range(2, 12)
WEIGHTLESS = 12


class Members:
    """Members that answer a call with a word of refusal, or take what they are handed."""

    def __init__(self) -> None:
        self.words: dict[PeerId, str] = {}
        self.taken: list[tuple[PeerId, Omission]] = []
        self.called = Counter[PeerId]()
        self.seconds = 0.0
        self.open = 0
        self.most = 0
        """Calls that were open at the same time."""

    @asynccontextmanager
    async def call(self, whom: PeerId, method: str, payload: bytes, **_how: float) -> AsyncIterator[Any]:
        assert method == METHOD
        self.called[whom] += 1
        await trio.lowlevel.checkpoint()
        if self.words.get(whom) == "deadline":
            await trio.sleep(CALL_SECONDS_MAX)
        if self.words.get(whom) == "unreachable":
            raise CallFailedError("unreachable", "nobody is there")

        async def receive() -> bytes:
            self.open += 1
            self.most = max(self.most, self.open)
            await trio.sleep(self.seconds)
            self.open -= 1
            if word := self.words.get(whom):
                raise CallFailedError(word, "no")
            handed = read_handed(payload)
            assert handed.result_epoch == RESULT.epoch
            self.taken.append((whom, handed.omission))
            raise trio.EndOfChannel

        yield SimpleNamespace(receive=receive)


class Payer:
    """What hands over, after a restart as before."""

    def __init__(self, salt: int = 0) -> None:
        self.members = Members()
        self.store = Books(Database(":memory:"), account(PAYER))
        self.salt = salt
        weights = {**dict.fromkeys(MEMBERS, 10), WEIGHTLESS: 0}
        group = EpochGroup(EPOCH, tuple(member(number, weight) for number, weight in weights.items()), ())
        self.result: EpochResult = replace(RESULT, group=group)

    @property
    def kept(self) -> KeptOmissions:
        """What is on the disk."""
        return KeptOmissions(self.store, EPOCH)

    async def run(self, kept: KeptOmissions | None = None, is_searched: trio.Event | None = None) -> None:
        if is_searched is None:
            is_searched = trio.Event()
            is_searched.set()
        chain = SimpleNamespace(account=account(PAYER))
        network = cast(Any, self.members)
        handing = OmissionHanding(cast(Any, chain), network, lambda count: bytes([self.salt]) * count)
        await handing.run(self.result, self.kept if kept is None else kept, is_searched)

    def holders(self) -> dict[bytes, set[PeerId]]:
        found: dict[bytes, set[PeerId]] = {}
        for whom, omission in self.members.taken:
            found.setdefault(receipt_digest(omission.signed.receipt), set()).add(whom)
        return found


def member(number: int, weight: int) -> GroupMember:
    return GroupMember(account(number), peer(number), weight, ())


@pytest.fixture
def payer() -> Payer:
    return Payer()


async def test_each_proof_goes_to_a_few_with_weight_and_not_to_whom_it_is_against(payer: Payer) -> None:
    proofs = [proof(executor, number) for executor in (2, 3) for number in range(8)]
    kept = payer.kept
    for omission in proofs:
        kept.add_own(omission)
    await payer.run()
    holders = payer.holders()
    assert holders.keys() == {receipt_digest(one.signed.receipt) for one in proofs}
    assert {len(who) for who in holders.values()} == {HOLDERS}
    for whom, omission in payer.members.taken:
        assert whom not in (peer(WEIGHTLESS), PeerId(omission.signed.receipt.executor))
        assert account_of(whom) != omission.signed.receipt.executor
    assert len(payer.members.called) > HOLDERS  # not always the same ones
    assert {len(known.told) for known in payer.kept.own} == {HOLDERS}


def account_of(whom: PeerId) -> Address:
    return next(account(number) for number in (*MEMBERS, WEIGHTLESS) if peer(number) == whom)


async def test_who_is_away_is_asked_again_and_who_refuses_is_not(payer: Payer, autojump_clock: object) -> None:
    payer.kept.add_own(proof(2, 1))
    others = [peer(number) for number in MEMBERS if number != 2]
    payer.members.words = {**dict.fromkeys(others[:4], "enough"), **dict.fromkeys(others[4:], "unreachable")}
    with trio.move_on_after(5.5 * ROUND_SECONDS):
        await payer.run()
    assert payer.members.taken == []
    assert {payer.members.called[whom] for whom in others[:4]} == {1}
    assert {payer.members.called[whom] for whom in others[4:]} == {6}
    payer.members.words = dict.fromkeys(others[:4], "enough")
    await payer.run()
    assert len(payer.members.taken) == HOLDERS


@pytest.mark.parametrize("word", sorted(AWAY))
async def test_members_that_hang_hold_up_a_round_once(payer: Payer, autojump_clock: object, word: str) -> None:
    kept = payer.kept
    for number in range(40):
        kept.add_own(proof(2, number))
    hanging = [peer(number) for number in MEMBERS][-3:]
    payer.members.words = dict.fromkeys(hanging, word)
    with trio.fail_after(len(hanging) * CALL_SECONDS_MAX):
        await payer.run(kept)
    assert len(payer.holders()) == 40
    assert {len(who) for who in payer.holders().values()} == {HOLDERS}
    assert 0 < max(payer.members.called[whom] for whom in hanging) <= SIDE_BY_SIDE


async def test_who_did_not_answer_one_proof_is_asked_for_others_in_the_next_round(
    payer: Payer, autojump_clock: object
) -> None:
    kept = payer.kept
    for number in range(20):
        kept.add_own(proof(2, number))
    payer.members.words = dict.fromkeys((peer(number) for number in MEMBERS), "unreachable")
    with trio.fail_after(1.5 * ROUND_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(payer.run, kept)
            await trio.sleep(ROUND_SECONDS / 2)
            assert payer.members.taken == []
            payer.members.words.clear()
    assert len(payer.holders()) == 20
    assert {len(who) for who in payer.holders().values()} == {HOLDERS}


async def test_some_proofs_go_side_by_side(payer: Payer, autojump_clock: object) -> None:
    kept = payer.kept
    for number in range(12):
        kept.add_own(proof(2, number))
    payer.members.seconds = 1.0
    begun = trio.current_time()
    await payer.run(kept)
    assert trio.current_time() - begun == 12 * HOLDERS / SIDE_BY_SIDE
    assert payer.members.most == SIDE_BY_SIDE


async def test_who_is_slow_beside_it_hides_no_proof_that_is_left(
    payer: Payer, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, offered = payer.kept, list[float]()
    for number in range(SIDE_BY_SIDE):
        kept.add_own(proof(2, number))

    async def hand(*_what: object) -> bool:
        offered.append(trio.current_time())
        turn = len(offered)
        await trio.sleep(turn)
        return turn != 1  # the first one offered, quick, is left

    monkeypatch.setattr(OmissionHanding, "_hand", hand)
    with trio.fail_after(2 * ROUND_SECONDS):
        await payer.run(kept)
    assert len(offered) == 2 * SIDE_BY_SIDE


async def test_if_all_refuse_for_good_it_ends(payer: Payer, autojump_clock: object) -> None:
    payer.kept.add_own(proof(2, 1))
    payer.members.words = dict.fromkeys((peer(number) for number in MEMBERS), "not-proven")
    with trio.fail_after(1):
        await payer.run()
    assert {*payer.members.called.values()} == {1}


async def test_a_restart_tells_nobody_twice(payer: Payer) -> None:
    payer.kept.add_own(proof(2, 1))
    await payer.run()
    payer.salt = 9
    await payer.run()
    assert len(payer.members.taken) == HOLDERS


async def test_what_is_found_while_it_hands_over_is_handed_over_too(payer: Payer, autojump_clock: object) -> None:
    kept, is_searched = payer.kept, trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(payer.run, kept, is_searched)
        for number in range(3):
            await trio.sleep(2 * ROUND_SECONDS)
            kept.add_own(proof(2, number))
        is_searched.set()
    assert len(payer.holders()) == 3


async def test_so_many_are_handed_over_and_every_executor_has_its_turn(payer: Payer, autojump_clock: object) -> None:
    kept = payer.kept
    for number in range(HANDED_MAX):
        kept.add_own(proof(2, number))
    kept.add_own(proof(3, 0))
    await payer.run(kept)
    against = Counter(omission.signed.receipt.executor for _, omission in payer.members.taken)
    assert against == {account(2): HOLDERS * (HANDED_MAX - 1), account(3): HOLDERS}
    await payer.run(kept)
    assert len(payer.holders()) == HANDED_MAX


async def test_without_members_there_is_nobody_to_tell(payer: Payer) -> None:
    payer.result = replace(payer.result, group=EpochGroup(EpochNumber(EPOCH), (), ()))
    payer.kept.add_own(proof(2, 1))
    await payer.run()
    assert payer.members.called == Counter()
