"""What becomes of every batch of an epoch: accepted, rejected or undecided, for what reason, and with which weight.

Purpose: nonces that nobody computed earn nothing, and nobody loses what it computed because others lack the model, keep
their votes to themselves, or vote with the crowd.

Detail, in order:

1. A batch over BATCH_NONCES_MAX is rejected (the chain takes any count); one whose model was not registered when mining
   began is undecided; that of a member with more than two thirds of all the weight is accepted, for it signs results
   without anybody, and no network could begin with one node otherwise.
2. All recompute the same sample. A nonce differs where more than half of the weight that recomputed it says so; the
   batch is wrong where no honest machine would show as many (binomial.py).
3. What members with a third of the others' weight found valid, and more than say anything else, is accepted, whoever
   they are: no cartel below a third can bring that about, and who came first to a new model cannot keep all others out.
   Of a member with a third of all the weight it is enough that anybody found it valid and less than a third of all says
   anything else: its own weight is in no majority about it, and of the rest a cartel below a third may be most. That
   says that it is accepted, and not that it counts in full (8).
4. The others are for those able to judge (judges.py), which no vote says of itself: those of them who recomputed the
   sample, or say that the file is wrong as a whole. A file that more than half of their weight refuses is rejected.
   Where halves face each other it is undecided, unless the outcome is the same either way. Where not one of them says
   a word, a batch that more of the group found valid than not is accepted, and thinly judged.
   What differs in an accepted sample takes twice what it stands for off the batch's weight: so made-up nonces cost
   what they would add, even where they are too few to be told from honest rounding.
5. A rejection takes two judges at least who agree, with a third of the weight able to judge: one alone, or a handful,
   leaves a batch undecided, or a liar could ruin the only rival it has. It is fraud only if they have a third of all
   the weight there is.
6. Where some of those able say that the file was not to be had, those who found the batch valid must outweigh these and
   all who found it wrong. Else whoever hands its fakes to a friend only would be paid for them.
7. Accepted samples that two judges with a third of the able weight recomputed are added up over epochs (history.py); a
   sum beyond chance rejects this epoch's batches.
8. A batch that is accepted otherwise, with less than a third of the others' weight that found it valid, is *thinly
   judged*: two who collude could vouch for each other without end. What it weighs then is for thin_weights.py.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

from node.protocol.findings import NodeFate, NodeOutcome, SampleCount, SampleHistory, ThinWeight
from node.protocol.history import HistoryKey, extend, is_beyond, still_known
from node.protocol.identifiers import ZERO_HASH, Address, EpochNumber, Hash32
from node.protocol.judges import Judges
from node.protocol.nonces import BATCH_NONCES_MAX
from node.protocol.records import PocCommit, VoteBundle
from node.protocol.slices import Pace, Slices, finish
from node.protocol.tallies import WIDE_SHARE_PARTS, Votes, count_votes_in_slices
from node.protocol.thin_weights import Share, Standing, remember, thin_weights_in_slices
from node.protocol.validation import SMALL_SAMPLE, SampleRule, judge
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

TOO_MANY = "too-many-nonces"
MISMATCHES = "mismatches"
COPIED = "copied"
"""Mismatches, in a batch with the same root as somebody else's. Which of the two is the copy, the mismatches tell."""
TOO_SMALL = "too-small"
"""Mismatches in a sample too small to prove anything: rejected, and no fraud."""
CUMULATED = "cumulated-mismatches"
UNREGISTERED = "model-not-registered"
EMPTY = "no-nonces"
NOBODY_ABLE = "nobody-could-judge"
SPLIT = "judges-split"
TOO_FEW_AGAINST = "too-few-to-reject"
"""Those who judged it found it wrong, and are too few, or only say that they have the model, or weigh less in the whole
group than those who found it right."""
NARROWLY = "narrowly-rejected"
"""Rejected by less than a third of all the weight: no fraud, for on a model with few nonces they would be judge over
all that somebody has."""
FILE_WITHHELD = "file-withheld"
"""Too much of the weight able to judge it never got the file."""
FEW_JUDGES = "few-judges"
"""Accepted, with less weight than nonces: thinly judged."""

