"""What executors did wrong, as one gateway saw it: evidence for score and audit, and a while at the end of the line.

Losing a connection is bad luck and forgiven soon; saying what cannot be true is not. Evidence is what came and what was
signed, in the store; the times to wait are in memory, and begin anew from the evidence after a restart.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import structlog

from node.ports import CallFailedError, Store, WallClock
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, Hash32, ModelId, RequestId
from node.protocol.pricing import tokens_commitment
from node.protocol.records import SignedReceipt
from node.services.unreceived import Unreceived

log = structlog.get_logger(__name__)

FRAME_BYTES_KEPT_MAX = 16 * 1024
DETAIL_CHARACTERS_MAX = 500
PARTICIPANTS_MAX = 4096
"""Remembered at once; who has to wait the shortest is forgotten first."""
UNLUCKY_SECONDS_MIN, UNLUCKY_SECONDS_MAX = 5.0, 300.0
DISHONEST_SECONDS_MIN, DISHONEST_SECONDS_MAX = 60.0, 6 * 3600.0
UNRULY_SECONDS = 600.0
"""After an answer that was not drawn by the rule, by the executor's own word. It hides nothing, and with another engine
its word is another: so it is asked again soon, and what it says then decides."""
MADE_UP_SECONDS = 24 * 3600.0
"""Books are looked at once in an epoch: so long it is asked last, until the next look."""
DOUBLINGS_MAX = 16
CLEAN_SECONDS = 24 * 3600.0
"""After so long without a fault, the next one counts as the first."""
BURST_SECONDS = 5
"""The same fault within so short a time is one: a node that dies ends all that runs there, and is written down once."""
LOADED_MAX = 1000
"""Pieces of evidence looked at when the program starts."""


class Fault(Enum):
    """Why an executor was left. The values are codes in evidence and logs."""

    GARBAGE = "garbage"
    """Bytes that are no frame, or more of them than a frame may have."""
    OUT_OF_TURN = "out-of-turn"
    """A frame where none of its kind belongs."""
    PROMPT = "prompt"
    """It would charge for a prompt that is not the one it was given."""
    VOUCHER = "voucher"
    """It claims a voucher that was never signed."""
    SEED = "seed"
    """Its share of the seed is not what it had committed itself to."""
    TOO_MANY = "too-many"
    """More tokens than were asked for."""
    TOKENS = "tokens"
    """Tokens, text or log-probabilities that no model gives."""
    DIFFERS = "differs"
    """Other tokens than the executor before it, for the same seed. Either may be wrong."""
    EARLY_END = "early-end"
    """An end that is none, or none at all."""
    RECEIPT = "receipt"
    """A receipt that does not say what came, or was not signed by it."""
    NOT_BY_RULE = "not-by-rule"
    """Its engine does not draw by the rule, as it says itself: nobody can tell whether the answer is the model's."""
    MADE_UP = "made-up"
    """Its book has answers to requests that it was sent, and that it never gave."""
    REFUSED = "refused"
    """It called a request bad that others take."""
    SILENT = "silent"
    """Nothing came for much longer than is usual."""
    SLOW = "slow"
    """Tokens came much more slowly than from others."""
    LOST = "lost"
    """It could not be reached, or the connection ended."""
    FAILED = "failed"
    """It said that it failed."""

    @property
    def is_dishonest(self) -> bool:
        """Whether bad luck is no explanation."""
        return self not in (Fault.SILENT, Fault.SLOW, Fault.LOST, Fault.FAILED, Fault.DIFFERS, Fault.REFUSED)


