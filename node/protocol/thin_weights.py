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
  where two thirds are; in between in proportion. So does what *moved*: what it had with models that are thinly judged
  now, and does not claim of them any more, up to what it claims of others. Where little is widely judged nobody could
  turn to another rare model otherwise. What was widely judged does not move: a machine that is handed on leaves nothing
  behind. What moved is not remembered where it was, or it would come back there.
- A *pool* of a ninth of what is widely judged, a tenth of both together, is shared by what does not count by itself,
  and has not moved. First among the models: in equal parts, to each what is claimed of it at most, and what it does not
  need goes to the others. What its nodes have that serve is of its part, if it is thinly judged. Whoever had something
  before has no right over another model: who came first, with fakes or not, would keep all others out. Then within a
  model: by what was had, lost and backed, and what is left by what is claimed beyond. So growth costs only who can
  judge it.
- Who has *a third of all* the weight has what it had, lost, and is backed with in any case: it is in no cartel below a
  third, and what others had judged of its work would be theirs to decide.
- *Widely judged work* is also what nodes keep that serve instead of mining, by the part of their model's batches that
  was widely judged: up to half of the weight may serve, and it is mostly that of the honest.

Why two thirds: a cartel below a third leaves them to the others. Why in proportion: on any single line a few nonces
would decide over the weight of all. And of the *others'* weight, so that nobody has less for having computed more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from node.protocol.findings import NodeOutcome, ThinWeight
from node.protocol.identifiers import Address, EpochNumber, ModelId
from node.protocol.records import VoteBundle
from node.protocol.slices import Pace, Slices
from node.protocol.tallies import WIDE_SHARE_PARTS
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
    moved: int
    """Of the rest, what it had with models that it leaves, by the part that counts by itself."""
    others: int
    """All the weight in charge but its own."""
    others_wide: int
    """Widely judged work of others."""
    is_of_heavy: bool
    """Whether its participant has a third of all the weight."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What thinly judged batches weigh."""

    weights: Mapping[NodeKey, int]
    moved: Mapping[Share, int]
    """What participants took from models that they had, for others: it does not come back there."""


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
) -> Slices[Granted]:
    """Return what each thinly judged batch weighs.

    `thin` are these batches with the weights that they would have in full, above zero; `bundles` are the votes, by
    validator.
    """
    of_model, wide_of_model = _by_model(standing.wide), _by_model(standing.wide)
    for batch in thin:
        of_model[batch.model_id] = of_model.get(batch.model_id, 0) + batch.weight

    def wide_part(share: Share, weight: int) -> int:
        return weight * wide_of_model.get(share[1], 0) // max(1, of_model.get(share[1], 0))

    claimed = dict[Share, int]()
    for batch in thin:
        claimed[_share_of(batch)] = claimed.get(_share_of(batch), 0) + batch.weight
    own_wide, gifts, left, serving_thin = (
        dict[Address, int](),
        dict[Address, int](),
        dict[Share, int](),
        dict[Share, int](),
    )
    for (participant, _), weight in standing.wide.items():
        own_wide[participant] = own_wide.get(participant, 0) + weight
    for share, weight in standing.serving.items():
        own_wide[share[0]] = own_wide.get(share[0], 0) + wide_part(share, weight)
        serving_thin[share] = weight - wide_part(share, weight)
    for share, weight in standing.had.items():
        not_wide = weight - wide_part(share, weight)
        gifts[share[0]] = gifts.get(share[0], 0) + not_wide
        elsewhere = standing.serving.get(share, 0) + standing.wide.get(share, 0)
        left[share] = max(0, not_wide - elsewhere - claimed.get(share, 0))
    claims = _claims(claimed, standing, own_wide, left)
    backed = yield from _backing(thin, claims, bundles, gifts)
    granted = _grant(claims, backed, sum(own_wide.values()) // POOL_PARTS, _by_model(serving_thin))
    # Rounded down for each batch: what is lost is less than one for each.
    weights = {
        (batch.participant, batch.node_id): batch.weight * granted[share] // claims[share].amount
        for batch in thin
        for share in [_share_of(batch)]
    }
    return Granted(weights, _moved_from(left, claims))


def remember(
    known: Sequence[ThinWeight],
    weights: Mapping[Share, int],
    epoch: EpochNumber,
    moved: Mapping[Share, int] = MappingProxyType({}),
) -> tuple[ThinWeight, ...]:
    """Return the most that participants had with models in one of the last epochs, ascending by both.

    `known` is what a result before this one remembered; `weights` what those have in `epoch` of whose work with the
    model some was thinly judged; `moved` what they took from models for others, which is no longer remembered there.
    Nine tenths as much as remembered take its place, so that no good epoch hides those after it.
    """
    best, moved_of = dict[Share, ThinWeight](), _by_model(moved)
    for entry in known:
        share = entry.participant, entry.model_id
        weight = entry.weight - moved.get(share, 0)
        if weight > 0 and entry.epoch + REMEMBERED_EPOCHS > epoch:
            # Nor does it come back for others who once had the model.
            together = max(weight, entry.of_model - moved_of.get(entry.model_id, 0))
            best[share] = replace(entry, weight=weight, of_model=together)
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


def _claims(
    amounts: Mapping[Share, int], standing: Standing, own_wide: Mapping[Address, int], left: Mapping[Share, int]
) -> dict[Share, _Claim]:
    total, wide_in_all = sum(standing.weights.values()), sum(own_wide.values())
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
    claims = dict[Share, _Claim]()
    for share, amount in amounts.items():
        own = standing.weights.get(share[0], 0)
        claims[share] = _Claim(
            amount,
            kept[share] + lost[share] * room[share[1]] // max(1, lost_of[share[1]], room[share[1]]),
            moved=0,
            others=total - own,
            others_wide=wide_in_all - own_wide.get(share[0], 0),
            is_of_heavy=total > 0 and WIDE_SHARE_PARTS * own >= total,
        )
    return _with_moved(claims, left)


def _with_moved(claims: Mapping[Share, _Claim], left: Mapping[Share, int]) -> dict[Share, _Claim]:
    """Share what participants `left` among their `claims`, by what these are beyond what is kept."""
    beyond, moving = dict[Address, int](), dict[Address, int]()
    for (participant, _), claim in claims.items():
        beyond[participant] = beyond.get(participant, 0) + claim.amount - claim.kept
    for (participant, _), weight in left.items():
        moving[participant] = moving.get(participant, 0) + weight
    with_moved = dict[Share, _Claim]()
    for share, claim in claims.items():
        wanted, in_all = claim.amount - claim.kept, beyond[share[0]]
        part = min(moving.get(share[0], 0), in_all) * wanted // max(1, in_all)
        with_moved[share] = replace(claim, moved=_part_that_counts(part, claim))
    return with_moved


def _moved_from(left: Mapping[Share, int], claims: Mapping[Share, _Claim]) -> dict[Share, int]:
    """Return what was taken of each share in `left`, rounded up: none of it may come back."""
    moved, in_all = dict[Address, int](), dict[Address, int]()
    for (participant, _), claim in claims.items():
        moved[participant] = moved.get(participant, 0) + claim.moved
    for (participant, _), weight in left.items():
        in_all[participant] = in_all.get(participant, 0) + weight
    return {
        share: -(-weight * moved[share[0]] // in_all[share[0]])
        for share, weight in left.items()
        if weight and moved.get(share[0], 0)
    }


def _backing(
    thin: Sequence[NodeOutcome],
    claims: Mapping[Share, _Claim],
    bundles: Mapping[Address, VoteBundle],
    gifts: Mapping[Address, int],
) -> Slices[dict[Share, int]]:
    """Return what those back who found batches valid: each by one part in BACKING_PARTS of its `gifts`.

    Each batch has its own part of what is claimed beyond what is kept or moved, and no more than that: else a few
    nonces that the honest find valid would have these back what friends alone vouch for.
    """
    wanted, share_of, pace = dict[NodeKey, int](), dict[NodeKey, Share](), Pace()
    for batch in thin:
        claim = claims[_share_of(batch)]
        wanting = claim.amount - claim.kept - claim.moved
        if wanting > 0:
            key = batch.participant, batch.node_id
            share_of[key] = _share_of(batch)
            wanted[key] = batch.weight * wanting // claim.amount
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


def _grant(
    claims: Mapping[Share, _Claim], backed: Mapping[Share, int], pool: int, serving: Mapping[ModelId, int]
) -> dict[Share, int]:
    """Return what each has by thinly judged batches; of the `pool` nodes have what is `serving`, by model."""
    granted, own, beyond = dict[Share, int](), dict[Share, int](), dict[Share, int]()
    for share, claim in claims.items():
        had = claim.kept + backed[share]
        granted[share] = _part_that_counts(had, claim) + claim.moved
        own[share] = had - _part_that_counts(had, claim)
        # Not what would count by itself: it would be kept, and add up. Nor more than there is to give.
        asked = min(pool, claim.amount - had - claim.moved)
        beyond[share] = asked - _part_that_counts(asked, claim)
    own_of, beyond_of = _by_model(own), _by_model(beyond)
    needs = {model_id: own_of[model_id] + beyond_of[model_id] for model_id in own_of}
    most = _most_for_each(pool, needs, serving)
    for share, claim in claims.items():
        part = max(0, min(needs[share[1]], most - serving.get(share[1], 0)))
        for_own = min(part, own_of[share[1]])
        granted[share] += for_own * own[share] // max(1, own_of[share[1]])
        granted[share] += (part - for_own) * beyond[share] // max(1, beyond_of[share[1]])
        if claim.is_of_heavy:
            granted[share] = max(granted[share], claim.kept + backed[share] + claim.moved)
    return granted


def _most_for_each(pool: int, needs: Mapping[ModelId, int], serving: Mapping[ModelId, int]) -> int:
    """Return up to how much each model may have, what is `serving` and what it `needs` beside that, so that all
    together have at most `pool`."""
    models = [(serving.get(model_id, 0), needs.get(model_id, 0)) for model_id in needs.keys() | serving.keys()]
    least, most = 0, pool
    while least < most:
        middle = (least + most + 1) // 2
        if sum(max(kept, min(kept + need, middle)) for kept, need in models) <= pool:
            least = middle
        else:
            most = middle - 1
    return least


def _part_that_counts(amount: int, claim: _Claim) -> int:
    """Return `amount` where at most half of the others' weight is in widely judged work, 0 where two thirds are."""
    others, wide = claim.others, claim.others_wide
    if others <= 0:
        return amount
    return amount * min(others, max(0, 4 * others - 6 * wide)) // others
