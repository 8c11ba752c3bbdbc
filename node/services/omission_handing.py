"""How a payer gets its proofs of omissions into bundles of others: it hands them to members.

*Purpose.* Who has no weight has no bundle that counts. And who has, has room for few proofs in its own, and may not get
it counted.

*Detail.* Each proof goes to a few members, drawn by weight: nobody gains places by being many, and who would sit on a
proof has to be all of them. Whoever does not take one now is asked again after the others, until the bundles are made;
who does not answer at all is not asked for the other proofs before the next round. A few proofs go side by side.
Who took what is in the store, so that a restart tells nobody twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from node.ports import CallFailedError, Chain, Network
from node.protocol.identifiers import Address
from node.protocol.lots import lot
from node.protocol.omission_choice import chosen_omissions
from node.protocol.pricing import receipt_digest
from node.protocol.records import EpochResult, GroupMember
from node.services.kept_omissions import KeptOmission, KeptOmissions
from node.services.omission_frames import METHOD, handed_bytes

log = structlog.get_logger(__name__)

HOLDERS = 3
"""Members that each proof is given to. If a third of the weight sits on proofs, it gets one in 27 all to itself."""
HANDED_MAX = 320
"""Proofs handed over in one epoch, those against each executor by turns: as many as are found against one."""
ROUND_SECONDS = 30.0
"""Between two rounds of asking those who have not taken a proof yet."""
CALL_SECONDS_MAX = 10.0
NOT_NOW = frozenset({"other-epoch", "busy", "unreachable", "deadline", "lost"})
"""Words of a member that may take the proof later. Other words mean that it never will."""
AWAY = frozenset({"unreachable", "deadline", "lost"})
"""Of these the words of a member that is as little there for another proof."""
SIDE_BY_SIDE = 4
"""Proofs that are handed over at the same time: a member that hangs keeps one of them waiting."""


@dataclass(slots=True)
class _Work:
    """What is handed over in an epoch, and what members said to it."""

    result: EpochResult
    kept: KeptOmissions
    salt: bytes
    refused: set[tuple[Address, Address]] = field(default_factory=set)
    """An executor, and who takes no more against it."""
    away: set[Address] = field(default_factory=set)
    """Members that did not answer in this round."""
    is_done: bool = True
    """Whether of this round no proof is left for the next."""


class OmissionHanding:
    """Hands over what this node's watch found."""

    def __init__(self, chain: Chain, network: Network, random_bytes: Callable[[int], bytes]) -> None:
        self._chain = chain
        self._network = network
        self._random_bytes = random_bytes

    async def run(self, result: EpochResult, kept: KeptOmissions, is_searched: trio.Event) -> None:
        """Hand over the proofs in `kept`, which hold against `result`, as they come, until `is_searched` is set and
        enough members have each."""
        work = _Work(result, kept, self._random_bytes(32))
        while True:
            was_searched = is_searched.is_set()
            await self._round(work)
            if was_searched and work.is_done:
                return
            with trio.move_on_after(ROUND_SECONDS):
                if was_searched:
                    await trio.sleep_forever()
                await is_searched.wait()

    async def _round(self, work: _Work) -> None:
        """Offer every proof once."""
        work.is_done = True
        work.away.clear()
        chosen = iter(self._chosen(work.kept, work.salt))

        async def hand_over() -> None:
            for known in chosen:
                is_done = await self._hand(known, work)  # first: others change it meanwhile
                work.is_done &= is_done

        async with trio.open_nursery() as nursery:
            for _ in range(SIDE_BY_SIDE):
                nursery.start_soon(hand_over)

    def _chosen(self, kept: KeptOmissions, salt: bytes) -> list[KeptOmission]:
        """Return the proofs that are handed over: those that somebody has, and others as far as there is room."""
        by_digest = {receipt_digest(known.omission.signed.receipt): known for known in kept.own}
        begun = [known for known in kept.own if known.told]
        left = (known.omission for known in kept.own if not known.told)
        new = chosen_omissions(left, (), salt, count_max=max(0, HANDED_MAX - len(begun)))
        return [*begun, *(by_digest[receipt_digest(omission.signed.receipt)] for omission in new)]

    async def _hand(self, known: KeptOmission, work: _Work) -> bool:
        """Offer one proof to members in the order of the lot; return whether nobody else is to be asked."""
        receipt = known.omission.signed.receipt
        digest, holders, is_final = receipt_digest(receipt), set(known.told), True
        for member in self._in_order(work.result.group.members, receipt.executor, work.salt + digest):
            if len(holders) >= HOLDERS:
                break
            if member.participant in holders or (receipt.executor, member.participant) in work.refused:
                continue
            if member.participant in work.away:
                is_final = False
                continue
            try:
                await self._tell(member, work.result, known)
            except CallFailedError as error:
                log.debug("a member did not take a proof", member=member.participant, reason=str(error))
                is_final &= error.code not in NOT_NOW
                if error.code in AWAY:
                    work.away.add(member.participant)
                if error.code not in NOT_NOW:
                    work.refused.add((receipt.executor, member.participant))
                continue
            work.kept.note_told(known.omission, member.participant)
            holders.add(member.participant)
            log.info(
                "a member has the proof that an executor has not booked a receipt as it must",
                executor=receipt.executor,
                receipt=digest.hex(),
                member=member.participant,
            )
        return len(holders) >= HOLDERS or is_final

    def _in_order(self, members: Sequence[GroupMember], executor: Address, seed: bytes) -> list[GroupMember]:
        """Return who may be told, by a weighted lot. Whom the proof is against is not told."""
        apart = (executor, self._chain.account)
        able = [member for member in members if member.weight > 0 and member.participant not in apart]
        return sorted(able, key=lambda member: lot(seed, member.participant.lower().encode(), member.weight))

    async def _tell(self, member: GroupMember, result: EpochResult, known: KeptOmission) -> None:
        """Raise CallFailedError unless the member took it."""
        payload = handed_bytes(result.epoch, known.omission)
        async with self._network.call(member.peer_id, METHOD, payload, deadline_seconds=CALL_SECONDS_MAX) as call:
            try:
                await call.receive()
            except trio.EndOfChannel:
                return
        raise CallFailedError("lost", "it answered what it should not")
