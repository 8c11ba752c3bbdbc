"""Holds every accepted result against the evidence, and has it voided if it is false and a third of the weight says so.

*Detail.* A result takes effect with its epoch's end. Until then each node that did not form the same one by itself, or
formed it without votes that it could not get, fetches the content and the vote bundles and finds out whether it is
false (objections.py), to the field. If so, a member writes down that it objects, signs the objection (EIP-712) and
gossips it until the epoch ends; from then on it never signs that result. Whoever objects and has the objections of a
third of the weight submits them, each a few blocks after the one before it. What was decided survives a restart: a
member that objected goes on objecting, and one that lacks evidence objects to nothing.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass, field

import structlog
import trio

from node.ports import ActionStatus, Chain, Content, EquivocationError, Network, Store
from node.protocol.actions import VoidEpochResult, is_overtaken
from node.protocol.differences import Difference, differences
from node.protocol.eip712 import epoch_result_digest, objection_digest
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.messages import Objection
from node.protocol.objections import (
    Finding,
    Statements,
    counted_in,
    differs_in_pay,
    differs_materially,
    is_enough,
    left_out_without_ground,
    posting_block,
)
from node.protocol.records import EpochResult, EpochResultSummary, VoteBundle
from node.protocol.stages import Stage
from node.services.bundle_fetching import BundleFetching
from node.services.epochs import EpochBook
from node.services.formed_results import has_objected, load_formed, save_objected
from node.services.giving_way import GivingWay
from node.services.objections_heard import ObjectionsHeard
from node.services.poc_slots import PocSlots
from node.services.presence import PresenceTable
from node.services.result_inputs import ResultInputs, gather_inputs
from node.services.result_signatures import ResultSignatures
from node.services.slicing import Slicer
from node.services.timing import cancel_at, epochs_at, window

log = structlog.get_logger(__name__)

REPEAT_BLOCKS = 3
"""An objection is gossiped again after so many blocks: gossip promises no delivery, and an epoch's end is near."""
POSTER_PATIENCE_BLOCKS = 3
"""How long each objector waits for the one before it to submit."""
POSTING_MARGIN_BLOCKS = 4
"""So near to the end of the epoch all who have not had their turn post, in as many groups: a transaction needs a block
or two, and nobody sees what another is about to send."""
DIFFERENCES_LOGGED = 5

Report = Callable[[str, str], None]
"""Tells the operator that a result is false: which one, and how, in words."""


@dataclass(frozen=True, slots=True)
class ObjectionStatus:
    """How it stands with the accepted result of an epoch; for people."""

    epoch: EpochNumber
    finding: Finding
    differences: tuple[Difference, ...]
    """Between what follows from the evidence ("ours") and the accepted result; where that is false or immaterial."""
    is_voided: bool
    own: bool
    """Whether this node objects."""
    objecting: int
    """Weight that objects, as far as this node heard."""
    total: int


@dataclass(slots=True)
class _Case:
    """An accepted result, and how far this node is with it."""

    epoch: EpochNumber
    digest: Hash32
    summary: EpochResultSummary
    finding: Finding = Finding.OPEN
    differences: tuple[Difference, ...] = ()
    own: bytes | None = None
    """This node's signature of the objection."""
    said_at: int | None = None
    """Block at which this node gossiped it last."""
    enough_at: int | None = None
    """Block at which a third of the weight was first seen to object."""
    giving_way: GivingWay = field(default_factory=lambda: GivingWay(POSTER_PATIENCE_BLOCKS))
    """To who submits the objections before this node does."""
    is_over: bool = False
    """Whether it was voided, or submitting the objections failed."""


