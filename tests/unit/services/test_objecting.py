"""Objecting: a third of the weight voids a result once; a member objects to the end, over restarts, or not at all."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from netsim.chain import SimulatedChain
from netsim.ledger import CHAIN_ID, EPOCH_MANAGER, Ledger, Transaction
from netsim.network import SimulatedNetwork, Switchboard
from netsim.trace import Trace
from node.protocol.actions import ChainAction, VoidEpochResult
from node.protocol.eip712 import epoch_result_digest, objection_digest
from node.protocol.events import EpochResultPosted, EpochResultVoided, GroupStored
from node.protocol.findings import CommittedBook, ReceiptBook
from node.protocol.identifiers import Address, EpochNumber, Hash32, TokenAmount
from node.protocol.objections import Finding
from node.protocol.records import EpochGroup, EpochResult, EpochResultSummary
from node.protocol.signatures import sign
from node.protocol.slices import Slices
from node.protocol.stages import Stage, first_block_of
from node.services.formed_results import FormedResult, has_objected, save_formed
from node.services.gossip import GossipRouter
from node.services.objecting import POSTER_PATIENCE_BLOCKS, ObjectingService, _Case
from node.services.objections_heard import ObjectionsHeard
from node.services.result_signatures import ResultSignatures
from node.store.books import Books
from node.store.database import Database
from tests.builders import PARAMETERS, SOME_CID, account, group_set, key_of, peer

EPOCH = EpochNumber(0)
WEIGHTS = {1: 100, 2: 100, 3: 100, 4: 100}
SUMMARY = EpochResultSummary(EPOCH, SOME_CID, Hash32(b"\x01" * 32), 4, Hash32(bytes(32)), TokenAmount(0))
DIGEST = epoch_result_digest(SUMMARY, CHAIN_ID, EPOCH_MANAGER)


@dataclass
class StubEpochs:
    """Has read the content of the accepted result, which is wrong, or has nothing at all."""

    wrong: bool

    def is_wrong(self, _summary: EpochResultSummary) -> bool:
        return self.wrong

    def result(self, _epoch: EpochNumber) -> EpochResult | None:
        return None


@dataclass
class Member:
    """A member of the group, whose daemon can be started and killed; its store stays."""

    number: int
    ledger: Ledger
    switchboard: Switchboard
    nursery: trio.Nursery
    store: Books = field(init=False)
    service: ObjectingService = field(init=False)
    reports: list[tuple[str, str]] = field(default_factory=list)
    _scope: trio.CancelScope = field(init=False)

    def __post_init__(self) -> None:
        self.store = Books(Database(":memory:"), account(self.number))
        self.chain = SimulatedChain(self.ledger, key_of(self.number), confirmations=1)

    def start(self, *, wrong: bool) -> None:
        network = SimulatedNetwork(self.switchboard, peer(self.number), account(self.number), self.chain.sign)
        router, nobody, epochs = GossipRouter(network), Any, StubEpochs(wrong)
        unused: Any = nobody
        book: Any = epochs
        signatures = ResultSignatures(self.chain, router, lambda: None)
        heard = ObjectionsHeard(self.chain, router)
        self.service = ObjectingService(
            self.chain, network, unused, self.store, unused, book, unused, signatures, heard,
            lambda subject, words: self.reports.append((subject, words)),
        )  # fmt: skip
        self._scope = trio.CancelScope()
        self.switchboard.join(network)
        self.nursery.start_soon(self._run, router, self.service, self._scope)

    async def _run(self, router: GossipRouter, service: ObjectingService, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(router.run)
                nursery.start_soon(service.run)

    def kill(self) -> None:
        self._scope.cancel()


@asynccontextmanager
async def group(finding: set[int]) -> AsyncIterator[tuple[Ledger, dict[int, Member]]]:
    """Four members of equal weight in FORM, with a result on chain that those in `finding` find wrong."""
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), group_set(0, WEIGHTS).weights)
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, 1, ledger.trace)
        members = {number: Member(number, ledger, switchboard, nursery) for number in WEIGHTS}
        for number, member in members.items():
            member.start(wrong=number in finding)
        while ledger.height < first_block_of(EPOCH, Stage.FORM, PARAMETERS):
            ledger.mine()
        ledger._seal_block([GroupStored(SUMMARY.validator_set_hash, group_set(1, WEIGHTS).weights)])
        ledger._seal_block([EpochResultPosted(SUMMARY, account(1))])
        nursery.start_soon(ledger.produce_blocks)
        yield ledger, members
        nursery.cancel_scope.cancel()


async def until_block(ledger: Ledger, block: int) -> None:
    with trio.fail_after(1000):
        while ledger.height < block:
            await trio.sleep(0.5)


def voids(ledger: Ledger) -> int:
    return sum(isinstance(event.body, EpochResultVoided) for event in ledger.events)


async def test_a_third_of_the_weight_voids_a_false_result_once(autojump_clock: object) -> None:
    async with group({1, 2, 3, 4}) as (ledger, members):
        await until_block(ledger, PARAMETERS.epoch_blocks - 1)
        assert voids(ledger) == 1
        assert ledger.state.results == {}
        assert ledger.state.groups.keys() == {EPOCH}
        for member in members.values():
            status = member.service.status(EPOCH)
            assert status is not None
            assert (status.finding, status.own, status.is_voided) == (Finding.WRONG_CONTENT, True, True)
            assert [subject for subject, _ in member.reports] == ["epoch 0"]


@pytest.mark.parametrize("found_before_end", [20, 3])
async def test_objections_that_never_get_into_a_block_silence_nobody(
    found_before_end: int, autojump_clock: object
) -> None:
    async def seen_on_its_way_alone(_action: ChainAction, *, in_a_block: bool = False) -> bool:
        return not in_a_block

    async with group(set()) as (ledger, members):
        for member in members.values():
            member.chain.is_overtaken = seen_on_its_way_alone  # type: ignore[method-assign]
            member.kill()
        found_at = PARAMETERS.epoch_blocks - found_before_end
        await until_block(ledger, found_at)
        for member in members.values():
            member.start(wrong=True)
        await until_block(ledger, min(found_at + POSTER_PATIENCE_BLOCKS + 4, PARAMETERS.epoch_blocks - 1))
        assert voids(ledger) == 1


async def test_less_than_a_third_voids_nothing_and_tells_its_operator(autojump_clock: object) -> None:
    async with group({4}) as (ledger, members):
        await until_block(ledger, 2 * PARAMETERS.epoch_blocks)
        assert voids(ledger) == 0
        assert EPOCH in ledger.state.results
        assert members[4].reports
        assert members[1].reports == []


async def test_what_members_heard_is_shown_by_weight(autojump_clock: object) -> None:
    async with group({4}) as (ledger, members):
        await until_block(ledger, PARAMETERS.epoch_blocks - 2)
        status = members[1].service.status(EPOCH)
        assert status is not None
        assert (status.finding, status.own, status.objecting, status.total) == (Finding.OPEN, False, 100, 400)
        assert members[1].service.status(EpochNumber(7)) is None


async def test_a_member_that_objected_goes_on_objecting_after_a_restart(autojump_clock: object) -> None:
    async with group({3}) as (ledger, members):
        await until_block(ledger, PARAMETERS.form_offset + 6)
        assert has_objected(members[3].store, EPOCH, DIGEST)
        members[3].kill()
        members[3].start(wrong=False)  # it cannot find again what was wrong, and need not
        members[4].kill()
        members[4].start(wrong=True)
        await until_block(ledger, PARAMETERS.epoch_blocks - 1)
        assert voids(ledger) == 1


async def test_objections_already_sent_are_not_sent_again_after_a_restart(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Transaction] = []
    async with group({1, 2}) as (ledger, members):
        include = Ledger.send

        def send(self: Ledger, transaction: Transaction) -> None:
            """Keep objections out of the blocks for a while, as a slow chain would."""
            if isinstance(transaction.action, VoidEpochResult):
                sent.append(transaction)
            else:
                include(self, transaction)

        monkeypatch.setattr(Ledger, "send", send)
        with trio.fail_after(1000):
            while len(sent) < 2:  # the second objector posts as well, for nothing came of the first's
                await trio.sleep(0.5)
        for number in (1, 2):
            members[number].kill()
            members[number].start(wrong=True)
        restarted_at = ledger.height
        assert restarted_at < PARAMETERS.load_offset
        await until_block(ledger, PARAMETERS.epoch_blocks - 3)
        for number in (1, 2):  # both had all it takes to submit: their turn is over
            status = members[number].service.status(EPOCH)
            assert status is not None
            assert (status.own, status.objecting) == (True, 200)
        assert sorted(transaction.sender for transaction in sent) == sorted((account(1), account(2)))
        for transaction in sent:
            include(ledger, transaction)
        await until_block(ledger, PARAMETERS.epoch_blocks - 1)
        assert voids(ledger) == 1


async def test_nobody_objects_to_the_result_it_formed_from_all_votes(autojump_clock: object) -> None:
    async with group(set()) as (ledger, members):
        for member in members.values():
            save_formed(member.store, FormedResult(EPOCH, DIGEST, SOME_CID, (), (), ()))
            member.kill()
            member.start(wrong=True)  # whatever it would find
        await until_block(ledger, PARAMETERS.epoch_blocks)
        assert voids(ledger) == 0
        assert not any(has_objected(member.store, EPOCH, DIGEST) for member in members.values())


async def test_without_evidence_nobody_objects(autojump_clock: object) -> None:
    async with group(set()) as (ledger, members):
        await until_block(ledger, PARAMETERS.epoch_blocks)
        assert voids(ledger) == 0
        assert not any(has_objected(member.store, EPOCH, DIGEST) for member in members.values())


async def test_an_objection_is_written_down_before_it_is_heard(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    heard = ObjectionsHeard.add

    def add(self: ObjectionsHeard, *arguments: Any) -> None:
        seen.extend(has_objected(member.store, EPOCH, DIGEST) for member in members.values() if member.number == 1)
        heard(self, *arguments)

    async with group({1}) as (ledger, members):
        monkeypatch.setattr(ObjectionsHeard, "add", add)
        await until_block(ledger, PARAMETERS.epoch_blocks)
    assert seen
    assert all(seen)


async def test_who_has_no_weight_objects_to_nothing(autojump_clock: object) -> None:
    async with group({4}) as (ledger, members):
        outsider = Member(9, ledger, members[1].switchboard, members[1].nursery)
        outsider.start(wrong=True)
        await until_block(ledger, PARAMETERS.epoch_blocks)
        assert voids(ledger) == 0
        assert outsider.reports  # but its operator, whom the result pays, is told
        status = outsider.service.status(EPOCH)
        assert status is not None
        assert not status.own
        signed = objection_digest(EPOCH, DIGEST, CHAIN_ID, EPOCH_MANAGER)
        assert sign(key_of(9), signed) not in members[1].service._heard.objectors(EPOCH, DIGEST).values()


class Spoken:
    """What members said: all signed; 3's bundle is held by everyone, 4's by half."""

    def signers(self, *_: object) -> dict[Address, bytes]:
        return {account(number): b"" for number in WEIGHTS}

    def always_held(self, *_: object) -> dict[Address, set[Address]]:
        return {account(number): {account(3), *({account(4)} if number < 3 else ())} for number in WEIGHTS}


def paying(bundles: Mapping[Address, Any], decisive: int) -> EpochResult:
    """A result that counts `bundles`, and pays otherwise if that of `decisive` is among them."""
    books = tuple(CommittedBook(one, ReceiptBook(0, 0, Hash32(bytes(32)), SOME_CID)) for one in sorted(bundles))
    total = TokenAmount(1 if account(decisive) in bundles else 0)
    return EpochResult(EPOCH, EpochGroup(EpochNumber(1), (), ()), (), total, books=books)


@pytest.mark.parametrize(
    ("decisive", "finding"), [(3, Finding.VOTES_LEFT_OUT), (4, Finding.SOUND), (2, Finding.SOUND)]
)  # the bundle left out without a ground, that left out in order, one that was counted
async def test_votes_left_out_in_order_are_held_against_no_result(
    decisive: int, finding: Finding, autojump_clock: object
) -> None:
    accepted = paying({account(1): None, account(2): None}, decisive)
    held = {account(number): SimpleNamespace() for number in WEIGHTS}

    def form(bundles: Mapping[Address, Any]) -> Slices[EpochResult]:
        yield
        return paying(bundles, decisive)

    fetching: Any = SimpleNamespace(held=held, is_complete=True)
    inputs: Any = SimpleNamespace(
        committed=tuple(held),
        judging=SimpleNamespace(weights={account(number): weight for number, weight in WEIGHTS.items()}),
        form=form,
    )
    case = _Case(EPOCH, DIGEST, SUMMARY, Finding.SOUND)
    spoken: Any = Spoken()
    unused: Any = None
    service = ObjectingService(unused, unused, unused, unused, unused, unused, unused, spoken, unused)
    with trio.move_on_after(1):  # it looks on as long as votes that were left out may turn out to lack a ground
        await service._look_for_votes_left_out(case, accepted, inputs, fetching)
    assert case.finding is finding
    assert [difference.path for difference in case.differences].count("reward_total") == (decisive == 3)
