"""What batches weigh that few can judge: *thinly judged* is what less than a third of the others' weight found valid.

Purpose: two who collude could register a model that nobody else runs, and vouch for each other's made-up nonces without
end. The honest who serve a rare model look the same. So such work keeps who does it where it was, grows slowly, and
where most work is widely judged it is a tenth of all at most.

Detail, for one participant:

- *What it had* is its weight in the group in charge, less that of nodes that serve instead of mining, and less what it
  has now by widely judged batches: nothing is counted twice. Of that it keeps at most what it claims.
- *What its judges back* is added: each member gives a ninth of its own weight in all, shared among those whose thinly
  judged batches it found valid, by what they claim beyond what they keep. So nobody grows faster for claiming more, and
  colluders grow by a ninth of their own weight in an epoch.
- These two count by themselves where at most half of the others' weight is in widely judged work, and not at all where
  two thirds are; in between in proportion.
- A *pool* of a ninth of what is widely judged, so that both are ten tenths, is shared by what of these two does not
  count by itself, and then by what is claimed beyond them. Of its share of the pool everybody gets that part that did
  not count by itself: who keeps all it had has none of it, or whatever it is given there would be kept and add up.

Why two thirds: a cartel below a third leaves them to the others. Why in proportion: on any single line a few nonces
would decide over the weight of all. And of the *others'* weight, so that nobody has less for having computed more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from node.protocol.identifiers import Address
from node.protocol.records import VoteBundle
from node.protocol.slices import Pace, Slices
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

POOL_PARTS = 9
"""Thinly judged batches share one part where widely judged ones have nine: a tenth of all."""
BACKING_PARTS = 9
"""Of its own weight a member backs others with one part in so many, in an epoch."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one participant claims by thinly judged batches."""

    amount: int
    kept: int
    """Of it, what it had."""
    others: int
    """All the weight in charge that has to be mined anew, but its own."""
    others_wide: int
    """Of widely judged batches of others."""


def thin_weights_in_slices(
    thin: Mapping[NodeKey, int],
    wide: Mapping[Address, int],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    mining: Mapping[Address, int],
) -> Slices[dict[NodeKey, int]]:
    """Return what each thinly judged batch weighs.

    `thin` are the weights that they would have in full, above zero; `wide` is what participants have by widely judged
    batches; `bundles` are the votes, by validator; `weights` those of the group in charge, and `mining` of these what
    has to be mined anew: without that of nodes that keep serving instead, and keep what they have.
    """
    claims = _claims(thin, wide, mining)
    backed = yield from _backing(thin.keys(), claims, bundles, weights)
    granted = _grant(claims, backed, sum(wide.values()) // POOL_PARTS)
    # Rounded down for each batch: what is lost is less than one for each.
    return {key: amount * granted[key[0]] // claims[key[0]].amount for key, amount in thin.items()}


def _claims(
    thin: Mapping[NodeKey, int], wide: Mapping[Address, int], mining: Mapping[Address, int]
) -> dict[Address, _Claim]:
    total, wide_in_all = sum(mining.values()), sum(wide.values())
    amounts: dict[Address, int] = {}
    for (participant, _), amount in thin.items():
        amounts[participant] = amounts.get(participant, 0) + amount
    claims = {}
    for participant, amount in amounts.items():
        had, proven = mining.get(participant, 0), wide.get(participant, 0)
        kept = min(amount, max(0, had - proven))
        claims[participant] = _Claim(amount, kept, total - had, wide_in_all - proven)
    return claims


def _backing(
    thin: Iterable[NodeKey],
    claims: Mapping[Address, _Claim],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
) -> Slices[dict[Address, int]]:
    """Return, by participant, what those back who found a batch of it valid: at most what it claims beyond its own."""
    wanted = {participant: claim.amount - claim.kept for participant, claim in claims.items()}
    backed = dict.fromkeys(claims, 0)
    batches, pace = frozenset(key for key in thin if wanted[key[0]] > 0), Pace()
    for validator, bundle in bundles.items() if batches else ():
        gift = weights.get(validator, 0) // BACKING_PARTS
        found_valid = {
            vote.participant
            for vote in bundle.votes
            if vote.verdict is Verdict.VALID
            and vote.participant != validator
            and (vote.participant, vote.node_id) in batches
        }
        in_all = sum(wanted[participant] for participant in found_valid)
        for participant in found_valid if gift > 0 else ():
            backed[participant] += min(wanted[participant], gift * wanted[participant] // in_all)
        if pace.is_over(len(bundle.votes)):
            yield
    return {participant: min(wanted[participant], amount) for participant, amount in backed.items()}


def _grant(claims: Mapping[Address, _Claim], backed: Mapping[Address, int], pool: int) -> dict[Address, int]:
    granted, wants, beyond = dict[Address, int](), dict[Address, int](), dict[Address, int]()
    for participant, claim in claims.items():
        own = claim.kept + backed[participant]
        granted[participant] = _share_that_counts(own, claim)
        wants[participant] = own - granted[participant]
        beyond[participant] = claim.amount - own
    for asked in (wants, beyond):
        most = max(pool, sum(asked.values()))
        taken = 0
        for participant, amount in asked.items() if pool > 0 else ():
            share = pool * amount // most
            share -= _share_that_counts(share, claims[participant])
            granted[participant] += share
            taken += share
        pool -= taken
    return granted


def _share_that_counts(amount: int, claim: _Claim) -> int:
    """Return `amount` where at most half of the others' weight is in widely judged work, 0 where two thirds are."""
    others, wide = claim.others, claim.others_wide
    if others <= 0:
        return amount
    return amount * min(others, max(0, 4 * others - 6 * wide)) // others
