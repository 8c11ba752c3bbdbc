"""Forms the result of every epoch, signs it, gathers a quorum of signatures, and posts it."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import structlog
import trio

from node.ports import ActionStatus, Chain, Content, EquivocationError, Network, Store
from node.protocol.actions import PostEpochResult, is_overtaken
from node.protocol.agreement import ROUNDS_MAX, committed_order, left_out, pack_holders
from node.protocol.eip712 import epoch_result_digest
from node.protocol.empty_epochs import why_no_group
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32
from node.protocol.messages import ResultSignature
from node.protocol.records import EpochResultSummary, VoteBundle
from node.protocol.results import summarise
from node.protocol.stages import Stage
from node.services.bundle_fetching import BundleFetching
from node.services.early_bundles import EarlyBundles
from node.services.epochs import RESULT_BYTES_MAX, EpochBook, result_to_bytes
from node.services.formed_results import FormedResult, has_objected, save_formed
from node.services.giving_way import GivingWay
from node.services.gossip import GossipRouter
from node.services.keeping import store_proof
from node.services.poc_slots import PocSlots
from node.services.presence import PresenceTable
from node.services.punishing import FORMED, formed_document
from node.services.registry_notices import log_registry_changes
from node.services.result_inputs import ResultInputs, gather_inputs
from node.services.result_signatures import ResultSignatures
from node.services.slicing import Slicer
from node.services.timing import cancel_at, epochs_at, window

log = structlog.get_logger(__name__)

REPEAT_BLOCKS = 3
"""A signature is gossiped again after so many blocks without a result: gossip promises no delivery."""
POSTER_PATIENCE_BLOCKS = 4
"""How long each member waits for the one before it to post: one posting is paid for, not one per member. It takes two
transactions, one after the other, and neither side sees a block at once."""
POSTING_MARGIN_BLOCKS = 5
"""So near to the end of FORM turns come block by block: an epoch without a result pays nobody."""


@dataclass(slots=True)
class _Formed:
    """A result this node formed, and how far it is on its way to the chain."""

    summary: EpochResultSummary
    validator_set: bytes
    digest: Hash32
    own: ResultSignature | None = None
    """What this node signed, if it is a member."""
    quorum_at: int | None = None
    """Block at which a quorum was first seen to have signed it."""
    repeat_at: int = 0
    """Block from which to say it again."""
    giving_way: GivingWay = field(default_factory=lambda: GivingWay(POSTER_PATIENCE_BLOCKS))
    """To who posts it before this node does."""


class FormingService:
    """What every member of a group does at the end of an epoch."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        content: Content,
        store: Store,
        presence: PresenceTable,
        epochs: EpochBook,
        slots: PocSlots,
        router: GossipRouter,
    ) -> None:
        self._chain = chain
        self._network = network
        self._content = content
        self._store = store
        self._presence = presence
        self._epochs = epochs
        self._slots = slots
        self._early = EarlyBundles(chain, content, presence, epochs)
        self._slicer = Slicer()
        self._stirred = trio.Event()
        self.signatures = ResultSignatures(chain, router, self._stir, store)

    async def run(self) -> None:
        """Form, sign and post in every epoch; again if what was posted is voided while FORM lasts."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._early.run)
            await self._form_in_every_epoch()

    async def _form_in_every_epoch(self) -> None:
        async for epoch in epochs_at(self._chain, Stage.FORM, Stage.FORM):
            _, end = window(self._chain, epoch, Stage.FORM, Stage.FORM)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_at, self._chain, end, nursery.cancel_scope)
                nursery.start_soon(log_registry_changes, self._chain, epoch)
                await self._form_again_and_again(epoch)
            self._early.forget()
            if epoch not in self._chain.state.results:
                log.warning("no result so far: without one the group carries on and nothing is paid", epoch=epoch)

    async def _form_again_and_again(self, epoch: EpochNumber) -> None:
        inputs = await gather_inputs(self._chain, self._epochs, self._slots, epoch)
        while True:
            voided = self._chain.state.voided.get(epoch, ())
            await self._form_and_post(inputs)
            await self._until_voided(epoch, len(voided))

    async def _until_voided(self, epoch: EpochNumber, times: int) -> None:
        """Wait until results of `epoch` were voided more often than `times`."""
        async for _ in self._chain.heads():
            if len(self._chain.state.voided.get(epoch, ())) > times:
                log.warning("the result of this epoch was voided: another one is formed", epoch=epoch)
                return

    async def _form_and_post(self, inputs: ResultInputs) -> None:
        fetching = BundleFetching(
            self._content,
            self._presence,
            inputs.judging,
            inputs.bundle_cids,
            self._stir,
            self._early.read_by(inputs.judging),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stir_at_heads)
            nursery.start_soon(fetching.run)
            await self._agree(inputs, fetching)
            nursery.cancel_scope.cancel()

    async def _agree(self, inputs: ResultInputs, fetching: BundleFetching) -> None:
        """Sign what follows from the bundles that count, as they change, until a result is posted."""
        begin, end = window(self._chain, inputs.epoch, Stage.FORM, Stage.FORM)
        # Not before the first block that comes while bundles are fetched: FORM may last four blocks of a second.
        half = max((begin + end) // 2, self._chain.head.number + 1)
        counted: frozenset[Address] | None = None
        formed: _Formed | None = None
        formed_at = 0
        while inputs.epoch not in self._chain.state.results:
            stirred = self._stirred
            block = self._chain.head.number
            if fetching.is_complete or (block >= half and block > formed_at):
                # As it is now: others arrive while the result is formed, and who left them out did not hold them.
                held = dict(fetching.held)
                wanted = self._counted(inputs, frozenset(held), is_late=block >= half)
                if wanted != counted:
                    counted, formed_at = wanted, block  # bundles that arrive one by one cost a round per block
                    formed = await self._form(inputs, held, counted)
            if formed is not None and await self._post_in_turn(inputs, formed):
                return
            await stirred.wait()

    def _counted(self, inputs: ResultInputs, held: frozenset[Address], *, is_late: bool) -> frozenset[Address]:
        """Whose bundles count now: those this node holds; late, those of them that a quorum can count."""
        if not is_late:
            return held
        holdings = {**self.signatures.holdings(inputs.epoch, inputs.committed), self._chain.account: held}
        return held - left_out(frozenset(inputs.committed), holdings, inputs.judging.weights)

    async def _form(
        self, inputs: ResultInputs, held: Mapping[Address, VoteBundle | None], counted: frozenset[Address]
    ) -> _Formed | None:
        """Form the result that follows from the bundles of `counted`, and sign it if this is a member, as of one who
        holds those of `held`: None is a bundle that proved to be none."""
        bundles = {validator: bundle for validator in counted if (bundle := held[validator]) is not None}
        result = await self._slicer.run(inputs.form(bundles))
        if result is None:
            reason = why_no_group(inputs.epoch, inputs.state, bundles.keys())
            line = "no group is formed: the present one carries on, nothing is paid"
            if len(held) < len(inputs.committed):
                line = "no group is formed of the votes that are here: unless others come the present one carries on"
            log.warning(line, epoch=inputs.epoch, reason=reason)
            return None
        content = result_to_bytes(result)
        sized = log.bind(epoch=inputs.epoch, result_bytes=len(content), limit_bytes=RESULT_BYTES_MAX)
        if len(content) > RESULT_BYTES_MAX:
            sized.error(
                "the result is too large to be read by anyone, so it is not signed: the present group carries on, "
                "nothing is paid; report it with this line"
            )
            return None
        if 2 * len(content) > RESULT_BYTES_MAX:
            sized.warning(
                "the result is larger than half of what a result may be: beyond that nobody signs and nobody is paid; "
                "report it with this line"
            )
        content_cid = await store_proof(self._content, content, inputs.epoch, "result")
        summary, validator_set = summarise(result, content_cid)
        digest = epoch_result_digest(summary, self._chain.chain_id, self._chain.epoch_manager)
        formed = _Formed(summary, validator_set, digest)
        without = tuple(validator for validator in inputs.committed if validator not in counted)
        void = tuple(sorted(counted - bundles.keys(), key=str.lower))
        save_formed(
            self._store, FormedResult(inputs.epoch, digest, content_cid, committed_order(bundles.keys()), void, without)
        )
        if without:
            log.warning("a result without the votes of some validators", epoch=inputs.epoch, validators=list(without))
        if digest in self._chain.state.voided.get(inputs.epoch, ()) or has_objected(self._store, inputs.epoch, digest):
            log.warning("the result that follows here was objected to: it is not signed (again)", epoch=inputs.epoch)
            return None
        self._store.put_document(formed_document(inputs.epoch, content_cid), FORMED)
        if inputs.judging.weights.get(self._chain.account, 0) > 0:
            formed.own = await self._sign(inputs, held.keys(), digest, content_cid)
        return formed

    async def _sign(
        self, inputs: ResultInputs, holders: Set[Address], digest: Hash32, content_cid: Cid
    ) -> ResultSignature | None:
        """Sign `digest` in the first round that is free, and say so; None if there is none.

        What was said in a round stays said: two statements in one would show this member as of two voices.
        """
        account = self._chain.account
        for number in range(ROUNDS_MAX):
            said = self.signatures.of_round(account, inputs.epoch, number)
            if said is not None and said.digest == digest:
                return await self._say(said)
            try:
                self._store.record_duty(f"result/{inputs.epoch}/{number}", digest)
            except EquivocationError:
                continue  # that round is spent, maybe before a restart
            held = pack_holders(holders, inputs.committed)
            signature = ResultSignature(inputs.epoch, digest, self._chain.sign(digest), number, held, content_cid)
            self.signatures.add(account, signature)
            return await self._say(signature)
        log.error("no round is left to sign another result", epoch=inputs.epoch, rounds=ROUNDS_MAX)
        return None

    async def _say(self, signature: ResultSignature) -> ResultSignature:
        """Publish this node's own statement once the loss of power cannot make it say another one in that round."""
        await self._store.durable()
        await self._network.publish(signature, urgent=True)  # FORM may last four blocks of a second
        return signature

    async def _post_in_turn(self, inputs: ResultInputs, formed: _Formed) -> bool:
        """Post if a quorum signed and it is this node's turn; return whether that is over."""
        weights, block = inputs.judging.weights, self._chain.head.number
        signed = self.signatures.signers(inputs.epoch, formed.digest)
        if 3 * sum(weights.get(signer, 0) for signer in signed) > 2 * sum(weights.values()):
            formed.quorum_at = block if formed.quorum_at is None else formed.quorum_at
            if block >= self._posting_block(inputs, formed.quorum_at):
                signers = [member for member in inputs.posters if member in signed and weights[member] > 0]
                signatures = tuple((signer, signed[signer]) for signer in signers)
                action = PostEpochResult(formed.summary, formed.validator_set, signatures)
                late = self._late_block(inputs.epoch)
                if not await formed.giving_way.is_overtaken(self._chain, action, block, late):
                    await self._post(inputs.epoch, action)
                    return True
        if formed.own is not None:
            formed.repeat_at = formed.repeat_at or block + REPEAT_BLOCKS
            if block >= formed.repeat_at:
                await self._network.publish(formed.own, urgent=True)
                formed.repeat_at = block + REPEAT_BLOCKS
        return False

    def _posting_block(self, inputs: ResultInputs, quorum_at: int) -> int:
        """From which block this node posts, if nobody before it did; who is no member comes after all of them."""
        account, members = self._chain.account, len(inputs.posters)
        if account not in inputs.posters:
            return quorum_at + members * POSTER_PATIENCE_BLOCKS
        turn = (inputs.posters.index(account) - inputs.epoch) % members
        return posting_block(quorum_at, turn, self._late_block(inputs.epoch))

    def _late_block(self, epoch: EpochNumber) -> int:
        """From which block it is late to post the result of `epoch`."""
        begin, end = window(self._chain, epoch, Stage.FORM, Stage.FORM)
        return end - min(POSTING_MARGIN_BLOCKS, (end - begin) // 2)

    async def _post(self, epoch: EpochNumber, action: PostEpochResult) -> None:
        """Post, and wait for what comes of it."""
        voided = len(self._chain.state.voided.get(epoch, ()))
        key = f"result/{epoch}/{voided}" if voided else f"result/{epoch}"
        await self._chain.submit(key, action)
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.DONE:
            log.info("the result of an epoch is posted", epoch=epoch, signers=len(action.signatures))
        elif epoch not in self._chain.state.results and not is_overtaken(outcome.reason):
            log.error("the result was refused", epoch=epoch, reason=outcome.reason)

    async def _stir_at_heads(self) -> None:
        async for _ in self._chain.heads():
            self._stir()

    def _stir(self) -> None:
        """Something happened that may change what to do."""
        self._stirred.set()
        self._stirred = trio.Event()


def posting_block(quorum_at: int, turn: int, late: int) -> int:
    """Return the block from which member number `turn` posts, if nobody before it did and there was a quorum at block
    `quorum_at`. From block `late` on each waits a single block for the one before it, and no two post at once.
    """
    return min(quorum_at + turn * POSTER_PATIENCE_BLOCKS, max(quorum_at, late) + turn)
