"""What only a validator who really computed can say: log-probabilities of its own continuation of each nonce's prompt.

Purpose: an honest batch is easy to approve without a look, and votes are easy to copy. So whoever recomputes a nonce
appends a few tokens of its own to the prompt and says how likely the model finds them. One pass gives both the
prover's numbers and the tail; nobody else's votes hold that tail, and nothing tells it but the model.

Detail: the tokens follow from the sample's seed, the validator, the batch and the nonce. Their mean log-probability,
in thousandths and negated, is the tail: one small number per nonce in the evidence. In the next epoch others draw a few
of them (`draw_checks`), recompute these, and vote.

An embedding model gives no log-probabilities: its validators have it make the vector of a prompt of their own for each
nonce, in a pass of its own, and the tail is that vector's length along a direction of their own (`vector_tail`). A
continuation would not do: the vector of a prompt and a little more is nearly the prompt's.
"""

import hashlib
import heapq
import math
import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise

from node.protocol.binomial import is_beyond_chance
from node.protocol.findings import ValidatorOutcome, VoteCheck
from node.protocol.identifiers import Address, Hash32, ModelId, NodeId
from node.protocol.judges import Judges
from node.protocol.nonces import PROMPT_TOKENS, VECTOR_BYTES, VECTOR_DIMENSIONS, VECTOR_SCALE
from node.protocol.records import ModelRecord, PocVote, VoteBundle
from node.protocol.tallies import JUDGES_MIN
from node.protocol.verdicts import Verdict

TAIL_TOKENS = 8
"""An eighth more work than without; a mean over fewer is guessed too easily."""
TAIL_MAX = 1_000_000
"""Thousandths: no engine gives less than e to the -1000."""
TAIL_DIFFERENCE_MAX = 250
"""Honest machines differ by 0.03 on average per token, and the mean of eight by less; a tail differs from the mean of
all by 0.64 (tiny model), so two of three guesses are wrong."""
VECTOR_TAIL_UNIT = 2_500
"""What a vector's whole length counts in tails: then TAIL_DIFFERENCE_MAX is a tenth of it. Honest machines differ by a
hundredth at the edge of their band (docs/soundness.md), guesses by most of it."""
VECTOR_TAIL_NOUGHT = 20_000
"""The tail of a vector that has no length along the direction; the extremes are 159 above and below 39,841."""
TAIL_MISMATCH_PER_MILLION = 1_000
"""p0: so many honest tails lie beyond TAIL_DIFFERENCE_MAX all the same."""
CHECKED_TAILS = 24
"""Drawn of each validator and model. Who computed half of its tails, and guesses the rest as their mean, is caught 97
times of 100 (the tiny model's spread); who computed none, always, if there are three or more: of one or two nothing is
found."""

CHECKERS = 24
"""Drawn to check each validator on each of its models, of the members able to (judges.py): what all do for all would
grow with the square of their number. A cartel of a third of these has most of the drawn 3 times of 100, and two thirds
of them, which it takes, less than once in 1,000: then it takes from an honest validator what voting adds to its
score."""

OUTWEIGHS_TIMES = 2
"""Who says that votes were not computed must have so many times the weight of all other checkers that say anything.
Also of abstentions: where weights changed no honest checker can recompute, and only who lies says more."""
NO_TIME = "no-time"
"""The reason of a check that came to no end, and blames nobody."""
NOBODY_CHECKED = "nobody-could-check"
CHECKERS_SPLIT = "checkers-split"
NOT_COMPUTED = "not-computed"
EVIDENCE_WITHHELD = "evidence-withheld"
EVIDENCE_DIFFERS = "evidence-differs"


def makes_vectors(model: ModelRecord) -> bool:
    """Whether this is an embedding model."""
    arguments = model.model_args
    options = {option: value for option, _, value in (word.partition("=") for word in arguments) if value}
    options |= dict(pairwise(arguments))
    return options.get("--runner") == "pooling"


def has_tails(model: ModelRecord) -> bool:
    """Whether validators of this model give tails: not if it reads too few tokens."""
    return makes_vectors(model) or model.context_length > PROMPT_TOKENS + TAIL_TOKENS


