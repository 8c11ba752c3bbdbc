"""What becomes of every batch of an epoch: accepted, rejected or undecided, for what reason, and with which weight.

Purpose: nonces that nobody computed earn nothing, and nobody loses what it computed because others lack the model, keep
their votes to themselves, or vote with the crowd.

Detail, in order:

1. A batch over BATCH_NONCES_MAX is rejected (the chain takes any count); one whose model was not registered when mining
   began is undecided; that of the only member there is is accepted, or no network could begin with one node.
2. The others are for those able to judge (judges.py), which no vote says of itself: those of them who recomputed the
   sample, or say that the file is wrong as a whole. A file that more than half of their weight refuses is rejected.
3. All recompute the same sample. A nonce differs where more than half of the weight that recomputed it says so; the
   batch is rejected where no honest machine would show as many (binomial.py). Where halves face each other it is
   undecided, unless the outcome is the same either way.
   What differs in an accepted sample takes twice what it stands for off the batch's weight: so made-up nonces cost
   what they would add, even where they are too few to be told from honest rounding.
4. A rejection takes two judges at least who agree, with a third of the weight able to judge: one alone, or a handful,
   leaves a batch undecided, or a liar could ruin the only rival it has.
5. Where some of those able say that the file was not to be had, those who found the batch valid must outweigh these and
   all who found it wrong. Else whoever hands its fakes to a friend only would be paid for them.
6. Accepted samples that two judges with a third of the able weight recomputed are added up over epochs (history.py); a
   sum beyond chance rejects this epoch's batches.
7. A batch that members with less than a third of the others' weight found valid is *thinly judged*: two who collude
   could vouch for each other without end. All such batches together get at most a tenth of the weight.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from node.protocol.findings import NodeFate, NodeOutcome, SampleCount, SampleHistory
from node.protocol.history import HistoryKey, extend, is_beyond, still_known
from node.protocol.identifiers import ZERO_HASH, Address, EpochNumber, Hash32
from node.protocol.judges import Bench, Judges
from node.protocol.medians import weighted_median
from node.protocol.nonces import BATCH_NONCES_MAX
from node.protocol.records import PocCommit, PocVote, VoteBundle
from node.protocol.slices import Pace, Slices, finish
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
"""Rejected by less than a third of the others' weight: no fraud, for on a model with few nonces they would be judge
over all that somebody has."""
FILE_WITHHELD = "file-withheld"
"""Too much of the weight able to judge it never got the file."""
FEW_JUDGES = "few-judges"
"""Accepted, with less weight than nonces: thinly judged."""

DIFFERING = "nonces-differ"
"""Accepted, with less weight than nonces: some of the sample differ."""

DIFFERING_COUNTS = 2
"""How many times what a nonce of the sample stands for is taken off where it differs. Taken off once, a made-up nonce
would be worth nothing; twice, it costs what an honest one earns."""
WIDE_SHARE_PARTS = 3
"""Widely judged is what a third of the others' weight found valid: no cartel below a third reaches it alone."""
THIN_POOL_PARTS = 9
"""Thinly judged batches share one part where widely judged ones have nine: a tenth of all."""
JUDGES_MIN = 2
"""Members who must agree to reject a batch. As for audits: where a model has fewer others, one could ruin the only
rival it has."""
ABLE_PARTS = 3
"""And they have one part in so many of the weight able to judge."""
NO_DATA = "no-data"
"""The reason of a vote of somebody who had the time, and never got the file."""
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


