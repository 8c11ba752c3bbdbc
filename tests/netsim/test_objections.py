"""False results: whoever posts one, the honest void it, form their own, and nobody is paid for nothing or twice."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import trio

from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.disks import Disk
from netsim.ledger import CHAIN_ID, EPOCH_MANAGER, Ledger, Transaction
from netsim.network import Switchboard
from netsim.node import NodePlan, new_disk, run_node
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, NONCES_MAX, PARAMETERS
from netsim.trace import Trace
from node.ports import ContentUnavailableError, Provider
from node.protocol.actions import PostEpochResult
from node.protocol.agreement import committed_order, pack_holders
from node.protocol.codec import from_bytes
from node.protocol.eip712 import epoch_result_digest
from node.protocol.events import EpochResultPosted, EpochResultVoided
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32, TokenAmount
from node.protocol.messages import ResultSignature
from node.protocol.records import EpochParameters, EpochResult, RewardShare, VoteBundle
from node.protocol.results import summarise
from node.protocol.rewards import subsidy
from node.protocol.signatures import sign
from node.protocol.slices import Slices
from node.protocol.stages import Stage, first_block_of
from node.services import forming
from node.services.bundle_fetching import BundleFetching
from node.services.epochs import result_to_bytes
from node.services.forming import FormingService
from node.services.objecting import ObjectingService
from node.services.result_inputs import ResultInputs
from node.services.result_signatures import ResultSignatures
from tests.builders import account

NODES = 5
THIEF = account(77)
EPOCH = EpochNumber(1)
Act = Callable[[Ledger, ContentExchange], Awaitable[None]]


async def until(ledger: Ledger, block: int) -> None:
    await trio.sleep(max(0, block - ledger.height) * BLOCK_SECONDS)


def plan(number: int) -> NodePlan:
    return NodePlan(number, 0, "honest", NONCES_MAX)


def robbed(result: EpochResult) -> EpochResult:
    """Pay the whole epoch to somebody who did nothing."""
    share = RewardShare(THIEF, TokenAmount(subsidy(EPOCH, PARAMETERS)))
    return replace(result, rewards=tuple(sorted((share, *result.rewards), key=lambda one: one.account.lower())))


def post_with_stolen_keys(
    forge: Callable[[EpochResult], EpochResult], *, garbled: bool = False, signers: int = 4
) -> Act:
    """Post a forged result of EPOCH in the name of `signers` members, who are honest and know nothing of it."""

    async def act(ledger: Ledger, exchange: ContentExchange) -> None:
        await until(ledger, first_block_of(EPOCH, Stage.FORM, PARAMETERS))
        store = exchange.stores["host-0", 1]
        before = ledger.state.results[EpochNumber(EPOCH - 1)]
        data = await store.read_bytes(before.content_cid, (), limit_bytes=2**25)
        forged = forge(replace(from_bytes(EpochResult, data), epoch=EPOCH))
        cid = await store.add_bytes(b"garbled" if garbled else result_to_bytes(forged))
        summary, validator_set = summarise(forged, cid)
        digest = epoch_result_digest(summary, CHAIN_ID, EPOCH_MANAGER)
        keys = {plan(number).account: plan(number).key for number in range(signers)}
        signatures = tuple((member, sign(keys[member], digest)) for member in sorted(keys, key=str.lower))
        ledger.send(Transaction(THIEF, PostEpochResult(summary, validator_set, signatures), settle))

    return act


def settle(reason: str | None) -> None:
    assert reason is None, reason


async def nothing(_ledger: Ledger, _exchange: ContentExchange) -> None:
    await trio.lowlevel.checkpoint()


def run(
    act: Act, *, epochs: int = 3, parameters: EpochParameters = PARAMETERS, restart: "Restart | None" = None
) -> Ledger:
    """Run NODES honest nodes through whole epochs, and a few blocks more; those of `restart` as it says."""

    async def main() -> Ledger:
        plans = [plan(number) for number in range(NODES)]
        trace = Trace()
        group = tuple((one.account, 1) for one in sorted(plans, key=lambda one: one.account.lower()))
        ledger = Ledger(parameters, BLOCK_SECONDS, 0, trace, group)
        ledger.register_model(MODEL)
        exchange = ContentExchange(trace)
        async with trio.open_nursery() as nursery:
            switchboard = Switchboard(nursery, 0, trace)
            nursery.start_soon(ledger.produce_blocks)
            for one in plans:
                if restart is None or one not in restart.plans:
                    nursery.start_soon(run_node, one, MODEL_ID, ledger, switchboard, exchange)
            if restart is not None:
                nursery.start_soon(restart.run, ledger, switchboard, exchange)
            nursery.start_soon(act, ledger, exchange)
            await until(ledger, BlockNumber(first_block_of(epochs, Stage.SERVE, parameters) + 8))
            nursery.cancel_scope.cancel()
        return ledger

    return run_deterministically(main, 0)


def posted(ledger: Ledger) -> list[tuple[EpochNumber, Cid]]:
    return [
        (event.body.summary.epoch, event.body.summary.content_cid)
        for event in ledger.events
        if isinstance(event.body, EpochResultPosted)
    ]


def voided(ledger: Ledger) -> list[EpochNumber]:
    return [event.body.epoch for event in ledger.events if isinstance(event.body, EpochResultVoided)]


def honest() -> set[Address]:
    return {plan(number).account for number in range(NODES)}


def assert_nothing_is_paid_for_nothing_or_twice(ledger: Ledger, paid: list[int]) -> None:
    assert sorted(ledger.state.results) == paid
    assert set(ledger.state.claimed) == honest()
    assert ledger.minted == sum(ledger.state.claimed.values())
    assert ledger.minted == sum(summary.reward_total for summary in ledger.state.results.values())
    assert all(summary.reward_total <= subsidy(epoch, PARAMETERS) for epoch, summary in ledger.state.results.items())


def test_a_false_result_is_voided_and_the_true_one_takes_its_place_while_form_lasts() -> None:
    ledger = run(post_with_stolen_keys(robbed))
    assert voided(ledger) == [EPOCH]  # once, though every node objects
    assert [epoch for epoch, _ in posted(ledger)] == [0, 1, 1, 2]
    assert_nothing_is_paid_for_nothing_or_twice(ledger, [0, 1, 2])


def test_a_false_result_that_is_voided_too_late_for_another_leaves_the_epoch_unpaid_and_those_around_it_paid() -> None:
    short = replace(PARAMETERS, load_offset=PARAMETERS.form_offset + 5)
    ledger = run(post_with_stolen_keys(robbed), parameters=short)
    assert voided(ledger) == [EPOCH]
    assert_nothing_is_paid_for_nothing_or_twice(ledger, [0, 2])
    assert [account for account, _ in ledger.state.group_weights(2)] == [
        account for account, _ in ledger.state.group_weights(1)
    ]


def test_content_that_is_not_what_the_quorum_signed_is_objected_to() -> None:
    ledger = run(post_with_stolen_keys(robbed, garbled=True))
    assert voided(ledger) == [EPOCH]
    assert_nothing_is_paid_for_nothing_or_twice(ledger, [0, 1, 2])


def explain_otherwise(monkeypatch: pytest.MonkeyPatch, chatty: set[Address]) -> None:
    """Have members form results that pay the same as the others', and say something else of why."""

    class Reworded(ResultInputs):
        def form(self, bundles: Mapping[Address, VoteBundle]) -> Slices[EpochResult | None]:
            result = yield from super().form(bundles)
            return None if result is None else replace(result, available=TokenAmount(result.available + 1))

    form_honestly = FormingService._form

    async def form(self: FormingService, inputs: ResultInputs, *others: Any) -> Any:
        if self._chain.account in chatty:
            inputs = Reworded(*(getattr(inputs, item.name) for item in fields(inputs)))
        return await form_honestly(self, inputs, *others)

    monkeypatch.setattr(FormingService, "_form", form)