def tail_tokens(
    seed: Hash32, validator: Address, participant: Address, node_id: NodeId, nonce: int, vocabulary_size: int
) -> tuple[int, ...]:
    """Return what `validator` appends to the prompt of a nonce. `seed` is that of the sample."""
    return _own_tokens(seed, validator, participant, node_id, nonce, vocabulary_size, TAIL_TOKENS)


def tail_prompt(
    seed: Hash32, validator: Address, participant: Address, node_id: NodeId, nonce: int, vocabulary_size: int
) -> tuple[int, ...]:
    """Return the prompt of `validator`'s own for a nonce of an embedding model: begins with `tail_tokens`."""
    return _own_tokens(seed, validator, participant, node_id, nonce, vocabulary_size, PROMPT_TOKENS)


def vector_tail(seed: Hash32, validator: Address, vector: bytes) -> int:
    """Return the tail of a quantised vector (nonces.py): its length along one of the space's diagonals.

    Which one follows from `seed` and `validator`: a number is added or taken away as a bit is 1 or 0, the first number
    by the highest bit. Integers alone; halves are rounded down.
    """
    if len(vector) != VECTOR_BYTES:
        raise ValueError(f"a vector has {VECTOR_BYTES} bytes")
    bits = int.from_bytes(hashlib.sha256(b"direction\x00" + seed + validator.lower().encode()).digest()[:8])
    numbers: tuple[int, ...] = struct.unpack(f">{VECTOR_DIMENSIONS}h", vector)
    along = sum(number if bits >> (63 - place) & 1 else -number for place, number in enumerate(numbers))
    return VECTOR_TAIL_NOUGHT + (2 * VECTOR_TAIL_UNIT * along + VECTOR_SCALE) // (2 * VECTOR_SCALE)


def _own_tokens(
    seed: Hash32,
    validator: Address,
    participant: Address,
    node_id: NodeId,
    nonce: int,
    vocabulary_size: int,
    count: int,
) -> tuple[int, ...]:
    identity = f"{validator.lower()}/{participant.lower()}/{node_id}/{nonce}".encode()
    stream = hashlib.shake_256(b"tail\x00" + seed + identity).digest(8 * count)
    return tuple(value % vocabulary_size for value in struct.unpack(f">{count}Q", stream))


def tail_of(logprobs: Sequence[float]) -> int:
    """Return the tail of TAIL_TOKENS natural-log probabilities. Raises ValueError on others."""
    if len(logprobs) != TAIL_TOKENS or not all(math.isfinite(value) for value in logprobs):
        raise ValueError(f"expected {TAIL_TOKENS} finite log-probabilities")
    return max(0, min(TAIL_MAX, round(-1000 * math.fsum(logprobs) / TAIL_TOKENS)))


def draw_checks(seed: Hash32, validator: Address, votes: Sequence[PocVote]) -> tuple[tuple[int, int], ...]:
    """Return which tails of `validator` are recomputed: (place among `votes`, place in its sample), ascending.

    `votes` are those on batches of one model with recomputed nonces; `seed` the hash of the first block of FORM, which
    nobody knew when the evidence was committed. CHECKED_TAILS, or all if there are fewer; each nonce is as likely.
    """
    total = sum(vote.sampled for vote in votes)
    personal = hashlib.sha256(b"check\x00" + seed + validator.lower().encode()).digest()
    drawn: set[int] = set()
    attempt = 0
    while len(drawn) < min(total, CHECKED_TAILS):
        digest = hashlib.sha256(personal + attempt.to_bytes(8)).digest()
        drawn.add(int.from_bytes(digest) % total)
        attempt += 1
    ends = list(accumulate(vote.sampled for vote in votes))
    places = ((bisect_right(ends, number), number) for number in sorted(drawn))
    return tuple((index, number - ends[index] + votes[index].sampled) for index, number in places)


def checkers_of(seed: Hash32, validator: Address, members: Iterable[Address]) -> frozenset[Address]:
    """Return who checks `validator` on a model: CHECKERS of the other `members`, which are those able to (judges.py),
    drawn by `seed` (see `draw_checks`).

    In the same order for each model: who has several is drawn for all of them, and reads the evidence once; and whom a
    cartel is lucky with on one, it has no second chance with on the next that the same members have.
    """
    personal = hashlib.sha256(b"checkers\x00" + seed + validator.lower().encode())

    def rank(member: Address) -> bytes:
        digest = personal.copy()
        digest.update(member.lower().encode())
        return digest.digest()

    others = [member for member in members if member != validator]
    return frozenset(others if len(others) <= CHECKERS else heapq.nsmallest(CHECKERS, others, key=rank))


