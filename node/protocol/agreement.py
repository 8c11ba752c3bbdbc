"""Which vote bundles count, where not everyone could fetch all of them.

Purpose: a result needs more than two thirds of the weight for the same bytes, and these follow from the bundles.
Whoever hands its own to a few members only, or at the last moment, must not keep the others from agreeing, and nobody
may leave out the votes of somebody it does not like.

Detail: with its signature each member says whose bundles it holds (`Holdings`); it goes on fetching those that others
have, and what was fetched once is handed on by all who have it. Until HALF of FORM everything that is held counts. From
then on a bundle is left out if members with a third of the weight or more say that they lack it: with it there would be
no quorum. A cartel below a third cannot leave anything out, nor withhold anything from those who hold it already. What
a member holds only grows, so statements settle as gossip arrives; who is silent is not taken to lack anything.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from node.protocol.identifiers import Address

ROUNDS_MAX = 8
"""Results one member may sign for one epoch, each for other bundles. The chain takes one; more would only be noise."""


def has_enough_votes(counted: Set[Address], weights: Mapping[Address, int]) -> bool:
    """Whether a result may follow from the bundles of `counted`: from those of more than two thirds of the weight.

    From fewer nothing follows of who worked: it would pay whoever serves instead of mining, and throw all others out.
    Who can bring that about by silence has a third, and may as well not sign.
    """
    return 3 * sum(weights.get(member, 0) for member in counted) > 2 * sum(weights.values())


def pack_holders(held: Set[Address], committed: Sequence[Address]) -> bytes:
    """Return whose bundles are held, a bit for each of `committed`, which ascend (`committed_order`)."""
    bits = sum(1 << place for place, validator in enumerate(committed) if validator in held)
    return bits.to_bytes((len(committed) + 7) // 8)


def unpack_holders(data: bytes, committed: Sequence[Address]) -> frozenset[Address]:
    """Return whose bundles are held. Raises ValueError on a length that does not fit or on bits of nobody."""
    bits = int.from_bytes(data)
    if len(data) != (len(committed) + 7) // 8 or bits >> len(committed):
        raise ValueError(f"{len(data)} bytes do not tell of {len(committed)} bundles")
    return frozenset(validator for place, validator in enumerate(committed) if bits >> place & 1)


def committed_order(committed: Set[Address]) -> tuple[Address, ...]:
    """Return the validators that committed a bundle, in the order of their bits."""
    return tuple(sorted(committed, key=str.lower))


def left_out(
    committed: Set[Address], holdings: Mapping[Address, frozenset[Address]], weights: Mapping[Address, int]
) -> frozenset[Address]:
    """Return whose bundles no quorum can count: members with a third of the weight or more say that they lack them.

    `holdings` has the newest statement of every member that made one.
    """
    total = sum(weights.values())
    lacking = dict.fromkeys(committed, 0)
    saying: Counter[frozenset[Address]] = Counter()  # most say the same: it is looked at once
    for member, held in holdings.items():
        saying[held] += weights.get(member, 0)
    for held, weight in saying.items():
        if weight > 0:
            for validator in committed - held:
                lacking[validator] += weight
    return frozenset(validator for validator, weight in lacking.items() if 3 * weight >= total > 0)
