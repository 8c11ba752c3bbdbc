"""What members say about the result of an epoch: whose bundles they hold, and what they signed."""

import contextlib
from collections.abc import Callable, Mapping, Sequence

from node.ports import Chain, Validity
from node.protocol.agreement import ROUNDS_MAX, unpack_holders
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.messages import Message, ResultSignature
from node.protocol.results import VALIDATORS_MAX
from node.protocol.signatures import SignatureError, recover
from node.services.gossip import GossipRouter
from node.services.timing import position

HELD_BYTES_MAX = (VALIDATORS_MAX + 7) // 8
"""A bit for each member that may have committed a bundle."""
CID_CHARACTERS_MAX = 128
"""Twice what a CID of a result has."""


class ResultSignatures:
    """Signatures of the newest epoch by member: at most ROUNDS_MAX of each."""

    def __init__(self, chain: Chain, router: GossipRouter, on_change: Callable[[], None]) -> None:
        self._chain = chain
        self._on_change = on_change
        self._known: dict[Address, dict[int, ResultSignature]] = {}
        """By member and round; of one epoch only."""
        self._committed: Sequence[Address] = ()
        self._read: dict[bytes, frozenset[Address]] = {}
        """What statements say about `_committed`. Most say the same, and all are looked at whenever one more comes."""
        router.register(ResultSignature, self.judge, self._take)

    def add(self, member: Address, signature: ResultSignature) -> None:
        """Keep a signature; the first of each round, and of the newest epoch."""
        known = self._known.setdefault(member, {})
        newest = next(iter(known.values()), None)
        if newest is not None and newest.epoch > signature.epoch:
            return
        if newest is not None and newest.epoch < signature.epoch:
            known.clear()
        known.setdefault(signature.round, signature)

    def signers(self, epoch: EpochNumber, digest: Hash32) -> dict[Address, bytes]:
        """Return who signed `digest` in whatever round, with the signature."""
        return {
            member: signature.signature
            for member, known in self._known.items()
            for signature in known.values()
            if signature.epoch == epoch and signature.digest == digest
        }

    def holdings(self, epoch: EpochNumber, committed: Sequence[Address]) -> Mapping[Address, frozenset[Address]]:
        """Return whose bundles each member holds, by its newest statement of `epoch`."""
        if committed != self._committed:
            self._committed, self._read = committed, {}
        found = {}
        for member in self._known:
            newest = self.newest(member, epoch)
            if newest is None:
                continue
            try:
                held = self._read.get(newest.held)
                if held is None:
                    held = self._read[newest.held] = unpack_holders(newest.held, committed)
            except ValueError:
                continue  # it says nothing that anyone understands
            found[member] = held
        return found

    def lacked(self, epoch: EpochNumber, committed: Sequence[Address]) -> Mapping[Address, frozenset[Address]]:
        """Return whose bundles each member ever said it lacks, in any round of `epoch`."""
        found: dict[Address, frozenset[Address]] = {}
        for member, known in self._known.items():
            for statement in known.values():
                if statement.epoch != epoch:
                    continue
                with contextlib.suppress(ValueError):  # it says nothing that anyone understands
                    lacking = frozenset(committed) - unpack_holders(statement.held, committed)
                    found[member] = found.get(member, frozenset()) | lacking
        return found

    def newest(self, member: Address, epoch: EpochNumber) -> ResultSignature | None:
        """Return what `member` signed last for `epoch`."""
        known = self._known.get(member, {})
        newest = known[max(known)] if known else None
        return newest if newest is not None and newest.epoch == epoch else None

    def judge(self, message: Message) -> Validity:
        """Judge a gossiped signature: of a member, about this epoch or the last, and its own."""
        body = message.body
        if not isinstance(body, ResultSignature):
            return Validity.REJECT
        too_long = len(body.held) > HELD_BYTES_MAX or len(body.content_cid) > CID_CHARACTERS_MAX
        if not 0 <= body.round < ROUNDS_MAX or too_long:
            return Validity.REJECT
        now = position(self._chain).epoch
        if not now - 1 <= body.epoch <= now:
            return Validity.IGNORE
        if dict(self._chain.state.group_weights(body.epoch)).get(message.sender, 0) == 0:
            return Validity.IGNORE
        known = self._known.get(message.sender, {}).get(body.round)
        if known is not None and (known.epoch > body.epoch or (known.epoch == body.epoch and known != body)):
            return Validity.IGNORE
        try:
            signer = recover(body.digest, body.signature)
        except SignatureError:
            return Validity.REJECT
        return Validity.ACCEPT if signer == message.sender else Validity.REJECT

    def _take(self, message: Message) -> None:
        if isinstance(message.body, ResultSignature):
            self.add(message.sender, message.body)
            self._on_change()