def judge_tails(validator: Address, model_id: ModelId, claimed: Sequence[int], recomputed: Sequence[int]) -> VoteCheck:
    """Return the vote on `validator` after recomputing some of its tails of a model."""
    differing = sum(abs(one - other) > TAIL_DIFFERENCE_MAX for one, other in zip(claimed, recomputed, strict=True))
    if not claimed:
        return VoteCheck(validator, model_id, Verdict.ABSTAIN, 0, 0, NOBODY_CHECKED)
    if is_beyond_chance(len(claimed), differing, TAIL_MISMATCH_PER_MILLION):
        return VoteCheck(validator, model_id, Verdict.INVALID, len(claimed), differing, NOT_COMPUTED)
    return VoteCheck(validator, model_id, Verdict.VALID, len(claimed), differing, "")


def validator_outcomes(
    bundles: Mapping[Address, VoteBundle], weights: Mapping[Address, int], judges: Judges
) -> tuple[ValidatorOutcome, ...]:
    """Return what the group makes of the votes of the epoch before, by the checks in this epoch's bundles.

    That votes were not computed, or that their evidence was withheld or is not what they say, is found on one model:
    it takes JUDGES_MIN members with two thirds of the weight of all who say anything of it, were it that they do not
    know. That they were computed takes a model of which more say so than the contrary, and none on which checkers are
    split. `weights` are those of the group in charge, and `judges` say who is able to check a model and what its word
    weighs; who was not drawn has no say, for its bundle is void (bundles.py). Ascending by validator; only those who
    were checked.
    """
    said: dict[Address, dict[ModelId, list[tuple[Address, VoteCheck]]]] = {}
    for checker, bundle in bundles.items():
        for check in bundle.checks:
            said.setdefault(check.validator, {}).setdefault(check.model_id, []).append((checker, check))
    outcomes = []
    for validator in sorted(said, key=lambda account: (account.lower(), account)):
        of_models = said[validator]
        able = ((model_id, judges.able_to_check(validator, model_id, weights)) for model_id in sorted(of_models))
        found = [_outcome(validator, of_models[model_id], able_here) for model_id, able_here in able]
        if known := [outcome for outcome in found if outcome is not None]:
            outcomes.append(min(known, key=_gravity))
    return tuple(outcomes)


def _gravity(outcome: ValidatorOutcome) -> int:
    """What is found on one model stands, whatever is found on others."""
    if outcome.fate is Verdict.INVALID:
        return 0
    if outcome.reason == CHECKERS_SPLIT:
        return 1
    return 2 if outcome.fate is Verdict.VALID else 3


def _outcome(
    validator: Address, said: Sequence[tuple[Address, VoteCheck]], weights: Mapping[Address, int]
) -> ValidatorOutcome | None:
    """Return what checkers of these weights make of a validator's votes on a model; None if none says anything."""
    counted, named, accusers = dict.fromkeys(Verdict, 0), dict[str, int](), 0
    for checker, check in said:
        weight = weights.get(checker, 0)
        counted[check.verdict] += weight
        if weight > 0 and check.verdict is Verdict.INVALID:
            named[check.reason] = named.get(check.reason, 0) + weight
            accusers += 1
    against, valid, unknown = counted[Verdict.INVALID], counted[Verdict.VALID], counted[Verdict.ABSTAIN]
    if not against + valid + unknown:
        return None
    if accusers >= JUDGES_MIN and against >= OUTWEIGHS_TIMES * (valid + unknown):
        return ValidatorOutcome(validator, Verdict.INVALID, max(named, key=lambda code: (named[code], code)))
    if valid > against:
        return ValidatorOutcome(validator, Verdict.VALID, "")
    return ValidatorOutcome(validator, Verdict.ABSTAIN, CHECKERS_SPLIT if against else NOBODY_CHECKED)
