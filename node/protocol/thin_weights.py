"""What batches weigh that few can judge: *thinly judged* is what less than a third of the others' weight found valid.

Purpose: two who collude could register a model that nobody else runs, and vouch for each other's made-up nonces without
end. The honest who serve a rare model look the same. So such work keeps who does it where it was, grows slowly, and
where most work is widely judged it is a tenth of all at most.

Detail, for one participant:

- *What it had* is its weight in the group in charge, less that of nodes that serve instead of mining, and less what it
  has now by widely judged batches: nothing is counted twice. Of that it keeps at most what it claims.
- *What it lost*: if it had more in an epoch of the last ten in which some of its work was thinly judged, the difference
  comes back; but of all who claim some, no more in an epoch than the largest of these. Who serves a rare model and lost
  one epoch because its only judge was away would begin at nothing, and its judge with it; and accounts that take turns
  gain nothing by what each of them once had.
- *What its judges back* is added: each member gives a ninth of what it has that is not widely judged now, shared among
  the thinly judged batches that it found valid, by what they claim beyond what is kept of them. So nobody grows faster
  for claiming more, colluders grow by a ninth of such weight of theirs in an epoch, and honest work of theirs backs no
  fakes.
- These three count by themselves where at most half of the others' weight is in widely judged work, and not at all
  where two thirds are; in between in proportion.
- A *pool* of a ninth of what is widely judged, a tenth of both together, is shared by what of these three does not
  count by itself, and then by what is claimed beyond them. Of its share for the latter everybody gets that part that
  would not count by itself: who keeps all it had has none of it, or whatever it is given there would stay and add up.
- *Widely judged work* is also what nodes keep that serve instead of mining, by the part of their model's batches that
  was widely judged: up to half of the weight may serve, and it is mostly that of the honest.

Why two thirds: a cartel below a third leaves them to the others. Why in proportion: on any single line a few nonces
would decide over the weight of all. And of the *others'* weight, so that nobody has less for having computed more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.protocol.findings import ThinWeight
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.records import VoteBundle
from node.protocol.slices import Pace, Slices
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

POOL_PARTS = 9
"""Thinly judged batches share one part where widely judged ones have nine: a tenth of all."""
BACKING_PARTS = 9
"""Of what a member has that is not widely judged it backs others with one part in so many, in an epoch."""
REMEMBERED_EPOCHS = 10
"""How long what somebody had is what it may claim again, though it lost it."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one participant claims by thinly judged batches."""

    amount: int
    kept: int
    """Of it, what it had, or has back."""
    others: int
    """All the weight in charge but its own."""
    others_wide: int
    """Widely judged work of others."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where participants stood, and stand by what is widely judged."""

    weights: Mapping[Address, int]
    """Those of the group in charge."""
    serving: Mapping[Address, int]
    """Of these what is kept by nodes that serve instead of mining."""
    serving_wide: Mapping[Address, int]
    """Of that the part that is of models whose batches were widely judged."""
    wide: Mapping[Address, int]
    """What participants have by widely judged batches."""
    remembered: Mapping[Address, int]
    """The most they had in one of the last epochs in which some of their work was thinly judged."""


