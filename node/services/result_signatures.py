"""What members say about the result of an epoch: whose bundles they hold, and what they signed.

*Detail.* A member says so once in each round, and gossip repeats it only until a result is posted. So what was heard is
kept: a node that restarts still knows who said what, which is the evidence of votes left out, and says nothing else in
a round in which it spoke before.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import compress

import structlog

from node.ports import Chain, Store, Validity
from node.protocol.agreement import ROUNDS_MAX, pack_holders, unpack_holders
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.messages import Message, ResultSignature
from node.protocol.results import VALIDATORS_MAX
from node.protocol.signatures import SignatureError, recover
from node.services.gossip import GossipRouter
from node.services.timing import position

log = structlog.get_logger(__name__)

HELD_BYTES_MAX = (VALIDATORS_MAX + 7) // 8
"""A bit for each member that may have committed a bundle."""
CID_CHARACTERS_MAX = 128
"""Twice what a CID of a result has."""
STATEMENTS_PER_ROUND_MAX = 2
"""Of one member. One is all that an honest one needs; two show everyone that it does not say the same to all."""

DIGIT_VALUES = bytes.maketrans(b"01", b"\x00\x01")


@dataclass(frozen=True, slots=True)
class _Said:
    """What all statements of a member say together. It is kept as they come: it is asked for at whatever change."""

    lengths_bytes: Set[int]
    always: int
    """Bits that all of them set."""
    ever: int
    """Bits that any of them sets."""

    def joined(self, bits: int, length_bytes: int) -> "_Said":
        return _Said(self.lengths_bytes | {length_bytes}, self.always & bits, self.ever | bits)


class ResultSignatures:
    """Statements of the newest epoch by member: at most ROUNDS_MAX times STATEMENTS_PER_ROUND_MAX of each."""

    def __init__(
        self, chain: Chain, router: GossipRouter, on_change: Callable[[], None], store: Store | None = None
    ) -> None:
        """`store` has what was heard before a restart; None for who need not know."""
        self._chain = chain
        self._on_change = on_change
        self._store = store
        self._known: dict[Address, dict[int, tuple[ResultSignature, ...]]] = {}
        """By member and round, as they came; of one epoch only."""
        self._said: dict[Address, _Said] = {}
        """By member, of the same epoch."""
        self._newest_epoch = EpochNumber(0)
        self._committed: Sequence[Address] = ()
        self._read: dict[bytes, frozenset[Address]] = {}
        """What statements say about `_committed`. Most say the same, and all are looked at whenever one more comes."""
        if store is not None:
            self._take_in(store)
        router.register(ResultSignature, self.judge, self._take)

    def add(self, member: Address, signature: ResultSignature) -> None:
        """Keep a signature; the first two that differ of each round, and of the newest epoch."""
        if self._add(member, signature) and self._store is not None:
            self._store.save_statement(signature.epoch, member, to_bytes(signature))

    def _take_in(self, store: Store) -> None:
        """Take in what was heard before a restart: it was judged when it came."""
        for member, data in store.statements():
            try:
                self._add(member, from_bytes(ResultSignature, data))
            except SchemaError as error:
                log.warning("a stored statement of a member cannot be read", member=member, reason=str(error)[:200])

    def _add(self, member: Address, signature: ResultSignature) -> bool:
        """Take a signature into account; return whether it is among those kept."""
        if signature.epoch > self._newest_epoch:
            self._newest_epoch = signature.epoch
            self._forget_gone()
        known = self._known.setdefault(member, {})
        newest = next(iter(known.values()), None)
        if newest is not None and newest[0].epoch > signature.epoch:
            return False
        if newest is not None and newest[0].epoch < signature.epoch:
            known.clear()
            self._said.pop(member, None)
        same_round = known.get(signature.round, ())
        if signature in same_round or len(same_round) == STATEMENTS_PER_ROUND_MAX:
            return False
        known[signature.round] = (*same_round, signature)
        bits, length_bytes = int.from_bytes(signature.held), len(signature.held)
        said = self._said.get(member)
        self._said[member] = _Said({length_bytes}, bits, bits) if said is None else said.joined(bits, length_bytes)
        return True

    def _forget_gone(self) -> None:
        """Forget who said nothing of the newest epoch or the one before it: it may be no member any more."""
        for member, known in tuple(self._known.items()):
            if all(same[0].epoch < self._newest_epoch - 1 for same in known.values()):
                del self._known[member]
                self._said.pop(member, None)

    def signers(self, epoch: EpochNumber, digest: Hash32) -> dict[Address, bytes]:
        """Return who signed `digest` in whatever round, with the signature."""
        return {
            member: signature.signature
            for member, known in self._known.items()
            for same_round in known.values()
            for signature in same_round
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

    def always_held(
        self, epoch: EpochNumber, committed: Sequence[Address], wanted: Set[Address]
    ) -> Mapping[Address, frozenset[Address]]:
        """Return whose bundles of `wanted` each member holds by every statement of it, in every round of `epoch`.

        Not in here is who says nothing that can be understood, leaves out a round, or makes two statements in one: what
        others were told is not known here.
        """
        mask, lengths = int.from_bytes(pack_holders(wanted, committed)), {(len(committed) + 7) // 8}
        downwards = committed[::-1]  # as a number is written
        understood: dict[int, frozenset[Address]] = {}  # most say the same: it is looked at once
        found = {}
        for member, said in self._said.items():
            is_clear = said.lengths_bytes == lengths and not said.ever >> len(committed)
            if not is_clear or not self._is_of_one_voice(self._known[member], epoch):
                continue
            bits = said.always & mask
            if bits not in understood:
                digits = f"{bits:0{len(committed)}b}".encode()
                understood[bits] = frozenset(compress(downwards, digits.translate(DIGIT_VALUES)))
            found[member] = understood[bits]
        return found

    @staticmethod
    def _is_of_one_voice(known: Mapping[int, Sequence[ResultSignature]], epoch: EpochNumber) -> bool:
        rounds_heard = max(known) + 1 == len(known)
        return rounds_heard and all(len(same) == 1 and same[0].epoch == epoch for same in known.values())

    def newest(self, member: Address, epoch: EpochNumber) -> ResultSignature | None:
        """Return what `member` signed last for `epoch`: of two statements in one round, the first that came."""
        known = self._known.get(member, {})
        newest = known[max(known)][0] if known else None
        return newest if newest is not None and newest.epoch == epoch else None

    def of_round(self, member: Address, epoch: EpochNumber, number: int) -> ResultSignature | None:
        """Return what `member` signed in a round of `epoch`: of two statements, the first that came."""
        said = next(iter(self._known.get(member, {}).get(number, ())), None)
        return said if said is not None and said.epoch == epoch else None

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
        known = self._known.get(message.sender, {}).get(body.round, ())
        if any(other.epoch > body.epoch for other in known):
            return Validity.IGNORE
        contradicting = sum(other.epoch == body.epoch for other in known)
        if body not in known and contradicting >= STATEMENTS_PER_ROUND_MAX:
            return Validity.IGNORE  # the two before it went on to everyone, which is enough
        try:
            signer = recover(body.digest, body.signature)
        except SignatureError:
            return Validity.REJECT
        return Validity.ACCEPT if signer == message.sender else Validity.REJECT

    def _take(self, message: Message) -> None:
        if isinstance(message.body, ResultSignature):
            self.add(message.sender, message.body)
            self._on_change()
