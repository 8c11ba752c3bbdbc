"""When a result that the chain accepted is false: what a member objects to, and what it lets stand.

Purpose: a quorum may be wrong, or its keys in other hands. Until the epoch's end members with a third of the weight can
void its result, and then nobody is paid for the epoch; so an objection is for what evidence shows, never for what a
node merely sees otherwise.

Detail: two nodes that hold different vote bundles form different results, and neither is at fault (agreement.py). So a
result is held against its own words first: its books name whose bundles it counts, and what follows from those is for
everyone to compute. If it does not follow, it is false. If it does, it may still have left votes out. That is in order
where members with a third of the weight lack them; it is an offence where members with more than two thirds said that
they hold them, in every statement of theirs. Who was not heard, is not understood, or says one thing to some and
another to others counts as lacking: less than a third must not get an honest result voided by deceiving one member.
Only a difference in what is paid, who is weighed or punished, or what later epochs build on is worth an objection.

Non-goals: to tell whether who says that it lacks a bundle lacks it. Members with a third of the weight can leave votes
out by lying so, whatever anyone else does, and less can keep anyone from objecting to that.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum

from node.protocol.identifiers import Address
from node.protocol.records import EpochResult

PAID_FIELDS = ("group", "rewards", "reward_total", "penalties")
"""What the chain pays, weighs and punishes by."""
MATERIAL_FIELDS = (
    *PAID_FIELDS,
    "nodes",
    "histories",
    "audits",
    "books",
    "books_before",
    "books_missing",
    "thin_weights",
)
"""These, and what the rules of later epochs read."""
IMMATERIAL_FIELDS = ("epoch", "validators", "scores", "settled", "available", "judged_models")
"""The rest explains it, and the chain holds the epoch. Each field of a result is in one of the two lists."""


class Finding(Enum):
    """What a node makes of an accepted result."""

    OPEN = "open"
    """Evidence is missing: the content, or bundles that it counts."""
    SOUND = "sound"
    """It follows from the bundles that it counts, and leaves none out that counts without a ground."""
    IMMATERIAL = "immaterial"
    """It differs from what follows, and nobody is paid, weighed or punished otherwise."""
    WRONG_CONTENT = "wrong-content"
    """Its content is not what the quorum told the chain."""
    DOES_NOT_FOLLOW = "does-not-follow"
    """It does not follow from the bundles that it counts."""
    VOTES_LEFT_OUT = "votes-left-out"
    """It leaves votes out that members with more than two thirds of the weight said they hold."""

    @property
    def is_false(self) -> bool:
        """Whether a member objects."""
        return self in (Finding.WRONG_CONTENT, Finding.DOES_NOT_FOLLOW, Finding.VOTES_LEFT_OUT)


@dataclass(frozen=True, slots=True)
class Statements:
    """What members said, by signature, about an epoch."""

    signers: Set[Address]
    """Who signed the result in question, and with it said whose bundles it holds."""
    held: Mapping[Address, Set[Address]]
    """Whose bundles each member holds by every statement of it; who is not in here counts as holding none."""


def counted_in(result: EpochResult) -> frozenset[Address]:
    """Return whose bundles a result says it counts: every member with one has a book in it, if an empty one."""
    return frozenset(committed.executor for committed in result.books)


def differs_materially(expected: EpochResult | None, accepted: EpochResult) -> bool:
    """Whether the accepted result pays, weighs or punishes otherwise than what follows from the bundles it counts, or
    would make a later one do so. `expected` is None where no result follows.
    """
    return _differs(expected, accepted, MATERIAL_FIELDS)


def differs_in_pay(expected: EpochResult | None, accepted: EpochResult) -> bool:
    """Whether the accepted result pays, weighs or punishes otherwise than what follows from more bundles.

    Their books alone make no difference that is worth an epoch's pay: their executors are audited in the next one.
    """
    return _differs(expected, accepted, PAID_FIELDS)


def _differs(expected: EpochResult | None, accepted: EpochResult, fields: Sequence[str]) -> bool:
    return expected is None or any(getattr(expected, name) != getattr(accepted, name) for name in fields)


def left_out_without_ground(
    left_out: Set[Address], statements: Statements, weights: Mapping[Address, int]
) -> frozenset[Address]:
    """Return whose bundles were left out though members with more than two thirds of the weight never said but that
    they hold them.

    Nobody's, unless signers of the result with as much weight are known: whoever heard less cannot tell.
    """
    total = sum(weights.values())
    if 3 * sum(weights.get(signer, 0) for signer in statements.signers) <= 2 * total:
        return frozenset()
    holding = dict.fromkeys(left_out, 0)
    for member, held in statements.held.items():
        for validator in held & left_out:
            holding[validator] += weights.get(member, 0)
    return frozenset(validator for validator, weight in holding.items() if 3 * weight > 2 * total)


def is_enough(objecting: int, total: int) -> bool:
    """Whether so much weight voids a result, as the contract has it."""
    return total > 0 and 3 * objecting >= total


def posting_block(enough_at: int, turn: int, end: int, *, patience: int, margin: int) -> int:
    """Return the block from which objector number `turn` posts, if nobody before it did.

    There was enough weight at block `enough_at`; each waits `patience` blocks for the one before it, so that one
    transaction is paid for. Those whose turn would come too late are spread over the last `margin` blocks from which a
    transaction still gets in before block `end`, or over as many as are left: what was sent a block ago can be seen,
    and nobody sees what all are about to send at once.
    """
    late = max(enough_at, end - 1 - margin)
    in_time = -(-(late - enough_at) // patience)  # so many come in turn before
    if turn < in_time:
        return enough_at + turn * patience
    return late + (turn - in_time) % max(1, end - 1 - late)