def thin_weights_in_slices(
    thin: Mapping[NodeKey, int], standing: Standing, bundles: Mapping[Address, VoteBundle]
) -> Slices[dict[NodeKey, int]]:
    """Return what each thinly judged batch weighs.

    `thin` are the weights that they would have in full, above zero; `bundles` are the votes, by validator.
    """
    claims = _claims(thin, standing)
    backed = yield from _backing(thin, claims, bundles, standing)
    granted = _grant(claims, backed, sum(standing.wide.values()) // POOL_PARTS)
    # Rounded down for each batch: what is lost is less than one for each.
    return {key: amount * granted[key[0]] // claims[key[0]].amount for key, amount in thin.items()}


def remember(known: Sequence[ThinWeight], weights: Mapping[Address, int], epoch: EpochNumber) -> tuple[ThinWeight, ...]:
    """Return the most that participants had in one of the last epochs, ascending by participant.

    `known` is what a result before this one remembered; `weights` what those have in `epoch` of whose work some was
    thinly judged. Nine tenths as much as remembered take its place, so that no good epoch hides those after it.
    """
    best = {entry.participant: entry for entry in known if entry.epoch + REMEMBERED_EPOCHS > epoch}
    for participant, weight in weights.items():
        before = best.get(participant)
        if weight > 0 and (before is None or 10 * weight >= 9 * before.weight):
            best[participant] = ThinWeight(participant, weight, epoch)
    return tuple(sorted(best.values(), key=lambda entry: entry.participant.lower()))


def _claims(thin: Mapping[NodeKey, int], standing: Standing) -> dict[Address, _Claim]:
    total = sum(standing.weights.values())
    wide_in_all = sum(standing.wide.values()) + sum(standing.serving_wide.values())
    amounts: dict[Address, int] = {}
    for (participant, _), amount in thin.items():
        amounts[participant] = amounts.get(participant, 0) + amount
    kept, lost = dict[Address, int](), dict[Address, int]()
    for participant, amount in amounts.items():
        elsewhere = standing.serving.get(participant, 0) + standing.wide.get(participant, 0)
        weight = standing.weights.get(participant, 0)
        kept[participant] = min(amount, max(0, weight - elsewhere))
        most = max(weight, standing.remembered.get(participant, 0))
        lost[participant] = min(amount, max(0, most - elsewhere)) - kept[participant]
    back, lost_in_all = max(lost.values(), default=0), sum(lost.values())
    claims = {}
    for participant, amount in amounts.items():
        own = kept[participant] + (back * lost[participant] // lost_in_all if lost_in_all else 0)
        own_wide = standing.wide.get(participant, 0) + standing.serving_wide.get(participant, 0)
        others = total - standing.weights.get(participant, 0)
        claims[participant] = _Claim(amount, own, others=others, others_wide=wide_in_all - own_wide)
    return claims


def _backing(
    thin: Mapping[NodeKey, int],
    claims: Mapping[Address, _Claim],
    bundles: Mapping[Address, VoteBundle],
    standing: Standing,
) -> Slices[dict[Address, int]]:
    """Return, by participant, what those back who found batches of it valid.

    Each batch has its own part of what is claimed beyond what is kept, and no more than that: else a few nonces that
    the honest find valid would have these back what friends alone vouch for.
    """
    wanted, pace = dict[NodeKey, int](), Pace()
    for key, amount in thin.items():
        claim = claims[key[0]]
        if claim.amount > claim.kept:
            wanted[key] = amount * (claim.amount - claim.kept) // claim.amount
    found = dict.fromkeys(wanted, 0)
    for validator, bundle in bundles.items() if wanted else ():
        wide = standing.wide.get(validator, 0) + standing.serving_wide.get(validator, 0)
        gift = max(0, standing.weights.get(validator, 0) - wide) // BACKING_PARTS
        valid = [
            (vote.participant, vote.node_id)
            for vote in bundle.votes
            if vote.verdict is Verdict.VALID
            and vote.participant != validator
            and (vote.participant, vote.node_id) in wanted
        ]
        in_all = sum(wanted[key] for key in valid)
        for key in valid if in_all else ():
            found[key] += gift * wanted[key] // max(gift, in_all)
        if pace.is_over(len(bundle.votes)):
            yield
    backed = dict.fromkeys(claims, 0)
    for key, amount in found.items():
        backed[key[0]] += min(wanted[key], amount)
    return backed


def _grant(claims: Mapping[Address, _Claim], backed: Mapping[Address, int], pool: int) -> dict[Address, int]:
    granted, wants, beyond = dict[Address, int](), dict[Address, int](), dict[Address, int]()
    for participant, claim in claims.items():
        own = claim.kept + backed[participant]
        granted[participant] = _share_that_counts(own, claim)
        wants[participant] = own - granted[participant]
        beyond[participant] = claim.amount - own
    for asked in (wants, beyond) if pool > 0 else ():
        most = max(1, pool, sum(asked.values()))
        shares = {participant: pool * amount // most for participant, amount in asked.items()}
        pool -= sum(shares.values())
        for participant, share in shares.items():
            # Of what is beyond: what counts by itself would be kept, and add up.
            not_for_it = _share_that_counts(share, claims[participant]) if asked is beyond else 0
            granted[participant] += share - not_for_it
    return granted


def _share_that_counts(amount: int, claim: _Claim) -> int:
    """Return `amount` where at most half of the others' weight is in widely judged work, 0 where two thirds are."""
    others, wide = claim.others, claim.others_wide
    if others <= 0:
        return amount
    return amount * min(others, max(0, 4 * others - 6 * wide)) // others