@dataclass(slots=True)
class _Votes:
    """What those able to judge say of one batch: in the weight of its bench, if nothing else is said."""

    bench: Bench
    valid: int = 0
    valid_in_all: int = 0
    """In all the weight of the group."""
    recomputed: int = 0
    invalid: int = 0
    """Of what was recomputed."""
    against_in_all: int = 0
    """Of who found it invalid or refused it, in all the weight of the group."""
    no_data: int = 0
    without: int = 0
    """Members who say that they got no file."""
    judges: int = 0
    """Members who recomputed it."""
    against: int = 0
    """Of these, those who found it invalid."""
    refused: dict[str, int] = field(default_factory=dict)
    """By reason."""
    refusing: int = 0
    """Members who refused the file."""
    differing: dict[int, int] = field(default_factory=dict)
    """By nonce."""
    unrelated: dict[int, int] = field(default_factory=dict)
    """By how many nonces they call unrelated, unless none: of an honest batch nothing is kept."""

    def add(self, vote: PocVote, weight: int, weight_in_all: int) -> None:
        if vote.sampled:
            self.recomputed += weight
            self.judges += 1
            if vote.unrelated:
                self.unrelated[vote.unrelated] = self.unrelated.get(vote.unrelated, 0) + weight
            for nonce in vote.mismatches:
                self.differing[nonce] = self.differing.get(nonce, 0) + weight
            if vote.verdict is Verdict.VALID:
                self.valid += weight
                self.valid_in_all += weight_in_all
            else:
                self.invalid += weight
                self.against_in_all += weight_in_all
                self.against += 1
        elif vote.verdict is Verdict.INVALID:
            self.refused[vote.reason] = self.refused.get(vote.reason, 0) + weight
            self.against_in_all += weight_in_all
            self.refusing += 1
        elif vote.reason == NO_DATA:
            self.no_data += weight
            self.without += 1

    def middle_of_unrelated(self) -> int:
        """How many nonces are unrelated, as the middle of those who recomputed the sample says by weight."""
        none = self.recomputed - sum(self.unrelated.values())
        return weighted_median([(0, none), *self.unrelated.items()])

    def is_enough(self, judges: int, weight: int) -> bool:
        """Whether so many, with so much weight, may say more than that nothing is paid."""
        return self.bench.can_reject and judges >= JUDGES_MIN and ABLE_PARTS * weight >= self.bench.total

    def may_reject(self, members: int, weight: int) -> bool:
        """Whether so many may: by what they proved with the model, and not against more weight in the whole group."""
        return self.is_enough(members, weight) and self.against_in_all > self.valid_in_all

    def is_handed_out(self) -> bool:
        return 2 * (self.recomputed + sum(self.refused.values())) > self.bench.total

    def is_withheld(self) -> bool:
        """Whether it went to friends alone: some got no file, and with all who found it wrong they weigh more than who
        found it valid. Not by one member's word: its own link may be down.
        """
        members = self.without + self.against + self.refusing
        weight = self.no_data + self.invalid + sum(self.refused.values())
        is_several = self.without > 0 and members >= JUDGES_MIN and ABLE_PARTS * weight >= self.bench.total
        return is_several and weight > self.valid


def node_outcomes(
    epoch: EpochNumber,
    commits: Mapping[NodeKey, PocCommit],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    rules: Mapping[NodeKey, SampleRule],
    judges: Judges,
    histories: Sequence[SampleHistory],
) -> PocFindings:
    """Return what becomes of every batch in `commits`: see `node_outcomes_in_slices`."""
    return finish(node_outcomes_in_slices(epoch, commits, bundles, weights, rules, judges, histories))


def node_outcomes_in_slices(
    epoch: EpochNumber,
    commits: Mapping[NodeKey, PocCommit],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    rules: Mapping[NodeKey, SampleRule],
    judges: Judges,
    histories: Sequence[SampleHistory],
) -> Slices[PocFindings]:
    """Return what becomes of every batch in `commits`.

    `bundles` are the checked bundles (`check_bundle`) by validator; `weights` those of the group in charge; `rules` of
    `rules_of`, `judges` of `judges_for`; `histories` those of the newest result before. Where there is none before, the
    founders' group is taken at its word for models that few can judge, for its weights are no measure yet.
    """
    votes = yield from _count_votes(commits, bundles, weights, judges)
    total = sum(weights.values())
    roots = _shared_roots(commits.values())
    outcomes, pace = dict[NodeKey, NodeOutcome](), Pace()
    for key, commit in commits.items():
        own = weights.get(key[0], 0)
        outcomes[key] = _decide(commit, rules.get(key), votes[key], own, total, commit.root in roots)
        if pace.is_over(DECIDED_AS_ITEMS):
            yield
    proven = {key for key, cast in votes.items() if cast.is_enough(cast.judges, cast.recomputed)}
    kept = _test_histories(epoch, outcomes, proven, rules, histories)
    if not judges.is_first:
        _limit_thinly_judged(outcomes, votes, weights)
    return PocFindings(
        nodes=tuple(outcome for _, outcome in sorted(outcomes.items(), key=lambda item: _order(item[0]))),
        histories=tuple(history for _, history in sorted(kept.items(), key=lambda item: _order(item[0]))),
        handed_out=frozenset(key for key, cast in votes.items() if cast.is_handed_out()),
    )


def _count_votes(
    commits: Mapping[NodeKey, PocCommit],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    judges: Judges,
) -> Slices[dict[NodeKey, _Votes]]:
    votes, pace = dict[NodeKey, _Votes](), Pace()
    for key, commit in commits.items():
        votes[key] = _Votes(judges.bench(commit.model_id, commit.participant))
        if pace.is_over(DECIDED_AS_ITEMS):
            yield
    for validator, bundle in bundles.items():
        weight_in_all = weights.get(validator, 0)
        if weight_in_all <= 0:
            continue
        for vote in bundle.votes:
            found = votes.get((vote.participant, vote.node_id))
            if found is None or vote.participant == validator:
                continue
            weight = found.bench.weights.get(validator, 0)
            if weight > 0:
                found.add(vote, weight, weight_in_all)
        if pace.is_over(len(bundle.votes)):
            yield
    return votes