DIFFERING = "nonces-differ"
"""Accepted, with less weight than nonces: some of the sample differ."""

DIFFERING_COUNTS = 2
"""How many times what a nonce of the sample stands for is taken off where it differs. Taken off once, a made-up nonce
would be worth nothing; twice, it costs what an honest one earns."""
DECIDED_AS_ITEMS = 16
"""What it costs to decide on a batch, against an item of a slice."""


@dataclass(frozen=True, slots=True)
class PocFindings:
    """What Proof of Compute finds in an epoch."""

    nodes: tuple[NodeOutcome, ...]
    """Ascending by (participant, node id)."""
    histories: tuple[SampleHistory, ...]
    """Ascending by (participant, model id)."""
    handed_out: frozenset[NodeKey]
    """Batches whose file more than half of the weight able to judge has seen: that of others was to be had, too."""
    thin_weights: tuple[ThinWeight, ...] = ()
    """What participants may keep in the epochs to come."""


class _Decision(NamedTuple):
    fate: NodeFate
    reason: str = ""
    sampled: int = 0
    mismatches: int = 0
    unrelated: int = 0


def node_outcomes(
    epoch: EpochNumber,
    commits: Mapping[NodeKey, PocCommit],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    rules: Mapping[NodeKey, SampleRule],
    judges: Judges,
    histories: Sequence[SampleHistory],
    preserved: Mapping[Share, int] | None = None,
    thin_weights: Sequence[ThinWeight] = (),
) -> PocFindings:
    """Return what becomes of every batch in `commits`: see `node_outcomes_in_slices`."""
    return finish(
        node_outcomes_in_slices(epoch, commits, bundles, weights, rules, judges, histories, preserved, thin_weights)
    )


def node_outcomes_in_slices(
    epoch: EpochNumber,
    commits: Mapping[NodeKey, PocCommit],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    rules: Mapping[NodeKey, SampleRule],
    judges: Judges,
    histories: Sequence[SampleHistory],
    preserved: Mapping[Share, int] | None = None,
    thin_weights: Sequence[ThinWeight] = (),
) -> Slices[PocFindings]:
    """Return what becomes of every batch in `commits`.

    `bundles` are the checked bundles (`check_bundle`) by validator; `weights` those of the group in charge; `rules` of
    `rules_of`, `judges` of `judges_for`; `histories` and `thin_weights` those of the newest result before; `preserved`
    what participants keep, by model, with nodes that serve instead of mining. Where there is no result before, the
    founders' group is taken at its word for models that few can judge, for its weights are no measure yet.
    """
    votes = yield from count_votes_in_slices(commits, bundles, weights, judges)
    roots = _shared_roots(commits.values())
    outcomes, pace = dict[NodeKey, NodeOutcome](), Pace()
    for key, commit in commits.items():
        outcomes[key] = _decide(commit, rules.get(key), votes[key], commit.root in roots)
        if pace.is_over(DECIDED_AS_ITEMS):
            yield
    proven = {
        key
        for key, cast in votes.items()
        if cast.is_enough(cast.able.judges, cast.able.recomputed)
        and cast.able.least_differing == outcomes[key].mismatches  # not accepted against what the able say
    }
    kept = _test_histories(epoch, outcomes, proven, rules, histories)
    if judges.is_first:
        remembered = remember(thin_weights, {}, epoch)
    else:
        had = {(member, model_id): weight for model_id, of in judges.proven.items() for member, weight in of.items()}
        remembered = yield from _limit_thinly_judged(
            epoch, outcomes, votes, bundles, weights, had, preserved or {}, thin_weights
        )
    return PocFindings(
        nodes=tuple(outcome for _, outcome in sorted(outcomes.items(), key=lambda item: _order(item[0]))),
        histories=tuple(history for _, history in sorted(kept.items(), key=lambda item: _order(item[0]))),
        handed_out=frozenset(key for key, cast in votes.items() if cast.is_handed_out()),
        thin_weights=remembered,
    )


