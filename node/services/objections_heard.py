"""Objections of members to the epoch's result, as gossip brings them: checked, bounded, of the present epoch only."""

from node.ports import Chain, Validity
from node.protocol.agreement import ROUNDS_MAX
from node.protocol.eip712 import objection_digest
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.messages import Message, Objection
from node.protocol.signatures import SignatureError, recover
from node.services.gossip import GossipRouter
from node.services.timing import position

OBJECTIONS_PER_MEMBER_MAX = ROUNDS_MAX
"""Results of one epoch that one member may object to: no more can be signed by anybody. Beyond, it only makes noise."""

DIGEST_BYTES = 32
"""Of a result: a shorter one would have the same signature as the one it is filled up to, and count as another."""


class ObjectionsHeard:
    """By member and result. An objection may come before this node knows the result that it is about."""

    def __init__(self, chain: Chain, router: GossipRouter) -> None:
        self._chain = chain
        self._known: dict[Address, dict[Hash32, Objection]] = {}
        """At most a group of members, with OBJECTIONS_PER_MEMBER_MAX each."""
        router.register(Objection, self.judge, self._take)

    def add(self, member: Address, objection: Objection) -> None:
        """Keep an objection; older epochs are forgotten."""
        self._forget_before(objection.epoch)
        known = self._known.setdefault(member, {})
        if len(known) < OBJECTIONS_PER_MEMBER_MAX:
            known.setdefault(objection.result_digest, objection)

    def _forget_before(self, epoch: EpochNumber) -> None:
        for member, known in tuple(self._known.items()):
            for digest in [digest for digest, old in known.items() if old.epoch < epoch]:
                del known[digest]
            if not known:
                del self._known[member]

    def objectors(self, epoch: EpochNumber, digest: Hash32) -> dict[Address, bytes]:
        """Return who objects to a result, with the signature."""
        return {
            member: known[digest].signature
            for member, known in self._known.items()
            if digest in known and known[digest].epoch == epoch
        }

    def judge(self, message: Message) -> Validity:
        """Judge a gossiped objection: of a member, about the present epoch, and its own."""
        body = message.body
        if not isinstance(body, Objection) or len(body.result_digest) != DIGEST_BYTES:
            return Validity.REJECT
        if body.epoch != position(self._chain).epoch:
            return Validity.IGNORE
        if dict(self._chain.state.group_weights(body.epoch)).get(message.sender, 0) <= 0:
            return Validity.IGNORE
        present = {
            digest: old for digest, old in self._known.get(message.sender, {}).items() if old.epoch == body.epoch
        }
        known = present.get(body.result_digest)
        if known == body:
            return Validity.ACCEPT  # repeated for those who missed it
        if known is not None or len(present) >= OBJECTIONS_PER_MEMBER_MAX:
            return Validity.IGNORE
        digest = objection_digest(body.epoch, body.result_digest, self._chain.chain_id, self._chain.epoch_manager)
        try:
            signer = recover(digest, body.signature)
        except SignatureError:
            return Validity.REJECT
        return Validity.ACCEPT if signer == message.sender else Validity.REJECT

    def _take(self, message: Message) -> None:
        if isinstance(message.body, Objection):
            self.add(message.sender, message.body)