class ExecutorFaultError(CallFailedError):
    """An executor must be left for a fault of its own. `frame` is what it said, where that shows it."""

    def __init__(self, fault: Fault, message: str, *, frame: bytes = b"", receipt: SignedReceipt | None = None) -> None:
        super().__init__(fault.value, message)
        self.fault = fault
        self.frame = frame
        self.receipt = receipt


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one executor did wrong in one request. The prompt itself is not kept."""

    at: int
    """UNIX seconds."""
    participant: Address
    request_id: RequestId
    model_id: ModelId
    code: str
    """A value of Fault."""
    detail: str
    request_digest: Hash32
    """What the payer signed: who has the request can tell that this is about it."""
    prompt_commitment: Hash32
    output_tokens: int
    """Those that had come from this executor."""
    output_commitment: Hash32
    """Commitment to them."""
    frame: bytes
    """What it said last, at most FRAME_BYTES_KEPT_MAX of it; empty for private requests."""
    receipt: SignedReceipt | None
    """What it signed, if it did."""


@dataclass(slots=True)
class Standing:
    """How often one participant failed of late, and how long it waits at the end of the line."""

    until: float
    unlucky: int = 0
    dishonest: int = 0
    last_at: float = 0.0
    last: Fault | None = None


class FaultBook:
    """Who failed here lately. Times are UNIX seconds."""

    def __init__(self, store: Store, wall_clock: WallClock) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._standings: OrderedDict[Address, Standing] = OrderedDict()
        self.counts: dict[Fault, int] = dict.fromkeys(Fault, 0)
        """Of each kind since the start; a burst counts once."""
        for evidence in reversed(load_evidence(store, limit=LOADED_MAX)):
            self._blame(evidence.participant, Fault(evidence.code), evidence.at)

    def is_faulty(self, participant: Address) -> bool:
        """Whether it is to be asked after all others."""
        standing = self._standings.get(participant)
        return standing is not None and self._wall_clock() < standing.until

    def is_news(self, participant: Address, fault: Fault, at: int) -> bool:
        """Whether evidence of `fault` would be kept: of a burst only the first is. To make it takes some hashing."""
        standing = self._standings.get(participant)
        return standing is None or standing.last is not fault or at - standing.last_at >= BURST_SECONDS

    def add(self, evidence: Evidence) -> None:
        """Keep evidence, and have its participant wait."""
        fault = Fault(evidence.code)
        if not self.is_news(evidence.participant, fault, evidence.at):
            return
        self.counts[fault] += 1
        self._store.save_evidence(evidence.participant, evidence.at, evidence.code, to_bytes(evidence))
        waits = self._blame(evidence.participant, fault, evidence.at)
        log.warning(
            "an executor is at fault; it is asked last for a while",
            executor=evidence.participant,
            fault=fault.value,
            detail=evidence.detail,
            seconds=round(waits),
        )

    def add_made_up(self, participant: Address, asked: Sequence[Unreceived]) -> None:
        """Hold against an executor that it booked answers which it never gave; `asked` are its requests, one at least.

        There is nothing to show of what never came: no prompt, no token.
        """
        first, nothing = asked[0], tokens_commitment(())
        self.add(
            Evidence(
                at=self._wall_clock(),
                participant=participant,
                request_id=first.request_id,
                model_id=first.model_id,
                code=Fault.MADE_UP.value,
                detail=f"its book has {len(asked)} answers to this node's requests that it never gave",
                request_digest=first.asking,
                prompt_commitment=nothing,
                output_tokens=0,
                output_commitment=nothing,
                frame=b"",
                receipt=None,
            )
        )

    def absolve(self, participant: Address) -> None:
        """It gave a whole answer: bad luck before is forgotten."""
        standing = self._standings.get(participant)
        if standing is not None and not standing.dishonest:
            del self._standings[participant]

    def _blame(self, participant: Address, fault: Fault, at: float) -> float:
        standing = self._standings.get(participant)
        if standing is None or at - standing.last_at > CLEAN_SECONDS:
            standing = Standing(until=at)
        standing.last, standing.last_at = fault, at
        if fault is Fault.DIFFERS:
            waits = 0.0  # numbers differ between machines; audits tell who is wrong
        elif fault is Fault.NOT_BY_RULE:
            waits = UNRULY_SECONDS
        elif fault is Fault.MADE_UP:
            standing.dishonest += 1
            waits = MADE_UP_SECONDS
        elif fault.is_dishonest:
            standing.dishonest += 1
            waits = _doubled(DISHONEST_SECONDS_MIN, standing.dishonest, DISHONEST_SECONDS_MAX)
        else:
            standing.unlucky += 1
            waits = _doubled(UNLUCKY_SECONDS_MIN, standing.unlucky, UNLUCKY_SECONDS_MAX)
        standing.until = max(standing.until, at + waits)
        self._standings[participant] = standing
        if len(self._standings) > PARTICIPANTS_MAX:
            del self._standings[min(self._standings, key=lambda account: self._standings[account].until)]
        return waits


def load_evidence(store: Store, *, limit: int, participant: Address | None = None) -> tuple[Evidence, ...]:
    """The newest evidence, newest first; of one participant, or of all. What cannot be read is left out."""
    found = []
    for data in store.evidence(limit=limit, participant=participant):
        try:
            evidence = from_bytes(Evidence, data)
            Fault(evidence.code)
        except (SchemaError, ValueError):
            continue  # of another version
        found.append(evidence)
    return tuple(found)


def _doubled(shortest: float, count: int, longest: float) -> float:
    return min(longest, shortest * 2.0 ** min(count - 1, DOUBLINGS_MAX))