def _decide(commit: PocCommit, rule: SampleRule | None, votes: Votes, is_root_shared: bool) -> NodeOutcome:
    decision = _without_votes(commit, rule, votes)
    if decision is None and rule is not None:
        sampled = rule.sampled(commit.count)
        decision = _by_group(votes, rule, sampled) or _by_able(votes, rule, sampled, is_root_shared)
    fate, reason, sampled, mismatches, unrelated = decision or _Decision(NodeFate.UNDECIDED, UNREGISTERED)
    weight = weight_of(commit.count, sampled, mismatches) if fate is NodeFate.ACCEPTED else 0
    return NodeOutcome(
        commit.participant,
        commit.node_id,
        commit.model_id,
        fate,
        commit.count,
        sampled,
        mismatches,
        weight,
        reason,
        unrelated,
    )


def _without_votes(commit: PocCommit, rule: SampleRule | None, votes: Votes) -> _Decision | None:
    if commit.count > BATCH_NONCES_MAX:
        return _Decision(NodeFate.REJECTED, TOO_MANY)
    if commit.count <= 0:
        return _Decision(NodeFate.UNDECIDED, EMPTY)
    if rule is None:
        return _Decision(NodeFate.UNDECIDED, UNREGISTERED)
    return _Decision(NodeFate.ACCEPTED) if votes.signs_alone else None


def _by_group(votes: Votes, rule: SampleRule, sampled: int) -> _Decision | None:
    """Accept what is widely found valid, or by anybody if those able are silent; None leaves it to these."""
    if not votes.is_found_valid() or not (votes.is_wide() or votes.is_of_heavy or votes.able.is_silent):
        return None
    if judge(sampled, votes.group.most_differing, rule) is Verdict.INVALID:
        return None
    differing = votes.group.differing_nonces
    if votes.able.recomputed:
        # Who lacks the model may have it paid, and neither hides what differs nor makes it up. Of a heavy member's
        # batch those able make nothing up either: they may be a cartel, which is less than it.
        of_able = votes.able.differing_nonces
        is_of_one_mind = not votes.is_of_heavy and judge(sampled, len(of_able), rule) is Verdict.VALID
        differing = of_able if is_of_one_mind else differing & of_able
    return _accepted(sampled, len(differing))


def _by_able(votes: Votes, rule: SampleRule, sampled: int, is_root_shared: bool) -> _Decision:
    able = votes.able
    if able.seen == 0:
        return _Decision(NodeFate.UNDECIDED, FILE_WITHHELD if able.no_data else NOBODY_ABLE)
    if able.refused_in_all > able.recomputed:
        if not votes.may_reject(able.refusing, able.refused_in_all):
            return _Decision(NodeFate.UNDECIDED, TOO_FEW_AGAINST)
        return _Decision(NodeFate.REJECTED, able.refused_for)
    if able.refused_in_all == able.recomputed:
        return _Decision(NodeFate.UNDECIDED, SPLIT)
    least = able.least_differing
    if judge(sampled, least, rule) is Verdict.INVALID:
        if not votes.may_reject(able.against, able.invalid):
            return _Decision(NodeFate.UNDECIDED, TOO_FEW_AGAINST, sampled, least)
        is_narrow = WIDE_SHARE_PARTS * votes.against_of_able < votes.total
        reason, unrelated = _rejection(sampled, is_root_shared, is_narrow), min(least, able.middle_of_unrelated())
        return _Decision(NodeFate.REJECTED, reason, sampled, least, unrelated)
    if judge(sampled, able.most_differing, rule) is Verdict.INVALID:
        return _Decision(NodeFate.UNDECIDED, SPLIT, sampled, least)
    if votes.is_withheld():
        return _Decision(NodeFate.UNDECIDED, FILE_WITHHELD, sampled, least)
    return _accepted(sampled, least)


def _accepted(sampled: int, differing: int) -> _Decision:
    return _Decision(NodeFate.ACCEPTED, DIFFERING if differing else "", sampled, differing)


