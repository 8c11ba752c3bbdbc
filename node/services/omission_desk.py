"""A member's desk for proofs that payers hand to it: payers without weight have no bundle of their own to put them in.

*Purpose.* A proof of an omission holds whoever shows it: it has the executor's signature, and what is or is not in
books that the result names. So a member takes it from anybody, and what the executor loses is its rivals' gain. What
comes costs the member work and room, and strangers are free of charge: all of it is bounded.

*Detail.* In this order: how much this caller has had already; size and schema; the epoch; whether it is here already;
whether there is room; whether it holds, its signature last. A caller whose proofs do not hold is not listened to any
more in this epoch. What is dear, looking whether a proof holds, is so much a minute in all: a crowd of strangers delays
others, and shuts nobody out. The last part of it is for callers that are registered, or that proved something before.
Against one executor no more is kept than a bundle carries, by a lot that nobody can foresee, so that it is all one who
comes first. If the desk is full, a proof against whoever has most of them gives way. What is kept is on the disk before
the call ends, and forgotten when the epoch is over.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from node.ports import Call, CallFailedError, Chain, Network
from node.protocol.codec import SchemaError
from node.protocol.due_books import BooksOfResult
from node.protocol.identifiers import Address, EpochNumber, Hash32, PeerId
from node.protocol.omissions import OMISSIONS_MAX, is_proven
from node.protocol.pricing import receipt_digest
from node.protocol.records import EpochResult, Omission
from node.services.kept_omissions import KeptOmissions
from node.services.omission_frames import METHOD, read_handed
from node.services.rates import Rate

log = structlog.get_logger(__name__)

CALLS_MAX = 4
"""Served at once: each is a millisecond of work and a write to the disk."""
KEPT_MAX = 1024
"""Of one epoch: 4 MiB."""
KEPT_PER_EXECUTOR_MAX = OMISSIONS_MAX
"""More than a bundle carries against one executor would never be used."""
PEER_CALLS_MAX = 128
"""By one caller in an epoch. A payer that hands out all it may (omission_handing.py) calls each of 64 members 15
times."""
PEER_FAILURES_MAX = 2
"""An honest payer has none: it knows the same result and the same books."""
PEERS_MAX = 4096
"""Callers remembered; who called first is forgotten first, and may then try again within CHECKED_PER_MINUTE."""
CHECKED_PER_MINUTE = 1024
"""Proofs looked at, whoever hands them over: a second of work."""
KEPT_FOR_KNOWN = 256
"""Of these for callers that are registered, or that proved something before."""


@dataclass(slots=True)
class _Caller:
    """What one peer has done in this epoch."""

    calls: int = 0
    failures: int = 0


@dataclass(slots=True)
class _Opened:
    """The epoch for whose bundle proofs are taken."""

    result: EpochResult
    books: BooksOfResult
    kept: KeptOmissions
    salt: bytes
    registered: frozenset[PeerId]


class OmissionDesk:
    """Serves `omission/1`. Takes proofs between `open` and `close`."""

    def __init__(self, chain: Chain, network: Network, random_bytes: Callable[[int], bytes]) -> None:
        """`random_bytes` gives the salt of its lots."""
        self._chain = chain
        self._random_bytes = random_bytes
        self._opened: _Opened | None = None
        self._callers: OrderedDict[PeerId, _Caller] = OrderedDict()
        self._proved: OrderedDict[PeerId, None] = OrderedDict()
        """Whose proofs held, in this epoch or before; who did first is forgotten first."""
        self._rate = Rate(CHECKED_PER_MINUTE, 60.0)
        network.serve(METHOD, self._serve, concurrency=CALLS_MAX)

    def open(self, result: EpochResult, kept: KeptOmissions) -> None:
        """Take proofs against the books of `result` into `kept`, which others may add their own to."""
        registered = frozenset(participant.peer_id for participant in self._chain.state.participants.values())
        self._opened = _Opened(result, BooksOfResult(result), kept, self._random_bytes(32), registered)
        self._callers.clear()

    def close(self, epoch: EpochNumber) -> None:
        """Take no more for the bundle of `epoch`: it is made."""
        if self._opened is not None and self._opened.kept.epoch <= epoch:
            self._opened = None

    async def _serve(self, call: Call) -> None:
        """Take one proof, or raise CallFailedError."""
        opened = self._opened
        if opened is None:
            raise CallFailedError("other-epoch", "this node takes no proofs now")
        caller = self._caller(call.peer_id)
        if caller.calls >= PEER_CALLS_MAX or caller.failures >= PEER_FAILURES_MAX:
            raise CallFailedError("enough", "this node has looked at enough of yours in this epoch")
        is_known = call.peer_id in opened.registered or call.peer_id in self._proved
        if not self._rate.has(1 if is_known else 1 + KEPT_FOR_KNOWN):
            raise CallFailedError("busy", "this node has looked at enough for now; try again in a minute")
        caller.calls += 1
        try:
            handed = read_handed(call.payload)
        except (SchemaError, ValueError) as error:
            caller.failures += 1
            raise CallFailedError("bad-request", str(error)[:200]) from error
        if handed.result_epoch != opened.result.epoch:
            raise CallFailedError("other-epoch", f"this node looks at the result of epoch {opened.result.epoch}")
        if not self._take(opened, handed.omission, call.peer_id):
            caller.failures += 1
            raise CallFailedError("not-proven", "the proof does not hold against the books that the result knows")

    def _take(self, opened: _Opened, omission: Omission, caller: PeerId) -> bool:
        """Keep a proof of `caller` if it holds; return whether it does. Raises CallFailedError `own`, `enough`."""
        receipt = omission.signed.receipt
        digest, executor = receipt_digest(receipt), receipt.executor
        if executor == self._chain.account:
            raise CallFailedError("own", "nobody proves its own omissions")
        if opened.kept.has_handed(digest) or opened.kept.has_own(digest):
            return True
        against = [one for one in opened.kept.handed if one.signed.receipt.executor == executor]
        if omission.later is None and any(one.later is None for one in against):
            return True  # one proof against whoever has no book says it all
        gives_way = self._who_gives_way(opened, executor, digest, against)
        self._rate.take()  # nothing waits since it was seen that there is one
        if not is_proven(omission, opened.books):
            return False
        self._note_proved(caller)
        if gives_way is not None:
            opened.kept.drop_handed(gives_way)
        opened.kept.add_handed(omission)
        log.warning(
            "a payer handed over the proof that an executor has not booked a receipt as it must",
            executor=executor,
            payer=receipt.payer,
            receipt=digest.hex(),
        )
        return True

    @staticmethod
    def _who_gives_way(opened: _Opened, executor: Address, digest: Hash32, against: list[Omission]) -> Hash32 | None:
        """Return which proof makes room for a new one; None if there is room. Raises CallFailedError `enough`."""
        if len(against) >= KEPT_PER_EXECUTOR_MAX:
            last = max((receipt_digest(one.signed.receipt) for one in against), key=lambda one: _lot(opened.salt, one))
            if _lot(opened.salt, digest) >= _lot(opened.salt, last):
                raise CallFailedError("enough", "there are as many proofs against this executor as a bundle carries")
            return last
        if len(opened.kept.handed) < KEPT_MAX:
            return None
        counts = Counter(one.signed.receipt.executor for one in opened.kept.handed)
        most, count = counts.most_common(1)[0]
        if count <= len(against) + 1:
            raise CallFailedError("enough", "this node has no room for more proofs in this epoch")
        held = (receipt_digest(one.signed.receipt) for one in opened.kept.handed if one.signed.receipt.executor == most)
        return max(held, key=lambda one: _lot(opened.salt, one))

    def _note_proved(self, peer: PeerId) -> None:
        self._proved[peer] = None
        self._proved.move_to_end(peer)
        if len(self._proved) > PEERS_MAX:
            self._proved.popitem(last=False)

    def _caller(self, peer: PeerId) -> _Caller:
        found = self._callers.setdefault(peer, _Caller())
        if len(self._callers) > PEERS_MAX:
            self._callers.popitem(last=False)
        return found


def _lot(salt: bytes, digest: Hash32) -> bytes:
    return hashlib.sha256(salt + digest).digest()
