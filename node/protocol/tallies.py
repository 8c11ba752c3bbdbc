"""What is said of each batch, counted by weight: once by those able to judge it, once by the whole group.

The first decides on nearly all batches, and judges.py says why. The second tells what no cartel below a third of all
the weight can bring about (outcomes.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from node.protocol.identifiers import Address
from node.protocol.judges import Bench, Judges
from node.protocol.medians import weighted_median
from node.protocol.records import PocCommit, PocVote, VoteBundle
from node.protocol.slices import Pace, Slices
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

WIDE_SHARE_PARTS = 3
"""Widely judged is what a third of the others' weight found valid: no cartel below a third reaches it alone."""
JUDGES_MIN = 2
"""Members who must agree to reject a batch. As for audits: where a model has fewer others, one could ruin the only
rival it has."""
ABLE_PARTS = 3
"""And they have one part in so many of the weight able to judge."""
NO_DATA = "no-data"
"""The reason of a vote of somebody who had the time, and never got the file."""
VOTES_AT_ONCE = 512
"""Of a bundle, which may have tens of thousands, between two looks at what else there is to do."""
TALLY_AS_ITEMS = 16
"""What it costs to begin one, against an item of a slice."""


@dataclass(slots=True)
class Tally:
    """What some members say of one batch, in a weight of theirs."""

    recomputed: int = 0
    judges: int = 0
    """Members who recomputed it."""
    valid: int = 0
    """Of what was recomputed."""
    invalid: int = 0
    against: int = 0
    """Members who found it invalid, of those who recomputed it."""
    refused: dict[str, int] | None = None
    """By reason; None while nobody does, as of `differing`: most of tens of thousands of batches have neither."""
    refusing: int = 0
    """Members who refused the file."""
    no_data: int = 0
    without: int = 0
    """Members who say that they got no file."""
    heaviest_against: int = 0
    """The most that one of those weighs who did not find it valid."""
    differing: dict[int, int] | None = None
    """By nonce."""
    differing_weight_min: int = 0
    """What those weigh at least by whom a nonce differs, beside that they are most."""
    unrelated: dict[int, int] | None = None
    """By how many nonces they call unrelated, unless none: of an honest batch nothing is kept."""

    def add(self, vote: PocVote, weight: int) -> None:
        """Count a vote of a member of `weight`; of abstentions only those with NO_DATA say anything."""
        if vote.sampled:
            self.recomputed += weight
            self.judges += 1
            if vote.mismatches:
                differing = self.differing = self.differing or {}
                for nonce in vote.mismatches:
                    differing[nonce] = differing.get(nonce, 0) + weight
            if vote.unrelated:
                unrelated = self.unrelated = self.unrelated or {}
                unrelated[vote.unrelated] = unrelated.get(vote.unrelated, 0) + weight
            if vote.verdict is Verdict.VALID:
                self.valid += weight
                return
            self.invalid += weight
            self.against += 1
        elif vote.verdict is Verdict.INVALID:
            self.refused = self.refused or {}
            self.refused[vote.reason] = self.refused.get(vote.reason, 0) + weight
            self.refusing += 1
        else:
            self.no_data += weight
            self.without += 1
        self.heaviest_against = max(self.heaviest_against, weight)

    @property
    def refused_in_all(self) -> int:
        """The weight that refused the file as a whole."""
        return sum(self.refused.values()) if self.refused else 0

    @property
    def refused_for(self) -> str:
        """For which reason most of that weight did; of two, the later in the alphabet. There has to be one."""
        refused = self.refused or {}
        return max(refused, key=lambda reason: (refused[reason], reason))

    @property
    def seen(self) -> int:
        """The weight that had the file."""
        return self.recomputed + self.refused_in_all

    @property
    def is_silent(self) -> bool:
        """Whether nobody had the file, nor says that it was not to be had."""
        return self.seen == self.no_data == 0

    @property
    def least_differing(self) -> int:
        """How many nonces differ for more than half of the weight that recomputed the sample, and enough."""
        return len(self.differing_nonces)

    @property
    def differing_nonces(self) -> frozenset[int]:
        """Which these are."""
        least = max(self.differing_weight_min, self.recomputed // 2 + 1)
        return frozenset(nonce for nonce, weight in (self.differing or {}).items() if weight >= least)

    @property
    def most_differing(self) -> int:
        """How many differ for at least half of it."""
        least = max(self.differing_weight_min, -(-self.recomputed // 2))
        return sum(weight >= least for weight in (self.differing or {}).values())

    def middle_of_unrelated(self) -> int:
        """How many nonces are unrelated, as the middle of those who recomputed the sample says by weight."""
        unrelated = self.unrelated or {}
        return weighted_median([(0, self.recomputed - sum(unrelated.values())), *unrelated.items()])


@dataclass(slots=True)
class Votes:
    """All that is said of one batch."""

    bench: Bench
    own: int = 0
    """All the weight of its participant."""
    total: int = 0
    """All the weight there is, with that."""
    able: Tally = field(default_factory=Tally)
    """Of those able to judge, by what they proved with the model."""
    group: Tally = field(default_factory=Tally)
    """Of all members, by all their weight."""
    against_of_able: int = 0
    """Those able who found it invalid or refused it, by all their weight."""

    def __post_init__(self) -> None:
        if self.is_of_heavy:
            self.group.differing_weight_min = -(-self.total // WIDE_SHARE_PARTS)

    def add(self, vote: PocVote, weight: int, weight_in_all: int) -> None:
        """Count the vote of a member that has `weight` on the bench, and `weight_in_all` in the group."""
        self.group.add(vote, weight_in_all)
        if weight <= 0:
            return
        self.able.add(vote, weight)
        if vote.verdict is Verdict.INVALID:
            self.against_of_able += weight_in_all

    def is_enough(self, judges: int, weight: int) -> bool:
        """Whether so many, with so much weight, may say more than that nothing is paid."""
        return self.bench.can_reject and judges >= JUDGES_MIN and ABLE_PARTS * weight >= self.bench.total

    def may_reject(self, members: int, weight: int) -> bool:
        """Whether so many may: by what they proved with the model, and not against more weight in the whole group."""
        return self.is_enough(members, weight) and self.against_of_able > self.group.valid

    def is_handed_out(self) -> bool:
        """Whether more than half of the weight able to judge it has seen the file."""
        return 2 * self.able.seen > self.bench.total

    def is_withheld(self) -> bool:
        """Whether the file went to friends alone: some got none, and with all who found it wrong they weigh more than
        who found it valid.

        Not by the word of one, however heavy: its own link may be down. So without the heaviest of them the others have
        their third of the able weight, too.
        """
        able = self.able
        weight = able.no_data + able.invalid + able.refused_in_all
        members = able.without + able.against + able.refusing
        others, others_in_all = weight - able.heaviest_against, self.bench.total - able.heaviest_against
        is_several = able.without > 0 and members >= JUDGES_MIN and ABLE_PARTS * others >= others_in_all
        return is_several and weight > able.valid

    @property
    def signs_alone(self) -> bool:
        """Whether its participant has more than two thirds of all the weight: it signs results without anybody."""
        return 3 * (self.total - self.own) < self.total

    @property
    def is_of_heavy(self) -> bool:
        """Whether its participant has a third of all the weight: of the others fewer than that must not decide."""
        return self.total > 0 and WIDE_SHARE_PARTS * self.own >= self.total

    def is_wide(self) -> bool:
        """Whether it is widely judged: members with a third of the others' weight found it valid. Of a heavy
        participant's no fewer: who lacks the model abstains, so a friend's word would make its fakes count in full."""
        return self.signs_alone or WIDE_SHARE_PARTS * self.group.valid >= self.total - self.own

    def is_found_valid(self) -> bool:
        """Whether more of the group found it valid than say anything else that counts; of a heavy participant's batch,
        whether anybody did, and less than a third of all the weight says anything else."""
        group = self.group
        otherwise = group.invalid + group.refused_in_all + group.no_data
        if self.is_of_heavy:
            return group.valid > 0 and WIDE_SHARE_PARTS * otherwise < self.total
        return group.valid > otherwise


def count_votes_in_slices(
    commits: Mapping[NodeKey, PocCommit],
    bundles: Mapping[Address, VoteBundle],
    weights: Mapping[Address, int],
    judges: Judges,
) -> Slices[dict[NodeKey, Votes]]:
    """Return what `bundles`, by validator, say of every batch in `commits`; `weights` are those of the group in charge.

    Nobody has a vote on its own batch, nor has who is no member.
    """
    votes, pace, total = dict[NodeKey, Votes](), Pace(), sum(weights.values())
    for key, commit in commits.items():
        bench = judges.bench(commit.model_id, commit.participant)
        votes[key] = Votes(bench, weights.get(commit.participant, 0), total)
        if pace.is_over(TALLY_AS_ITEMS):
            yield
    for validator, bundle in bundles.items():
        weight_in_all = weights.get(validator, 0)
        if weight_in_all <= 0:
            continue
        for first in range(0, len(bundle.votes), VOTES_AT_ONCE):
            chunk = bundle.votes[first : first + VOTES_AT_ONCE]
            for vote in chunk:
                if vote.verdict is Verdict.ABSTAIN and vote.reason != NO_DATA:
                    continue
                found = votes.get((vote.participant, vote.node_id))
                if found is not None and vote.participant != validator:
                    found.add(vote, found.bench.weights.get(validator, 0), weight_in_all)
            if pace.is_over(len(chunk)):
                yield
    return votes