def _rejection(sampled: int, is_root_shared: bool, is_narrow: bool) -> str:
    if sampled < SMALL_SAMPLE:
        return TOO_SMALL
    if is_narrow:
        return NARROWLY
    return COPIED if is_root_shared else MISMATCHES


def weight_of(count: int, sampled: int, mismatches: int) -> int:
    """Return what an accepted batch of `count` nonces weighs, `mismatches` of its sample being different."""
    if not mismatches:
        return count
    return max(0, count - -(-DIFFERING_COUNTS * count * mismatches // sampled))


def _test_histories(
    epoch: EpochNumber,
    outcomes: dict[NodeKey, NodeOutcome],
    proven: Set[NodeKey],
    rules: Mapping[NodeKey, SampleRule],
    histories: Sequence[SampleHistory],
) -> dict[HistoryKey, SampleHistory]:
    """Reject in `outcomes` what is beyond chance over several epochs; return the histories that are kept.

    Only what is in `proven` is added: what one member alone said is never held against anybody later.
    """
    before = {(history.participant, history.model_id): history for history in histories}
    kept = still_known(before, epoch)
    judged: dict[HistoryKey, list[NodeKey]] = {}
    for key, outcome in outcomes.items():
        if outcome.fate is NodeFate.ACCEPTED and outcome.sampled and key in proven:
            judged.setdefault((outcome.participant, outcome.model_id), []).append(key)
    for history_key, keys in judged.items():
        newest = SampleCount(
            epoch,
            sum(outcomes[key].sampled for key in keys),
            sum(outcomes[key].mismatches for key in keys),
            max(rules[key].mismatch_per_million for key in keys),
        )
        history = extend(before.get(history_key), history_key, newest)
        if not is_beyond(history):
            kept[history_key] = history
            continue
        kept.pop(history_key, None)
        for key in keys:
            outcomes[key] = replace(outcomes[key], fate=NodeFate.REJECTED, weight=0, reason=CUMULATED)
    return kept


def _limit_thinly_judged(
    epoch: EpochNumber,
    outcomes: dict[NodeKey, NodeOutcome],
    votes: Mapping[NodeKey, Votes],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    had: Mapping[Share, int],
    serving: Mapping[Share, int],
    remembered: Sequence[ThinWeight],
) -> Slices[tuple[ThinWeight, ...]]:
    """Cut the weight of thinly judged batches in `outcomes` to what thin_weights.py leaves them.

    Returns what is remembered of all that their participants have with these models, with widely judged batches and
    nodes that serve.
    """
    thin, wide = list[NodeOutcome](), dict[Share, int]()
    for key, outcome in outcomes.items():
        if outcome.weight <= 0:  # accepted or not: an honest batch of two nonces, of which one differs, has none either
            continue
        if votes[key].is_wide():
            share = outcome.participant, outcome.model_id
            wide[share] = wide.get(share, 0) + outcome.weight
        else:
            thin.append(outcome)
    standing = Standing(weights, had, serving, wide, remembered)
    granted = yield from thin_weights_in_slices(thin, standing, bundles)
    whole: dict[Share, int] = {}
    for key, weight in granted.weights.items():
        share = key[0], outcomes[key].model_id
        whole[share] = whole.get(share, 0) + weight
        if weight < outcomes[key].weight:
            outcomes[key] = replace(outcomes[key], weight=weight, reason=FEW_JUDGES)
    had_now = {
        share: weight + wide.get(share, 0) + serving.get(share, 0) for share, weight in whole.items() if weight > 0
    }
    return remember(remembered, had_now, epoch, granted.moved)


def _shared_roots(commits: Iterable[PocCommit]) -> set[Hash32]:
    """Roots that more than one participant committed; the root of nothing is nobody's."""
    owners: dict[Hash32, set[Address]] = {}
    for commit in commits:
        owners.setdefault(commit.root, set()).add(commit.participant)
    return {root for root, accounts in owners.items() if len(accounts) > 1 and root != ZERO_HASH}


def _order(key: tuple[Address, str]) -> tuple[str, str]:
    return key[0].lower(), key[1]
