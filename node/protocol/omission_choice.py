"""Which proofs of omissions a bundle carries: its room is small, and no single executor may take all of it.

Executors take turns, in an order by lot: the first proof against each comes before the second against any. So whoever
leaves out thousands of receipts, its own among them, leaves room for the proofs against all others. Of one executor,
proofs that the bundle's validator found itself and those that were handed to it (omission_desk.py) take turns too, each
in an order by lot. An executor without a book is proven by one: nothing of it was audited, so one proof takes all.

Nobody else needs to make the same choice: the lot's salt is the validator's own, and is told to nobody.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain, islice, zip_longest

from node.protocol.identifiers import Address, Hash32
from node.protocol.omissions import OMISSIONS_MAX
from node.protocol.pricing import receipt_digest
from node.protocol.records import Omission


def chosen_omissions(
    own: Iterable[Omission], handed: Iterable[Omission], salt: bytes, *, count_max: int = OMISSIONS_MAX
) -> tuple[Omission, ...]:
    """Return at most `count_max` of what this node found and of what was handed to it, each receipt once, in the order
    of turns: the first ones are those that matter most."""
    found = _by_executor(own, salt)
    given = _by_executor(handed, salt)
    executors = sorted(found.keys() | given.keys(), key=lambda executor: _place(salt, executor.lower().encode()))
    queues = [_queue(executor, found.get(executor, []), given.get(executor, []), salt) for executor in executors]
    return tuple(islice(_in_turns(queues), count_max))


def in_bundle_order(omissions: Iterable[Omission]) -> tuple[Omission, ...]:
    """Return omissions as a bundle has them: ascending by receipt digest."""
    return tuple(sorted(omissions, key=lambda omission: receipt_digest(omission.signed.receipt)))


def _queue(executor: Address, own: list[Omission], handed: list[Omission], salt: bytes) -> list[Omission]:
    """Return the proofs against one executor: own ones and others by turns, and a lot decides which are first."""
    begins = _place(salt, b"own" + executor.lower().encode())[0] % 2
    proofs = _in_turns((own, handed) if begins else (handed, own))
    for omission in proofs:
        if omission.later is None:
            return [omission]
    unique: dict[Hash32, Omission] = {}
    for omission in proofs:
        unique.setdefault(receipt_digest(omission.signed.receipt), omission)
    return list(unique.values())


def _by_executor(omissions: Iterable[Omission], salt: bytes) -> dict[Address, list[Omission]]:
    """Return them by executor, each list in an order by lot."""
    found: dict[Address, list[Omission]] = {}
    for omission in omissions:
        found.setdefault(omission.signed.receipt.executor, []).append(omission)
    for known in found.values():
        known.sort(key=lambda one: _place(salt, receipt_digest(one.signed.receipt)))
    return found


def _in_turns(queues: Sequence[Sequence[Omission]]) -> list[Omission]:
    """Return the first of each, then the second of each, and so on."""
    return [omission for omission in chain.from_iterable(zip_longest(*queues)) if omission is not None]


def _place(salt: bytes, identity: bytes) -> bytes:
    return hashlib.sha256(salt + identity).digest()