class ObjectingService:
    """Watches the results of every epoch from FORM on to its end."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        content: Content,
        store: Store,
        presence: PresenceTable,
        epochs: EpochBook,
        slots: PocSlots,
        signatures: ResultSignatures,
        heard: ObjectionsHeard,
        report: Report | None = None,
    ) -> None:
        self._chain = chain
        self._network = network
        self._content = content
        self._store = store
        self._presence = presence
        self._epochs = epochs
        self._slots = slots
        self._signatures = signatures
        self._heard = heard
        self._report = report
        self._slicer = Slicer()
        self._stirred = trio.Event()
        self._case: _Case | None = None
        """The newest."""

    async def run(self) -> None:
        """Look at every result while it may be voided."""
        async for epoch in epochs_at(self._chain, Stage.FORM, Stage.LOAD):
            _, end = window(self._chain, epoch, Stage.FORM, Stage.LOAD)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_at, self._chain, end, nursery.cancel_scope)
                await self._watch(epoch, end)

    def status(self, epoch: EpochNumber) -> ObjectionStatus | None:
        """Return how it stands with the accepted result of `epoch`, if that is the newest this node looked at."""
        case = self._case
        if case is None or case.epoch != epoch:
            return None
        weights = dict(self._chain.state.group_weights(epoch))
        objecting = sum(weights.get(member, 0) for member in self._heard.objectors(epoch, case.digest))
        voided = case.digest in self._chain.state.voided.get(epoch, ())
        return ObjectionStatus(
            epoch, case.finding, case.differences, voided, case.own is not None, objecting, sum(weights.values())
        )

    async def _watch(self, epoch: EpochNumber, end: int) -> None:
        """Examine each result that is accepted for `epoch`; several, if one is voided and another takes its place."""
        while True:
            summary = await self._next_result(epoch)
            digest = epoch_result_digest(summary, self._chain.chain_id, self._chain.epoch_manager)
            case = self._case = _Case(epoch, digest, summary)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._examine, case)
                await self._pursue_until_voided(case, end)
                nursery.cancel_scope.cancel()

    async def _next_result(self, epoch: EpochNumber) -> EpochResultSummary:
        async for _ in self._chain.heads():
            if (summary := self._chain.state.results.get(epoch)) is not None:
                return summary
        raise AssertionError("heads never end")

    async def _pursue_until_voided(self, case: _Case, end: int) -> None:
        async for head in self._chain.heads():
            if self._chain.state.results.get(case.epoch) != case.summary:
                case.is_over = True
                log.warning(
                    "the result of an epoch was voided: unless another is posted in FORM, the group carries on and the "
                    "epoch pays nothing; what was earned before stays claimable",
                    epoch=case.epoch,
                    finding=case.finding.value,
                )
                return
            self._stir()
            if case.own is not None:
                await self._say(case, case.own, head.number)
                await self._pursue(case, head.number, end)

    async def _say(self, case: _Case, own: bytes, block: int) -> None:
        """Gossip this node's objection, and again after a while."""
        if case.said_at is None or block >= case.said_at + REPEAT_BLOCKS:
            case.said_at = block
            await self._network.publish(Objection(case.epoch, case.digest, own), urgent=True)

    async def _pursue(self, case: _Case, block: int, end: int) -> None:
        """Submit if a third of the weight objects and it is this node's turn."""
        weights = dict(self._chain.state.group_weights(case.epoch))
        found = self._heard.objectors(case.epoch, case.digest)
        objectors = sorted((member for member in found if weights.get(member, 0) > 0), key=str.lower)
        if case.is_over or not is_enough(sum(weights[member] for member in objectors), sum(weights.values())):
            return
        case.enough_at = block if case.enough_at is None else case.enough_at
        turn = (objectors.index(self._chain.account) - case.epoch) % len(objectors)
        patience, margin = POSTER_PATIENCE_BLOCKS, POSTING_MARGIN_BLOCKS
        if block >= posting_block(case.enough_at, turn, end, patience=patience, margin=margin):
            action = VoidEpochResult(case.epoch, case.digest, tuple((member, found[member]) for member in objectors))
            if not await case.giving_way.is_overtaken(self._chain, action, block, end - margin):
                await self._submit(case, action)

    async def _submit(self, case: _Case, action: VoidEpochResult) -> None:
        key = f"objection/{case.epoch}/{case.digest.hex()}"  # a restart sends it no second time
        await self._chain.submit(key, action)
        outcome = await self._chain.outcome(key)
        is_refused = outcome.status is ActionStatus.FAILED and not is_overtaken(outcome.reason)
        if is_refused and case.epoch in self._chain.state.results:
            case.is_over = True
            log.error("the objections were refused: the result stands", epoch=case.epoch, reason=outcome.reason)

    async def _examine(self, case: _Case) -> None:
        """Find out whether the result is false, and object if it is."""
        own = load_formed(self._store, case.epoch)
        if has_objected(self._store, case.epoch, case.digest):
            self._object(case)  # that it objects stands, whatever can be found again of why
        elif own is not None and own.digest == case.digest and not own.missing:
            case.finding = Finding.SOUND
            return
        accepted = await self._content_of(case)
        if accepted is None:
            case.finding = Finding.WRONG_CONTENT
        else:
            await self._hold_against(case, accepted)
        if case.finding.is_false:
            self._tell(case)
            self._object(case)
        if case.own is not None:
            await self._say(case, case.own, self._chain.head.number)  # a block may be all that is left to void it

    async def _content_of(self, case: _Case) -> EpochResult | None:
        """Wait for the content; None if it is not what the quorum told the chain."""
        while not self._epochs.is_wrong(case.summary):
            stirred = self._stirred
            if (accepted := self._epochs.result(case.epoch)) is not None:
                return accepted
            await stirred.wait()
        return None

    async def _hold_against(self, case: _Case, accepted: EpochResult) -> None:
        """Wait for evidence until there is a finding that stays, or all the evidence there can be."""
        inputs = await gather_inputs(self._chain, self._epochs, self._slots, case.epoch)
        fetching = BundleFetching(self._content, self._presence, inputs.judging, inputs.bundle_cids, self._stir)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetching.run)
            needed = counted_in(accepted) & inputs.bundle_cids.keys()
            while not needed <= fetching.held.keys():
                await self._stirred.wait()
            await self._hold_against_own_words(case, accepted, inputs, fetching)
            if case.finding is Finding.IMMATERIAL:
                log.warning("a result is not what follows here, but nobody is paid otherwise", **_facts(case))
            if not case.finding.is_false:  # votes left out may hide behind a difference that matters to nobody
                await self._look_for_votes_left_out(case, accepted, inputs, fetching)
            nursery.cancel_scope.cancel()

    async def _hold_against_own_words(
        self, case: _Case, accepted: EpochResult, inputs: ResultInputs, fetching: BundleFetching
    ) -> None:
        """Find whether the result follows from the bundles it says it counts, which are all here."""
        valid = _valid(fetching)
        counts = counted_in(accepted) & valid.keys()
        expected = await self._slicer.run(inputs.form({validator: valid[validator] for validator in counts}))
        if expected == accepted:
            case.finding = Finding.SOUND
            return
        case.differences = () if expected is None else differences(expected, accepted)
        case.finding = Finding.DOES_NOT_FOLLOW if differs_materially(expected, accepted) else Finding.IMMATERIAL

    async def _hold_against_votes_left_out(
        self,
        case: _Case,
        accepted: EpochResult,
        inputs: ResultInputs,
        fetching: BundleFetching,
        left_out: Set[Address],
    ) -> None:
        """Find whether the votes of `left_out`, which were left out without a ground, make a difference.

        Those that were left out in order stay out: what they would change is no fault of the result.
        """
        valid = _valid(fetching)
        counts = (counted_in(accepted) | left_out) & valid.keys()
        expected = await self._slicer.run(inputs.form({validator: valid[validator] for validator in counts}))
        if differs_in_pay(expected, accepted):
            case.differences = () if expected is None else differences(expected, accepted)
            case.finding = Finding.VOTES_LEFT_OUT

    async def _look_for_votes_left_out(
        self, case: _Case, accepted: EpochResult, inputs: ResultInputs, fetching: BundleFetching
    ) -> None:
        looked_at: frozenset[Address] = frozenset()
        while True:
            stirred = self._stirred
            left_out = self._left_out(case, accepted, inputs, fetching)
            if left_out - looked_at:
                looked_at = left_out
                await self._hold_against_votes_left_out(case, accepted, inputs, fetching, left_out)
            if case.finding.is_false or (fetching.is_complete and counted_in(accepted) >= _valid(fetching).keys()):
                return
            await stirred.wait()

    def _left_out(
        self, case: _Case, accepted: EpochResult, inputs: ResultInputs, fetching: BundleFetching
    ) -> frozenset[Address]:
        """Return whose bundles are here and were left out though more than two thirds said they hold them."""
        left_out = _valid(fetching).keys() - counted_in(accepted)
        if not left_out:
            return frozenset()
        signers = self._signatures.signers(case.epoch, case.digest).keys()
        held = self._signatures.always_held(case.epoch, inputs.committed, left_out)
        return left_out_without_ground(left_out, Statements(signers, held), inputs.judging.weights)

    def _object(self, case: _Case) -> None:
        """Write down that this node objects, then sign it; only members have a say."""
        if dict(self._chain.state.group_weights(case.epoch)).get(self._chain.account, 0) <= 0:
            return
        digest = objection_digest(case.epoch, case.digest, self._chain.chain_id, self._chain.epoch_manager)
        save_objected(self._store, case.epoch, case.digest)
        try:
            self._store.record_duty(f"objection/{case.epoch}/{case.digest.hex()}", digest)
        except EquivocationError as error:
            log.error("an objection is not signed", epoch=case.epoch, reason=str(error))
            return
        case.own = self._chain.sign(digest)
        self._heard.add(self._chain.account, Objection(case.epoch, case.digest, case.own))
        self._stir()

    def _tell(self, case: _Case) -> None:
        log.error(
            "the accepted result of this epoch is false: members with a third of the weight can void it before the "
            "epoch ends; see `quern why-differ`",
            **_facts(case),
        )
        if self._report is not None:
            fields = ", ".join(difference.path for difference in case.differences[:DIFFERENCES_LOGGED])
            words = f"the accepted result of epoch {case.epoch} is false ({case.finding.value}): {fields or 'content'}"
            self._report(f"epoch {case.epoch}", words)

    def _stir(self) -> None:
        self._stirred.set()
        self._stirred = trio.Event()


def _valid(fetching: BundleFetching) -> dict[Address, VoteBundle]:
    """The bundles that are here and keep the rules."""
    return {validator: bundle for validator, bundle in fetching.held.items() if bundle is not None}


def _facts(case: _Case) -> dict[str, object]:
    return {
        "epoch": case.epoch,
        "finding": case.finding.value,
        "content": case.summary.content_cid,
        "differences": [
            f"{difference.path}: {difference.ours} follows, not {difference.theirs}"
            for difference in case.differences[:DIFFERENCES_LOGGED]
        ],
    }
