"""Reading the vote bundles of others: no more than an epoch allows, and a slice at a time.

*Purpose.* Anybody with a vote may commit any bytes, and everybody reads them while votes are exchanged and a result is
formed. So a bundle may have no more bytes than an honest one of that epoch can need (`limits_of`, by chain data alone:
what is larger is void on every node alike), its lists are counted before they are read, and what is read between two
looks at the rest of the node is PIECE_BYTES_MAX.

*Detail.* What comes out is what the codec makes of the same bytes, but for one thing: entries of lists have no fields
that nobody knows, so that none but the codec's fast path reads thousands of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from node.protocol.audit_sampling import draws_of
from node.protocol.audit_votes import AUDIT_VOTES_MAX, CHALLENGES_MAX
from node.protocol.bundles import CHECKS_MAX, VOTE_BUNDLE_BYTES_MAX
from node.protocol.canonical_reading import CanonicalReader
from node.protocol.codec import SLOW_BYTES_MAX, SchemaError
from node.protocol.findings import AuditVote, Observations, ServedTokens, Sighting, SpeedMeasure, VoteCheck
from node.protocol.observations import MEASURES_MAX, SERVED_MAX, SIGHTINGS_MAX
from node.protocol.omissions import OMISSIONS_MAX
from node.protocol.record_reading import entries, read_record, whole
from node.protocol.records import EpochResult, Omission, PocCommit, PocVote, SignedReceipt, VoteBundle
from node.protocol.slices import Slices
from node.protocol.validation import SampleRule
from node.protocol.weights import NodeKey

PIECE_BYTES_MAX = 16 * 1024
"""Read at a time: some 15 ms of the slow path at its worst. No entry is longer, but for votes on large samples."""
FRAME_BYTES_MAX = 1024 + SLOW_BYTES_MAX
"""What the lists stand in, a receipt book among it, some 600; and what nobody knows yet, which the reader counts."""
VOTE_BYTES_MAX = 512
"""One vote but for its mismatches: about 120, with names and a reason as long as they may be 300."""
NONCE_BYTES_MAX = 9
CHECK_BYTES_MAX = 512
AUDIT_BYTES_MAX = 768
SIGHTING_BYTES_MAX = 128
MEASURE_BYTES_MAX = 256
SERVED_BYTES_MAX = 192
RECEIPT_BYTES_MAX = 4096
"""Of a receipt with both signatures: about 1,200."""
OMISSION_BYTES_MAX = RECEIPT_BYTES_MAX + 4 * 1024
"""And of two gaps, each between two rows with 18 siblings: some 3,000."""
NAME = "a vote bundle"


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """What a bundle of an epoch may have."""

    bytes_max: int
    votes_max: int
    vote_bytes_max: int
    """Of one vote, with all of its mismatches."""


def audits_due(previous: EpochResult | None) -> int:
    """Return how many answers one member can have to audit after `previous`: all that are drawn and judged again."""
    if previous is None:
        return 0
    drawn = sum(draws_of(committed.book) for committed in previous.books)
    again = sum(len(outcome.accused) + len(outcome.challenged) for outcome in previous.audits)
    return min(drawn + again, AUDIT_VOTES_MAX)


def limits_of(
    commits: Mapping[NodeKey, PocCommit], rules: Mapping[NodeKey, SampleRule], checks: int, audits: int
) -> BundleLimits:
    """Return what a bundle may have in an epoch with these batches, by these rules.

    `checks` are the validators that committed votes the epoch before, each once for each of the models on which it may
    be checked, and `audits` those due.
    """
    sampled = [rule.sampled(commits[key].count) for key, rule in rules.items() if key in commits]
    lists = (
        (len(commits), VOTE_BYTES_MAX),
        (sum(sampled), NONCE_BYTES_MAX),
        (min(checks, CHECKS_MAX), CHECK_BYTES_MAX),
        (min(audits, AUDIT_VOTES_MAX), AUDIT_BYTES_MAX),
        (SIGHTINGS_MAX, SIGHTING_BYTES_MAX),
        (MEASURES_MAX, MEASURE_BYTES_MAX),
        (SERVED_MAX, SERVED_BYTES_MAX),
        (OMISSIONS_MAX, OMISSION_BYTES_MAX),
        (CHALLENGES_MAX, RECEIPT_BYTES_MAX),
    )
    needed = FRAME_BYTES_MAX + sum(count * size for count, size in lists)
    longest = VOTE_BYTES_MAX + NONCE_BYTES_MAX * max(sampled, default=0)
    return BundleLimits(min(needed, VOTE_BUNDLE_BYTES_MAX), len(commits), longest)


def read_bundle_in_slices(data: bytes, limits: BundleLimits) -> Slices[VoteBundle]:
    """Return the bundle whose canonical bytes are `data`. Raises SchemaError, as well for more than `limits` allow."""
    if len(data) > limits.bytes_max:
        raise SchemaError(f"{NAME}: {len(data)} bytes, at most {limits.bytes_max} in this epoch")
    reader = CanonicalReader(data, NAME, max(PIECE_BYTES_MAX, limits.vote_bytes_max))
    observed = {
        "measures": entries(SpeedMeasure, MEASURES_MAX, "measures"),
        "served": entries(ServedTokens, SERVED_MAX, "served"),
        "sightings": entries(Sighting, SIGHTINGS_MAX, "sightings"),
    }
    lists = {
        "audits": entries(AuditVote, AUDIT_VOTES_MAX, "audits"),
        "challenges": entries(SignedReceipt, CHALLENGES_MAX, "challenges"),
        "checks": entries(VoteCheck, CHECKS_MAX, "checks"),
        "observations": whole(Observations, observed),
        "omissions": entries(Omission, OMISSIONS_MAX, "omissions"),
        "votes": entries(PocVote, limits.votes_max, "votes"),
    }
    bundle = yield from read_record(reader, VoteBundle, lists)
    reader.require_end()
    return bundle
