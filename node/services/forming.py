"""Forms the result of every epoch, signs it, gathers a quorum of signatures, and posts it."""

import structlog
import trio

from node.ports import ActionStatus, Chain, Content, ContentUnavailableError, Network, Store, Validity
from node.protocol.actions import PostEpochResult
from node.protocol.bundles import VOTE_BUNDLE_BYTES_MAX, check_bundle
from node.protocol.canonical import CanonicalError, decode
from node.protocol.chain_state import ChainState
from node.protocol.codec import SchemaError, from_value
from node.protocol.eip712 import epoch_result_digest
from node.protocol.empty_epochs import why_no_group
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32
from node.protocol.messages import (
    Message,
    PocAnnouncement,
    ResultSignature,
    VotesAnnouncement,
)
from node.protocol.records import EpochResultSummary, VoteBundle
from node.protocol.results import form_epoch_result, summarise
from node.protocol.signatures import SignatureError, recover
from node.protocol.stages import Stage, first_block_of
from node.services.epochs import EpochBook, result_to_bytes
from node.services.gossip import GossipRouter
from node.services.poc_slots import PocSlots
from node.services.presence import PresenceTable
from node.services.timing import cancel_at, epochs_at, position, window

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
REPEAT_BLOCKS = 3
"""A signature is gossiped again after so many blocks without a result: gossip promises no delivery."""
POSTER_PATIENCE_BLOCKS = 3
"""How long each member waits for the one before it to post: one posting is paid for, not one per member."""


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
        router: GossipRouter,
    ) -> None:
        self._chain = chain
        self._network = network
        self._content = content
        self._store = store
        self._presence = presence
        self._epochs = epochs
        self._slots = PocSlots(chain, epochs)
        self._signatures: dict[Address, ResultSignature] = {}
        """Newest signature of each member: bounded by the group's size."""
        router.register(ResultSignature, self._judge_signature, self._take_signature)
        router.register(VotesAnnouncement, self._judge_announcement, _pass_on)
        router.register(PocAnnouncement, self._judge_announcement, _pass_on)

    async def run(self) -> None:
        """Form, sign and post in every epoch."""
        async for epoch in epochs_at(self._chain, Stage.FORM, Stage.FORM):
            _, end = window(self._chain, epoch, Stage.FORM, Stage.FORM)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_at, self._chain, end, nursery.cancel_scope)
                await self._form(epoch)
                nursery.cancel_scope.cancel()

    async def _form(self, epoch: EpochNumber) -> None:
        begin = first_block_of(epoch, Stage.FORM, self._chain.parameters)
        state = await self._chain.state_at(BlockNumber(begin - 1))
        bundles = await self._fetch_bundles(epoch, state)
        previous = await self._epochs.result_before(epoch, state)
        selected = await self._slots.selected(epoch)
        result = form_epoch_result(epoch, state, self._chain.parameters, bundles, previous, selected=selected)
        if result is None:
            reason = why_no_group(epoch, state)
            log.warning("no group is formed: the present one carries on, nothing is paid", epoch=epoch, reason=reason)
            return
        content_cid = await self._content.add_bytes(result_to_bytes(result))
        summary, validator_set = summarise(result, content_cid)
        digest = epoch_result_digest(summary, self._chain.chain_id, self._chain.epoch_manager)
        weights = dict(state.group_weights(epoch))
        if weights.get(self._chain.account, 0) > 0:
            await self._sign(epoch, digest)
        await self._post(epoch, summary, validator_set, digest, weights)

    async def _fetch_bundles(self, epoch: EpochNumber, state: ChainState) -> dict[Address, VoteBundle]:
        """Fetch and check every committed bundle; tries for half of FORM, for all must count the same votes.

        The other half is for signing and posting: a result is taken in FORM only.
        """
        seed = await self._chain.block_hash(first_block_of(epoch, Stage.VALIDATE, self._chain.parameters))
        bundles: dict[Address, VoteBundle] = {}
        begin, end = window(self._chain, epoch, Stage.FORM, Stage.FORM)
        limit = BlockNumber((begin + end) // 2)

        async def fetch(validator: Address, cid: Cid) -> None:
            bundle = await self._fetch_bundle(epoch, validator, cid, state, seed)
            if bundle is not None:
                bundles[validator] = bundle

        async with trio.open_nursery() as clock:
            clock.start_soon(cancel_at, self._chain, limit, clock.cancel_scope)
            async with trio.open_nursery() as nursery:
                for validator, cid in state.vote_bundles.get(epoch, {}).items():
                    nursery.start_soon(fetch, validator, cid)
            clock.cancel_scope.cancel()
        return bundles

    async def _fetch_bundle(
        self, epoch: EpochNumber, validator: Address, cid: Cid, state: ChainState, seed: Hash32
    ) -> VoteBundle | None:
        while True:
            try:
                data = await self._content.read_bytes(
                    cid, self._presence.providers(), limit_bytes=VOTE_BUNDLE_BYTES_MAX
                )
                bundle: VoteBundle = from_value(VoteBundle, decode(data))
                check_bundle(
                    bundle,
                    epoch,
                    validator,
                    state.poc_commits.get(epoch, {}),
                    sample_seed=seed,
                    sample_size=self._chain.parameters.poc_sample_size,
                )
            except ContentUnavailableError as error:
                log.info("a vote bundle is not to be had yet", validator=validator, reason=str(error))
                await trio.sleep(RETRY_SECONDS)
            except (CanonicalError, SchemaError, ValueError) as error:
                log.warning("a vote bundle is void", validator=validator, reason=str(error))
                return None
            else:
                return bundle

    async def _sign(self, epoch: EpochNumber, digest: Hash32) -> None:
        self._store.record_duty(f"result/{epoch}", digest)
        signature = ResultSignature(epoch, digest, self._chain.sign(digest))
        self._signatures[self._chain.account] = signature
        await self._network.publish(signature, urgent=True)  # FORM may last four blocks of a second

    async def _post(
        self,
        epoch: EpochNumber,
        summary: EpochResultSummary,
        validator_set: bytes,
        digest: Hash32,
        weights: dict[Address, int],
    ) -> None:
        """Wait for a quorum, then post, unless a member whose turn is earlier does it first."""
        order = sorted(weights, key=str.lower)
        own = self._signatures.get(self._chain.account)
        turn = (order.index(self._chain.account) - epoch) % len(order) if self._chain.account in order else len(order)
        repeat_at = self._chain.head.number + REPEAT_BLOCKS
        quorum_at: int | None = None
        async for head in self._chain.heads():
            if epoch in self._chain.state.results:
                return
            signers = self._signers(epoch, digest, weights)
            if 3 * sum(weights[signer] for signer in signers) > 2 * sum(weights.values()):
                quorum_at = head.number if quorum_at is None else quorum_at
                if head.number >= quorum_at + turn * POSTER_PATIENCE_BLOCKS:
                    break
            if own is not None and head.number >= repeat_at:
                await self._network.publish(own, urgent=True)
                repeat_at = head.number + REPEAT_BLOCKS
        signatures = tuple((signer, self._signatures[signer].signature) for signer in signers)
        key = f"result/{epoch}"
        await self._chain.submit(key, PostEpochResult(summary, validator_set, signatures))
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.DONE:
            log.info("the result of an epoch is posted", epoch=epoch, signers=len(signers))
        elif epoch not in self._chain.state.results:
            log.error("the result was refused", epoch=epoch, reason=outcome.reason)

    def _signers(self, epoch: EpochNumber, digest: Hash32, weights: dict[Address, int]) -> list[Address]:
        return sorted(
            (
                account
                for account, signature in self._signatures.items()
                if signature.epoch == epoch and signature.digest == digest and weights.get(account, 0) > 0
            ),
            key=str.lower,
        )

    def _judge_signature(self, message: Message) -> Validity:
        body = message.body
        if not isinstance(body, ResultSignature):
            return Validity.REJECT
        now = position(self._chain).epoch
        if not now - 1 <= body.epoch <= now:
            return Validity.IGNORE
        if dict(self._chain.state.group_weights(body.epoch)).get(message.sender, 0) == 0:
            return Validity.IGNORE
        known = self._signatures.get(message.sender)
        if known is not None and known.epoch > body.epoch:
            return Validity.IGNORE
        try:
            signer = recover(body.digest, body.signature)
        except SignatureError:
            return Validity.REJECT
        return Validity.ACCEPT if signer == message.sender else Validity.REJECT

    def _take_signature(self, message: Message) -> None:
        if isinstance(message.body, ResultSignature):
            self._signatures[message.sender] = message.body

    def _judge_announcement(self, message: Message) -> Validity:
        """Passed on for whoever listens; this node itself goes by the chain."""
        known = message.sender in self._chain.state.participants
        return Validity.ACCEPT if known else Validity.IGNORE


def _pass_on(_message: Message) -> None:
    pass
