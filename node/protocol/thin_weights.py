"""What batches weigh that few can judge: *thinly judged* is what less than a third of the others' weight found valid.

Purpose: two who collude could register a model that nobody else runs, and vouch for each other's made-up nonces without
end. The honest who serve a rare model look the same. So such work keeps who does it where it was, grows slowly, and
where most work is widely judged it is a tenth of all at most.

Detail, for one participant and one model:

- *What it had* is its weight with this very model in the group in charge, less that of nodes that serve instead of
  mining, and less what it has now by widely judged batches of it: nothing is counted twice. Of that it keeps at most
  what it claims. With this model: else two accounts that hand one machine to each other would keep, by fakes of a model
  of their own, what the machine had proven with another, and take the tenth from the honest who serve rare models.
- *What it lost*: if it had more in an epoch of the last ten in which some of that was thinly judged, the difference
  comes back; but all who have the model do not come to more than they had together in one of these epochs. Who serves a
  rare model and lost one epoch because its only judge was away would begin at nothing, and its judge with it; and
  accounts that take turns with a model gain nothing by what each of them once had.
- *What its judges back* is added: each member gives a ninth of what it had with models that are thinly judged now, by
  the part of their batches that is, shared among the thinly judged batches that it found valid, by what they claim
  beyond what is kept of them. So nobody grows faster for claiming more, colluders grow by a ninth of such weight of
  theirs in an epoch, and honest work of theirs backs no fakes.
- These three count by themselves where at most half of the others' weight is in widely judged work, and not at all
  where two thirds are; in between in proportion.
- A *pool* of a ninth of what is widely judged, a tenth of both together, less what nodes of thinly judged models have
  that serve, is shared by what does not count by itself: first of what was had and lost, then of what judges back, and
  then by what is claimed beyond. So claims crowd out nobody that had weight. Of its share for the last everybody gets
  that part that would not count by itself: who keeps all it had has none of it, or whatever it is given there would
  stay and add up.
- *Widely judged work* is also what nodes keep that serve instead of mining, by the part of their model's batches that
  was widely judged: up to half of the weight may serve, and it is mostly that of the honest.

Why two thirds: a cartel below a third leaves them to the others. Why in proportion: on any single line a few nonces
would decide over the weight of all. And of the *others'* weight, so that nobody has less for having computed more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.protocol.findings import NodeOutcome, ThinWeight
from node.protocol.identifiers import Address, EpochNumber, ModelId
from node.protocol.records import VoteBundle
from node.protocol.slices import Pace, Slices
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

POOL_PARTS = 9
"""Thinly judged batches share one part where widely judged ones have nine: a tenth of all."""
BACKING_PARTS = 9
"""Of what a member had with thinly judged models it backs others with one part in so many, in an epoch."""
REMEMBERED_EPOCHS = 10
"""How long what somebody had is what it may claim again, though it lost it."""


Share = tuple[Address, ModelId]
"""What one participant has with one model."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one participant claims by thinly judged batches of one model."""

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
    had: Mapping[Share, int]
    """Of these what is with each model."""
    serving: Mapping[Share, int]
    """Of that what is kept by nodes that serve instead of mining."""
    wide: Mapping[Share, int]
    """What participants have by widely judged batches."""
    remembered: Sequence[ThinWeight]
    """The most they had in one of the last epochs in which some of it was thinly judged."""


