"""Vectors of Proof of Compute's decisions; part of rules.json (see rules.py)."""

from node.protocol.agreement import committed_order, left_out, pack_holders
from node.protocol.binomial import reject_from
from node.protocol.codec import to_value
from node.protocol.identifiers import EpochNumber, Hash32, ModelId
from node.protocol.judges import Judges
from node.protocol.outcomes import node_outcomes
from node.protocol.records import PocVote
from node.protocol.tails import checkers_of, draw_checks, tail_of, tail_tokens
from node.protocol.validation import SampleRule
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account, bundle_of, commit

SEED = Hash32(bytes(range(32)))
RULE = SampleRule(distance_max=1_000_000, mismatch_per_million=1000, reject_mismatches=3, sample_size=64)
EPOCH = EpochNumber(4)
VOCABULARY_SIZE = 3072
RARE, RARER = ModelId("rare"), ModelId("rarer")


def compute_poc() -> dict[str, object]:
    """Return the vectors."""
    return {
        "rejectFrom": [
            {"sampled": sampled, "mismatchPerMillion": rate, "mismatches": reject_from(sampled, rate)}
            for sampled in (8, 64, 400, 600, 1800, 6000)
            for rate in (0, 100, 1000, 20_000)
        ],
        "tails": {
            "tokens": list(tail_tokens(SEED, account(1), account(2), NODE, 5, VOCABULARY_SIZE)),
            "tail": tail_of([-0.5 * place for place in range(8)]),
            "checks": [list(place) for place in draw_checks(SEED, account(1), [_vote(2, 40), _vote(3, 60)])],
            "checkers": sorted(checkers_of(SEED, account(1), [account(number) for number in range(1, 41)])),
        },
        "outcomes": _outcomes(),
        "bundles": _bundles(),
    }


def _vote(participant: int, sampled: int, mismatches: tuple[int, ...] = (), unrelated: int = 0) -> PocVote:
    verdict = Verdict.INVALID if len(mismatches) > 4 else Verdict.VALID
    reason = "mismatches" if mismatches[4:] else ""
    return PocVote(account(participant), NODE, verdict, sampled, mismatches, reason, unrelated)


def _outcomes() -> object:
    """An honest one, one of fakes, of which two judges call other numbers of nonces unrelated, one that nobody can
    judge, one over the limit, one refused, one whose file only a friend gets, and two whom one liar slanders: the only
    one that proved the model, and one that does not have it."""
    counts = {1: 1000, 2: 1000, 3: 1000, 4: 2_000_000, 5: 1000, 8: 1000}
    commits = {(account(n), NODE): commit(n, count, epoch=EPOCH).commit for n, count in counts.items()}
    for participant, model_id in ((9, RARE), (10, RARER)):
        commits[account(participant), NODE] = commit(participant, 1000, epoch=EPOCH, model_id=model_id).commit
    refused = PocVote(account(5), NODE, Verdict.INVALID, 0, (), "root-mismatch")
    fakes = [_vote(2, 64, tuple(range(64)), unrelated) for unrelated in (60, 63)]
    withheld = PocVote(account(8), NODE, Verdict.ABSTAIN, 0, (), "no-data")
    lies = [_vote(9, 64, tuple(range(64))), _vote(10, 64, tuple(range(64)))]
    bundles = {
        account(6): bundle_of(6, _vote(1, 64, (3,)), fakes[0], refused, _vote(8, 64), _vote(10, 64), epoch=EPOCH),
        account(7): bundle_of(7, _vote(1, 64, (3,)), fakes[1], refused, withheld, *lies, epoch=EPOCH),
        account(2): bundle_of(2, withheld, epoch=EPOCH),
        account(1): bundle_of(1, withheld, epoch=EPOCH),
    }
    weights = {account(n): 10 * n for n in (1, 2, 6, 7)}
    judges = Judges({TINY: weights, RARE: {account(7): 5}, RARER: {account(6): 5}})
    found = node_outcomes(EPOCH, commits, bundles, weights, dict.fromkeys(commits, RULE), judges, ())
    return to_value_of(found.nodes, found.histories)


def to_value_of(nodes: tuple[object, ...], histories: tuple[object, ...]) -> object:
    """Return records as JSON can hold them."""
    return {"nodes": [to_value(node) for node in nodes], "histories": [to_value(history) for history in histories]}


def _bundles() -> object:
    members = [account(number) for number in range(1, 7)]
    order = committed_order(frozenset(members))
    some = frozenset(members[:4])
    holdings = {members[0]: some, members[1]: some, members[2]: frozenset(members)}
    return {
        "committed": list(order),
        "held": sorted(some),
        "bits": pack_holders(some, order).hex(),
        "leftOut": sorted(left_out(frozenset(members), holdings, dict.fromkeys(members, 10))),
    }