def _decide(
    commit: PocCommit, rule: SampleRule | None, votes: _Votes, own: int, total: int, is_root_shared: bool
) -> NodeOutcome:
    def outcome(fate: NodeFate, reason: str = "", sampled: int = 0, mismatches: int = 0) -> NodeOutcome:
        weight = weight_of(commit.count, sampled, mismatches) if fate is NodeFate.ACCEPTED else 0
        return NodeOutcome(
            commit.participant, commit.node_id, commit.model_id, fate, commit.count, sampled, mismatches, weight, reason
        )

    if commit.count > BATCH_NONCES_MAX:
        return outcome(NodeFate.REJECTED, TOO_MANY)
    if commit.count <= 0:
        return outcome(NodeFate.UNDECIDED, EMPTY)
    if rule is None:
        return outcome(NodeFate.UNDECIDED, UNREGISTERED)
    if own > 0 and own == total:
        return outcome(NodeFate.ACCEPTED)
    refused = sum(votes.refused.values())
    if votes.recomputed + refused == 0:
        return outcome(NodeFate.UNDECIDED, FILE_WITHHELD if votes.no_data else NOBODY_ABLE)
    if refused > votes.recomputed:
        if not votes.may_reject(votes.refusing, refused):
            return outcome(NodeFate.UNDECIDED, TOO_FEW_AGAINST)
        return outcome(NodeFate.REJECTED, max(votes.refused, key=lambda reason: (votes.refused[reason], reason)))
    if refused == votes.recomputed:
        return outcome(NodeFate.UNDECIDED, SPLIT)
    sampled = rule.sampled(commit.count)
    least = sum(2 * weight > votes.recomputed for weight in votes.differing.values())
    most = sum(2 * weight >= votes.recomputed for weight in votes.differing.values())
    if judge(sampled, least, rule) is Verdict.INVALID:
        if not votes.may_reject(votes.against, votes.invalid):
            return outcome(NodeFate.UNDECIDED, TOO_FEW_AGAINST, sampled, least)
        is_narrow = WIDE_SHARE_PARTS * votes.against_in_all < total - own
        rejected = outcome(NodeFate.REJECTED, _rejection(sampled, is_root_shared, is_narrow), sampled, least)
        return replace(rejected, unrelated=min(least, votes.middle_of_unrelated()))
    if judge(sampled, most, rule) is Verdict.INVALID:
        return outcome(NodeFate.UNDECIDED, SPLIT, sampled, least)
    if votes.is_withheld():
        return outcome(NodeFate.UNDECIDED, FILE_WITHHELD, sampled, least)
    return outcome(NodeFate.ACCEPTED, DIFFERING if least else "", sampled, least)


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
    outcomes: dict[NodeKey, NodeOutcome], votes: Mapping[NodeKey, _Votes], weights: Mapping[Address, int]
) -> None:
    """Cut the weight of thinly judged batches in `outcomes` to their tenth of all.

    Where nothing is widely judged, nine parts are what participants had before: work that few can judge keeps a
    participant where it was, and lets it grow by what the tenth part allows.
    """
    total = sum(weights.values())
    thin: dict[Address, list[NodeKey]] = {}
    wide = 0
    for key, outcome in outcomes.items():
        own = weights.get(key[0], 0)
        if outcome.fate is not NodeFate.ACCEPTED:
            continue
        if own == total or WIDE_SHARE_PARTS * votes[key].valid_in_all >= total - own:
            wide += outcome.weight
        else:
            thin.setdefault(key[0], []).append(key)
    claimed = {account: sum(outcomes[key].weight for key in keys) for account, keys in thin.items()}
    kept = {account: 0 if wide else min(claim, weights.get(account, 0)) for account, claim in claimed.items()}
    pool = (wide + sum(kept.values())) // THIN_POOL_PARTS
    wanted = sum(claimed.values()) - sum(kept.values())
    if wanted <= pool:
        return
    for account, keys in thin.items():
        granted = kept[account] + pool * (claimed[account] - kept[account]) // wanted
        for key in keys:
            weight = outcomes[key].weight * granted // claimed[account]
            outcomes[key] = replace(outcomes[key], weight=weight, reason=FEW_JUDGES)


def _shared_roots(commits: Iterable[PocCommit]) -> set[Hash32]:
    """Roots that more than one participant committed; the root of nothing is nobody's."""
    owners: dict[Hash32, set[Address]] = {}
    for commit in commits:
        owners.setdefault(commit.root, set()).add(commit.participant)
    return {root for root, accounts in owners.items() if len(accounts) > 1 and root != ZERO_HASH}


def _order(key: tuple[Address, str]) -> tuple[str, str]:
    return key[0].lower(), key[1]
