"""Verdicts: signed by those who found the offence themselves, executed once with a quorum, and never contradicted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from netsim.chain import SimulatedChain
from netsim.ledger import CHAIN_ID, EPOCH_MANAGER, Ledger
from netsim.network import SimulatedNetwork, Switchboard
from netsim.trace import Trace
from node.ports import ActionOutcome
from node.protocol.actions import ChainAction
from node.protocol.eip712 import epoch_result_digest
from node.protocol.events import EpochResultPosted, GroupStored
from node.protocol.findings import PenaltyDecision
from node.protocol.identifiers import Cid, EpochNumber, Hash32, TokenAmount
from node.protocol.records import EpochGroup, EpochResult, EpochResultSummary
from node.protocol.stages import Stage, first_block_of
from node.protocol.verdicts import Offence
from node.services.formed_results import save_objected
from node.services.gossip import GossipRouter
from node.services.punishing import FORMED, PunishingService, formed_document
from node.store.books import Books
from node.store.database import Database
from tests.builders import PARAMETERS, SOME_CID, account, group_set, key_of, peer

EPOCH = EpochNumber(0)
OTHER_CID = Cid("bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
OFFENDER = account(9)
WEIGHTS = {1: 100, 2: 100, 3: 100, 4: 100}
RESULT = EpochResult(
    EPOCH,
    EpochGroup(EpochNumber(1), (), ()),
    (),
    TokenAmount(0),
    penalties=(PenaltyDecision(OFFENDER, Offence.FRAUD, "batch-of-fakes"),),
)
SUMMARY = EpochResultSummary(EPOCH, SOME_CID, Hash32(b"\x01" * 32), 4, Hash32(bytes(32)), TokenAmount(0))


class StubEpochs:
    """Has the content of the accepted result."""

    def result(self, epoch: EpochNumber) -> EpochResult | None:
        return RESULT if epoch == EPOCH else None


@asynccontextmanager
async def members(formed: dict[int, Cid]) -> AsyncIterator[tuple[Ledger, dict[int, Books]]]:
    """Four members of equal weight; by number what each formed by itself for the epoch."""
    ledger = Ledger(PARAMETERS, 1.0, 1, Trace(), group_set(0, WEIGHTS).weights)
    stores = {}
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, 1, ledger.trace)
        for number in WEIGHTS:
            chain = SimulatedChain(ledger, key_of(number), confirmations=1)
            network = SimulatedNetwork(switchboard, peer(number), account(number), chain.sign)
            store = Books(Database(":memory:"), account(number))
            if number in formed:
                store.put_document(formed_document(EPOCH, formed[number]), FORMED)
            router = GossipRouter(network)
            epochs: Any = StubEpochs()
            service = PunishingService(chain, network, store, epochs, router)
            switchboard.join(network)
            nursery.start_soon(router.run)
            nursery.start_soon(service.run)
            stores[number] = store
        while ledger.height < first_block_of(EPOCH, Stage.FORM, PARAMETERS):
            ledger.mine()
        ledger._seal_block([GroupStored(SUMMARY.validator_set_hash, group_set(1, WEIGHTS).weights)])
        ledger._seal_block([EpochResultPosted(SUMMARY, account(1))])
        nursery.start_soon(ledger.produce_blocks)
        yield ledger, stores
        nursery.cancel_scope.cancel()


async def until_block(ledger: Ledger, block: int) -> None:
    with trio.fail_after(1000):
        while ledger.height < block:
            await trio.sleep(0.5)


def punishments(ledger: Ledger) -> int:
    return sum(type(event.body).__name__ == "ParticipantPunished" for event in ledger.events)


async def test_a_quorum_that_found_the_same_punishes_once(autojump_clock: object) -> None:
    async with members(dict.fromkeys((1, 2, 3), SOME_CID)) as (ledger, _):
        await until_block(ledger, PARAMETERS.epoch_blocks - 1)
        assert punishments(ledger) == 0  # the result may still be voided
        await until_block(ledger, 2 * PARAMETERS.epoch_blocks)
        assert ledger.state.punished == {(EPOCH, OFFENDER, Offence.FRAUD)}
        assert punishments(ledger) == 1
        assert not ledger.state.counts(OFFENDER, 1)


async def test_a_punishment_that_never_gets_into_a_block_silences_nobody(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seen_on_its_way_alone(_chain: object, _action: ChainAction, *, in_a_block: bool = False) -> bool:
        return not in_a_block

    monkeypatch.setattr(SimulatedChain, "is_overtaken", seen_on_its_way_alone)
    async with members(dict.fromkeys((1, 2, 3), SOME_CID)) as (ledger, _):
        await until_block(ledger, 2 * PARAMETERS.epoch_blocks)
        assert punishments(ledger) == 1


@pytest.mark.parametrize(
    "formed", [dict.fromkeys((1, 2), SOME_CID), {1: SOME_CID, 2: SOME_CID, 3: OTHER_CID, 4: OTHER_CID}]
)
async def test_nobody_signs_what_it_did_not_find_itself(formed: dict[int, Cid], autojump_clock: object) -> None:
    async with members(formed) as (ledger, _):
        await until_block(ledger, 2 * PARAMETERS.epoch_blocks)
        assert punishments(ledger) == 0


async def test_a_result_that_is_voided_between_two_looks_ends_its_cases_and_not_the_service(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = PunishingService._pursue, []

    async def void_first(self: PunishingService, *case: Any) -> None:
        if self._chain.account == account(1) and not lost:
            lost.append(self._chain.state.results.pop(EPOCH))
            self._cases[case[0]].signatures.clear()
        await real(self, *case)
        if lost and self._chain.account == account(1):
            self._chain.state.results.setdefault(EPOCH, lost[0])

    monkeypatch.setattr(PunishingService, "_pursue", void_first)
    async with members(dict.fromkeys((1, 2, 3), SOME_CID)) as (ledger, _):
        await until_block(ledger, 2 * PARAMETERS.epoch_blocks)
        assert lost
        assert punishments(ledger) == 1


async def test_who_objected_to_a_result_signs_none_of_its_verdicts(autojump_clock: object) -> None:
    async with members(dict.fromkeys((1, 2, 3), SOME_CID)) as (ledger, stores):
        save_objected(stores[3], EPOCH, epoch_result_digest(SUMMARY, CHAIN_ID, EPOCH_MANAGER))
        await until_block(ledger, 2 * PARAMETERS.epoch_blocks)
        assert EPOCH in ledger.state.results
        assert punishments(ledger) == 0  # two of four found it, and stand by it


async def test_a_member_that_signed_another_verdict_on_the_same_offence_signs_no_second(autojump_clock: object) -> None:
    async with members(dict.fromkeys((1, 2, 3), SOME_CID)) as (ledger, stores):
        stores[3].record_duty(f"verdict/{EPOCH}/{OFFENDER}/{Offence.FRAUD.value}", Hash32(b"\x07" * 32))
        await until_block(ledger, 2 * PARAMETERS.epoch_blocks)
        assert punishments(ledger) == 0


async def test_a_verdict_is_given_up_when_it_is_too_old_for_the_contract(autojump_clock: object) -> None:
    async with members(dict.fromkeys((1, 2), SOME_CID)) as (ledger, stores):
        await until_block(ledger, 9 * PARAMETERS.epoch_blocks + 2)
        stores[3].put_document(formed_document(EPOCH, SOME_CID), FORMED)
        await until_block(ledger, 9 * PARAMETERS.epoch_blocks + 40)
        assert punishments(ledger) == 0


async def test_a_transaction_that_is_stuck_holds_up_no_other_punishment(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all members, for hours, at a price of gas above their cap."""
    other = account(8)
    penalties = tuple(PenaltyDecision(offender, Offence.FRAUD, "batch-of-fakes") for offender in (OFFENDER, other))
    submit, outcome = SimulatedChain.submit, SimulatedChain.outcome

    async def submit_others(self: SimulatedChain, key: str, action: ChainAction) -> None:
        if OFFENDER not in key:
            await submit(self, key, action)

    async def outcome_of_others(self: SimulatedChain, key: str) -> ActionOutcome:
        if OFFENDER in key:
            await trio.sleep_forever()
        return await outcome(self, key)

    both = {EPOCH: replace(RESULT, penalties=penalties)}
    monkeypatch.setattr(StubEpochs, "result", lambda _, epoch: both.get(epoch))
    monkeypatch.setattr(SimulatedChain, "submit", submit_others)
    monkeypatch.setattr(SimulatedChain, "outcome", outcome_of_others)
    async with members(dict.fromkeys((1, 2, 3), SOME_CID)) as (ledger, _):
        await until_block(ledger, 2 * PARAMETERS.epoch_blocks)
        assert ledger.state.punished == {(EPOCH, other, Offence.FRAUD)}