def thin_weights_in_slices(
    thin: Sequence[NodeOutcome], standing: Standing, bundles: Mapping[Address, VoteBundle]
) -> Slices[dict[NodeKey, int]]:
    """Return what each thinly judged batch weighs.

    `thin` are these batches with the weights that they would have in full, above zero; `bundles` are the votes, by
    validator.
    """
    of_model, wide_of_model = _by_model(standing.wide), _by_model(standing.wide)
    for batch in thin:
        of_model[batch.model_id] = of_model.get(batch.model_id, 0) + batch.weight

    def wide_part(share: Share, weight: int) -> int:
        return weight * wide_of_model.get(share[1], 0) // max(1, of_model.get(share[1], 0))

    own_wide, gifts, serving_thin = dict[Address, int](), dict[Address, int](), 0
    for (participant, _), weight in standing.wide.items():
        own_wide[participant] = own_wide.get(participant, 0) + weight
    for share, weight in standing.serving.items():
        own_wide[share[0]] = own_wide.get(share[0], 0) + wide_part(share, weight)
        serving_thin += weight - wide_part(share, weight)
    for share, weight in standing.had.items():
        gifts[share[0]] = gifts.get(share[0], 0) + weight - wide_part(share, weight)
    claims = _claims(thin, standing, own_wide)
    backed = yield from _backing(thin, claims, bundles, gifts)
    granted = _grant(claims, backed, max(0, sum(own_wide.values()) // POOL_PARTS - serving_thin))
    # Rounded down for each batch: what is lost is less than one for each.
    return {
        (batch.participant, batch.node_id): batch.weight * granted[share] // claims[share].amount
        for batch in thin
        for share in [_share_of(batch)]
    }


def remember(known: Sequence[ThinWeight], weights: Mapping[Share, int], epoch: EpochNumber) -> tuple[ThinWeight, ...]:
    """Return the most that participants had with models in one of the last epochs, ascending by both.

    `known` is what a result before this one remembered; `weights` what those have in `epoch` of whose work with the
    model some was thinly judged. Nine tenths as much as remembered take its place, so that no good epoch hides those
    after it.
    """
    best = {(entry.participant, entry.model_id): entry for entry in known if entry.epoch + REMEMBERED_EPOCHS > epoch}
    of_model = _by_model(weights)
    for share, weight in weights.items():
        newest, before = ThinWeight(*share, weight, of_model[share[1]], epoch), best.get(share)
        if weight > 0 and (before is None or _is_as_much(newest, before)):
            best[share] = newest
    return tuple(sorted(best.values(), key=lambda entry: (entry.participant.lower(), entry.model_id)))


def _is_as_much(newest: ThinWeight, before: ThinWeight) -> bool:
    return 10 * newest.weight >= 9 * before.weight and 10 * newest.of_model >= 9 * before.of_model


def _share_of(batch: NodeOutcome) -> Share:
    return batch.participant, batch.model_id


def _by_model(amounts: Mapping[Share, int]) -> dict[ModelId, int]:
    added: dict[ModelId, int] = {}
    for (_, model_id), amount in amounts.items():
        added[model_id] = added.get(model_id, 0) + amount
    return added


def _claims(thin: Sequence[NodeOutcome], standing: Standing, own_wide: Mapping[Address, int]) -> dict[Share, _Claim]:
    total, wide_in_all = sum(standing.weights.values()), sum(own_wide.values())
    amounts: dict[Share, int] = {}
    for batch in thin:
        amounts[_share_of(batch)] = amounts.get(_share_of(batch), 0) + batch.weight
    kept, lost = dict[Share, int](), dict[Share, int]()
    remembered, room = dict[Share, int](), dict[ModelId, int]()
    for entry in standing.remembered:
        remembered[entry.participant, entry.model_id] = entry.weight
        room[entry.model_id] = max(room.get(entry.model_id, 0), entry.of_model)
    lost_of: dict[ModelId, int] = {}
    for share, amount in amounts.items():
        model_id = share[1]
        elsewhere = standing.serving.get(share, 0) + standing.wide.get(share, 0)
        had = standing.had.get(share, 0)
        kept[share] = min(amount, max(0, had - elsewhere))
        lost[share] = min(amount, max(0, max(had, remembered.get(share, 0)) - elsewhere)) - kept[share]
        lost_of[model_id] = lost_of.get(model_id, 0) + lost[share]
        room[model_id] = max(0, room.get(model_id, 0) - kept[share] - elsewhere)
    return {
        share: _Claim(
            amount,
            kept[share] + lost[share] * room[share[1]] // max(1, lost_of[share[1]], room[share[1]]),
            others=total - standing.weights.get(share[0], 0),
            others_wide=wide_in_all - own_wide.get(share[0], 0),
        )
        for share, amount in amounts.items()
    }


def _backing(
    thin: Sequence[NodeOutcome],
    claims: Mapping[Share, _Claim],
    bundles: Mapping[Address, VoteBundle],
    gifts: Mapping[Address, int],
) -> Slices[dict[Share, int]]:
    """Return what those back who found batches valid: each by one part in BACKING_PARTS of its `gifts`.

    Each batch has its own part of what is claimed beyond what is kept, and no more than that: else a few nonces that
    the honest find valid would have these back what friends alone vouch for.
    """
    wanted, share_of, pace = dict[NodeKey, int](), dict[NodeKey, Share](), Pace()
    for batch in thin:
        claim = claims[_share_of(batch)]
        if claim.amount > claim.kept:
            key = batch.participant, batch.node_id
            share_of[key] = _share_of(batch)
            wanted[key] = batch.weight * (claim.amount - claim.kept) // claim.amount
    found = dict.fromkeys(wanted, 0)
    for validator, bundle in bundles.items() if wanted else ():
        gift = gifts.get(validator, 0) // BACKING_PARTS
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
        backed[share_of[key]] += min(wanted[key], amount)
    return backed


def _grant(claims: Mapping[Share, _Claim], backed: Mapping[Share, int], pool: int) -> dict[Share, int]:
    granted, kept, grown, beyond = dict[Share, int](), dict[Share, int](), dict[Share, int](), dict[Share, int]()
    for share, claim in claims.items():
        own = claim.kept + backed[share]
        granted[share] = _part_that_counts(own, claim)
        kept[share] = claim.kept - _part_that_counts(claim.kept, claim)
        grown[share] = max(0, own - granted[share] - kept[share])
        beyond[share] = claim.amount - own
    for asked in (kept, grown, beyond) if pool > 0 else ():
        most = max(1, pool, sum(asked.values()))
        given = {share: pool * amount // most for share, amount in asked.items()}
        pool -= sum(given.values())
        for share, amount in given.items():
            # Of what is beyond: what counts by itself would be kept, and add up.
            not_for_it = _part_that_counts(amount, claims[share]) if asked is beyond else 0
            granted[share] += amount - not_for_it
    return granted


def _part_that_counts(amount: int, claim: _Claim) -> int:
    """Return `amount` where at most half of the others' weight is in widely judged work, 0 where two thirds are."""
    others, wide = claim.others, claim.others_wide
    if others <= 0:
        return amount
    return amount * min(others, max(0, 4 * others - 6 * wide)) // others