def test_a_result_that_only_explains_otherwise_what_is_paid_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    explain_otherwise(monkeypatch, {plan(number).account for number in range(4)})
    objected = []
    monkeypatch.setattr(ObjectingService, "_object", lambda _self, case: objected.append(case))
    ledger = run(nothing)
    assert objected == []
    assert_nothing_is_paid_for_nothing_or_twice(ledger, [0, 1, 2])


class Restart:
    """Two nodes that go down when the result is posted and come up again, with their disks, when FORM is over."""

    def __init__(self, plans: Sequence[NodePlan]) -> None:
        self.plans = plans
        self._disks: dict[NodePlan, Disk] = {}

    async def run(self, ledger: Ledger, switchboard: Switchboard, exchange: ContentExchange) -> None:
        self._disks = {one: new_disk(one, ledger, exchange) for one in self.plans}
        async with trio.open_nursery() as nursery:
            self._start(nursery, ledger, switchboard, exchange)
            while EPOCH not in ledger.state.results:
                await trio.sleep(BLOCK_SECONDS / 4)
            nursery.cancel_scope.cancel()
        await until(ledger, first_block_of(EPOCH, Stage.LOAD, ledger.schedule))
        async with trio.open_nursery() as nursery:
            self._start(nursery, ledger, switchboard, exchange)

    def _start(
        self, nursery: trio.Nursery, ledger: Ledger, switchboard: Switchboard, exchange: ContentExchange
    ) -> None:
        for one, disk in self._disks.items():
            nursery.start_soon(partial(run_node, one, MODEL_ID, ledger, switchboard, exchange, disk=disk))


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("explained_otherwise", [False, True])
def test_votes_left_out_by_members_who_say_they_hold_them_void_the_result(
    explained_otherwise: bool, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cartel = {plan(number).account for number in range(3)}
    deceived, victim = plan(3), plan(4)
    counted_honestly, read_honestly = FormingService._counted, SimulatedContent.read_bytes
    object_honestly = ObjectingService._object
    ledgers: list[Ledger] = []

    def object_if_honest(self: ObjectingService, case: Any) -> None:
        if self._chain.account not in cartel:
            object_honestly(self, case)

    def counted(
        self: FormingService, inputs: ResultInputs, fetching: BundleFetching, *, is_late: bool
    ) -> frozenset[Address]:
        found = counted_honestly(self, inputs, fetching, is_late=is_late)
        drops = inputs.epoch == EPOCH and self._chain.account in cartel
        return found - {victim.account} if drops else found

    async def read_bytes(self: SimulatedContent, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        """The deceived gets the victim's votes only when the result is posted."""
        is_deceived = self._exchange.stores[f"host-{deceived.number}", 1] is self
        is_early = bool(ledgers) and EPOCH not in ledgers[0].state.results
        if is_deceived and is_early and ledgers[0].state.vote_bundles.get(EPOCH, {}).get(victim.account) == cid:
            raise ContentUnavailableError("nobody hands it over")
        return await read_honestly(self, cid, providers, limit_bytes=limit_bytes)

    async def remember(ledger: Ledger, _exchange: ContentExchange) -> None:
        ledgers.append(ledger)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(FormingService, "_counted", counted)
    monkeypatch.setattr(ObjectingService, "_object", object_if_honest)
    if explained_otherwise:
        explain_otherwise(monkeypatch, {*cartel, deceived.account})
    monkeypatch.setattr(SimulatedContent, "read_bytes", read_bytes)
    long = replace(PARAMETERS, epoch_blocks=PARAMETERS.epoch_blocks + 10)  # others are heard of 10 s after a start
    ledger = run(remember, parameters=long, restart=Restart([deceived, victim] if restarted else []))
    assert voided(ledger) == [EPOCH]
    assert_nothing_is_paid_for_nothing_or_twice(ledger, [0, 2])


def test_one_that_tells_a_member_it_holds_what_it_lacks_has_no_honest_result_voided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two of five lack the victim's votes, so the result is without them; one of the two told a third that it has them,
    and objects for no reason. With the one it deceived it would have the weight to void the result.
    """
    liar, without, deceived, victim = plan(0), plan(1), plan(3), plan(4)
    read_honestly, add_honestly = SimulatedContent.read_bytes, ResultSignatures.add
    examine_honestly = ObjectingService._examine
    ledgers: list[Ledger] = []
    told: list[ResultSignature] = []

    async def read_bytes(self: SimulatedContent, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        lacks = any(self._exchange.stores.get((f"host-{one.number}", 1)) is self for one in (liar, without))
        is_early = bool(ledgers) and EPOCH not in ledgers[0].state.results
        if lacks and is_early and ledgers[0].state.vote_bundles.get(EPOCH, {}).get(victim.account) == cid:
            raise ContentUnavailableError("nobody hands it over")
        return await read_honestly(self, cid, providers, limit_bytes=limit_bytes)

    def add(self: ResultSignatures, member: Address, signature: ResultSignature) -> None:
        if (self._chain.account, member, signature.epoch) == (deceived.account, liar.account, EPOCH):
            bundles = ledgers[0].state.vote_bundles[EPOCH].keys()
            told.append(replace(signature, held=pack_holders(bundles, committed_order(bundles))))
            add_honestly(self, member, told[-1])  # before gossip brings what it says to everyone else
        add_honestly(self, member, signature)

    async def examine(self: ObjectingService, case: Any) -> None:
        if case.epoch == EPOCH and self._chain.account == liar.account:
            self._object(case)
        else:
            await examine_honestly(self, case)

    async def remember(ledger: Ledger, _exchange: ContentExchange) -> None:
        ledgers.append(ledger)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(SimulatedContent, "read_bytes", read_bytes)
    monkeypatch.setattr(ResultSignatures, "add", add)
    monkeypatch.setattr(ObjectingService, "_examine", examine)
    ledger = run(remember)
    assert told
    assert voided(ledger) == []
    assert_nothing_is_paid_for_nothing_or_twice(ledger, [0, 1, 2])


def test_who_objected_to_a_result_never_signs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EpochNumber] = []

    def objected(_store: object, epoch: EpochNumber, _digest: Hash32) -> bool:
        asked.append(epoch)
        return True

    monkeypatch.setattr(forming, "has_objected", objected)
    ledger = run(nothing, epochs=1)
    assert set(asked) == {EpochNumber(0)}  # every member formed a result, and held it against what it had objected to
    assert len(asked) >= NODES
    assert not ledger.state.results
